"""`swarmlet node promote` and `demote`."""

from collections.abc import Sequence

import click

from swarmlet.cli.client import Client
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_node
from swarmlet.cli.node import find, post_spec


@click.command(epilog=example("swarmlet node promote node2 node3"))
@click.argument("names", metavar="NODE...", nargs=-1, required=True, shell_complete=complete_node)
@click.pass_obj
def promote(client: Client, *, names: tuple[str, ...]) -> None:
    """Make nodes managers: each gets a copy of the swarm's state, and a vote once it has it."""
    _change(client, names, "manager", "Node {} promoted to a manager in the swarm.")


@click.command(epilog=example("swarmlet node demote node3"))
@click.argument("names", metavar="NODE...", nargs=-1, required=True, shell_complete=complete_node)
@click.pass_obj
def demote(client: Client, *, names: tuple[str, ...]) -> None:
    """Make managers workers, unless too few of the others would answer."""
    _change(client, names, "worker", "Manager {} demoted in the swarm.")


def _change(client: Client, names: Sequence[str], role: str, done: str) -> None:
    """One by one, in docker's words; ends at the first that cannot be done."""
    for name in names:
        found = find(client, name)
        if found["Spec"].get("Role") == role:
            click.echo(f"Node {found['ID']} is already a {role}.")
            continue
        found["Spec"]["Role"] = role
        post_spec(client, found)
        click.echo(done.format(name))
