"""NEW to PENDING, a thousand tasks at a time, and the endpoint of each service.

Keys: ("new",) for all tasks in state NEW, ("service", id) for an endpoint.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Change, Event, SetStatus, Update
from swarmlet.model.service import Endpoint, PortConfig, Service, ServiceSpec
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.allocator.needs import is_ingress, missing, ports_of, spec_version_of
from swarmlet.reconcile.base import REST, Decision, Key, Moment

NEW_TASKS: Final[Key] = ("new",)


class AllocatorDecider:
    """Writes status PENDING and a service's endpoint. Keeps no index."""

    name: Final = "allocator"
    tables: Final = frozenset({Task, Service})

    def start(self, view: View) -> Iterator[Key]:
        yield NEW_TASKS
        for service in view.services.all():
            yield "service", service.id

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """A created task; a created or changed service."""
        if event.table is Task and isinstance(event.new, Task) and _is_new(event.new):
            return [NEW_TASKS]
        if event.table is Service and event.new is not None:
            return [("service", event.id)]
        return ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        if key == NEW_TASKS:
            return _admit(view, moment)
        service = view.services.get(key[1])
        return REST if service is None else _publish(view, service)


def _is_new(task: Task) -> bool:
    return task.status.state < TaskState.PENDING and task.desired <= TaskState.COMPLETE


def _admit(view: View, moment: Moment) -> Decision:
    """The first thousand new tasks become PENDING, with the reason where they cannot be placed."""
    fresh = (
        (task, made_from.spec)
        for task in view.tasks.scan("state", TaskState.NEW)
        if _is_new(task) and (made_from := spec_version_of(view, task)) is not None
    )
    admitted = sorted(islice(fresh, ENTRY_CHANGES_MAX), key=lambda pair: pair[0].id)
    changes: list[Change] = [
        SetStatus(id=task.id, status=_pending(view, spec, task, moment)) for task, spec in admitted
    ]
    return Decision(changes=tuple(changes), has_more=len(changes) == ENTRY_CHANGES_MAX)


def _pending(view: View, spec: ServiceSpec, task: Task, moment: Moment) -> TaskStatus:
    return msgspec.structs.replace(
        task.status,
        state=int(TaskState.PENDING),
        at_ms=moment.now_ms,
        message="pending task scheduling",
        err=missing(view, spec, task),
    )


def _publish(view: View, service: Service) -> Decision:
    """Take the ports in host mode over into the service's endpoint."""
    ports = tuple(_normal(p) for p in ports_of(spec_of(view, service)) if not is_ingress(p))
    endpoint = service.endpoint or Endpoint()
    if ports == endpoint.ports:
        return REST
    after = msgspec.structs.replace(
        service, endpoint=msgspec.structs.replace(endpoint, ports=ports)
    )
    return Decision(
        changes=(Update(obj=after, seen=service.version),), reasons=("ports in host mode",)
    )


def _normal(port: PortConfig) -> PortConfig:
    return msgspec.structs.replace(port, protocol=port.protocol or "tcp")
