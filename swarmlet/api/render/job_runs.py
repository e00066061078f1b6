"""A job's schedule and the history of its runs."""

from typing import TYPE_CHECKING

from swarmlet.api.render.common import rfc3339
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_MS
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.job_history import history_of
from swarmlet.model.schedule import is_scheduled, next_fire_ms, schedule_of
from swarmlet.model.service import JobRun, Service, ServiceSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


class ScheduleJson(ApiStruct, frozen=True, kw_only=True):
    """`starting_deadline` in nanoseconds, null for none; `next_run` null where there is none;
    `problem`: why this host cannot tell, and everything else is empty."""

    expression: str = always("")
    time_zone: str = always("")
    concurrency: str = always("")
    starting_deadline: int | None = always(None)
    next_run: str | None = always(None)
    problem: str = always("")


class JobRunJson(ApiStruct, frozen=True, kw_only=True):
    """`iteration` is null of fires that began no run, of which there were `count`; times are null
    where there are none; `outcome` is "running" while it goes on, and what is said of tasks is of
    those so far."""

    iteration: int | None = always(None)
    trigger: str = always("")
    scheduled_at: str | None = always(None)
    started_at: str | None = always(None)
    ended_at: str | None = always(None)
    outcome: str = always("")
    count: int = always(1)
    completed: int = always(0)
    failed: int = always(0)
    exit_codes: dict[str, int] = always({})
    err: str = always("")


class JobRunsJson(ApiStruct, frozen=True, kw_only=True):
    """`schedule` is null of a job without one; `runs`: the newest first."""

    service_id: str
    service_name: str
    schedule: ScheduleJson | None = always(None)
    runs: list[JobRunJson] = always([])


def render_runs(service: Service, spec: ServiceSpec, runs: "Sequence[JobRun]") -> JobRunsJson:
    """`runs` oldest first, those that go on with what their tasks came to so far."""
    return JobRunsJson(
        service_id=service.id,
        service_name=service.name,
        schedule=_schedule(service, spec) if is_scheduled(spec) else None,
        runs=[_run(run) for run in reversed(runs)],
    )


def _schedule(service: Service, spec: ServiceSpec) -> ScheduleJson:
    try:
        schedule = schedule_of(spec)
    except InvalidArgumentError as error:
        return ScheduleJson(problem=error.message)
    assert schedule is not None, "asked for scheduled ones alone"
    next_ms = next_fire_ms(schedule, history_of(service), service.updated_ms)
    deadline_ms = schedule.deadline_ms
    return ScheduleJson(
        expression=schedule.cron.expression,
        time_zone=schedule.cron.zone,
        concurrency=schedule.concurrency,
        starting_deadline=None if deadline_ms is None else deadline_ms * NS_PER_MS,
        next_run=_time(next_ms or 0),
    )


def _run(run: JobRun) -> JobRunJson:
    return JobRunJson(
        iteration=run.iteration if run.iteration >= 0 else None,
        trigger=run.trigger,
        scheduled_at=_time(run.scheduled_ms),
        started_at=_time(run.started_ms),
        ended_at=_time(run.ended_ms),
        outcome=run.outcome or "running",
        count=run.count,
        completed=run.completed,
        failed=run.failed,
        exit_codes={str(code): tasks for code, tasks in run.exit_codes},
        err=run.err,
    )


def _time(at_ms: int) -> str | None:
    return rfc3339(at_ms) if at_ms else None
