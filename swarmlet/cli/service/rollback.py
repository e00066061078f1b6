"""`swarmlet service rollback`: back to the spec before, or to any that is kept."""

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import detach_option
from swarmlet.cli.service.flags import timeout_option
from swarmlet.cli.service.listing import find
from swarmlet.cli.service.progress import wait_as_asked
from swarmlet.cli.service.seen import check_version, if_version_option


@click.command(
    epilog=example("swarmlet service rollback web", "swarmlet service rollback --to 3 web")
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@click.option(
    "--to",
    "number",
    type=click.IntRange(min=1),
    metavar="REV",
    help="The spec of this number, as service history lists them. Default: the one before.",
)
@if_version_option
@click.option("-q", "--quiet", is_flag=True, help="Wait without saying how it goes.")
@detach_option
@timeout_option
@click.pass_obj
def rollback(client: Client, /, *, name: str, number: int | None, **options: Json) -> None:
    """Bring back a service's spec from before: all of it, replicas and update settings too.

    Rolling back twice changes nothing.
    """
    found = find(client, name)
    check_version(found, options["if_version"])
    for warning in _roll_back(client, found, number).get("Warnings") or []:
        click.echo(warning, err=True)
    click.echo(name)
    wait_as_asked(client, found["ID"], options, is_rollback=True)


def _roll_back(client: Client, found: Object, number: int | None) -> Object:
    query = {"version": str(found["Version"]["Index"])}
    if number is not None:
        query["to"] = str(number)
    path = f"/swarmlet/v1/services/{quote(found['ID'])}/rollback"
    answer: Object = client.post(path, {}, **query)
    return answer
