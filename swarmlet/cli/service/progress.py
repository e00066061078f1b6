"""Waiting for a service to converge: live bars on a terminal, a line a change elsewhere."""

import os
import sys
from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple, Protocol

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.errors import EXIT_INTERRUPTED, PlacementError, TimedOutError
from swarmlet.cli.format import one_line
from swarmlet.cli.options import filters_of
from swarmlet.cli.service.convergence import (
    RUNNING,
    STATES,
    Line,
    Progress,
    check_update,
    progress_of,
)
from swarmlet.cli.units import seconds
from swarmlet.cli.world import mono_s, sleep_s

POLL_PERIOD_S: Final = 0.2  # docker's
MONITOR_S: Final = 5.0  # docker's, for a service that names no monitoring period
PLACEMENT_PATIENCE_S: Final = 30.0  # a node may be on its way back
BARS_MAX: Final = 20  # slots shown on a terminal; docker's
BAR_WIDTH: Final = 50  # characters


class Patience(NamedTuple):
    """How long to wait, in seconds: in all, and while tasks find no place."""

    total_s: float
    placement_s: float


class Display(Protocol):
    """Shows how it goes."""

    def show(self, progress: Progress) -> None: ...

    def say(self, text: str) -> None:
        """A verdict below the bars, which replaces the one before."""
        ...


def wait_as_asked(client: Client, service_id: str, options: Mapping[str, Json]) -> None:
    """Wait as `--detach`, `--quiet` and `--timeout` say. Raises what `wait` raises."""
    if options["detach"]:
        return
    total_s = seconds(options["timeout"]) or float("inf")
    patience = Patience(total_s, min(total_s, PLACEMENT_PATIENCE_S))
    display: Display = _Silence() if options["quiet"] else _display()
    try:
        wait(client, service_id, display, patience)
    except KeyboardInterrupt:
        click.echo(
            "\nOperation continuing in background.\n"
            f"Use `swarmlet service ps {service_id}` to check progress.",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def wait(client: Client, service_id: str, display: Display, patience: Patience) -> None:
    """Return when all tasks run and have kept running for the monitoring period.

    Raises PlacementError, TimedOutError, RolledBackError, or CommandError for a paused update.
    """
    start_s = mono_s()
    stable_since_s: float | None = None
    placed_at_s = start_s
    while True:
        service, progress = _look(client, service_id)
        now_s = mono_s()
        display.show(progress)
        if check_update(service, progress):
            return
        placed_at_s = placed_at_s if progress.blocked else now_s
        if not progress.is_converged:
            stable_since_s = None
            _check_patience(service, progress, patience, (now_s - start_s, now_s - placed_at_s))
        elif _is_stable(service, display, now_s - (stable_since_s or now_s)):
            return
        else:
            stable_since_s = stable_since_s or now_s
        sleep_s(POLL_PERIOD_S)


def _look(client: Client, service_id: str) -> tuple[Object, Progress]:
    service = client.get(f"/services/{quote(service_id)}")
    wanted = {"service": {service["ID"]: True}, "_up-to-date": {"true": True}}
    tasks = client.get("/tasks", **filters_of(wanted))
    return service, progress_of(service, tasks, client.get("/nodes"))


def _is_stable(service: Object, display: Display, stable_s: float) -> bool:
    """Whether the tasks have run long enough; says what is still to be waited for."""
    monitor_ns = (service["Spec"].get("UpdateConfig") or {}).get("Monitor", 0)
    left_s = (seconds(monitor_ns) or MONITOR_S) - stable_s
    if left_s > 0:
        display.say(f"verify: Waiting {ceil(left_s)} seconds to verify that tasks are stable...")
        return False
    display.say(f"verify: Service {service['Spec']['Name']} converged")
    return True


def _check_patience(
    service: Object, progress: Progress, patience: Patience, waited_s: tuple[float, float]
) -> None:
    name, (total_s, unplaced_s) = service["Spec"]["Name"], waited_s
    remedy = (
        f"The service stays and goes on as soon as it can: `swarmlet service why {name}` says what "
        f"is missing, `swarmlet service rm {name}` gives up."
    )
    if progress.blocked and unplaced_s >= patience.placement_s:
        raise PlacementError(f"Tasks of {name} cannot be placed: {progress.blocked}", remedy)
    if total_s >= patience.total_s:
        why = f"; the last failure: {progress.trouble}" if progress.trouble else ""
        raise TimedOutError(
            f"After {total_s:.0f} s {progress.running} of {progress.wanted} tasks of {name} "
            f"run{why}",
            remedy,
        )


# Displays ---------------------------------------------------------------------------------------
def _display() -> Display:
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return _Bars() if is_terminal and "NO_COLOR" not in os.environ else _Lines()


class _Silence:
    def show(self, progress: Progress) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class _Lines:
    """One line whenever something changed: for logs, pipes and people without a terminal."""

    def __init__(self) -> None:
        self.headline = ""
        self.shown: dict[str, Line] = {}
        self.trouble = ""
        self.verdict = ""

    def show(self, progress: Progress) -> None:
        if progress.trouble != self.trouble:
            self.trouble = progress.trouble
            click.echo(one_line(progress.trouble), nl=bool(progress.trouble))
        for line in progress.lines:
            if self.shown.get(line.name) != line:
                self.shown[line.name] = line
                why = f" ({one_line(line.error)})" if line.error else ""
                click.echo(f"{line.name}: {line.state}{why}")
        if progress.headline != self.headline:
            self.headline = progress.headline
            click.echo(progress.headline)

    def say(self, text: str) -> None:
        kind = text.split(" ")[1]  # the countdown itself is no news
        if kind != self.verdict:
            self.verdict = kind
            click.echo(text)


class _Bars:
    """Docker's bars, drawn over themselves."""

    def __init__(self) -> None:
        self.height = 0
        self.lines: list[str] = []

    def show(self, progress: Progress) -> None:
        self.lines = bars(progress)
        self.draw()

    def say(self, text: str) -> None:
        self.lines = [*self.lines, text]
        self.draw()

    def draw(self) -> None:
        width = os.get_terminal_size(sys.stdout.fileno()).columns or 80
        up = f"\x1b[{self.height}A" if self.height else ""
        drawn = "".join(f"\x1b[2K{line[: width - 1]}\n" for line in self.lines)
        click.echo(f"{up}{drawn}\x1b[J", nl=False)
        self.height = len(self.lines)


def bars(progress: Progress) -> list[str]:
    """The headline and a bar for each slot, as docker draws them."""
    shown = progress.lines[:BARS_MAX]
    count = progress.wanted
    lines = [progress.headline]
    for place, line in enumerate(shown, 1):
        label = f"{place}/{count}: ".rjust(2 * len(str(count)) + 3)
        lines.append(label + (one_line(line.error) if line.error else _bar(line.state)))
    if progress.trouble and not progress.is_converged:
        lines.append(f"last failure: {one_line(progress.trouble)}")
    return lines


def _bar(state: str) -> str:
    done = min(STATES.index(state), RUNNING) + 1
    filled = BAR_WIDTH * done // (RUNNING + 1)
    bar = ("=" * (filled - 1) + ">").ljust(BAR_WIDTH)
    return f"{state:<10}[{bar}]"
