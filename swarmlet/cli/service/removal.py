"""`swarmlet service rm`."""

import click

from swarmlet.cli.client import Client, quote
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.output import for_each


@click.command("rm", epilog=example("swarmlet service rm web"))
@click.argument(
    "names", metavar="SERVICE...", nargs=-1, required=True, shell_complete=complete_service
)
@click.pass_obj
def rm(client: Client, *, names: tuple[str, ...]) -> None:
    """Remove services and their tasks."""
    for_each(names, lambda name: client.delete(f"/services/{quote(name)}"))
