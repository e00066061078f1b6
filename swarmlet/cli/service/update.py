"""`swarmlet service update`: the whole spec is read, changed and sent back."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click

from swarmlet.cli.client import Client, Headers, Json, Object
from swarmlet.cli.labels import changed_labels
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import detach_option, pairs_of
from swarmlet.cli.service import references, values
from swarmlet.cli.service.flags import (
    CONTAINER,
    TASK,
    Path,
    at,
    flag_options,
    set_flags,
    timeout_option,
)
from swarmlet.cli.service.listing import find, mode_of
from swarmlet.cli.service.lists import change_lists, list_options
from swarmlet.cli.service.progress import wait_as_asked
from swarmlet.cli.service.scale import post_update
from swarmlet.cli.service.seen import check_version, if_version_option
from swarmlet.cli.service.spec import check_job, set_health, words_of

F = TypeVar("F", bound=Callable[..., Any])

_REPEATED: Final = (
    ("--label-add", "KEY=VALUE", "Add or change a label."),
    ("--label-rm", "KEY", "Remove a label."),
    ("--container-label-add", "KEY=VALUE", "Add or change a label of the tasks."),
    ("--container-label-rm", "KEY", "Remove a label of the tasks."),
    ("--env-add", "KEY=VALUE", "Add or change an environment variable."),
    ("--env-rm", "KEY", "Remove an environment variable."),
    ("--publish-add", "PORT", "Publish a port, as in service create."),
    ("--publish-rm", "TARGET", "Stop publishing a target port."),
    ("--secret-add", "SECRET", "Give the tasks a secret."),
    ("--secret-rm", "NAME", "Take a secret from them."),
    ("--config-add", "CONFIG", "Give the tasks a config."),
    ("--config-rm", "NAME", "Take a config from them."),
    ("--network-add", "NETWORK", "Join a network, as in service create."),
    ("--network-rm", "NETWORK", "Leave a network."),
    ("--log-opt", "KEY=VALUE", "An option of the log driver, instead of those it has."),
)


def _repeated_options(command: F) -> F:
    for name, metavar, text in reversed(_REPEATED):
        command = click.option(name, multiple=True, metavar=metavar, help=text)(command)
    return command


_OPTIONS: Final = (
    click.option(
        "--replicas", type=click.IntRange(min=0), metavar="N", help="How many tasks to run."
    ),
    click.option(
        "--max-concurrent",
        type=click.IntRange(min=0),
        metavar="N",
        help="How many run at once (jobs).",
    ),
    click.option("--image", default="", help="The image to run."),
    click.option("--args", "arguments", metavar="COMMAND", help="The command's arguments."),
    click.option("--entrypoint", metavar="COMMAND", help="Instead of the image's own."),
    click.option("--health-cmd", default="", metavar="COMMAND", help="A command that checks it."),
    click.option("--no-healthcheck", is_flag=True, help="Without the image's own check."),
    click.option("--force", is_flag=True, help="Replace the tasks even where nothing changed."),
    _repeated_options,
    list_options,
    flag_options,
    click.option("--with-registry-auth", is_flag=True, help="Send nodes the registry's login."),
    click.option("--no-resolve-image", is_flag=True, help="Do not pin the image's digest."),
)


def spec_options(command: F) -> F:
    """All that says what the service is to be: the flags of `update`, and of `plan`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog=example(
        "swarmlet service update --replicas 5 web",
        "swarmlet service update --label-add team=a web",
        "swarmlet service update --if-version 57 --image nginx:2 web",
    )
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@spec_options
@if_version_option
@click.option("-q", "--quiet", is_flag=True, help="Wait without saying how it goes.")
@detach_option
@timeout_option
@click.pass_obj
def update(client: Client, /, *, name: str, **options: Json) -> None:
    """Change a service."""
    found = find(client, name)
    check_version(found, options["if_version"])
    spec = found["Spec"]
    headers, doubt = apply(client, spec, options)
    post_update(client, found, spec, headers)
    if doubt:
        click.echo(doubt, err=True)
    click.echo(name)
    wait_as_asked(client, found["ID"], options)


def apply(client: Client, spec: Object, options: Mapping[str, Json]) -> tuple[Headers, str]:
    """Change `spec` as `spec_options` say. The headers to send it with, and a doubt about its
    image, or none."""
    change(client, spec, options)
    headers = references.auth_headers(spec, is_asked=options["with_registry_auth"])
    must_pin = options["image"] and not options["no_resolve_image"]
    return headers, references.pin_image(client, spec, headers) if must_pin else ""


