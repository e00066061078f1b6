"""Replicated services: as many slots as wanted, one task in each, a successor for each that ends.

Two kinds of keys. ("service", id) opens and closes slots and costs O(tasks of the service); it is
looked at when the service changes, when a row vanishes and nothing wants to run in its slot, and
while more slots are taken than wanted, as after a restart that crossed a scale-down.
("slot", service id, number) restarts and releases and costs O(tasks in the slot); every other task
event leads to it (`slot`).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Change, Create, Event, SetDesired
from swarmlet.model.node import Node
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import REST, START_ROWS, Decision, Key, Moment
from swarmlet.reconcile.disconnect import runs_until_ms
from swarmlet.reconcile.instances import Instance
from swarmlet.reconcile.moves import needs_of_new
from swarmlet.reconcile.moving import has_plan
from swarmlet.reconcile.restart import has_stopped, is_node_lost, must_leave
from swarmlet.reconcile.slot import decide_slot, has_turned
from swarmlet.reconcile.slots import (
    Slots,
    free_slots,
    is_wanted,
    removal_order,
    replicas_of,
    slots_of,
)


class ReplicatedDecider:
    """Writes `desired`, creates tasks. Its index: service -> slot -> tasks that are not leaving."""

    name: Final = "replicated"
    tables: Final = frozenset({Service, Node, Task})

    def __init__(self) -> None:
        self._taken: dict[str, dict[int, int]] = {}

    def start(self, view: View) -> Iterator[Key | None]:
        """All services, those that are gone but have tasks, and the slots with something to do."""
        self._taken = {}
        for service in view.services.all():
            yield "service", service.id
        slots: set[Key] = set()
        for number, task in enumerate(view.tasks.all()):
            if number % START_ROWS == 0:
                yield None
            key = _slot_key(task)
            self._count(None, task)
            if view.services.get(task.service_id) is None:
                yield "service", task.service_id
            elif is_wanted(task):
                if key in slots or _needs_a_look(view, task):
                    yield key
                slots.add(key)

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
        return decide_slot(view, service, Instance(int(key[2])), moment)

    def _keys_of_node(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if _condition(old) == _condition(new) or not (is_node_lost(new) or is_node_lost(old)):
            return
        matters = is_node_lost(new) or has_plan(old)  # else it is back, where one may be held back
        for task in view.tasks.scan("node", event.id):
            if not has_stopped(task) and (matters or task.desired < TaskState.RUNNING):
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
        elif old is None or has_turned(old, new):
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


def _needs_a_look(view: View, task: Task) -> bool:
    is_placed = task.desired == TaskState.RUNNING and not task.move_ms
    return not is_placed or has_stopped(task) or must_leave(view, task)


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
