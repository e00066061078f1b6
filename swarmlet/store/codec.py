"""Log entries: what a transaction looks like on disk and between managers.

An entry is the msgpack array [version, proposal id, stamp, guards, changes], of a proposal that may
be repeated with `since` behind them; each guard and each change is an array that begins with its
tag. Sizes: assign 55 bytes, status 58 (123 with a container id), new task 92. Tags, table numbers
and the order of fields are for ever; fields are appended, with
defaults.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from swarmlet.core.errors import DamagedError, InvalidArgumentError
from swarmlet.core.ids import Entropy, NodeID, TaskID
from swarmlet.model.change import (
    ANY_VERSION,
    TABLE_NUMBERS,
    TABLES,
    Assign,
    Change,
    Create,
    Exists,
    Guard,
    Note,
    NotInUse,
    Object,
    PortFree,
    Remove,
    SetDesired,
    SetNodeStatus,
    SetStatus,
    Update,
)
from swarmlet.model.node import NodeStatus
from swarmlet.model.service import GenericResource, SpecVersion
from swarmlet.model.task import TaskStatus

ENTRY_VERSION: Final = 1
_PROPOSAL_ID_B: Final = 8
_VERSION_AT: Final = 1  # behind the array's own byte
_ASSIGNED_MESSAGE: Final = Assign(id=TaskID(""), node_id=NodeID("")).message


class _Recorded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class CreateRecord(_Recorded, frozen=True, tag=1):
    table: int
    obj: msgspec.Raw  # decoded by its table, so that one record serves all of them


class UpdateRecord(_Recorded, frozen=True, tag=2):
    table: int
    obj: msgspec.Raw
    seen: int


class RemoveRecord(_Recorded, frozen=True, tag=3):
    table: int
    id: str
    seen: int


class AssignRecord(_Recorded, frozen=True, tag=4):
    id: str
    node_id: str
    message: str  # empty: the usual one


class StatusRecord(_Recorded, frozen=True, tag=5):
    id: str
    status: TaskStatus


class DesiredRecord(_Recorded, frozen=True, tag=6):
    id: str
    desired: int
    seen: int


class NodeStatusRecord(_Recorded, frozen=True, tag=7):
    id: str
    status: NodeStatus


class NoteRecord(_Recorded, frozen=True, tag=8):
    kind: str
    action: str
    id: str
    attributes: tuple[tuple[str, str], ...]


class AssignWithRecord(_Recorded, frozen=True, tag=9):
    """An assignment with generic resources: a tag of its own, for the many have none."""

    id: str
    node_id: str
    message: str
    generic_resources: tuple[GenericResource, ...]


class ExistsRecord(_Recorded, frozen=True, tag=1):
    table: int
    id: str


class NotInUseRecord(_Recorded, frozen=True, tag=2):
    table: int
    id: str


class PortFreeRecord(_Recorded, frozen=True, tag=3):
    service_id: str
    protocol: str
    port: int
    mode: str


ChangeRecord: TypeAlias = (
    CreateRecord
    | UpdateRecord
    | RemoveRecord
    | AssignRecord
    | StatusRecord
    | DesiredRecord
    | NodeStatusRecord
    | NoteRecord
    | AssignWithRecord
)
GuardRecord: TypeAlias = ExistsRecord | NotInUseRecord | PortFreeRecord


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decoded entry. `stamp_ms` is the proposer's wall clock: apply reads none. `since_index`, of
    a proposal that may be repeated: what was applied when it was first made; else 0."""

    version: int
    proposal_id: int
    stamp_ms: int
    guards: tuple[GuardRecord, ...]
    changes: tuple[ChangeRecord, ...]
    since_index: int = 0


class _Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    proposal_id: int


_encode: Final = msgspec.msgpack.Encoder().encode
_head_decoder: Final = msgspec.msgpack.Decoder(_Head)
_entry_decoder: Final = msgspec.msgpack.Decoder(Entry)
_row_decoders: Final = tuple(msgspec.msgpack.Decoder[Any](row) for row in TABLES)


def new_proposal_id(entropy: Entropy) -> int:
    """A number from 2 to 2^63 that was never used before."""
    return max(2, int.from_bytes(entropy(_PROPOSAL_ID_B), "big") >> 1)


