"""What happened in the swarm, kept for days: part of the store's state, the same on every manager.

Each entry's events are cut down to what is told of them when it is applied, and kept encoded: 105
bytes a task's event, 60 once a snapshot has compressed them. Two rings, so that a storm among the
tasks does not push out what became of services and nodes. Everything is a function of the entries,
their stamps included: no clock, no chance; where a block ends and when it is forgotten too.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from struct import Struct
from typing import Any, Final, TypeAlias

import msgspec

from swarmlet.core.errors import DamagedError
from swarmlet.core.limits import MS_PER_S
from swarmlet.model.change import Event, Note
from swarmlet.model.event_message import EventMessage, message_of_note, messages_of
from swarmlet.model.task_event import Row, TaskEvent, happened
from swarmlet.model.view import View

OBJECT_EVENTS_MAX: Final = 25_000  # of services, nodes, secrets, configs, networks, and notes
TASK_EVENTS_MAX: Final = 75_000
KEPT_MS: Final = 7 * 24 * 3600 * MS_PER_S
BLOCK_EVENTS: Final = 1_000  # sealed, and forgotten, together
_COMPRESSION: Final = 1  # level 6 takes half as long again for 3 % less

_ARRAY_HEAD: Final = Struct(">BI")  # of a msgpack array of any length
_ARRAY: Final = 0xDD


class Happening(msgspec.Struct, frozen=True):
    """What one entry told: messages of the swarm's objects, and rows of tasks (`TaskEvent`, or
    what encodes as one)."""

    index: int
    at_ms: int
    messages: Sequence[EventMessage] = ()
    tasks: Sequence[Row] = ()


class _Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An EventMessage without its time."""

    kind: str
    action: str
    id: str
    attributes: dict[str, str]


