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
    UNKNOWN_CAUSE,
    Line,
    Progress,
    check_update,
    is_global,
    is_rolled_back,
    is_under_way,
    progress_of,
    rollback_cause,
)
from swarmlet.cli.service.job_progress import (
    check_job,
    has_schedule,
    is_job,
    job_progress_of,
    runs_at_all,
)
from swarmlet.cli.service.schedule import next_run
from swarmlet.cli.units import seconds
from swarmlet.cli.world import mono_s, sleep_s

POLL_PERIOD_S: Final = 0.2  # docker's
MONITOR_S: Final = 5.0  # docker's, for a service that names no monitoring period
PLACEMENT_PATIENCE_S: Final = 30.0  # a node may be on its way back
BARS_MAX: Final = 20  # slots shown on a terminal; docker's
BAR_WIDTH: Final = 50  # characters
_WATCHED: Final = "all tasks of {} run, and are still watched"


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


def wait_as_asked(
    client: Client, service_id: str, options: Mapping[str, Json], *, is_rollback: bool = False
) -> None:
    """Wait as `--detach`, `--quiet` and `--timeout` say; `is_rollback`: for a rollback that was
    asked for. Raises what `wait` raises."""
    if options["detach"]:
        return
    total_s = seconds(options["timeout"]) or float("inf")
    patience = Patience(total_s, min(total_s, PLACEMENT_PATIENCE_S))
    display: Display = _Silence() if options["quiet"] else _display()
    try:
        wait(client, service_id, display, patience, is_rollback=is_rollback)
    except KeyboardInterrupt:
        click.echo(
            "\nOperation continuing in background.\n"
            f"Use `swarmlet service ps {service_id}` to check progress.",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def wait(
    client: Client,
    service_id: str,
    display: Display,
    patience: Patience,
    *,
    is_rollback: bool = False,
) -> None:
    """Return when all tasks run and have kept running for the monitoring period, and the update
    that brought them, if any, has come to its end; of a job when its tasks have ended well.

    Raises PlacementError, TimedOutError, RolledBackError unless the rollback was asked for, or
    CommandError for a paused update.
    """
    cause = ""
    start_s = mono_s()
    stable_since_s: float | None = None
    placed_at_s = start_s
    while True:
        service, progress = _look(client, service_id)
        if is_job(service):
            _wait_for_job(client, service_id, display, patience)
            return
        now_s = mono_s()
        display.show(progress)
        if not is_rollback:
            cause = rollback_cause(service) or cause or _cause_on_record(client, service)
        if check_update(service, progress, cause):
            return
        placed_at_s = placed_at_s if progress.blocked else now_s
        stable_since_s = (stable_since_s or now_s) if progress.is_converged else None
        if stable_since_s and _is_stable(service, display, now_s - stable_since_s):
            return
        waited_s, done = (now_s - start_s, now_s - placed_at_s), _WATCHED if stable_since_s else ""
        _check_patience(service, progress, patience, waited_s, done)
        sleep_s(POLL_PERIOD_S)


def _cause_on_record(client: Client, service: Object) -> str:
    """Why the service was rolled back, where that was over between two looks; "" where it was
    not."""
    if not is_rolled_back(service):
        return ""
    revisions = client.get(f"/swarmlet/v1/services/{quote(service['ID'])}/history")
    causes = [str(one.get("Cause", "")) for one in revisions if one.get("IsCurrent")]
    return next(filter(None, causes), UNKNOWN_CAUSE)


def _wait_for_job(client: Client, service_id: str, display: Display, patience: Patience) -> None:
    """Until its present iteration has ended. Raises CommandError where a task was given up."""
    start_s = placed_at_s = mono_s()
    while True:
        service = client.get(f"/services/{quote(service_id)}")
        if has_schedule(service):
            display.say(next_run(client, service))
            return
        if not runs_at_all(service):
            return
        tasks = client.get("/tasks", **filters_of({"service": {service["ID"]: True}}))
        progress = job_progress_of(service, tasks)
        now_s = mono_s()
        display.show(progress.shown)
        if check_job(service, progress):
            display.say("job complete")
            return
        placed_at_s = placed_at_s if progress.shown.blocked else now_s
        waited_s = (now_s - start_s, now_s - placed_at_s)
        done = f"{progress.completed} of {progress.places} tasks of {{}} are complete"
        _check_patience(service, progress.shown, patience, waited_s, done)
        sleep_s(POLL_PERIOD_S)


def _look(client: Client, service_id: str) -> tuple[Object, Progress]:
    service = client.get(f"/services/{quote(service_id)}")
    wanted = {"service": {service["ID"]: True}, "_up-to-date": {"true": True}}
    tasks = client.get("/tasks", **filters_of(wanted))
    others: list[Object] = []
    if is_global(service):  # how many it wants nothing but its tasks tells
        wanted = {"service": {service["ID"]: True}, "desired-state": {"running": True}}
        others = client.get("/tasks", **filters_of(wanted))
    return service, progress_of(service, tasks, client.get("/nodes"), others)


def _is_stable(service: Object, display: Display, stable_s: float) -> bool:
    """Whether the tasks have run long enough; says what is still to be waited for."""
    if is_under_way(service):
        display.say("verify: Watching the tasks until the update is complete...")
        return False
    monitor_ns = (service["Spec"].get("UpdateConfig") or {}).get("Monitor", 0)
    left_s = (seconds(monitor_ns) or MONITOR_S) - stable_s
    if left_s > 0:
        display.say(f"verify: Waiting {ceil(left_s)} seconds to verify that tasks are stable...")
        return False
    display.say(f"verify: Service {service['Spec']['Name']} converged")
    return True


def _check_patience(
    service: Object,
    progress: Progress,
    patience: Patience,
    waited_s: tuple[float, float],
    done: str = "",
) -> None:
    """`done`: how far it is, with {} for the service's name."""
    name, (total_s, unplaced_s) = service["Spec"]["Name"], waited_s
    remedy = (
        f"The service stays and goes on as soon as it can: `swarmlet service why {name}` says what "
        f"is missing, `swarmlet service rm {name}` gives up."
    )
    if progress.blocked and unplaced_s >= patience.placement_s:
        raise PlacementError(f"Tasks of {name} cannot be placed: {progress.blocked}", remedy)
    if total_s >= patience.total_s:
        why = f"; the last failure: {progress.trouble}" if progress.trouble else ""
        done = done or f"{progress.running} of {progress.wanted} tasks of {{}} run"
        raise TimedOutError(f"After {total_s:.0f} s {done.format(name)}{why}", remedy)


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
