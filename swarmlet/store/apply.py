"""What an entry does: worked out change by change over a view, written by nobody here.

The same code looks ahead for the proposer (over the view ahead of the log) and applies (over the
live tables), so that both agree. It is a function of the entry, the view and the outcomes: no
clock, no chance.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from swarmlet.core.errors import FailedPreconditionError
from swarmlet.core.ids import NodeID, ServiceID
from swarmlet.model.change import ANY_VERSION, TABLES, Event, Note, Object
from swarmlet.model.join_token import JoinToken
from swarmlet.model.node import Node
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.store.codec import (
    AssignRecord,
    AssignWithRecord,
    ChangeRecord,
    CreateRecord,
    DesiredRecord,
    Entry,
    NodeStatusRecord,
    NoteRecord,
    RemoveRecord,
    StatusRecord,
    UpdateRecord,
    assigned_message,
    decode_row,
)
from swarmlet.store.guards import check_guard
from swarmlet.store.memory import StoreView
from swarmlet.store.refusal import Refusal, RefusedError, id_taken, missing, name_taken, stale
from swarmlet.store.schema import NAME_OF, NODE, SERVICE, TASK

Outcome: TypeAlias = int | Refusal
"""What became of a proposal: the index of the entry that applied it, or why it was refused."""


def resolve(
    entry: Entry, view: StoreView, outcomes: Mapping[int, Outcome], version: int
) -> list[Event]:
    """The rows `entry` would write over `view`, one event a row, stamped with `version`.

    Raises RefusedError where a guard or any change is refused: then nothing of the entry happens.
    Several changes of one row follow each other and end as one event.
    """
    for guard in entry.guards:
        check_guard(view, guard)
    draft = _Draft(view, outcomes, version, entry.stamp_ms)
    for change in entry.changes:
        _VERBS[type(change)](draft, change)
    return draft.events()


def notes_of(entry: Entry) -> list[Note]:
    """What an entry that was not refused tells beside the rows it wrote."""
    return [
        Note(kind=change.kind, action=change.action, id=change.id, attributes=change.attributes)
        for change in entry.changes
        if type(change) is NoteRecord
    ]


class _Draft:
    """The rows written so far by one entry, over the view it started from."""

    __slots__ = ("_assigned", "_names", "_outcomes", "_stamp_ms", "_version", "_view", "_written")

    def __init__(
        self, view: StoreView, outcomes: Mapping[int, Outcome], version: int, stamp_ms: int
    ) -> None:
        self._view, self._outcomes = view, outcomes
        self._version, self._stamp_ms = version, stamp_ms
        self._written: dict[tuple[int, str], tuple[Object | None, Object | None]] = {}
        self._names: dict[tuple[int, str], str | None] = {}  # None: freed by this entry
        self._assigned: dict[str, TaskStatus] = {}  # tasks assigned by one entry share a status

    def events(self) -> list[Event]:
        return [
            Event(TABLES[table], old, new)
            for (table, _), (old, new) in self._written.items()
            if old is not None or new is not None
        ]

    def create(self, change: CreateRecord) -> None:
        table, obj = change.table, decode_row(change.table, change.obj)
        self._claim_name(table, obj)
        if self._row(table, obj.id) is not None:
            raise id_taken(table, obj.id)
        stamp_ms = self._stamp_ms
        if table == TASK:
            assert isinstance(obj, Task)
            new: Object = replace(
                obj,
                service_id=ServiceID(self._interned(SERVICE, obj.service_id)),
                node_id=NodeID(self._interned(NODE, obj.node_id)),
                version=self._version,
                created_ms=stamp_ms,
                updated_ms=stamp_ms,
            )
        else:
            new = replace(obj, version=self._version, created_ms=stamp_ms, updated_ms=stamp_ms)
        self._write(table, new.id, None, new)

    def update(self, change: UpdateRecord) -> None:
        table, obj = change.table, decode_row(change.table, change.obj)
        old = self._row(table, obj.id)
        if old is None:
            raise missing(table, obj.id)
        self._check_seen(table, old, change.seen)
        if isinstance(obj, Task):
            assert isinstance(old, Task)
            _check_forward(old, obj)
        self._claim_name(table, obj, old)
        new = replace(
            obj, version=self._version, created_ms=old.created_ms, updated_ms=self._stamp_ms
        )
        self._write(table, new.id, old, new)

    def remove(self, change: RemoveRecord) -> None:
        table = change.table
        old = self._row(table, change.id)
        if old is None:
            raise missing(table, change.id)
        self._check_seen(table, old, change.seen)
        name_of = NAME_OF[table]
        if name_of is not None:
            self._names[table, name_of(old)] = None
        self._write(table, change.id, old, None)

    def assign(self, change: AssignRecord) -> None:
        old, fields = self._assigned_to(change)
        self._rewrite_task(old, **fields)

    def assign_with(self, change: AssignWithRecord) -> None:
        old, fields = self._assigned_to(change)
        self._rewrite_task(old, **fields, generic_resources=change.generic_resources)

    def _assigned_to(
        self, change: AssignRecord | AssignWithRecord
    ) -> tuple[Task, dict[str, object]]:
        """The task, and what of its row an assignment writes."""
        old = self._task(change.id)
        if old is None:
            raise missing(TASK, change.id)
        node = self._node(change.node_id)
        if node is None:
            raise missing(NODE, change.node_id)
        if old.status.state != TaskState.PENDING or old.node_id not in ("", node.id):
            raise stale(TASK, change.id)
        message = assigned_message(change)
        status = self._assigned.get(message)
        if status is None:
            status = TaskStatus(
                state=int(TaskState.ASSIGNED), at_ms=self._stamp_ms, message=message
            )
            self._assigned[message] = status
        return old, {"node_id": node.id, "status": status}

    def set_status(self, change: StatusRecord) -> None:
        old, status = self._task(change.id), change.status
        if old is None or status.state < old.status.state:
            return
        if not status.container_id and old.status.container_id:
            # Whoever speaks of a task without its container (its node is lost) keeps it known.
            status = replace(status, container_id=old.status.container_id)
        if status != old.status:
            self._rewrite_task(old, status=status)

    def set_desired(self, change: DesiredRecord) -> None:
        old = self._task(change.id)
        if old is None or change.desired <= old.desired:
            return
        self._check_seen(TASK, old, change.seen)
        self._rewrite_task(old, desired=change.desired)

    def set_node_status(self, change: NodeStatusRecord) -> None:
        old = self._node(change.id)
        if old is None or change.status == old.status:
            return
        new = replace(old, status=change.status, version=self._version, updated_ms=self._stamp_ms)
        self._write(NODE, change.id, old, new)

    def note(self, change: NoteRecord) -> None:
        """It is told (`notes_of`), and writes nothing."""

    def _row(self, table: int, row_id: str) -> Object | None:
        written = self._written.get((table, row_id))
        if written is not None:
            return written[1]
        row: Object | None = self._view.tables[table].get(row_id)
        return row

    def _task(self, task_id: str) -> Task | None:
        row = self._row(TASK, task_id)
        assert row is None or isinstance(row, Task)
        return row

    def _node(self, node_id: str) -> Node | None:
        row = self._row(NODE, node_id)
        assert row is None or isinstance(row, Node)
        return row

    def _rewrite_task(self, old: Task, **fields: object) -> None:
        new = replace(old, version=self._version, updated_ms=self._stamp_ms, **fields)
        self._write(TASK, old.id, old, new)

    def _write(self, table: int, row_id: str, old: Object | None, new: Object | None) -> None:
        written = self._written.get((table, row_id))
        self._written[table, row_id] = (old if written is None else written[0], new)

    def _check_seen(self, table: int, old: Object, seen: int) -> None:
        """The proposer saw the row as it was before this entry. A version below -1 names the
        proposal that wrote the row, which was in flight then."""
        if seen == ANY_VERSION:
            return
        written = self._written.get((table, old.id))
        before = old if written is None else written[0]
        version = before.version if before is not None else 0
        if seen != version and (seen >= 0 or self._outcomes.get(-seen) != version):
            raise stale(table, old.id)

    def _claim_name(self, table: int, new: Object, old: Object | None = None) -> None:
        name_of = NAME_OF[table]
        if name_of is None:
            return
        name = name_of(new)
        if old is not None:
            before = name_of(old)
            if before == name:
                return
            self._names[table, before] = None
        if self._owner(table, name) is not None:
            raise name_taken(table, _name_shown(new))
        self._names[table, name] = new.id

    def _owner(self, table: int, name: str) -> str | None:
        if (table, name) in self._names:
            return self._names[table, name]
        for row in self._view.tables[table].scan("name", name):
            owner: str = row.id
            return owner
        return None

    def _interned(self, table: int, row_id: str) -> str:
        """The id as its own row spells it: one string a node and service instead of one a task."""
        row = self._row(table, row_id) if row_id else None
        return row_id if row is None else row.id


def _name_shown(row: Object) -> str:
    assert not isinstance(row, Task | JoinToken), "tasks and join tokens have no name of their own"
    return row.name if isinstance(row, Service) else row.spec.name


def _check_forward(old: Task, new: Task) -> None:
    """Neither state of a task ever goes back, and a task never moves to another node."""
    if new.desired < old.desired or new.status.state < old.status.state:
        what = "would go back to an earlier state"
    elif old.node_id and new.node_id != old.node_id:
        what = "would move to another node"
    else:
        return
    raise RefusedError(FailedPreconditionError, f"task {old.id} {what}")


_VERBS: Final[dict[type[ChangeRecord], Callable[[_Draft, Any], None]]] = {
    CreateRecord: _Draft.create,
    UpdateRecord: _Draft.update,
    RemoveRecord: _Draft.remove,
    AssignRecord: _Draft.assign,
    AssignWithRecord: _Draft.assign_with,
    StatusRecord: _Draft.set_status,
    DesiredRecord: _Draft.set_desired,
    NodeStatusRecord: _Draft.set_node_status,
    NoteRecord: _Draft.note,
}