class _Group(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one entry told, in one of the rings: `rows` as the ring's decoder reads them."""

    index: int
    at_ms: int
    rows: msgspec.Raw


class _Part(msgspec.Struct, array_like=True, gc=False):
    """Some groups one after the other: a sealed block of about BLOCK_EVENTS events, or one entry's
    that is still open. Replaced by its compressed self where a snapshot needs it."""

    count: int
    first_index: int
    last_index: int
    first_ms: int
    last_ms: int  # the greatest stamp, as first_ms is the least
    data: bytes
    is_packed: bool = False
    is_open: bool = False

    def pack(self) -> None:
        """Once is enough: a block never changes."""
        if not self.is_packed and not self.is_open:
            self.data, self.is_packed = zlib.compress(self.data, _COMPRESSION), True

    def groups(self) -> list[_Group]:
        return _groups_decoder.decode(zlib.decompress(self.data) if self.is_packed else self.data)


Parts: TypeAlias = tuple[tuple[_Part, ...], ...]
"""Of each ring, as they were at one moment."""

_encode: Final = msgspec.msgpack.Encoder().encode
_groups_decoder: Final = msgspec.msgpack.Decoder(list[_Group])
_chunk_decoder: Final = msgspec.msgpack.Decoder(tuple[int, list[_Part]])
_messages_decoder: Final = msgspec.msgpack.Decoder(list[_Kept])
_tasks_decoder: Final = msgspec.msgpack.Decoder(list[TaskEvent])


class _Ring:
    """The newest events of some kinds, at most `events_max` and none much older than a week before
    the newest of them."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._blocks: deque[_Part] = deque()
        self._open: list[_Part] = []
        self._open_events = self.events = 0

    def add(self, index: int, at_ms: int, rows: Sequence[Any]) -> None:
        count = len(rows)
        data = _encode((index, at_ms, rows))
        self._open.append(_Part(count, index, index, at_ms, at_ms, data, is_open=True))
        self._open_events += count
        self.events += count
        if self._open_events >= BLOCK_EVENTS:
            self._seal()

    def parts(self) -> tuple[_Part, ...]:
        return (*self._blocks, *self._open)

    def put(self, part: _Part) -> None:
        """What `parts` gave, in its order."""
        self.events += part.count
        if part.is_open:
            self._open.append(part)
            self._open_events += part.count
        else:
            self._blocks.append(part)

    def size_b(self) -> int:
        return sum(len(part.data) for part in self.parts())

    def _seal(self) -> None:
        parts = self._open
        newest_ms = max(part.last_ms for part in parts)
        data = b"".join((_ARRAY_HEAD.pack(_ARRAY, len(parts)), *(part.data for part in parts)))
        first_ms = min(part.first_ms for part in parts)
        indexes = parts[0].first_index, parts[-1].last_index
        self._blocks.append(_Part(self._open_events, *indexes, first_ms, newest_ms, data))
        self._open, self._open_events = [], 0
        blocks, too_old_ms = self._blocks, newest_ms - KEPT_MS
        while self.events > self._events_max or blocks[0].last_ms < too_old_ms:
            self.events -= blocks.popleft().count


Listener: TypeAlias = Callable[[Happening], None]


class History:
    """The two rings. Written by `Store.apply` and `Store.restore` alone. `replaced` counts the
    latter."""

    def __init__(self) -> None:
        self._objects, self._tasks = _Ring(OBJECT_EVENTS_MAX), _Ring(TASK_EVENTS_MAX)
        self._listeners: tuple[Listener, ...] = ()
        self.replaced = 0

    def __len__(self) -> int:
        return self._objects.events + self._tasks.events

    def size_b(self) -> int:
        """Of what is kept, for metrics; without what Python adds to it."""
        return self._objects.size_b() + self._tasks.size_b()

    def add(self, view: View, at_ms: int, events: Sequence[Event], notes: Sequence[Note]) -> None:
        """Keep what an entry stamped `at_ms` did and told; `view` as it left it."""
        tasks = happened(events)
        messages: list[EventMessage] = []
        if len(tasks) < len(events):
            messages.extend(messages_of(view, events, at_ms))
        messages.extend(message_of_note(note, at_ms) for note in notes)
        index = view.index
        if tasks:
            self._tasks.add(index, at_ms, tasks)
        if messages:
            kept = [_Kept(one.kind, one.action, one.id, one.attributes) for one in messages]
            self._objects.add(index, at_ms, kept)
        if self._listeners:
            happening = Happening(index, at_ms, messages, tasks)
            for listener in self._listeners:
                listener(happening)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with what every applied entry tells from now on, in order; not with what
        a restore brings, for that is past. Returns the way to end it. As quick as a subscriber of
        the store, and as silent."""
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

        return end

    def replace(self, other: "History") -> None:
        """Take over what another one keeps. Nobody is told."""
        self._objects, self._tasks = other._objects, other._tasks
        self.replaced += 1

    def read(
        self, *, since_ms: int = 0, after_index: int = 0, with_tasks: bool = False
    ) -> Iterator[Happening]:
        """What is kept at this moment from `since_ms` on, of the entries behind `after_index`, in
        their order; taken at leisure, while other entries are applied. One that told of tasks and
        of other objects comes as two, tasks last."""
        objects = _reading(self._objects.parts(), since_ms, after_index, _as_messages)
        if not with_tasks:
            return objects
        tasks = _reading(self._tasks.parts(), since_ms, after_index, _as_tasks)
        return merge(objects, tasks, key=attrgetter("index"))

    def parts(self) -> Parts:
        """All of it as it is now, for `encode_history`."""
        return self._objects.parts(), self._tasks.parts()

    def load(self, chunk: bytes | msgspec.Raw) -> None:
        """One of the chunks `encode_history` made, in their order. Raises DamagedError or
        msgspec.MsgspecError."""
        number, parts = _chunk_decoder.decode(chunk)
        rings = (self._objects, self._tasks)
        if not 0 <= number < len(rings):
            raise DamagedError(f"The snapshot cannot be used: it holds a ring {number} of events.")
        for part in parts:
            rings[number].put(part)


def events_of(parts: Parts) -> int:
    return sum(part.count for ring in parts for part in ring)


def encode_history(parts: Parts) -> Iterator[tuple[int, list[_Part]]]:
    """What a snapshot's chunks hold, to be encoded one by one: a block each, and what is open."""
    for number, ring in enumerate(parts):
        still_open = [part for part in ring if part.is_open]
        for part in ring:
            if not part.is_open:
                part.pack()
                yield number, [part]
        if still_open:
            yield number, still_open


def _reading(
    parts: Iterable[_Part],
    since_ms: int,
    after_index: int,
    read: Callable[[_Group], Happening],
) -> Iterator[Happening]:
    for part in parts:
        if part.last_index <= after_index or part.last_ms < since_ms:
            continue
        groups = [_open_decoder.decode(part.data)] if part.is_open else part.groups()
        for group in groups:
            if group.index > after_index and group.at_ms >= since_ms:
                yield read(group)


_open_decoder: Final = msgspec.msgpack.Decoder(_Group)


def _as_messages(group: _Group) -> Happening:
    messages = [
        EventMessage(
            kind=one.kind,
            action=one.action,
            id=one.id,
            attributes=one.attributes,
            at_ms=group.at_ms,
        )
        for one in _messages_decoder.decode(group.rows)
    ]
    return Happening(group.index, group.at_ms, messages)


def _as_tasks(group: _Group) -> Happening:
    return Happening(group.index, group.at_ms, (), _tasks_decoder.decode(group.rows))
