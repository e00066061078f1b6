"""How a service stands: counts over its own tasks, in time linear in those."""

from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlet.model.change import Event, Object
from swarmlet.model.crash_loop import is_crash_looping
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import Service, ServiceMode
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.job_index import Place
from swarmlet.reconcile.job_run import place_of
from swarmlet.store.store import Store

BREATH_TASKS: Final = 1_000  # counted in one go: a millisecond


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`completed` counts the places of a job's current iteration where a task has ended well (in a
    slot two may have, one of them lost with its node), and is 0 for other services;
    `crash_looping` the tasks that are one of a loop."""

    running: int
    desired: int
    completed: int = 0
    crash_looping: int = 0


def desired_tasks(view: View, service: Service) -> int:
    """How many tasks the service should have at this moment."""
    mode = spec_of(view, service).mode
    if mode.replicated is not None:
        return mode.replicated.replicas or 0
    if mode.replicated_job is not None:
        return mode.replicated_job.max_concurrent or 0
    return sum(_is_wanted(task, mode) for task in view.tasks.scan("service", service.id))


def _is_wanted(task: Task, mode: ServiceMode) -> bool:
    """Of a service on all nodes: what the orchestrator asks for is what there should be."""
    wanted = TaskState.COMPLETE if mode.global_job is not None else TaskState.RUNNING
    is_open = wanted is TaskState.RUNNING or task.status.state < wanted
    return task.desired == wanted and is_open


def service_status(view: View, service: Service, now_ms: int) -> Steps[ServiceStatus]:
    """What Docker's ServiceStatus shows (SwarmKit's ListServiceStatuses); what last ran on a node
    that is down does not count, as in the docker CLI before there was a ServiceStatus. The view is
    held."""
    running = looping = wanted = 0
    completed: dict[Place, None] = {}
    spec = spec_of(view, service)
    is_everywhere = spec.mode.global_ is not None or spec.mode.global_job is not None
    iteration = service.job_status.iteration if service.job_status is not None else None
    for number, task in enumerate(view.tasks.scan("service", service.id), 1):
        if number % BREATH_TASKS == 0:
            yield
        running += task.status.state == TaskState.RUNNING and not _is_lost(view, task)
        if task.status.state == TaskState.COMPLETE and task.job_iteration == iteration:
            completed[place_of(spec, task)] = None
        looping += is_crash_looping(task, now_ms)
        wanted += is_everywhere and _is_wanted(task, spec.mode)
    return ServiceStatus(
        running=running,
        desired=wanted if is_everywhere else desired_tasks(view, service),
        completed=len(completed),
        crash_looping=looping,
    )


def _is_lost(view: View, task: Task) -> bool:
    return _is_down(view.nodes.get(task.node_id))


def _is_down(node: Object | None) -> bool:
    return isinstance(node, Node) and node.status.state == NodeState.DOWN


class ServiceStatuses:
    """The status of every service, counted again only where something of it has changed since.

    A status that depends on the time, for tasks are crash looping, is counted each time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[int, ServiceStatus]] = {}  # by service: index, status then
        self._changed: dict[str, int] = {}  # by service: index of the last change that counts
        store.subscribe(self._on_events)

    def of(self, view: View, service: Service, now_ms: int) -> Steps[ServiceStatus]:
        """As `service_status`, O(1) where nothing has changed."""
        index, known = self._known.get(service.id, (-1, None))
        if known is not None and self._changed.get(service.id, 0) <= min(index, view.index):
            return known
        status = yield from service_status(view, service, now_ms)
        if not status.crash_looping and self._store.view().services.get(service.id) is not None:
            self._known[service.id] = view.index, status
        return status

    def _on_events(self, events: Sequence[Event]) -> None:
        index = self._store.index
        for event in events:
            if event.table is Task:
                self._on_task(event.old, event.new, index)
            elif event.table is Node and _is_down(event.old) != _is_down(event.new):
                for task in self._store.view().tasks.scan("node", event.id):
                    self._change(task.service_id, index)
            elif event.table is Service:
                self._change(event.id, index)

    def _on_task(self, old: Object | None, new: Object | None, index: int) -> None:
        task = new or old
        assert isinstance(task, Task)
        if not isinstance(old, Task) or new is None or _counts_otherwise(old, task):
            self._change(task.service_id, index)

    def _change(self, service_id: str, index: int) -> None:
        """Those that are gone are forgotten: their tasks go after them."""
        self._known.pop(service_id, None)
        if self._store.view().services.get(service_id) is not None:
            self._changed[service_id] = index
        else:
            self._changed.pop(service_id, None)


def _counts_otherwise(old: Task, new: Task) -> bool:
    before, after = old.status.state, new.status.state
    return old.desired != new.desired or (
        before != after and (before >= TaskState.RUNNING or after >= TaskState.RUNNING)
    )
