"""When a job that has a schedule runs next, and why it did not when it was due."""

from collections.abc import Iterator

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.job_history import MISSED, SKIPPED, going_on, history_of
from swarmlet.model.schedule import ALLOW, Schedule, is_scheduled, next_fire_ms, schedule_of
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.reconcile.why.answers import Reason, Verdict
from swarmlet.reconcile.why.words import counted, left, listed, span


def schedule_reasons(service: Service, spec: ServiceSpec, now_ms: int) -> Iterator[Reason]:
    """Nothing of a service without a schedule."""
    if not is_scheduled(spec):
        return
    try:
        schedule = schedule_of(spec)
    except InvalidArgumentError as error:
        yield Reason(
            code="schedule-unreadable",
            sentence=f"Its schedule cannot be read here: {error.message}.",
            remedy=error.remedy,
            error=error.message,
        )
        return
    assert schedule is not None, "asked for scheduled ones alone"
    yield _next(service, schedule, now_ms)
    yield from _not_run(service, schedule, now_ms)


def again(spec: ServiceSpec) -> str:
    """What has a service's tasks made anew: an update does not where there is a schedule."""
    return "run --now" if is_scheduled(spec) else "update --force"


def _next(service: Service, schedule: Schedule, now_ms: int) -> Reason:
    cron = schedule.cron
    at_ms = next_fire_ms(schedule, history_of(service), service.updated_ms)
    when = f"`{cron.expression}` in {cron.zone}"
    if at_ms is None:
        return Reason(code="never-due", sentence=f"Its schedule, {when}, has no next time.")
    running = going_on(service)
    if at_ms > now_ms or not running:
        return Reason(
            code="scheduled",
            sentence=f"It runs when its schedule says so, {when}: next in {left(at_ms, now_ms)}.",
            until_ms=at_ms,
            verdict=Verdict.WELL,
        )
    runs = listed([str(run.iteration) for run in running])
    until_ms = at_ms + (schedule.deadline_ms or 0)
    return Reason(
        code="waits-for-run",
        sentence=f"It was due {span(now_ms - at_ms)} ago and waits for run {runs} to end, "
        f"for {left(until_ms, now_ms)} at most.",
        since_ms=at_ms,
        until_ms=until_ms,
    )


def _not_run(service: Service, schedule: Schedule, now_ms: int) -> Iterator[Reason]:
    """Where the last that is known of it is that it did not run."""
    runs = history_of(service).runs
    last = runs[-1] if runs else None
    if last is None or last.outcome not in (SKIPPED, MISSED):
        return
    times = "The last time" if last.count == 1 else f"The last {counted(last.count, 'time')}"
    ago = span(now_ms - last.ended_ms)
    if last.outcome == MISSED:
        why = "nobody could start it in time"
        remedy = f"`swarmlet service run --now {service.name}` makes up for it"
    elif schedule.concurrency == ALLOW:
        why = "as many runs went on as may at once"
        remedy = f"`swarmlet service runs {service.name}` shows them"
    else:
        why = "an earlier run went on, and it may not run beside that"
        remedy = f"`swarmlet service runs {service.name}` shows how long runs take"
    yield Reason(
        code=f"run-{last.outcome}",
        sentence=f"{times} it was due, {ago} ago, it did not run: {why}.",
        remedy=remedy,
        since_ms=last.ended_ms,
        verdict=Verdict.WELL,
    )
