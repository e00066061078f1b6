"""`swarmlet node rebalance`: tasks that run well move to where the swarm is more even."""

from collections.abc import Sequence
from typing import Final

import click

from swarmlet.cli.client import Client, Object
from swarmlet.cli.format import one_line, table
from swarmlet.cli.lazy import example

_HEADINGS: Final = ("TASK", "FROM", "TO", "WAY", "WHY")


@click.command(epilog=example("swarmlet node rebalance --dry-run", "swarmlet node rebalance"))
@click.option("--dry-run", is_flag=True, help="Only list what would be moved, where to, and why.")
@click.pass_obj
def rebalance(client: Client, *, dry_run: bool) -> None:
    """Move tasks once until services and nodes are even, a few a minute.

    Services that forbid it (--rebalance off) are left alone. A service's only task is not stopped
    for it unless its service says so (--rebalance 'on-join even-single').
    """
    query = {"dry-run": "1"} if dry_run else {}
    moves = client.post("/swarmlet/v1/rebalance", {}, **query)["Moves"]
    made = [move for move in moves if not move["Hindrance"]]
    hindered = [move for move in moves if move["Hindrance"]]
    if not made:
        click.echo("No task would make the swarm more even by moving.")
    else:
        _show("These would move:" if dry_run else "These move, a few a minute:", made)
    if hindered:
        click.echo()
        _show("Not moved:", hindered)


def _show(title: str, moves: Sequence[Object]) -> None:
    rows = [
        [
            f"{move['ServiceName']}.{move['Slot']}",
            str(move["Hostname"] or move["NodeID"]),
            str(move["ToHostname"] or move["ToNodeID"]),
            move["Way"],
            one_line(move["Hindrance"] or move["Reason"]),
        ]
        for move in moves
    ]
    click.echo(title)
    click.echo("\n".join(table([list(_HEADINGS), *rows])))