def change(client: Client, spec: Object, options: Mapping[str, Json]) -> None:
    """Apply the flags to `spec`. Asks the daemon only for the ids of what is named."""
    _change_mode(spec, options["replicas"], options["max_concurrent"])
    set_flags(spec, dict(options))
    check_job(spec)
    set_health(spec, options)
    _change_command(spec, options)
    _change_labels(spec, ("Labels",), options, "label")
    _change_labels(spec, (*CONTAINER, "Labels"), options, "container_label")
    _change_entries(spec, options)
    change_lists(spec, options)
    _change_references(client, spec, options)
    if options["force"]:
        task = at(spec, TASK)
        task["ForceUpdate"] = task.get("ForceUpdate", 0) + 1


def _change_mode(spec: Object, replicas: int | None, most: int | None) -> None:
    mode = spec.get("Mode") or {}
    job = mode.get("ReplicatedJob")
    if most is not None:
        if job is None:
            raise click.UsageError(f"--max-concurrent does not go with a {mode_of(spec)} service.")
        job["MaxConcurrent"] = most
    if replicas is None:
        return
    if job is not None:
        job["TotalCompletions"] = replicas
    elif mode.get("Replicated") is not None:
        mode["Replicated"]["Replicas"] = replicas
    else:
        raise click.UsageError(f"--replicas does not go with a {mode_of(spec)} service.")


def _change_command(spec: Object, options: Mapping[str, Json]) -> None:
    container = at(spec, CONTAINER)
    for field, text in (("Args", options["arguments"]), ("Command", options["entrypoint"])):
        if text is not None:
            container[field] = words_of(text)
    if options["image"]:
        container["Image"] = references.tagged(options["image"])


def _change_labels(spec: Object, path: Path, options: Mapping[str, Json], flag: str) -> None:
    added, removed = options[f"{flag}_add"], options[f"{flag}_rm"]
    if added or removed:
        place = at(spec, path[:-1])
        place[path[-1]] = changed_labels(place.get(path[-1]) or {}, add=added, remove=removed)


def _change_entries(spec: Object, options: Mapping[str, Json]) -> None:
    if options["env_add"] or options["env_rm"]:
        container = at(spec, CONTAINER)
        kept = _without(container.get("Env"), options["env_rm"], _variable)
        container["Env"] = values.environment(options["env_add"], (), kept)
    if options["publish_add"] or options["publish_rm"]:
        endpoint = at(spec, ("EndpointSpec",))
        kept = _without(endpoint.get("Ports"), options["publish_rm"], _target)
        added = [port for text in options["publish_add"] for port in values.ports_of(text)]
        endpoint["Ports"] = [*(port for port in kept if port not in added), *added]
    if options["log_opt"]:
        at(spec, (*TASK, "LogDriver"))["Options"] = pairs_of(options["log_opt"])


def _variable(text: str) -> str:
    return text.partition("=")[0]


def _target(port: Object) -> str:
    return str(port.get("TargetPort", ""))


def _without(
    items: Iterable[Json] | None, removed: Iterable[str], key: Callable[[Json], str]
) -> list[Json]:
    gone = set(removed)
    return [item for item in items or () if key(item) not in gone]


def _change_references(client: Client, spec: Object, options: Mapping[str, Json]) -> None:
    container = at(spec, CONTAINER)
    for kind, find_all in (("secret", references.secrets_of), ("config", references.configs_of)):
        added, removed = options[f"{kind}_add"], options[f"{kind}_rm"]
        if added or removed:
            field, name = f"{kind.capitalize()}s", f"{kind.capitalize()}Name"
            new = find_all(client, added)
            gone = {*removed, *(reference[name] for reference in new)}
            kept = [each for each in container.get(field) or () if each[name] not in gone]
            container[field] = [*kept, *new]
    added, removed = options["network_add"], options["network_rm"]
    if added or removed:
        task = at(spec, TASK)
        new = references.networks_of(client, added)
        targets = [one["Target"] for one in references.networks_of(client, removed)]
        kept = _without(task.get("Networks"), targets, lambda one: str(one["Target"]))
        joined = {one["Target"]: one for one in [*kept, *new]}
        task["Networks"] = list(joined.values())
