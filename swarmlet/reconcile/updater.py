"""The updater: brings the tasks of a service to its present spec, a few at a time.

SwarmKit's updater (manager/orchestrator/update) without its workers and its memory: how far an
update has come is read from the tasks (`rollout.py`), so any leader goes on where another stopped.
It decides one service at a time. The decider of the service's mode does the rest of the work: it
releases a new task once the old one has stopped, stops the old one once the new one runs, and
restarts what fails. Jobs are not updated.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Change, Create, Event, SetDesired
from swarmlet.model.job import is_job
from swarmlet.model.node import Node
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.update_status import is_at_rest, is_updating
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import REST, Decision, Key, Moment
from swarmlet.reconcile.eligibility import standing_parts
from swarmlet.reconcile.instances import Instance, instance_of, rows_of
from swarmlet.reconcile.moves import hand_over, keep, needs_of_new
from swarmlet.reconcile.moving import is_moving
from swarmlet.reconcile.restart import due_ms, has_stopped, must_leave, released
from swarmlet.reconcile.rollout import Rollout, end_of
from swarmlet.reconcile.slots import is_wanted, replicas_of
from swarmlet.reconcile.verdict import begin, complete, fail, too_many_failed

SLOTS_MAX: Final = 100  # in one decision: 2 to 4 ms, and an entry as short to apply


class UpdaterDecider:
    """Writes `update_status`, creates tasks, writes `desired` of those they replace.

    Its index: a Rollout of each service that is being updated; services at rest have none.
    """

    name: Final = "updater"
    tables: Final = frozenset({Service, Task, Node})

    def __init__(self) -> None:
        self._rollouts: dict[str, Rollout] = {}

    def start(self, view: View) -> Iterator[Key]:
        """Every service: an update may have been asked for and not begun."""
        self._rollouts = {}
        for service in view.services.all():
            yield "service", service.id

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """A service that changed; of one under update, a task that turned. Of others only a task
        from an older spec that comes late, decided upon before the update, and one whose node
        changed so that it may have to follow the present spec now."""
        if event.table is Service:
            return [("service", event.id)]
        if event.table is Node:
            return self._keys_of_node(event, view)
        if event.table is not Task:
            return ()
        old, new = event.old, event.new
        assert isinstance(old, Task | None)
        assert isinstance(new, Task | None)
        task = new or old
        assert task is not None
        rollout = self._rollouts.get(task.service_id)
        if rollout is None:
            is_late = old is None and _is_old(view, task)
            return [("service", task.service_id)] if is_late else ()
        rollout.mark(instance_of(task))
        return [("service", task.service_id)] if _has_turned(old, new) else ()

    def _keys_of_node(self, event: Event, view: View) -> Iterable[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if standing_parts(old) == standing_parts(new):
            return ()
        keys: dict[Key, None] = {}
        for task in view.tasks.scan("node", event.id):
            rollout = self._rollouts.get(task.service_id)
            if rollout is not None:
                rollout.mark(instance_of(task))
            if rollout is not None or (is_wanted(task) and _is_old(view, task)):
                keys["service", task.service_id] = None
        return keys

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        service = view.services.get(key[1])
        if service is None or not _may_be_dirty(view, service):
            self._rollouts.pop(key[1], None)
            return REST
        rollout = self._rollout(view, service)
        if not rollout.refresh(view):
            return Decision(has_more=True)
        decision, is_over = _advance(view, service, rollout, moment)
        if is_over:
            del self._rollouts[service.id]
        return decision

    def _rollout(self, view: View, service: Service) -> Rollout:
        known = self._rollouts.get(service.id)
        if known is not None and known.spec_version == service.spec_version:
            return known
        self._rollouts[service.id] = Rollout(view, service)
        return self._rollouts[service.id]


def _is_old(view: View, task: Task) -> bool:
    service = view.services.get(task.service_id)
    return service is not None and task.spec_version != service.spec_version


def _has_turned(old: Task | None, new: Task | None) -> bool:
    """Whether a task's change can matter to an update: it came, went, ran, ended, was told to."""
    if old is None or new is None:
        return True
    return old.desired != new.desired or _stage(old) != _stage(new)


def _stage(task: Task) -> int:
    return (task.status.state >= TaskState.RUNNING) + has_stopped(task)


def _may_be_dirty(view: View, service: Service) -> bool:
    """Whether a look at the tasks is worth it: one update is under way, or none was and there are
    tasks of other versions. A paused one stays as it is until the service is updated again."""
    if is_job(spec_of(view, service).mode):
        return False
    if is_at_rest(service):
        return any(
            spec.number != service.spec_version and view.tasks.count("spec", spec.id)
            for spec in view.specs.scan("service", service.id)
        )
    return is_updating(service)


