"""What an entry does, said again: slow, over plain dicts, sharing no code with the store."""

from typing import Any

from msgspec.structs import replace

from swarmlet.model.change import (
    Assign,
    Change,
    Create,
    Exists,
    Guard,
    Note,
    NotInUse,
    PortFree,
    Remove,
    SetDesired,
    SetNodeStatus,
    Update,
)
from swarmlet.model.node import Node
from swarmlet.model.service import Endpoint, Service, SpecVersion
from swarmlet.model.task import Task, TaskStatus

NAMED = ("Cluster", "Service", "Network", "Secret", "Config", "Volume")


class NoError(Exception):
    """Carries the code of a refusal."""


def name(row: Any) -> str:
    return (row.name if isinstance(row, Service) else row.spec.name).lower()


class Reference:
    def __init__(self) -> None:
        self.rows: dict[tuple[type, str], Any] = {}

    def of(self, table: type) -> dict[str, Any]:
        return {row_id: row for (kind, row_id), row in self.rows.items() if kind is table}

    def apply(
        self, index: int, stamp_ms: int, changes: tuple[Change, ...], guards: tuple[Guard, ...]
    ) -> str:
        """The code of the refusal, or an empty string; refused means nothing happened."""
        before = dict(self.rows)
        try:
            for guard in guards:
                self._guard(guard)
            for change in changes:
                self._change(change, before, index, stamp_ms)
        except NoError as no:
            self.rows = before
            return str(no)
        return ""

    def _current_specs(self) -> list[tuple[Service, SpecVersion]]:
        services = self.of(Service)
        return [
            (services[spec.service_id], spec)
            for spec in self.of(SpecVersion).values()
            if spec.service_id in services and services[spec.service_id].spec_version == spec.number
        ]

    def _guard(self, guard: Guard) -> None:
        if isinstance(guard, PortFree):
            self._port_free(guard)
            return
        if (guard.table, guard.id) not in self.rows:
            raise NoError("not-found")
        if isinstance(guard, NotInUse):
            for _, spec in self._current_specs():
                container = spec.spec.task_template.container_spec
                used = [ref.secret_id for ref in container.secrets]
                used += [ref.config_id for ref in container.configs]
                if guard.id in used:
                    raise NoError("failed-precondition")
        else:
            assert isinstance(guard, Exists)

    def _port_free(self, guard: PortFree) -> None:
        published = [
            (owner, one)
            for owner, spec in self._current_specs()
            if spec.spec.endpoint_spec
            for one in spec.spec.endpoint_spec.ports
        ]
        for service in self.of(Service).values():
            published += [(service, one) for one in (service.endpoint or Endpoint()).ports]
        for owner, one in published:
            both_host = one.publish_mode == guard.mode == "host"
            same = (one.protocol, one.published_port) == (guard.protocol, guard.port)
            if owner.id != guard.service_id and same and not both_host:
                raise NoError("invalid-argument")

    def _change(self, change: Change, before: dict[Any, Any], index: int, stamp_ms: int) -> None:
        if isinstance(change, Note):
            return  # it is told, and changes nothing
        table, row_id = self._place(change)
        old = self.rows.get((table, row_id))
        first = before.get((table, row_id))
        version = first.version if first is not None else 0
        if isinstance(change, Remove):
            self._expect(old, change.seen, version)
            del self.rows[table, row_id]
            return
        new: Any
        if isinstance(change, Create):
            self._name_free(change.obj)
            if old is not None:
                raise NoError("conflict")
            new = replace(change.obj, created_ms=stamp_ms)
        elif isinstance(change, Update):
            self._expect(old, change.seen, version)
            new = self._updated(change, old)
        elif isinstance(change, Assign):
            self._expect(old, -1, version)
            new = self._assigned(change, old, stamp_ms)
        else:
            new = None if old is None else self._verb(change, old, version)
        if new is not None:
            self.rows[table, row_id] = replace(new, version=index, updated_ms=stamp_ms)

    def _place(self, change: Change) -> tuple[type, str]:
        if isinstance(change, Create | Update):
            return type(change.obj), change.obj.id
        if isinstance(change, Remove):
            return change.table, change.id
        return (Node if isinstance(change, SetNodeStatus) else Task), change.id

    def _expect(self, old: Any, seen: int, version: int) -> None:
        if old is None:
            raise NoError("not-found")
        if seen not in (-1, version):
            raise NoError("out-of-sequence")

    def _updated(self, change: Update, old: Any) -> Any:
        self._forward(old, change.obj)
        if type(old).__name__ in NAMED and name(change.obj) != name(old):
            self._name_free(change.obj)
        return replace(change.obj, created_ms=old.created_ms)

    def _name_free(self, row: Any) -> None:
        if type(row).__name__ in NAMED:
            for other in self.of(type(row)).values():
                if name(other) == name(row):
                    raise NoError("conflict")

    def _verb(self, change: Any, old: Any, version: int) -> Any:
        if isinstance(change, SetNodeStatus):
            return None if change.status == old.status else replace(old, status=change.status)
        if isinstance(change, SetDesired):
            if change.desired <= old.desired:
                return None
            if change.seen not in (-1, version):
                raise NoError("out-of-sequence")
            return replace(old, desired=change.desired)
        if change.status.state < old.status.state:
            return None
        kept = change.status.container_id or old.status.container_id
        status = replace(change.status, container_id=kept)
        return None if status == old.status else replace(old, status=status)

    def _assigned(self, change: Assign, old: Task, stamp_ms: int) -> Task:
        if (Node, change.node_id) not in self.rows:
            raise NoError("not-found")
        if old.status.state != 64 or old.node_id not in ("", change.node_id):
            raise NoError("out-of-sequence")
        status = TaskStatus(state=192, at_ms=stamp_ms, message=change.message)
        given = change.generic_resources or old.generic_resources
        return replace(old, node_id=change.node_id, status=status, generic_resources=given)

    def _forward(self, old: Any, new: Any) -> None:
        if isinstance(old, Task):
            if new.desired < old.desired or new.status.state < old.status.state:
                raise NoError("failed-precondition")
            if old.node_id and old.node_id != new.node_id:
                raise NoError("failed-precondition")
