"""`swarmlet service runs` and `run`: what became of a job's runs, and one more of them."""

from typing import Final

import click

from swarmlet.cli.client import Client, Json, Object
from swarmlet.cli.errors import EXIT_INTERRUPTED, CommandError, TimedOutError
from swarmlet.cli.format import epoch_s, one_line
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import format_option, no_trunc_option
from swarmlet.cli.output import Row, print_rows
from swarmlet.cli.service.listing import find
from swarmlet.cli.service.schedule import path_of, schedule_line, stamp_of
from swarmlet.cli.stale import may_be_stale
from swarmlet.cli.units import DURATION_NS, seconds
from swarmlet.cli.world import mono_s, sleep_s, wall_s

POLL_PERIOD_S: Final = 0.3
ERROR_LENGTH_MAX: Final = 40
RUNNING: Final = "running"
COMPLETE: Final = "complete"
HEADINGS: Final = {
    "Run": "RUN",
    "Trigger": "TRIGGER",
    "Scheduled": "SCHEDULED",
    "Started": "STARTED",
    "Duration": "DURATION",
    "Outcome": "OUTCOME",
    "Tasks": "TASKS",
    "ExitCodes": "EXIT CODES",
    "Error": "ERROR",
}


@click.command(
    "runs",
    epilog=example(
        "swarmlet service runs backup",
        "swarmlet service runs --format '{{.Run}} {{.Outcome}} {{.ExitCodes}}' backup",
    ),
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@format_option
@no_trunc_option
@click.pass_obj
@may_be_stale
def runs(client: Client, *, name: str, form: str, no_trunc: bool) -> None:
    """List the runs of a job, the newest first, with what its tasks ended with."""
    found = client.get(path_of(find(client, name)))
    if found["Schedule"] and form in ("", "table"):
        click.echo(schedule_line(found["Schedule"]))
    rows = [_row(run, no_trunc=no_trunc) for run in found["Runs"]]
    print_rows(rows, HEADINGS, tuple(HEADINGS), form)


def _row(run: Object, *, no_trunc: bool) -> Row:
    error = one_line(run["Err"])
    is_long = not no_trunc and len(error) > ERROR_LENGTH_MAX
    return {
        "Run": "-" if run["Iteration"] is None else str(run["Iteration"]),
        "Trigger": run["Trigger"],
        "Scheduled": stamp_of(run["ScheduledAt"]) or "-",
        "Started": stamp_of(run["StartedAt"]) or "-",
        "Duration": _duration(run),
        "Outcome": run["Outcome"] if run["Count"] == 1 else f"{run['Outcome']} x{run['Count']}",
        "Tasks": _tasks(run),
        "ExitCodes": _exit_codes(run["ExitCodes"]),
        "Error": f"{error[: ERROR_LENGTH_MAX - 1]}…" if is_long else error,
    }


def _duration(run: Object) -> str:
    if run["StartedAt"] is None:
        return "-"
    end_s = wall_s() if run["EndedAt"] is None else epoch_s(run["EndedAt"])
    return f"{max(0, end_s - epoch_s(run['StartedAt'])):.0f}s"


def _tasks(run: Object) -> str:
    if run["Iteration"] is None:
        return "-"
    text = f"{run['Completed']} complete"
    return f"{text}, {run['Failed']} failed" if run["Failed"] else text


def _exit_codes(codes: dict[str, int]) -> str:
    """0, or 0 x3, 1 x2 of more tasks than one."""
    ordered = sorted(codes, key=int)
    return ", ".join(code if codes[code] == 1 else f"{code} x{codes[code]}" for code in ordered)


@click.command(
    "run", epilog=example("swarmlet service run --now backup", "swarmlet service runs backup")
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@click.option("--now", is_flag=True, help="At once, whatever its schedule says.")
@click.option("-q", "--quiet", is_flag=True, help="Wait without saying how it goes.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the run to end.")
@click.option(
    "--timeout",
    type=DURATION_NS,
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for it; 0 for ever.",
)
@click.pass_obj
def run(client: Client, /, *, name: str, now: bool, **options: Json) -> None:
    """Run a job once more, and wait until that run has ended.

    What goes on is treated as the schedule's --concurrency says, and replaced where there is none.
    The exit code is 0 for a run that is complete.
    """
    if not now:
        raise click.UsageError("Say --now: at all other times its schedule runs it.")
    path = path_of(find(client, name))
    iteration = client.post(path, {})["Iteration"]
    if options["detach"]:
        click.echo(f"{name}: run {iteration}")
        return
    try:
        _wait(client, path, name, iteration, options)
    except KeyboardInterrupt:
        click.echo(f"\nThe run goes on. `swarmlet service runs {name}` shows it.", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def _wait(client: Client, path: str, name: str, iteration: int, options: dict[str, Json]) -> None:
    """Return once the run is complete. Raises CommandError where it ended without that, or
    TimedOutError."""
    start_s, shown = mono_s(), ""
    total_s = seconds(options["timeout"]) or float("inf")
    while True:
        found = _run_of(client.get(path)["Runs"], iteration)
        outcome = "forgotten" if found is None else found["Outcome"]
        words = outcome if found is None else f"{outcome}, {_tasks(found)}"
        if words != shown and not options["quiet"]:
            click.echo(f"{name}: run {iteration} {words}")
        shown = words
        if outcome == COMPLETE:
            return
        if outcome != RUNNING:
            raise _not_complete(name, iteration, outcome, "" if found is None else found["Err"])
        if mono_s() - start_s >= total_s:
            raise TimedOutError(
                f"After {mono_s() - start_s:.0f} s run {iteration} of {name} goes on: {words}",
                f"`swarmlet service why {name}` says what its tasks wait for.",
            )
        sleep_s(POLL_PERIOD_S)


def _run_of(found: list[Object], iteration: int) -> Object | None:
    return next((run for run in found if run["Iteration"] == iteration), None)


def _not_complete(name: str, iteration: int, outcome: str, error: str) -> CommandError:
    why = f": {one_line(error)}" if error else ""
    return CommandError(
        f"Run {iteration} of {name} is not complete, but {outcome}{why}",
        f"`swarmlet service ps {name}` and `swarmlet service logs {name}` say more.",
    )
