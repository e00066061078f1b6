"""What became of a job's runs, and how one begins: pure steps on the service's row."""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from swarmlet.model.job import job_status_of, next_iteration
from swarmlet.model.service import JobHistory, JobRun, Service

SERVICE: Final = "service"
MANUAL: Final = "manual"
SCHEDULE: Final = "schedule"
"""Why a run began: the service was made or updated, somebody asked for it, it was due."""

COMPLETE: Final = "complete"
FAILED: Final = "failed"
REPLACED: Final = "replaced"
SKIPPED: Final = "skipped"
MISSED: Final = "missed"

RUNS_KEPT: Final = 20
"""Entries of a job's history; what still goes on stays beyond that."""


def history_of(service: Service) -> JobHistory:
    return service.job_history or JobHistory()


def going_on(service: Service) -> tuple[JobRun, ...]:
    """The runs that have not ended, as far as that is recorded."""
    return tuple(run for run in history_of(service).runs if not run.outcome)


def is_over(service: Service, iteration: int) -> bool:
    """Whether the run of that iteration has ended, as far as that is recorded; also of one that the
    history has forgotten."""
    is_recorded = iteration <= history_of(service).recorded
    return is_recorded and all(run.iteration != iteration for run in going_on(service))


def trigger_of(service: Service, iteration: int) -> str:
    """Why it began; "" of one that the history does not have."""
    runs = history_of(service).runs
    return next((run.trigger for run in runs if run.iteration == iteration), "")


def with_first_look(service: Service) -> Service:
    """With a run for the present iteration, which an update of the job began."""
    status, history = job_status_of(service), history_of(service)
    if status.is_idle or status.iteration <= history.recorded:
        return service
    run = JobRun(iteration=status.iteration, trigger=SERVICE, started_ms=status.last_execution_ms)
    return _with_run(service, run)


def begun(service: Service, now_ms: int, run: JobRun, *, is_beside: bool) -> Service:
    """With a new iteration, and `run` as its record: trigger and fire are the caller's to give."""
    after = next_iteration(with_first_look(service), now_ms, is_beside=is_beside)
    iteration = job_status_of(after).iteration
    return _with_run(after, replace(run, iteration=iteration, started_ms=now_ms))


def not_run(service: Service, now_ms: int, outcome: str, first_ms: int, fires: int) -> Service:
    """With fires that began no run; what follows its like makes it longer."""
    history = history_of(service)
    last = history.runs[-1] if history.runs else None
    if last is not None and last.outcome == outcome:
        longer = replace(last, count=last.count + fires, ended_ms=now_ms)
        return _with_runs(service, (*history.runs[:-1], longer))
    run = JobRun(
        trigger=SCHEDULE, scheduled_ms=first_ms, ended_ms=now_ms, outcome=outcome, count=fires
    )
    return _with_runs(service, (*history.runs, run))


def ended(service: Service, runs: Iterable[JobRun]) -> Service:
    """With those runs as they ended."""
    by_iteration = {run.iteration: run for run in runs}
    now = (
        run if run.outcome else by_iteration.get(run.iteration, run)
        for run in history_of(service).runs
    )
    return _with_runs(service, now)


def decided(service: Service, schedule: str, decided_ms: int) -> Service:
    """With every fire of that schedule decided up to then."""
    history = replace(history_of(service), schedule=schedule, decided_ms=decided_ms)
    return replace(service, job_history=history)


def told_changes(old: Service, new: Service) -> dict[str, str]:
    """What happened to a job's runs between two rows, in words: `started`, and each outcome, with
    the iterations, or with how many fires began no run."""
    before = {_name_of(run): run for run in history_of(old).runs}
    words: dict[str, list[str]] = {}
    passed_over: dict[str, int] = {}
    for run in history_of(new).runs:
        known = before.get(_name_of(run))
        if run.iteration < 0:
            more = run.count - (0 if known is None else known.count)
            passed_over[run.outcome] = passed_over.get(run.outcome, 0) + more
            continue
        if known is None:
            words.setdefault("started", []).append(str(run.iteration))
        if run.outcome and (known is None or not known.outcome):
            words.setdefault(run.outcome, []).append(str(run.iteration))
    told = {word: ",".join(iterations) for word, iterations in words.items()}
    return told | {word: str(fires) for word, fires in passed_over.items() if fires}


def _name_of(run: JobRun) -> tuple[int, int]:
    return run.iteration, run.scheduled_ms if run.iteration < 0 else 0


def _with_run(service: Service, run: JobRun) -> Service:
    after = _with_runs(service, (*history_of(service).runs, run))
    history = replace(history_of(after), recorded=run.iteration)
    return replace(after, job_history=history)


def _with_runs(service: Service, runs: Iterable[JobRun]) -> Service:
    """The oldest of too many that have ended are forgotten."""
    kept = list(runs)
    surplus = len(kept) - RUNS_KEPT
    for run in tuple(kept):
        if surplus > 0 and run.outcome:
            kept.remove(run)
            surplus -= 1
    return replace(service, job_history=replace(history_of(service), runs=tuple(kept)))
