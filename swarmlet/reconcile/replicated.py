"""Replicated services: as many slots as wanted, one task in each, a successor for each that ends.

Two kinds of keys. ("service", id) opens and closes slots and costs O(tasks of the service); it is
looked at when the service changes, when a row vanishes and nothing wants to run in its slot, and
while more slots are taken than wanted, as after a restart that crossed a scale-down.
("slot", service id, number) restarts and releases and costs O(tasks in the slot); every other task
event leads to it.

A task whose node is down is replaced as its service says (`disconnect`); one on a node that is
drained gently runs on beside its replacement (`moving`).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Change, Create, Event, SetDesired, SetStatus
from swarmlet.model.node import Node
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.base import REST, Decision, Key, Moment
from swarmlet.reconcile.disconnect import NEVER_MS, leaves_ms, runs_until_ms, why_waiting
from swarmlet.reconcile.moves import hand_over, keep, needs_of_new, stop
from swarmlet.reconcile.moving import deadline_ms, has_plan, is_moving
from swarmlet.reconcile.restart import (
    due_ms,
    ended_ms,
    has_stopped,
    is_held_back,
    is_node_lost,
    may_restart,
    must_leave,
    policy_of,
    released,
    successor,
)
from swarmlet.reconcile.rollout import end_of, settings_of
from swarmlet.reconcile.slots import (
    Dirt,
    Slots,
    free_slots,
    is_wanted,
    removal_order,
    replicas_of,
    slots_of,
    wanted_of,
)


class ReplicatedDecider:
    """Writes `desired`, creates tasks. Its index: service -> slot -> tasks that are not leaving."""

    name: Final = "replicated"
    tables: Final = frozenset({Service, Node, Task})

    def __init__(self) -> None:
        self._taken: dict[str, dict[int, int]] = {}

    def start(self, view: View) -> Iterable[Key]:
        """All services, those that are gone but have tasks, and the slots with something to do."""
        self._taken = {}
        keys: dict[Key, None] = {("service", service.id): None for service in view.services.all()}
        slots: set[Key] = set()
        for task in view.tasks.all():
            key = _slot_key(task)
            self._count(None, task)
            if view.services.get(task.service_id) is None:
                keys["service", task.service_id] = None
            elif is_wanted(task):
                if key in slots or _needs_a_look(view, task):
                    keys[key] = None
                slots.add(key)
        return keys

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """See the module's docstring; a node that tasks must leave leads to the slots it hosts, and
        so does one that they need not leave any more; a new spec to the slots that wait for one."""
        if event.table is Service:
            return [("service", event.id), *_waiting_slots(event, view)]
        if event.table is Node:
            return self._keys_of_node(event, view)
        if event.table is Task:
            return self._keys_of_task(event, view)
        return ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        service = view.services.get(key[1])
        if service is None:
            return _close_service(view, key)
        replicas = replicas_of(spec_of(view, service))
        if replicas is None:
            return REST
        if key[0] == "service":
            return _reconcile(view, service, replicas, moment)
        return _decide_slot(view, service, int(key[2]), moment)

    def _keys_of_node(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if _condition(old) == _condition(new) or not (is_node_lost(new) or has_plan(old)):
            return
        for task in view.tasks.scan("node", event.id):
            if not has_stopped(task):
                yield _slot_key(task)

    def _keys_of_task(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Task | None)
        assert isinstance(new, Task | None)
        self._count(old, new)
        task = new or old
        assert task is not None
        if new is None:
            rest = view.tasks.scan("slot", (task.service_id, task.slot))
            if _takes_slot(task) and not any(is_wanted(other) for other in rest):
                yield "service", task.service_id
            yield _slot_key(task)
        elif old is None or _has_turned(old, new):
            yield _slot_key(task)
            if self._is_too_many(view, new.service_id):
                yield "service", task.service_id

    def _count(self, old: Task | None, new: Task | None) -> None:
        change = _takes_slot(new) - _takes_slot(old)
        task = new or old
        if not change or task is None:
            return
        slots = self._taken.setdefault(task.service_id, {})
        slots[task.slot] = slots.get(task.slot, 0) + change
        if not slots[task.slot]:
            del slots[task.slot]
        if not slots:
            del self._taken[task.service_id]

    def _is_too_many(self, view: View, service_id: str) -> bool:
        service = view.services.get(service_id)
        replicas = None if service is None else replicas_of(spec_of(view, service))
        return replicas is not None and len(self._taken.get(service_id, ())) > replicas


def _takes_slot(task: Task | None) -> bool:
    return task is not None and task.desired < TaskState.REMOVE


def _condition(node: Node | None) -> tuple[object, ...] | None:
    return None if node is None else (node.status.state, node.spec.availability, node.drain)


def _waiting_slots(event: Event, view: View) -> Iterator[Key]:
    """Of a service whose spec has changed, and with it perhaps what becomes of lost tasks."""
    old, new = event.old, event.new
    assert isinstance(old, Service | None)
    assert isinstance(new, Service | None)
    if old is None or new is None or old.spec_version == new.spec_version:
        return
    for task in view.tasks.scan("service", new.id):
        if not has_stopped(task) and must_leave(view, task):
            yield _slot_key(task)


def _slot_key(task: Task) -> Key:
    return ("slot", task.service_id, str(task.slot))


def _has_turned(old: Task, new: Task) -> bool:
    """Whether a task's change can matter to its slot: it stopped, was told to, got its node, or
    runs where another was to be stopped for it."""
    return (
        has_stopped(old) != has_stopped(new)
        or old.desired != new.desired
        or old.node_id != new.node_id
        or (bool(new.replaces) and old.status.state < TaskState.RUNNING == new.status.state)
    )


def _needs_a_look(view: View, task: Task) -> bool:
    return task.desired < TaskState.RUNNING or has_stopped(task) or must_leave(view, task)


def _close_service(view: View, key: Key) -> Decision:
    """The service is gone: its tasks are to be stopped and removed."""
    doomed = (t for t in view.tasks.scan("service", key[1]) if t.desired < TaskState.REMOVE)
    changes = tuple(_remove(task) for task in islice(doomed, ENTRY_CHANGES_MAX))
    return Decision(
        changes=changes,
        reasons=("the service was removed",) if changes else (),
        has_more=len(changes) == ENTRY_CHANGES_MAX,
    )


def _remove(task: Task) -> SetDesired:
    return SetDesired(id=task.id, desired=TaskState.REMOVE)


def _reconcile(view: View, service: Service, replicas: int, moment: Moment) -> Decision:
    """Open the missing slots, close the surplus and the dead ones; a slice at a time."""
    slots = slots_of(view, service)
    missing = replicas - len(slots.live)
    opened = list(islice(free_slots(slots.live), max(0, min(missing, ENTRY_CHANGES_MAX))))
    changes: list[Change] = [Create(obj=_new_task(view, service, slot, moment)) for slot in opened]
    closing = _closing(slots, replicas, opened)
    changes += islice(closing, ENTRY_CHANGES_MAX - len(changes))
    if not changes:
        return REST
    return Decision(
        changes=tuple(changes),
        guards=needs_of_new(service) if opened else (),
        reasons=(f"{len(slots.live)} of {replicas} slots are live",),
        has_more=len(changes) == ENTRY_CHANGES_MAX,
    )


def _new_task(view: View, service: Service, slot: int, moment: Moment) -> Task:
    """Held back where a task that was there before may still run, and must not beside it."""
    new = Task(
        id=TaskID(moment.new_id()),
        service_id=service.id,
        spec_version=service.spec_version,
        slot=slot,
        status=TaskStatus(state=TaskState.NEW, at_ms=moment.now_ms, message="created"),
    )
    before = view.tasks.scan("slot", (service.id, slot))
    if not any(runs_until_ms(view, task) > moment.now_ms for task in before):
        return new
    held = int(TaskState.READY)
    return msgspec.structs.replace(new, desired=held, start_at_ms=moment.now_ms)


def _closing(slots: Slots, replicas: int, opened: Sequence[int]) -> Iterator[SetDesired]:
    """Removals, last survivor first. A slot's history goes before the task that makes it count, so
    that the slot is live until all of it is on its way, however the work is sliced."""
    for number in sorted(slots.dead.keys() - set(opened)):
        yield from map(_remove, sorted(slots.dead[number], key=lambda t: t.id))
    order = removal_order(slots.live)
    for number in reversed(order[replicas:]):
        counting = {task.id for task in slots.live[number]}
        tasks = sorted(slots.all[number], key=lambda t: (t.id in counting, t.id))
        yield from map(_remove, tasks)


class _Others(NamedTuple):
    """A slot's tasks beside the wanted ones: those that shall have stopped, and those that are on
    their way out, which count for nothing but what they may still run."""

    stopping: Sequence[Task]
    leaving: Sequence[Task]


def _decide_slot(view: View, service: Service, slot: int, moment: Moment) -> Decision:
    """Of two tasks, one of them made from an older spec or on a node that is drained gently, the
    other one is the slot's: it is restarted and released while the old one runs on; an old one that
    ended has no successor."""
    rows = list(view.tasks.scan("slot", (service.id, slot)))
    wanted = [task for task in rows if is_wanted(task)]
    if not wanted:
        return REST
    if len(wanted) > 1:
        clean, dirty, surplus = wanted_of(view, Dirt(view, service), wanted)
        if surplus:
            return _stop_surplus(surplus, wanted)
        wanted = [*clean, *dirty]
    task = wanted[0]
    others = _Others(
        [t for t in rows if not is_wanted(t) and t.desired < TaskState.REMOVE],
        [t for t in rows if t.desired >= TaskState.REMOVE],
    )
    if len(wanted) == 1:
        return _decide_task(view, service, task, others, moment, is_alone=True)
    decision = _decide_old(view, service, task, wanted[1], moment)
    if decision.changes:
        return decision
    return _woken(_decide_task(view, service, task, others, moment), decision.wake_at_ms)


def _woken(decision: Decision, wake_at_ms: int | None) -> Decision:
    """The same, decided again by then at the latest."""
    times = [at_ms for at_ms in (decision.wake_at_ms, wake_at_ms) if at_ms is not None]
    return msgspec.structs.replace(decision, wake_at_ms=min(times, default=None))


def _decide_task(
    view: View,
    service: Service,
    task: Task,
    others: _Others,
    moment: Moment,
    *,
    is_alone: bool = False,
) -> Decision:
    if is_alone and is_moving(view, task) and moment.now_ms < deadline_ms(view, task):
        return _move(view, service, task, others, moment)
    if has_stopped(task) or must_leave(view, task):
        return _restart(view, service, task, others, moment)
    if task.desired < TaskState.RUNNING:
        return _release(view, task, others, moment)
    return REST


def _decide_old(view: View, service: Service, task: Task, old: Task, moment: Moment) -> Decision:
    """Whether the old task goes while a newer one is there. Where that one failed before, the old
    one stays until it has run as long as an update watches: a crash loop is no successor. On a node
    that is drained gently it stays until the deadline at most."""
    is_gently_drained = is_moving(view, old)
    end_ms = deadline_ms(view, old) if is_gently_drained else NEVER_MS
    must_go = end_ms <= moment.now_ms if is_gently_drained else must_leave(view, old)
    if has_stopped(old) or must_go:
        return Decision(changes=(stop(old),), reasons=("the old task of the slot ended",))
    if task.status.state == TaskState.RUNNING and not must_leave(view, task):
        monitor_ms = settings_of(spec_of(view, service)).monitor_ms
        watched_ms = end_of(ended_ms(task), monitor_ms, moment.now_ms)
        if not watched_ms:
            return Decision(changes=(stop(old),), reasons=("the task that follows it runs",))
        end_ms = min(end_ms, watched_ms)
    return Decision(wake_at_ms=_alarm(end_ms))


def _stop_surplus(surplus: Sequence[Task], wanted: Sequence[Task]) -> Decision:
    return Decision(
        changes=tuple(stop(task) for task in surplus),
        reasons=(f"slot {wanted[0].slot} has {len(wanted)} tasks",),
    )


def _move(view: View, service: Service, task: Task, others: _Others, moment: Moment) -> Decision:
    """Put a successor beside a task that runs on a node which is drained gently."""
    policy = policy_of(task_spec_of(view, task).task_template)
    if not may_restart(task, policy, [task, *others.stopping]):
        return _restart(view, service, task, others, moment)
    after = released(successor(task, service, policy, view, moment))
    return Decision(
        changes=(keep(task), Create(obj=after)),
        guards=needs_of_new(service),
        reasons=("its node is drained: a task elsewhere goes first",),
    )


def _restart(view: View, service: Service, task: Task, others: _Others, moment: Moment) -> Decision:
    """Stop what ended or must leave, and put a successor in its slot if the policy says so."""
    if not has_stopped(task) and (leaves := leaves_ms(view, task)) > moment.now_ms:
        return _wait(view, task, leaves)
    is_early = task.desired < TaskState.RUNNING and is_held_back(task, moment.now_ms)
    if has_stopped(task) and is_early:
        return Decision(wake_at_ms=task.start_at_ms)  # failed while held back: no tight loop
    policy = policy_of(task_spec_of(view, task).task_template)
    why = "its node is down, drained or gone" if must_leave(view, task) else "it ended"
    if not may_restart(task, policy, [task, *others.stopping]):
        return Decision(changes=(stop(task),), reasons=(f"{why}, and is not restarted",))
    after = successor(task, service, policy, view, moment)
    before = _Others([task, *others.stopping], others.leaving)
    if _due_ms(view, after, before, moment.now_ms) <= moment.now_ms:
        after = released(after)
    return Decision(
        changes=(hand_over(task), Create(obj=after)),
        guards=needs_of_new(service),
        reasons=(f"{why}: restart {after.attempt} in a row",),
    )


def _wait(view: View, task: Task, until_ms: int) -> Decision:
    """Leave a task alone whose node is down, and let its status say why."""
    err, wake_at_ms = why_waiting(view, task), _alarm(until_ms)
    if task.status.err == err:
        return Decision(wake_at_ms=wake_at_ms)
    status = msgspec.structs.replace(task.status, err=err)
    return Decision(
        changes=(SetStatus(id=task.id, status=status),), reasons=(err,), wake_at_ms=wake_at_ms
    )


def _release(view: View, task: Task, others: _Others, moment: Moment) -> Decision:
    """Let a held-back task run once it is due; until then, ask to be woken."""
    due = _due_ms(view, task, others, task.created_ms)
    if moment.now_ms < due and (due > task.start_at_ms or is_held_back(task, moment.now_ms)):
        return Decision(wake_at_ms=_alarm(due))
    return Decision(
        changes=(SetDesired(id=task.id, desired=TaskState.RUNNING),),
        reasons=("the restart delay is over",),
    )


def _due_ms(view: View, task: Task, others: _Others, created_ms: int) -> int:
    """When a held-back task may be released (wall); NEVER_MS: something must happen first."""
    due = due_ms(task, others.stopping, view, created_ms)
    return max([due, *(runs_until_ms(view, other) for other in others.leaving)])


def _alarm(at_ms: int) -> int | None:
    return at_ms if at_ms < NEVER_MS else None
