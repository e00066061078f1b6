"""Global services: one task on every node that suits, made for it and never moved.

One kind of key, ("node", service id, node id): the service's place on one node, decided in O(its
tasks there). A change of a node's standing (`eligibility`) leads to its place in every global
service, a new spec to every place of its service, a task's change to its own place.

A node that is drained or down, or fails the constraints of a new spec, has its tasks stopped; one
that was removed has them removed. A paused one keeps what runs, and gets nothing. Everywhere else
nothing is made where a task is wanted already, however old its spec: bringing it up to date is the
updater's, also where a node comes back with a task of an older spec. What `slot` does for a slot of
a replicated service it does for a place here: restarts, releases, the stop of an old task beside
the new one that runs. Tasks of services that were removed are closed by `replicated`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.change import Change, Create, Event, Exists, SetDesired, SetStatus
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import REST, START_ROWS, Decision, Key, Moment
from swarmlet.reconcile.disconnect import NEVER_MS, leaves_ms
from swarmlet.reconcile.eligibility import Standing, standing_of, standing_parts
from swarmlet.reconcile.enforcer import is_to_be_ended
from swarmlet.reconcile.instances import Instance, instance_in, instance_of, key_of, rows_of
from swarmlet.reconcile.moves import needs_of_new, stop
from swarmlet.reconcile.restart import due_ms, has_stopped, released
from swarmlet.reconcile.slot import decide_slot, has_turned
from swarmlet.reconcile.slots import counting_tasks, is_wanted

REMOVED_MESSAGE: Final = "its node was removed"


class GlobalDecider:
    """Writes `desired`, creates tasks. Its index: which services are global."""

    name: Final = "global"
    tables: Final = frozenset({Service, Node, Task})

    def __init__(self) -> None:
        self._services: dict[str, None] = {}

    def start(self, view: View) -> Iterator[Key | None]:
        """Every place there is, and those on nodes that are gone."""
        found: list[str] = []
        for number, service in enumerate(view.services.all()):
            if is_global(view, service):
                found.append(service.id)
            if number % START_ROWS == 0:
                yield None
        self._services = dict.fromkeys(sorted(found))
        nodes = _node_ids(view)
        for service_id in sorted(found):
            for number, task in enumerate(view.tasks.scan("service", service_id)):
                if view.nodes.get(task.node_id) is None:
                    yield _key(service_id, task.node_id)
                elif number % START_ROWS == 0:
                    yield None
            for node_id in nodes:
                yield _key(service_id, node_id)

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """See the module's docstring. Of a node that is heard of again, or not any more, only the
        places where a task is held back: what it waits for may be told now."""
        if event.table is Task:
            return self._keys_of_task(event) if self._services else ()
        if event.table is Service:
            return self._keys_of_service(event, view)
        return self._keys_of_node(event, view)

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        service = view.services.get(key[1])
        if service is None or not is_global(view, service) or key[0] != "node":
            return REST
        return _decide_place(view, service, instance_in(key), moment)

    def _keys_of_service(self, event: Event, view: View) -> Iterable[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Service | None)
        assert isinstance(new, Service | None)
        if new is None or not is_global(view, new):
            self._services.pop(event.id, None)
            return ()
        self._services[new.id] = None
        if old is not None and old.spec_version == new.spec_version:
            return ()
        return [_key(new.id, node_id) for node_id in _node_ids(view)]

    def _keys_of_node(self, event: Event, view: View) -> Iterator[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if standing_parts(old) != standing_parts(new):
            for service_id in sorted(self._services):
                yield _key(service_id, event.id)
        elif old is not None and new is not None and old.status.state != new.status.state:
            for task in view.tasks.scan("node", event.id):
                if task.desired < TaskState.RUNNING and task.service_id in self._services:
                    yield _key(task.service_id, event.id)

    def _keys_of_task(self, event: Event) -> Iterable[Key]:
        old, new = event.old, event.new
        task = new if new is not None else old
        assert isinstance(task, Task)
        if task.service_id not in self._services:  # as most are
            return ()
        assert isinstance(old, Task | None)
        assert isinstance(new, Task | None)
        if old is None or new is None or has_turned(old, new):
            return [key_of(task.service_id, instance_of(task))]
        return ()


def is_global(view: View, service: Service | None) -> bool:
    return service is not None and spec_of(view, service).mode.global_ is not None


def _key(service_id: str, node_id: str) -> Key:
    return ("node", service_id, node_id)


def _node_ids(view: View) -> list[str]:
    return sorted(node.id for node in view.nodes.all())


def _decide_place(view: View, service: Service, place: Instance, moment: Moment) -> Decision:
    spec, node = spec_of(view, service), view.nodes.get(place.node_id)
    rows = list(rows_of(view, service.id, place))
    if node is None:
        return _closed(_forgotten(rows, moment), REMOVED_MESSAGE)
    tasks = [task for task in rows if task.desired < TaskState.REMOVE]
    standing = standing_of(node, spec)
    if standing is Standing.OUT:
        return _leave(view, node, tasks, moment)
    wanted = [task for task in tasks if is_wanted(task)]
    if standing is Standing.UNFIT:
        leaving = (stop(task) for task in wanted if not is_to_be_ended(view, task, node))
        return _closed(leaving, "its node does not satisfy the constraints")
    if standing is Standing.PAUSED and any(map(has_stopped, wanted)):
        return _closed(map(stop, filter(has_stopped, wanted)), "it ended, and its node is paused")
    if standing is Standing.OPEN and not (tasks and counting_tasks(view, tasks)):
        return _fill(view, service, place, moment)
    return decide_slot(view, service, place, moment)


def _leave(view: View, node: Node, tasks: Sequence[Task], moment: Moment) -> Decision:
    """What a node that is drained or down does to its tasks. One that nothing may take the place of
    stays wanted on a node that is down: it has no other place, and may still run there."""
    is_down = node.status.state == NodeState.DOWN
    until = {
        task.id: leaves_ms(view, task) if is_down and not has_stopped(task) else 0
        for task in tasks
        if is_wanted(task)
    }
    leaving = [task for task in tasks if task.id in until and until[task.id] <= moment.now_ms]
    waits = [until_ms for until_ms in until.values() if moment.now_ms < until_ms < NEVER_MS]
    decision = _closed(map(stop, leaving), "its node is down or drained")
    return msgspec.structs.replace(decision, wake_at_ms=min(waits, default=None))


def _closed(changes: Iterable[Change], reason: str) -> Decision:
    made = tuple(changes)
    return Decision(changes=made, reasons=(reason,)) if made else REST


def _forgotten(rows: Iterable[Task], moment: Moment) -> Iterator[Change]:
    """Nothing more is heard of them: one that came too late to be orphaned with its node is now."""
    for task in rows:
        if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
            status = msgspec.structs.replace(
                task.status,
                state=int(TaskState.ORPHANED),
                at_ms=moment.now_ms,
                message=REMOVED_MESSAGE,
            )
            yield SetStatus(id=task.id, status=status)
        if task.desired < TaskState.REMOVE:
            yield SetDesired(id=task.id, desired=TaskState.REMOVE)


def _fill(view: View, service: Service, place: Instance, moment: Moment) -> Decision:
    """A task for a node that has none; held back while one that was told to stop still runs."""
    node_id, now_ms = NodeID(place.node_id), moment.now_ms
    new = Task(
        id=TaskID(moment.new_id()),
        service_id=service.id,
        spec_version=service.spec_version,
        node_id=node_id,
        desired=TaskState.READY,
        status=TaskStatus(state=TaskState.NEW, at_ms=now_ms, message="created"),
        start_at_ms=now_ms,
    )
    if due_ms(new, list(rows_of(view, service.id, place)), view, now_ms) <= now_ms:
        new = msgspec.structs.replace(released(new), start_at_ms=0)
    return Decision(
        changes=(Create(obj=new),),
        guards=(*needs_of_new(service), Exists(table=Node, id=node_id)),
        reasons=("its node has no task of the service",),
    )