def encode_change(change: Change) -> msgspec.Raw:
    """One change as it stands in an entry.

    Raises InvalidArgumentError for what msgpack cannot hold (integers beyond 64 bits, broken text).
    """
    try:
        return msgspec.Raw(_encode(_record_of(change)))
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidArgumentError(
            f"The object cannot be stored: {type(error).__name__}.",
            remedy="Numbers must fit into 64 bits and text must be valid Unicode.",
        ) from error


def _record_of(change: Change) -> ChangeRecord:  # noqa: PLR0911 - one return a verb
    match change:
        case SetStatus():
            return StatusRecord(change.id, change.status)
        case Create():
            return CreateRecord(TABLE_NUMBERS[type(change.obj)], msgspec.Raw(_encode(change.obj)))
        case Update():
            assert type(change.obj) is not SpecVersion, "spec versions never change"
            number = TABLE_NUMBERS[type(change.obj)]
            return UpdateRecord(number, msgspec.Raw(_encode(change.obj)), change.seen)
        case Assign():
            message = "" if change.message == _ASSIGNED_MESSAGE else change.message
            if change.generic_resources:
                given = change.generic_resources
                return AssignWithRecord(change.id, change.node_id, message, given)
            return AssignRecord(change.id, change.node_id, message)
        case SetDesired():
            return DesiredRecord(change.id, change.desired, change.seen)
        case Remove():
            return RemoveRecord(TABLE_NUMBERS[change.table], change.id, change.seen)
        case SetNodeStatus():
            return NodeStatusRecord(change.id, change.status)
        case Note():
            return NoteRecord(change.kind, change.action, change.id, change.attributes)


def assigned_message(record: AssignRecord | AssignWithRecord) -> str:
    """The status message an assignment leaves."""
    return record.message or _ASSIGNED_MESSAGE


def _guard_record(guard: Guard) -> GuardRecord:
    match guard:
        case Exists():
            return ExistsRecord(TABLE_NUMBERS[guard.table], guard.id)
        case NotInUse():
            return NotInUseRecord(TABLE_NUMBERS[guard.table], guard.id)
        case PortFree():
            return PortFreeRecord(guard.service_id, guard.protocol, guard.port, guard.mode)


def encode_entry(
    proposal_id: int,
    stamp_ms: int,
    changes: Sequence[msgspec.Raw],
    guards: Iterable[Guard] = (),
    *,
    since_index: int = 0,
) -> bytes:
    """An entry of changes that are encoded already."""
    records = [_guard_record(guard) for guard in guards]
    entry = (ENTRY_VERSION, proposal_id, stamp_ms, records, changes)
    return _encode((*entry, since_index) if since_index else entry)


def decode_entry(entry: bytes) -> Entry:
    """Raises DamagedError where this release cannot read the entry."""
    if len(entry) > _VERSION_AT and entry[_VERSION_AT] != ENTRY_VERSION:
        raise DamagedError(
            f"A log entry has version {entry[_VERSION_AT]}; this release reads {ENTRY_VERSION}.",
            remedy="Start the release that wrote this data directory, or a newer one.",
        )
    try:
        return _entry_decoder.decode(entry)
    except msgspec.MsgspecError as error:
        raise _damaged(error) from error


def proposal_id_of(entry: bytes) -> int:
    """The proposal of an entry that is not decoded further. Raises DamagedError."""
    try:
        return _head_decoder.decode(entry).proposal_id
    except msgspec.MsgspecError as error:
        raise _damaged(error) from error


def _damaged(error: msgspec.MsgspecError) -> DamagedError:
    return DamagedError(
        f"A log entry cannot be read: {error}.",
        remedy="Remove this manager and let it join again, or restore a backup.",
    )


def decode_row(table: int, raw: msgspec.Raw) -> Object:
    """The row of a create or update. Raises DamagedError."""
    try:
        row: Object = _row_decoders[table].decode(raw)
    except (msgspec.MsgspecError, IndexError) as error:
        raise DamagedError(f"A row of table {table} in the log cannot be read: {error}.") from error
    return row


assert ANY_VERSION == -1  # other negative versions name proposals