def _advance(
    view: View, service: Service, rollout: Rollout, moment: Moment
) -> tuple[Decision, bool]:
    """The next step, and whether the tasks need no watching for it."""
    if rollout.surplus:
        return _stop_surplus(rollout), False
    if is_updating(service):
        failed = too_many_failed(rollout)
        if failed is not None:
            return fail(view, service, rollout, failed), False
    elif not rollout.fresh_count and not _is_watched(service, rollout):
        return REST, True
    resting = rollout.resting(moment.now_ms)
    changes: list[Change] = []
    if not is_updating(service):
        changes.append(begin(service, moment))
    room = _room(view, service, rollout, len(resting))
    slots = rollout.fresh(view, min(room, SLOTS_MAX))
    for slot in slots:
        changes += _replace_in(view, service, rollout, slot, moment)
    if changes:
        return _started(service, rollout, slots, changes), False
    if rollout.fresh_count or rollout.in_flight:
        return Decision(wake_at_ms=resting[0] if resting and rollout.fresh_count else None), False
    return _end(service, rollout, moment), False


def _is_watched(service: Service, rollout: Rollout) -> bool:
    """Whether something is under way that an update has to wait for, before it has begun."""
    if service.update_status is None:
        return bool(rollout.in_flight)
    return bool(rollout.in_flight - rollout.tried)


def _started(
    service: Service, rollout: Rollout, slots: Sequence[Instance], changes: Sequence[Change]
) -> Decision:
    left = rollout.fresh_count - len(slots)
    return Decision(
        changes=tuple(changes),
        guards=needs_of_new(service),
        reasons=(f"{len(slots)} slots are updated, {left} are left",),
        has_more=len(slots) == SLOTS_MAX and left > 0,
    )


def _stop_surplus(rollout: Rollout) -> Decision:
    doomed = (task_id for slot in sorted(rollout.surplus) for task_id in rollout.surplus[slot])
    changes = tuple(
        SetDesired(id=task_id, desired=TaskState.SHUTDOWN)
        for task_id in islice(doomed, ENTRY_CHANGES_MAX)
    )
    return Decision(
        changes=changes,
        reasons=(f"{len(rollout.surplus)} slots have tasks too many",),
        has_more=len(changes) == ENTRY_CHANGES_MAX,
    )


def _room(view: View, service: Service, rollout: Rollout, resting: int) -> int:
    """How many more slots may be tried now; none while there are slots that must be closed."""
    replicas = replicas_of(spec_of(view, service))
    if replicas is not None and len(rollout.taken) > replicas:
        return 0
    parallelism = rollout.settings.parallelism
    if not parallelism:
        return rollout.fresh_count
    return max(0, parallelism - len(rollout.in_flight) - resting)


def _replace_in(
    view: View, service: Service, rollout: Rollout, slot: Instance, moment: Moment
) -> list[Change]:
    """Put a new task in the slot. Every way names the old task's version, so that a slot is tried
    once, however often this is committed."""
    old = rollout.dirty_task(view, slot)
    new = _new_task(service, old, moment, is_bound=rollout.is_bound)
    may_stay = not must_leave(view, old) or is_moving(view, old)
    is_up = old.status.state == TaskState.RUNNING and may_stay
    if rollout.settings.is_start_first and is_up:
        return [keep(old), Create(obj=released(new))]
    others = list(rows_of(view, service.id, slot))
    if due_ms(new, others, view, moment.now_ms) <= moment.now_ms:
        new = released(new)
    return [hand_over(old), Create(obj=new)]


def _new_task(service: Service, old: Task, moment: Moment, *, is_bound: bool) -> Task:
    return Task(
        id=TaskID(moment.new_id()),
        service_id=service.id,
        spec_version=service.spec_version,
        slot=old.slot,
        node_id=old.node_id if is_bound else NodeID(""),
        desired=TaskState.READY,
        status=TaskStatus(state=TaskState.NEW, at_ms=moment.now_ms, message="created"),
        start_at_ms=moment.now_ms,
        replaces=old.id,
        updated_from=old.spec_version,
    )


def _end(service: Service, rollout: Rollout, moment: Moment) -> Decision:
    """Every slot was tried: complete, once the last was watched long enough."""
    end_ms = end_of(rollout.last_reached_ms(), rollout.settings.hold_ms, moment.now_ms)
    return Decision(wake_at_ms=end_ms) if end_ms else complete(service, moment)
