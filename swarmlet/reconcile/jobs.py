"""Jobs: tasks that run to their end, so many in all or one a node, an iteration at a time.

SwarmKit's rules (manager/orchestrator/jobs), without what goes wrong there: nodes that join later
get their task of a global job; what was given up stays given up; tasks of an older iteration count
while they stop, so that no more than `max_concurrent` run at once (for a minute at most).

Two kinds of keys. ("job", service id) closes iterations that are over and opens places; it costs
O(what it opens) for a slot that becomes free, and O(tasks of the service) only when an iteration
ends. ("run", service id, iteration, slot or node) is one place (`job_run`).
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from msgspec.structs import replace

from swarmlet.core.limits import ENTRY_CHANGES_MAX, OLD_TASK_WAIT_MAX_MS
from swarmlet.model.change import Change, Create, Event, SetDesired, Update
from swarmlet.model.job import is_job, job_status_of, open_iterations
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import REST, START_ROWS, Decision, Key, Moment
from swarmlet.reconcile.job_index import JobIndex, KnownJobs, Place, is_active, is_on_node
from swarmlet.reconcile.job_run import (
    decide_run,
    is_candidate,
    is_closed,
    is_global,
    is_place_finished,
    lacks_last,
    new_task,
    place_of,
)
from swarmlet.reconcile.moves import needs_of_new, stop
from swarmlet.reconcile.moving import has_plan
from swarmlet.reconcile.restart import CLOCK_SLACK_MS, has_stopped, is_node_lost, must_leave


class JobsDecider:
    """Writes `desired`, creates tasks, and takes ended iterations off the job's row.

    Its index: the runs of all jobs, and which services are jobs at all (a mode is for life).
    """

    name: Final = "jobs"
    tables: Final = frozenset({Service, Node, Task})

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._index = JobIndex()
        self._jobs = KnownJobs()

    def start(self, view: View) -> Iterator[Key | None]:
        """All jobs, and the places with something to do or where a task was given up."""
        self._reset()
        for number, service in enumerate(view.services.all()):
            if self._jobs.knows(view, service.id):
                yield "job", service.id
            elif number % START_ROWS == 0:
                yield None
        for number, task in enumerate(view.tasks.all()):
            if number % START_ROWS == 0:
                yield None
            if not self._jobs.knows(view, task.service_id):
                continue
            self._count(None, task)
            if _needs_a_look(view, task):
                yield self._run_key(task)

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """A job's change; the place of a task that turned, and the job where that makes room; of a
        node, the places of its tasks, and its place in every global job."""
        if event.table is Service:
            return self._keys_of_service(event, view)
        if event.table is Node:
            return self._keys_of_node(event, view)
        if event.table is Task:
            return self._keys_of_task(event, view)
        return ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        service = view.services.get(key[1])
        if service is None or not is_job(spec_of(view, service).mode):
            return REST
        if key[0] == "job":
            return self._reconcile(view, service, moment)
        iteration = int(key[2])
        if iteration not in open_iterations(service):
            return REST
        is_node = is_global(spec_of(view, service))
        return decide_run(view, service, iteration, key[3] if is_node else int(key[3]), moment)

    # What happened --------------------------------------------------------------------------

    def _keys_of_service(self, event: Event, view: View) -> Iterable[Key]:
        if event.new is None:
            self._index.forget(event.id)
            self._jobs.forget(event.id)
            return ()
        return [("job", event.id)] if self._jobs.knows(view, event.id) else ()

    def _keys_of_node(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if _matters(old) == _matters(new):
            return
        for service_id in self._jobs.globals:
            service = view.services.get(service_id)
            for iteration in () if service is None else open_iterations(service):
                yield "run", service_id, str(iteration), event.id
        if not (is_node_lost(new) or is_node_lost(old)):
            return
        matters = is_node_lost(new) or has_plan(old)  # else it is back, where one may be held back
        for task in view.tasks.scan("node", event.id):
            is_held = task.desired < TaskState.RUNNING
            if has_stopped(task) or not (matters or is_held):
                continue
            if self._jobs.knows(view, task.service_id):
                yield from self._run_keys(view, task)
                yield "job", task.service_id  # what stops there is waited for no more

    def _keys_of_task(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Task | None)
        assert isinstance(new, Task | None)
        task = new or old
        assert task is not None
        if not self._jobs.knows(view, task.service_id):
            return
        self._count(old, new)
        if old is None or new is None or _has_turned(old, new):
            yield from self._run_keys(view, task)
        if old is None or not (new is None or _makes_room(old, new)):
            return
        if task.service_id not in self._jobs.globals or _has_earlier(view, task.service_id):
            yield "job", task.service_id

    def _run_keys(self, view: View, task: Task) -> Iterator[Key]:
        """Of its place. Where its iteration is over, those of the open ones: a task of theirs may
        wait until this one is gone (`disconnect`)."""
        service = view.services.get(task.service_id)
        still_open = () if service is None else open_iterations(service)
        for iteration in (task.job_iteration,) if task.job_iteration in still_open else still_open:
            yield self._run_key(task, iteration)

    def _run_key(self, task: Task, iteration: int | None = None) -> Key:
        place = task.node_id if task.service_id in self._jobs.globals else str(task.slot)
        number = task.job_iteration if iteration is None else iteration
        return ("run", task.service_id, str(number), place)

    def _count(self, old: Task | None, new: Task | None) -> None:
        task = new or old
        assert task is not None
        place: Place = task.node_id if task.service_id in self._jobs.globals else task.slot
        self._index.count(place, old, new)

    # What to do -----------------------------------------------------------------------------

    def _reconcile(self, view: View, service: Service, moment: Moment) -> Decision:
        """Close first, and open once that is committed: what is closing counts."""
        spec = spec_of(view, service)
        closing = list(islice(self._closing(view, service), ENTRY_CHANGES_MAX))
        if closing:
            return _slice(closing, (f"iteration {job_status_of(service).iteration} has begun",))
        if ended := self._ended(view, service):
            return _forget_ended(service, ended)
        if is_global(spec):
            return self._open_nodes(view, service, spec, moment)
        return self._open_slots(view, service, spec, moment)

    def _closing(self, view: View, service: Service) -> Iterator[SetDesired]:
        """Tasks of iterations that are over: what may run goes, what failed has no successor."""
        still_open = open_iterations(service)
        if not any(run.active for run in self._index.closed_runs(service.id, still_open)):
            return
        for task in view.tasks.scan("service", service.id):
            if task.job_iteration in still_open or not is_active(task):
                continue
            if has_stopped(task):
                yield stop(task)
            else:
                yield SetDesired(id=task.id, desired=TaskState.REMOVE)

    def _ended(self, view: View, service: Service) -> list[int]:
        """Earlier iterations beside the present one of which nothing is left to do."""
        spec = spec_of(view, service)
        return [
            iteration
            for iteration in job_status_of(service).earlier
            if not self._index.run(service.id, iteration).active
            and (is_closed(service, spec, iteration) or is_finished(view, service, iteration))
        ]

    def _open_slots(
        self, view: View, service: Service, spec: ServiceSpec, moment: Moment
    ) -> Decision:
        """As many new slots as may run at once, in all open iterations, the oldest first."""
        most, total = concurrency_of(spec), completions_of(spec)
        stopping, until_ms = self._stopping(view, service, moment)
        changes: list[Change] = []
        has_waiting = False
        for iteration in _unclosed(service, spec):
            run = self._index.run(service.id, iteration)
            room = max(0, most - len(run.active) - stopping)
            left = ENTRY_CHANGES_MAX - len(changes)
            free = run.free_slots(total)
            changes += (
                Create(obj=new_task(view, service, iteration, slot, moment))
                for slot in islice(free, min(room, left))
            )
            has_waiting = has_waiting or next(free, None) is not None
        wake_at_ms = until_ms if stopping and has_waiting else None
        if not changes:
            return Decision(wake_at_ms=wake_at_ms)
        return _slice(changes, (f"{most} of {total} may run at once",), service, wake_at_ms)

    def _open_nodes(
        self, view: View, service: Service, spec: ServiceSpec, moment: Moment
    ) -> Decision:
        """A task for every node that has none, in every open iteration."""
        nodes = sorted(node.id for node in view.nodes.all() if is_candidate(node, spec))
        made = (
            Create(obj=new_task(view, service, iteration, node_id, moment))
            for iteration in _unclosed(service, spec)
            for node_id in nodes
            if node_id not in self._index.run(service.id, iteration).filled
        )
        changes = list(islice(made, ENTRY_CHANGES_MAX))
        if not changes:
            return REST
        return _slice(changes, (f"{len(nodes)} nodes are for this job",), service)

    def _stopping(self, view: View, service: Service, moment: Moment) -> tuple[int, int]:
        """How many tasks of iterations that are over may still run on nodes that are up, and until
        when they count: a minute from the beginning of the present one."""
        began_ms = job_status_of(service).last_execution_ms
        until_ms = began_ms + OLD_TASK_WAIT_MAX_MS
        if not began_ms - CLOCK_SLACK_MS <= moment.now_ms < until_ms:
            return 0, until_ms
        runs = self._index.closed_runs(service.id, open_iterations(service))
        return sum(_may_run(view, task_id) for run in runs for task_id in run.on_nodes), until_ms


def _unclosed(service: Service, spec: ServiceSpec) -> list[int]:
    """The open iterations that may get more tasks."""
    return [one for one in open_iterations(service) if not is_closed(service, spec, one)]


def concurrency_of(spec: ServiceSpec) -> int:
    """How many tasks of a replicated job may run at once; 1 where nothing is said."""
    mode = spec.mode.replicated_job
    return 1 if mode is None or mode.max_concurrent is None else mode.max_concurrent


def completions_of(spec: ServiceSpec) -> int:
    """How many tasks of a replicated job are to end well; as many as may run at once where nothing
    is said."""
    mode = spec.mode.replicated_job
    if mode is None or mode.total_completions is None:
        return concurrency_of(spec)
    return mode.total_completions


def is_finished(view: View, service: Service, iteration: int) -> bool:
    """Whether nothing is left to do in an iteration: every place has a task that ended well, or
    that was given up. O(tasks of the service, nodes). False for a job that may run no task."""
    spec = spec_of(view, service)
    if not is_global(spec) and lacks_last(view, service, iteration, completions_of(spec)):
        return False
    done: dict[Place, bool] = {}
    for task in view.tasks.scan("service", service.id):
        if task.job_iteration == iteration and task.desired < TaskState.REMOVE:
            place = place_of(spec, task)
            is_done = task.status.state == TaskState.COMPLETE
            done[place] = is_done or done.get(place, False)
    if is_global(spec):
        wanted = (node.id for node in view.nodes.all() if is_candidate(node, spec))
        is_open = any(node_id not in done for node_id in wanted)
    else:
        is_open = any(slot not in done for slot in range(completions_of(spec)))
    return not is_open and all(
        done[place] or is_place_finished(view, service, iteration, place) for place in done
    )


def _has_earlier(view: View, service_id: str) -> bool:
    service = view.services.get(service_id)
    return service is not None and bool(job_status_of(service).earlier)


def _may_run(view: View, task_id: str) -> bool:
    task = view.tasks.get(task_id)
    node = None if task is None else view.nodes.get(task.node_id)
    return node is not None and node.status.state != NodeState.DOWN


def _slice(
    changes: list[Change] | list[SetDesired] | list[Create],
    reasons: tuple[str, ...],
    opened_for: Service | None = None,
    wake_at_ms: int | None = None,
) -> Decision:
    return Decision(
        changes=tuple(changes),
        guards=() if opened_for is None else needs_of_new(opened_for),
        reasons=reasons,
        wake_at_ms=wake_at_ms,
        has_more=len(changes) == ENTRY_CHANGES_MAX,
    )


def _forget_ended(service: Service, ended: list[int]) -> Decision:
    status = job_status_of(service)
    earlier = tuple(iteration for iteration in status.earlier if iteration not in ended)
    after = replace(service, job_status=replace(status, earlier=earlier))
    words = ", ".join(map(str, ended))
    return Decision(
        changes=(Update(obj=after, seen=service.version),),
        reasons=(f"nothing is left to do in iteration {words}",),
    )


def _matters(node: Node | None) -> tuple[object, ...] | None:
    """All of a node's row that a job looks at."""
    if node is None:
        return None
    return (
        node.status.state,
        node.status.addr,
        node.spec,
        node.drain,
        node.role,
        node.description,
    )


def _has_turned(old: Task, new: Task) -> bool:
    """Whether a task's change can matter to its place."""
    return (
        has_stopped(old) != has_stopped(new)
        or old.desired != new.desired
        or old.node_id != new.node_id
    )


def _makes_room(old: Task, new: Task) -> bool:
    """Whether it has nothing more to do, or has stopped."""
    return is_active(old) > is_active(new) or is_on_node(old) > is_on_node(new)


def _needs_a_look(view: View, task: Task) -> bool:
    """Whether its place may have something to do, as a new leader finds it: all but a task that
    has ended well, or that runs where it may."""
    if task.status.state == TaskState.COMPLETE:
        return False
    is_well = task.desired == TaskState.COMPLETE and not has_stopped(task)
    return not is_well or must_leave(view, task)
