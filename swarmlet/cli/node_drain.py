"""`swarmlet node drain`: another task runs elsewhere before one here stops."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import click

from swarmlet.cli.client import Client, Object, quote
from swarmlet.cli.errors import EXIT_INTERRUPTED, PlacementError, TimedOutError
from swarmlet.cli.format import one_line, table
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_node
from swarmlet.cli.node import resolved
from swarmlet.cli.units import DURATION_NS, seconds
from swarmlet.cli.world import mono_s, sleep_s

POLL_PERIOD_S: Final = 0.3
PLACEMENT_PATIENCE_S: Final = 30.0  # a node may be on its way back
WAIT_S: Final = 600.0  # where neither a time nor a deadline is given
AFTER_DEADLINE_S: Final = 60.0  # for what the deadline stops to be gone
NAMED_MAX: Final = 10  # of the tasks that are left, in an error
_HEADINGS: Final = ("TASK", "WAY", "TO", "NOTE")


class Patience(NamedTuple):
    """How long to wait, in seconds. `placement_s`: while nothing that is left finds a place."""

    total_s: float
    placement_s: float


@click.command(
    epilog=example(
        "swarmlet node drain --dry-run w1",
        "swarmlet node drain --wait --deadline 10m w1 && ssh w1 reboot",
        "swarmlet node update --availability active w1",
    )
)
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option("--wait", is_flag=True, help="Until the node is empty; the exit code says whether.")
@click.option(
    "--deadline",
    type=DURATION_NS,
    metavar="DURATION",
    help="From then on what is left is stopped, with or without a replacement.",
)
@click.option(
    "--timeout",
    type=DURATION_NS,
    metavar="DURATION",
    help="How long to wait, 0 for ever. Default: a minute beyond the deadline, else 10m.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be moved, and where to.")
@click.pass_obj
def drain(
    client: Client,
    *,
    name: str,
    wait: bool,
    deadline: int | None,
    timeout: int | None,
    dry_run: bool,
) -> None:
    """Move a node's tasks away, each of them only once its replacement runs.

    Services that may not run one more for a moment are moved as --availability drain does it.
    """
    path = f"/swarmlet/v1/nodes/{quote(resolved(client, name))}/drain"
    if dry_run:
        _show_moves(name, client.post(path, {}, **{"dry-run": "1"})["Moves"])
        return
    client.post(path, {"DeadlineNs": deadline or 0})
    if not wait:
        click.echo(name)
        return
    try:
        _wait(client, path, name, _patience(deadline, timeout))
    except KeyboardInterrupt:
        click.echo(
            f"\nThe drain goes on. Use `swarmlet node drain --wait {name}` to wait for it again.",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def _patience(deadline: int | None, timeout: int | None) -> Patience:
    if deadline:  # which ends what waits for a place
        total_s = seconds(deadline) + AFTER_DEADLINE_S if timeout is None else seconds(timeout)
        return Patience(total_s or float("inf"), float("inf"))
    total_s = (WAIT_S if timeout is None else seconds(timeout)) or float("inf")
    return Patience(total_s, min(total_s, PLACEMENT_PATIENCE_S))


def _show_moves(name: str, moves: Sequence[Object]) -> None:
    """Raises PlacementError where one that is to move has no place."""
    if not moves:
        click.echo(f"Nothing runs on {name}.")
        return
    rows = [[_name_of(move), move["Way"], _target(move), one_line(_note(move))] for move in moves]
    click.echo("\n".join(table([list(_HEADINGS), *rows])))
    homeless = [move for move in moves if move["Problem"]]
    if homeless:
        raise PlacementError(
            f"{len(homeless)} of {len(moves)} tasks of {name} find no place elsewhere now.",
            "Those that may run on do so until a place is free, or until the --deadline.",
        )


def _name_of(task: Mapping[str, object]) -> str:
    slot = f".{task['Slot']}" if task["Slot"] else ""
    return f"{task['ServiceName']}{slot}"


def _target(move: Object) -> str:
    return str(move["Hostname"] or move["NodeID"] or "-")


def _note(move: Object) -> str:
    return "; ".join(filter(None, (move["Reason"], move["Problem"])))


def _wait(client: Client, path: str, name: str, patience: Patience) -> None:
    """Return once nothing runs there. Raises PlacementError or TimedOutError."""
    start_s = placed_at_s = mono_s()
    shown: dict[str, str] = {}
    while True:
        left = client.get(path)["Left"]
        _tell(left, shown)
        if not left:
            click.echo(f"Node {name} is empty.")
            return
        now_s = mono_s()
        if not all(task["IsStuck"] for task in left):
            placed_at_s = now_s
        if now_s - placed_at_s >= patience.placement_s:
            raise PlacementError(
                f"{_count(left)} left on {name} cannot be placed elsewhere: {_words(left)}",
                "They run on, and move as soon as there is a place. `--deadline` stops them then; "
                f"`swarmlet node update --availability active {name}` gives up.",
            )
        if now_s - start_s >= patience.total_s:
            raise TimedOutError(
                f"After {now_s - start_s:.0f} s {name} is not empty: {_words(left)}",
                f"The drain goes on; `swarmlet node ps {name}` shows its tasks.",
            )
        sleep_s(POLL_PERIOD_S)


def _count(left: Sequence[Object]) -> str:
    return "1 task" if len(left) == 1 else f"{len(left)} tasks"


def _words(left: Sequence[Object]) -> str:
    named = [f"{_name_of(task)}: {task['WaitsFor']}" for task in left[:NAMED_MAX]]
    more = len(left) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named)


def _tell(left: Sequence[Object], shown: dict[str, str]) -> None:
    """A line for each task whose news are others than what was shown, and for each that went."""
    now = {task["TaskID"]: f"{_name_of(task)}: {one_line(task['WaitsFor'])}" for task in left}
    for task_id, line in now.items():
        if shown.get(task_id) != line:
            click.echo(line)
    for task_id in [task_id for task_id in shown if task_id not in now]:
        click.echo(f"{shown[task_id].partition(':')[0]}: gone, {len(left)} left")
    shown.clear()
    shown.update(now)
