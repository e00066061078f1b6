"""`swarmlet service scale`."""

import click

from swarmlet.cli.client import NO_HEADERS, Client, Headers, Json, quote
from swarmlet.cli.errors import CommandError
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import detach_option
from swarmlet.cli.output import fail_with
from swarmlet.cli.service.flags import timeout_option
from swarmlet.cli.service.listing import find, mode_of
from swarmlet.cli.service.progress import wait_as_asked
from swarmlet.core.errors import SwarmError


@click.command(epilog=example("swarmlet service scale web=5", "swarmlet service scale web=5 api=2"))
@click.argument(
    "targets",
    metavar="SERVICE=REPLICAS...",
    nargs=-1,
    required=True,
    shell_complete=complete_service,
)
@detach_option
@timeout_option
@click.pass_obj
def scale(client: Client, /, *, targets: tuple[str, ...], **options: Json) -> None:
    """Change how many tasks services run."""
    wanted = [_target(text) for text in targets]
    scaled: list[str] = []
    errors: list[SwarmError] = []
    for name, replicas in wanted:
        try:
            scaled.append(set_replicas(client, name, replicas))
        except SwarmError as error:
            errors.append(error)
        else:
            click.echo(f"{name} scaled to {replicas}")
    for service_id in scaled:
        wait_as_asked(client, service_id, {**options, "quiet": False})
    fail_with(errors)


def _target(text: str) -> tuple[str, int]:
    name, _, count = text.rpartition("=")
    if not name or not count.isascii() or not count.isdigit():
        raise click.UsageError(f"Invalid scale {text!r}: it must be SERVICE=REPLICAS, like web=5.")
    return name, int(count)


def set_replicas(client: Client, name: str, replicas: int) -> str:
    """Update the service and return its id. Raises CommandError for a mode without replicas."""
    found = find(client, name)
    mode = found["Spec"].get("Mode") or {}
    if mode.get("Replicated") is not None:
        mode["Replicated"]["Replicas"] = replicas
    elif mode.get("ReplicatedJob") is not None:
        mode["ReplicatedJob"]["TotalCompletions"] = replicas
    else:
        raise CommandError(
            f"{name} is a {mode_of(found['Spec'])} service: it runs on every node that fits.",
            "Constraints choose the nodes.",
        )
    post_update(client, found, found["Spec"])
    return str(found["ID"])


def post_update(client: Client, found: Json, spec: Json, headers: Headers = NO_HEADERS) -> None:
    """Store `spec` if nobody changed the service since it was read; print the warnings. Without
    credentials in `headers` those it was made with stay."""
    query = {"version": str(found["Version"]["Index"])}
    if not headers:
        query["registryAuthFrom"] = "spec"
    answer = client.post(f"/services/{quote(found['ID'])}/update", spec, headers, **query)
    for warning in (answer or {}).get("Warnings") or []:
        click.echo(warning, err=True)
