"""Who reads the swarm's events: what the store's history has of the past, then what comes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Final, Self, TypeAlias

from swarmlet.core.limits import NS_PER_MS
from swarmlet.env.base import Clock
from swarmlet.model.event_message import EventMessage, node_name
from swarmlet.model.task_event import TASK, TaskEvent, message_of
from swarmlet.store.history import OBJECT_EVENTS_MAX, Happening
from swarmlet.store.store import Store

READER_EVENTS_MAX: Final = 1_024  # that wait for one reader; beyond, it reads the history
SLICE_EVENTS: Final = 250  # of the past that are looked at before the loop breathes
UNKNOWN: Final = -1
_REMOVE: Final = "remove"
_NAMED: Final = ("service", "node")

Wanted = Callable[[EventMessage], bool]
Place: TypeAlias = tuple[int, int]
"""Of an event: its entry's index, and which of that entry's it is."""


class EventReader:
    """The past that was asked for, then what comes, in order and without a gap between them.

    Reading the past holds nothing but the place in the history. A reader that then lets more than
    `READER_EVENTS_MAX` wait goes back to that, and so misses only what the history has forgotten.
    """

    def __init__(self, feed: "EventFeed", wants: Wanted, *, with_tasks: bool) -> None:
        self._feed, self._wants, self.with_tasks = feed, wants, with_tasks
        self._queue: deque[tuple[Place, EventMessage]] = deque()
        self._has_more = asyncio.Event()
        self._is_live = True
        self._missed: AsyncIterator[EventMessage] | None = None

    def begin_past(self) -> None:
        """Nothing is queued until `past` has come to its end."""
        self._is_live = False

    def past(self, since_ns: int, until_ns: int) -> AsyncIterator[EventMessage]:
        """What was kept from `since_ns` to `until_ns` (0: no bound), and what came while that was
        read, so that iterating over the reader goes on where this ends."""
        return self._kept(since_ns, until_ns, (0, 0))

    async def _kept(
        self, since_ns: int, until_ns: int, place: Place
    ) -> AsyncIterator[EventMessage]:
        looked_at, is_more = 0, True
        while is_more:
            is_more = False
            for here, message in self._feed.kept(
                since_ns // NS_PER_MS, place[0] - 1, with_tasks=self.with_tasks
            ):
                if here < place:
                    continue
                is_more, place = True, (here[0], here[1] + 1)
                looked_at += 1
                if looked_at % SLICE_EVENTS == 0:
                    await asyncio.sleep(0)
                at_ns = message.at_ms * NS_PER_MS
                if since_ns <= at_ns <= (until_ns or at_ns) and self._is_wanted(message):
                    yield message
        self._is_live = True

    def put(self, place: Place, message: EventMessage) -> None:
        if not self._is_live or not self._is_wanted(message):
            return
        self._queue.append((place, message))
        if len(self._queue) > READER_EVENTS_MAX:
            self._missed = self._kept(0, 0, self._queue[0][0])
            self._is_live = False
            self._queue.clear()
        self._has_more.set()

    def _is_wanted(self, message: EventMessage) -> bool:
        return (self.with_tasks or message.kind != TASK) and self._wants(message)

    def __aiter__(self) -> AsyncIterator[EventMessage]:
        return self

    async def __anext__(self) -> EventMessage:
        while not self._queue:
            if self._missed is not None:
                async for message in self._missed:
                    return message
                self._missed = None
            else:
                self._has_more.clear()
                await self._has_more.wait()
        return self._queue.popleft()[1]

    def close(self) -> None:
        self._feed.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Names:
    """Names of services and nodes, also of those that are gone, as long as the history tells of
    their end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gone: dict[tuple[str, str], str] = {}
        self._known_at = UNKNOWN  # how often the history was replaced when it was read for these

    def name_of(self, kind: str, object_id: str) -> str:
        view = self._store.view()
        if kind == "service":
            service = view.services.get(object_id)
            name = "" if service is None else service.name
        else:
            node = view.nodes.get(object_id)
            name = "" if node is None else node_name(node)
        return name or self._of_gone(kind, object_id)

    def note(self, happening: Happening) -> None:
        """Whatever was removed: its name is needed as long as its tasks are told of. Before
        somebody has asked, the history is enough."""
        if self._known_at == self._store.history.replaced:
            self._gone.update(_removed(happening))
            if len(self._gone) > OBJECT_EVENTS_MAX:
                self._known_at = UNKNOWN

    def _of_gone(self, kind: str, object_id: str) -> str:
        history = self._store.history
        if self._known_at != history.replaced:
            self._known_at = history.replaced
            self._gone.clear()
            for happening in history.read():
                self._gone.update(_removed(happening))
        return self._gone.get((kind, object_id), "")


