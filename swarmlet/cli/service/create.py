"""`swarmlet service create`."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from swarmlet.cli.client import Client, Json
from swarmlet.cli.lazy import example
from swarmlet.cli.options import detach_option
from swarmlet.cli.service.flags import flag_options, timeout_option
from swarmlet.cli.service.spec import MODES, build

F = TypeVar("F", bound=Callable[..., Any])

_REPEATED: Final = (
    ("--label -l", "KEY=VALUE", "A label of the service."),
    ("--container-label", "KEY=VALUE", "A label of its tasks."),
    ("--env -e", "KEY=VALUE", "An environment variable; KEY alone takes this shell's value."),
    ("--env-file", "FILE", "A file of them."),
    ("--publish -p", "PORT", "8080:80 on every node, or mode=host,target=80,published=8080."),
    ("--constraint", "TEXT", "Where tasks may run, such as node.labels.zone==a."),
    ("--placement-pref", "TEXT", "How to spread them, such as spread=node.labels.zone."),
    ("--secret", "SECRET", "A secret, or source=NAME,target=FILE,uid=,gid=,mode=."),
    ("--config", "CONFIG", "A config, or source=NAME,target=PATH,uid=,gid=,mode=."),
    ("--mount", "MOUNT", "type=bind|volume|tmpfs,source=,target=,readonly."),
    ("--network", "NETWORK", "A network, or name=NAME,alias=ALIAS."),
    ("--group", "GROUP", "A further group of the user."),
    ("--host extra_host", "NAME:IP", "A line of /etc/hosts."),
    ("--dns", "IP", "A name server."),
    ("--dns-search", "DOMAIN", "A search domain."),
    ("--dns-option", "OPTION", "A resolver option."),
    ("--cap-add", "CAP", "A capability to add."),
    ("--cap-drop", "CAP", "A capability to drop."),
    ("--ulimit", "NAME=SOFT[:HARD]", "A resource limit."),
    ("--sysctl", "KEY=VALUE", "A kernel setting."),
    ("--generic-resource", "KIND=N", "A resource of the node to reserve, such as gpu=2."),
    ("--log-opt", "KEY=VALUE", "An option of the log driver."),
)


def _repeated_options(command: F) -> F:
    for names, metavar, text in reversed(_REPEATED):
        command = click.option(*names.split(), multiple=True, metavar=metavar, help=text)(command)
    return command


@click.command(
    epilog=example(
        "swarmlet service create --name web --replicas 3 --publish mode=host,target=80 nginx",
        "swarmlet service create --name api --publish mode=host,target=80,published=8080 \\",
        "    --env MODE=test --limit-memory 64M --constraint node.role==manager host ./api",
    ),
    context_settings={"allow_interspersed_args": False},
)
@click.argument("image")
@click.argument("arguments", metavar="[COMMAND] [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", default="", help="The service's name; one is made up where none is given.")
@click.option("--replicas", type=click.IntRange(min=0), metavar="N", help="How many tasks to run.")
@click.option(
    "--mode", type=click.Choice(MODES), default=MODES[0], show_default=True, help="Kind of service."
)
@click.option(
    "--max-concurrent", type=click.IntRange(min=0), metavar="N", help="How many run at once (jobs)."
)
@click.option("--entrypoint", default="", metavar="COMMAND", help="Instead of the image's own.")
@click.option("--health-cmd", default="", metavar="COMMAND", help="A command that checks a task.")
@click.option("--no-healthcheck", is_flag=True, help="Without the image's own check.")
@_repeated_options
@flag_options
@click.option("--with-registry-auth", is_flag=True, help="Send nodes the registry's login.")
@click.option("--no-resolve-image", is_flag=True, help="Do not pin the image's digest.")
@click.option("-q", "--quiet", is_flag=True, help="Wait without saying how it goes.")
@detach_option
@timeout_option
@click.pass_obj
def create(client: Client, /, *, image: str, arguments: tuple[str, ...], **options: Json) -> None:
    """Create a service and wait until its tasks run, or those of a job have ended.

    The image `host` runs a command of the nodes' own files, where the process runtime is.
    """
    from swarmlet.cli.service.progress import wait_as_asked
    from swarmlet.cli.service.references import auth_headers, pin_image

    spec = build(client, image, arguments, options)
    headers = auth_headers(spec, is_asked=options["with_registry_auth"])
    doubt = "" if options["no_resolve_image"] else pin_image(client, spec, headers)
    answer = client.post("/services/create", spec, headers)
    click.echo(answer["ID"])
    for warning in [doubt, *(answer.get("Warnings") or [])]:
        if warning:
            click.echo(warning, err=True)
    wait_as_asked(client, answer["ID"], options)
