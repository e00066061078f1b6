"""Schedules: jobs run when their cron expression says so, once for every time it does.

How far a schedule is decided (`JobHistory.decided_ms`) stands in the service's row, and is written
together with the iteration that a fire begins, on condition that the row is as it was read. So a
leader that is replaced between any two changes leaves no fire half done: its successor finds it
either decided or due. Of several that came due while nobody led, the last is run and the others are
recorded as missed.

Also the history of all jobs' runs, with or without a schedule: an entry when an iteration has begun
and how it ended when its last task has. Keys: ("service", id).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import MS_PER_S
from swarmlet.model.change import Event, Update
from swarmlet.model.cron import Due
from swarmlet.model.job import BESIDE_MAX, is_job
from swarmlet.model.job_history import (
    MISSED,
    REPLACED,
    SCHEDULE,
    SKIPPED,
    begun,
    decided,
    ended,
    going_on,
    history_of,
    not_run,
    with_first_look,
)
from swarmlet.model.node import Node
from swarmlet.model.schedule import ALLOW, FORBID, Schedule, schedule_of
from swarmlet.model.service import JobRun, Service, ServiceSpec
from swarmlet.model.task import Task
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import REST, START_ROWS, Decision, Key, Moment
from swarmlet.reconcile.job_ends import end_of, ends, is_down
from swarmlet.reconcile.job_index import KnownJobs, is_active

LOOK_AGAIN_MS: Final = 15 * MS_PER_S
"""When a run is looked at again that has no task and is not over."""

AHEAD_MAX_MS: Final = 24 * 3600 * MS_PER_S
"""Who decided further ahead had a wrong clock: the schedule begins anew from now."""


class SchedulesDecider:
    """Writes `job_history`, and begins iterations.

    Its index: of each job's iterations, the tasks that have something to do.
    """

    name: Final = "schedules"
    tables: Final = frozenset({Service, Node, Task})

    def __init__(self) -> None:
        self._jobs = KnownJobs()
        self._active: dict[str, dict[int, dict[str, None]]] = {}  # service, iteration, task

    def start(self, view: View) -> Iterator[Key | None]:
        """All jobs."""
        self._jobs, self._active = KnownJobs(), {}
        for number, task in enumerate(view.tasks.all()):
            if self._jobs.knows(view, task.service_id):
                self._count(task, is_gone=False)
            if number % START_ROWS == 0:
                yield None
        for number, one in enumerate(view.services.all()):
            if self._jobs.knows(view, one.id):
                yield "service", one.id
            elif number % START_ROWS == 0:
                yield None

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """A job's own change; the end of the last task of an iteration; a node that is down, or no
        longer, for the jobs with something to do there."""
        if event.table is Service:
            return self._keys_of_service(event, view)
        if event.table is Node:
            return self._keys_of_node(event, view)
        if event.table is Task:
            return self._keys_of_task(event, view)
        return ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        service = view.services.get(key[1])
        if service is None:
            return REST
        spec = spec_of(view, service)
        if not is_job(spec.mode):
            return REST
        noted = self._noted(view, service, moment)
        after, wake_at_ms, reason = _with_fires(view, noted, _schedule(spec), moment.now_ms)
        if after != service:
            update = Update(obj=after, seen=service.version)
            return Decision(changes=(update,), reasons=(reason or "its runs are recorded",))
        return Decision(wake_at_ms=self._wake_at_ms(service, wake_at_ms, moment))

    # What happened --------------------------------------------------------------------------

    def _keys_of_service(self, event: Event, view: View) -> Iterable[Key]:
        if event.new is None:
            self._jobs.forget(event.id)
            self._active.pop(event.id, None)
            return ()
        return [("service", event.id)] if self._jobs.knows(view, event.id) else ()

    def _keys_of_node(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if is_down(old) == is_down(new):
            return
        for task in view.tasks.scan("node", event.id):
            if is_active(task) and self._jobs.knows(view, task.service_id):
                yield "service", task.service_id

    def _keys_of_task(self, event: Event, view: View) -> Iterator[Key]:
        row = event.new or event.old
        assert isinstance(row, Task)
        if not self._jobs.knows(view, row.service_id):
            return
        was_active = bool(self._active_of(row.service_id, row.job_iteration))
        self._count(row, is_gone=event.new is None)
        if was_active and not self._active_of(row.service_id, row.job_iteration):
            yield "service", row.service_id

    def _count(self, task: Task, *, is_gone: bool) -> None:
        iterations = self._active.setdefault(task.service_id, {})
        active = iterations.setdefault(task.job_iteration, {})
        if is_active(task) and not is_gone:
            active[task.id] = None
        else:
            active.pop(task.id, None)
        if not active:
            del iterations[task.job_iteration]
        if not iterations:
            del self._active[task.service_id]

    def _active_of(self, service_id: str, iteration: int) -> Iterable[str]:
        return self._active.get(service_id, {}).get(iteration, ())

    # What to do -----------------------------------------------------------------------------

    def _noted(self, view: View, service: Service, moment: Moment) -> Service:
        """With what began and what ended."""
        noted = with_first_look(service)
        if not any(self._may_be_over(view, noted, run) for run in going_on(noted)):
            return noted
        return ended(noted, ends(view, noted, moment.now_ms))

    def _may_be_over(self, view: View, service: Service, run: JobRun) -> bool:
        """Whether a look at all its tasks is worth its while."""
        active = (view.tasks.get(one) for one in self._active_of(service.id, run.iteration))
        return not any(
            task is not None and not (task.node_id and is_down(view.nodes.get(task.node_id)))
            for task in active
        )

    def _wake_at_ms(self, service: Service, fire_ms: int | None, moment: Moment) -> int | None:
        idle = any(not self._active_of(service.id, run.iteration) for run in going_on(service))
        wakes = [] if fire_ms is None else [fire_ms]
        return min([*wakes, moment.now_ms + LOOK_AGAIN_MS] if idle else wakes, default=None)


def _schedule(spec: ServiceSpec) -> Schedule | None:
    """None also for one that this host cannot read, such as a time zone it does not know: `service
    why` says so."""
    try:
        return schedule_of(spec)
    except InvalidArgumentError:
        return None


# Fires -------------------------------------------------------------------------------------------
def _with_fires(
    view: View, service: Service, schedule: Schedule | None, now_ms: int
) -> tuple[Service, int | None, str]:
    """With what is due decided, when to look again, and why it changed."""
    if schedule is None:
        return service, None, ""
    history = history_of(service)
    if history.decided_ms > now_ms + AHEAD_MAX_MS:
        return decided(service, schedule.key, now_ms), None, "a clock was far ahead"
    if history.schedule != schedule.key:
        since_ms = max(service.updated_ms, history.decided_ms)
        return decided(service, schedule.key, since_ms), None, "its schedule is new"
    due = schedule.cron.due(history.decided_ms, now_ms)
    if due is None:
        return service, schedule.cron.next_after(history.decided_ms), ""
    return _with_due(view, service, schedule, due, now_ms)


def _with_due(
    view: View, service: Service, schedule: Schedule, due: Due, now_ms: int
) -> tuple[Service, int | None, str]:
    latest_ms = None if schedule.deadline_ms is None else due.last_ms + schedule.deadline_ms
    if latest_ms is not None and now_ms > latest_ms:
        after = not_run(service, now_ms, MISSED, due.first_ms, due.fires)
        return decided(after, schedule.key, due.last_ms), None, "it could not start in time"
    running = going_on(service)
    if _is_in_the_way(schedule, running):
        if latest_ms is not None and now_ms < latest_ms:
            next_ms = schedule.cron.next_after(due.last_ms) or latest_ms
            return service, min(latest_ms, next_ms), ""
        after = not_run(service, now_ms, SKIPPED, due.first_ms, due.fires)
        return decided(after, schedule.key, due.last_ms), None, "an earlier run goes on"
    if due.fires > 1:
        why = SKIPPED if _was_in_the_way(schedule, service, due) else MISSED
        service = not_run(service, now_ms, why, due.first_ms, due.fires - 1)
    after = run_now(view, service, JobRun(trigger=SCHEDULE, scheduled_ms=due.last_ms), now_ms)
    return decided(after, schedule.key, due.last_ms), None, "its schedule says so"


def _is_in_the_way(schedule: Schedule, running: tuple[JobRun, ...]) -> bool:
    if schedule.concurrency == ALLOW:
        return len(running) > BESIDE_MAX
    return schedule.concurrency == FORBID and bool(running)


def _was_in_the_way(schedule: Schedule, service: Service, due: Due) -> bool:
    """Whether a run that is over now still went on when the first of those fires came."""
    runs = history_of(service).runs
    return schedule.concurrency == FORBID and any(run.ended_ms > due.first_ms for run in runs)


def is_run_in_the_way(service: Service, spec: ServiceSpec) -> bool:
    """Whether a run that is asked for by hand has to wait for one that goes on, by the schedule's
    rule; a job without one replaces what goes on. Raises InvalidArgumentError."""
    schedule = schedule_of(spec)
    return schedule is not None and _is_in_the_way(schedule, going_on(service))


def run_now(view: View, service: Service, run: JobRun, now_ms: int) -> Service:
    """The row with a new run: beside what goes on where the schedule allows that, else in its
    place."""
    service = with_first_look(service)
    schedule = _schedule(spec_of(view, service))
    is_beside = schedule is not None and schedule.concurrency == ALLOW
    running = going_on(service)
    if not is_beside:
        replaced = [end_of(view, service, one, REPLACED, now_ms) for one in running]
        service = ended(service, replaced)
    return begun(service, now_ms, run, is_beside=is_beside and bool(running))