def _removed(happening: Happening) -> Iterator[tuple[tuple[str, str], str]]:
    """Kind, id and name of the services and nodes that an entry removed."""
    for message in happening.messages:
        if message.action == _REMOVE and message.kind in _NAMED:
            yield (message.kind, message.id), message.attributes["name"]


class EventFeed:
    """One a daemon: it outlives the stay in a swarm. The past is the store's, and ends with it.

    What the log replays at a start is in the history, and not told as new to those who read
    through a daemon that was in the same swarm before.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._store: Store | None = None
        self._names: _Names | None = None
        self._readers: tuple[EventReader, ...] = ()
        self._told: dict[str, tuple[int, int]] = {}  # by swarm: greatest index and stamp

    def follow(self, store: Store) -> None:
        """Tell of everything this store applies from now on, as long as it lives. Not of what a
        snapshot brings, at a start or where this manager fell behind: that is past.
        """
        self._store, self._names = store, _Names(store)
        store.history.listen(partial(self._happened, store, self._names))

    def now_ns(self) -> int:
        """The wall clock that `until` is compared with."""
        return self._clock.wall_ms() * NS_PER_MS

    def subscribe(
        self, wants: Wanted, *, with_past: bool = False, with_tasks: bool = False
    ) -> EventReader:
        """All that comes from this moment on; with the past that the reader's `past` is then to be
        read for."""
        reader = EventReader(self, wants, with_tasks=with_tasks)
        if with_past:
            reader.begin_past()
        self._readers = (*self._readers, reader)
        return reader

    def forget(self, reader: EventReader) -> None:
        self._readers = tuple(one for one in self._readers if one is not reader)

    def kept(
        self, since_ms: int, after_index: int, *, with_tasks: bool
    ) -> Iterator[tuple[Place, EventMessage]]:
        """The history of the swarm this node is in, or was in last."""
        if self._store is None or self._names is None:
            return
        names, index, number = self._names, -1, 0
        for happening in self._store.history.read(
            since_ms=since_ms, after_index=after_index, with_tasks=with_tasks
        ):
            index, number = happening.index, number if happening.index == index else 0
            for message in _messages(happening, names, with_tasks=with_tasks):
                yield (index, number), message
                number += 1

    def _happened(self, store: Store, names: _Names, happening: Happening) -> None:
        names.note(happening)
        if self._is_told(store, happening):
            return
        for with_tasks in (False, True):
            readers = [one for one in self._readers if one.with_tasks is with_tasks]
            if readers:
                messages = _messages(happening, names, with_tasks=with_tasks)
                for number, message in enumerate(messages):
                    for reader in readers:
                        reader.put((happening.index, number), message)

    def _is_told(self, store: Store, happening: Happening) -> bool:
        """Whether an entry was told in an earlier stay in the same swarm, whose log is replayed. A
        swarm that began anew from a backup has its old indexes again, with new stamps."""
        cluster = next(iter(store.view().clusters.all()), None)
        swarm = "" if cluster is None else cluster.id
        index, at_ms = self._told.get(swarm, (0, 0))
        if happening.index <= index and happening.at_ms <= at_ms:
            return True
        self._told = {swarm: (happening.index, max(happening.at_ms, at_ms))}
        return False


def _messages(happening: Happening, names: _Names, *, with_tasks: bool) -> Iterator[EventMessage]:
    yield from happening.messages
    if with_tasks:
        for row in happening.tasks:
            event = row if isinstance(row, TaskEvent) else TaskEvent(*row)
            yield message_of(event, happening.at_ms, names.name_of)
