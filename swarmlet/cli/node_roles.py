"""`swarmlet node promote` and `demote`."""

from collections.abc import Sequence

import click

from swarmlet.cli.client import Client, Object
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_node
from swarmlet.cli.node import change_spec
from swarmlet.core.managers import manager_warnings


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
    has_changed = False
    try:
        for name in names:
            has_changed |= _change_one(client, name, role, done)
    finally:
        if has_changed:
            warn_of_managers(client)


def _change_one(client: Client, name: str, role: str, done: str) -> bool:
    """Whether there was something to change."""
    was: list[str] = []

    def change(spec: Object) -> bool:
        was[:] = [spec.get("Role") or ""]
        spec["Role"] = role
        return was != [role]

    found = change_spec(client, name, change)
    if was == [role]:
        click.echo(f"Node {found['ID']} is already a {role}.")
        return False
    click.echo(done.format(name))
    return True


def warn_of_managers(client: Client) -> None:
    """Say on stderr what the number of managers that there will be costs."""
    nodes = client.get("/nodes")
    managers = sum((found.get("Spec") or {}).get("Role") == "manager" for found in nodes)
    for warning in manager_warnings(managers):
        click.echo(warning, err=True)
