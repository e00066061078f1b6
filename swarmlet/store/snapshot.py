"""Snapshots: a header, then rows, remembered outcomes and what happened, in chunks that a loop can
take one by one.

Every chunk is a msgpack array that begins with a number: the header with the format's version, the
others with what they hold. A chunk ends at 1,000 rows or 1 MiB. The log seals and checksums what is
stored.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import DamagedError
from swarmlet.model.change import TABLES
from swarmlet.model.task import Task
from swarmlet.store.apply import Outcome
from swarmlet.store.history import History, Parts, encode_history, events_of
from swarmlet.store.memory import StoreView, live_tables
from swarmlet.store.schema import TASK
from swarmlet.store.tables import Table

SNAPSHOT_VERSION: Final = 1
ROWS_MAX: Final = 1_000  # a chunk of tasks is encoded in about a millisecond
CHUNK_SIZE_B: Final = 1024 * 1024  # a chunk ends with the row that passes this
_OUTCOMES: Final = 255  # in the place of a table's number
_HISTORY: Final = 254


class Header(msgspec.Struct, frozen=True, array_like=True):
    """The first chunk: what the others must add up to. `forgotten_index`: of the newest outcome
    that is not remembered any more."""

    version: int
    index: int
    rows: tuple[int, ...]
    outcomes: int
    forgotten_index: int = 0
    events: int = 0  # that happened and are remembered


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """A whole state of the store."""

    index: int
    tables: tuple[Table[Any], ...]
    outcomes: dict[int, Outcome]
    forgotten_index: int = 0
    history: History


_encode: Final = msgspec.msgpack.Encoder().encode
_header_decoder: Final = msgspec.msgpack.Decoder(Header)
_chunk_decoder: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_rows_decoders: Final = tuple(msgspec.msgpack.Decoder[list[Any]](list[row]) for row in TABLES)  # type: ignore[valid-type]
_outcomes_decoder: Final = msgspec.msgpack.Decoder(list[tuple[int, Outcome]])


def encode_snapshot(
    view: StoreView,
    outcomes: Sequence[tuple[int, Outcome]],
    forgotten_index: int,
    history: Parts = (),
) -> Iterator[bytes]:
    """The chunks of a view that stays as it is while they are taken."""
    rows = tuple(len(table) for table in view.tables)
    counts = len(outcomes), forgotten_index, events_of(history)
    yield _encode(Header(SNAPSHOT_VERSION, view.index, rows, *counts))
    for number, table in enumerate(view.tables):
        yield from _chunks(number, table.all())
    yield from _chunks(_OUTCOMES, iter(outcomes))
    for piece in encode_history(history):
        yield _encode((_HISTORY, piece))


def _chunks(number: int, rows: Iterator[Any]) -> Iterator[bytes]:
    chunk: list[msgspec.Raw] = []
    size_b = 0
    for row in rows:
        raw = msgspec.Raw(_encode(row))
        chunk.append(raw)
        size_b += len(raw)
        if len(chunk) >= ROWS_MAX or size_b >= CHUNK_SIZE_B:
            yield _encode((number, chunk))
            chunk, size_b = [], 0
    if chunk:
        yield _encode((number, chunk))


def decode_snapshot(chunks: Iterable[bytes]) -> Content:
    """Raises DamagedError where the chunks are no whole snapshot of a version this release
    reads."""
    stream = iter(chunks)
    try:
        header = _decode_header(next(stream, b""))
        content = Content(
            index=header.index,
            tables=live_tables(),
            outcomes={},
            forgotten_index=header.forgotten_index,
            history=History(),
        )
        ids: dict[str, str] = {}
        for chunk in stream:
            _load(content, chunk, ids)
    except msgspec.MsgspecError as error:
        raise _damaged(str(error)) from error
    missing = len(TABLES) - len(header.rows)  # tables that came with a later release
    if tuple(len(table) for table in content.tables) != (*header.rows, *(0,) * missing):
        raise _damaged("it does not hold as many rows as its header says")
    if len(content.outcomes) != header.outcomes:
        raise _damaged("it does not hold as many outcomes as its header says")
    if len(content.history) != header.events:
        raise _damaged("it does not hold as many events as its header says")
    return content


def _decode_header(chunk: bytes) -> Header:
    header = _header_decoder.decode(chunk)
    if header.version != SNAPSHOT_VERSION:
        raise DamagedError(
            f"The snapshot has version {header.version}; this release reads {SNAPSHOT_VERSION}.",
            remedy="Start the release that wrote this data directory, or a newer one.",
        )
    return header


def _load(content: Content, chunk: bytes, ids: dict[str, str]) -> None:
    number, raw = _chunk_decoder.decode(chunk)
    if number == _OUTCOMES:
        content.outcomes.update(_outcomes_decoder.decode(raw))
        return
    if number == _HISTORY:
        content.history.load(raw)
        return
    if not 0 <= number < len(TABLES):
        raise _damaged(f"it holds a table {number}, which this release does not know")
    put = content.tables[number].put
    for row in _rows_decoders[number].decode(raw):
        put(_interned(row, ids) if number == TASK else row)


def _interned(task: Task, ids: dict[str, str]) -> Task:
    """Ids of nodes and services are one string for all tasks: 150 bytes a task less."""
    return replace(
        task,
        service_id=ids.setdefault(task.service_id, task.service_id),
        node_id=ids.setdefault(task.node_id, task.node_id),
    )


def _damaged(how: str) -> DamagedError:
    return DamagedError(
        f"The snapshot cannot be used: {how}.",
        remedy="Remove this manager and let it join again, or restore a backup.",
    )
