"""Who reads the swarm's events: what the store's history has of the past, then what comes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Final, Self

from swarmlet.core.limits import NS_PER_MS
from swarmlet.env.base import Clock
from swarmlet.model.event_message import EventMessage, node_name
from swarmlet.model.task_event import TASK, TaskEvent, message_of
from swarmlet.store.history import OBJECT_EVENTS_MAX, Happening
from swarmlet.store.store import Store

READER_EVENTS_MAX: Final = 1_024  # that wait for one reader, before it is cut off
SLICE_EVENTS: Final = 250  # of the past that are looked at before the loop breathes
UNKNOWN: Final = -1
_REMOVE: Final = "remove"
_NAMED: Final = ("service", "node")

Wanted = Callable[[EventMessage], bool]


class EventReader:
    """The past that was asked for, then what comes, in order and without a gap between them.

    Reading the past holds nothing but the place in the history. From there on, a reader that lets
    more than `READER_EVENTS_MAX` wait is cut off: `is_behind` is true, reading ends, and `cut_off`
    returns.
    """

    def __init__(self, feed: "EventFeed", wants: Wanted, *, with_tasks: bool) -> None:
        self._feed, self._wants, self.with_tasks = feed, wants, with_tasks
        self._queue: deque[EventMessage] = deque()
        self._has_more, self._cut_off = asyncio.Event(), asyncio.Event()
        self._is_live = True

    @property
    def is_behind(self) -> bool:
        return self._cut_off.is_set()

    def begin_past(self) -> None:
        """Nothing is queued until `past` has come to its end."""
        self._is_live = False

    async def past(self, since_ns: int, until_ns: int) -> AsyncIterator[EventMessage]:
        """What was kept from `since_ns` to `until_ns` (0: no bound), and what came while that was
        read, so that iterating over the reader goes on where this ends."""
        after_index, looked_at, is_more = 0, 0, True
        while is_more:
            is_more = False
            for index, message in self._feed.kept(
                since_ns // NS_PER_MS, after_index, with_tasks=self.with_tasks
            ):
                is_more, after_index = True, index
                looked_at += 1
                if looked_at % SLICE_EVENTS == 0:
                    await asyncio.sleep(0)
                at_ns = message.at_ms * NS_PER_MS
                if since_ns <= at_ns <= (until_ns or at_ns) and self._is_wanted(message):
                    yield message
        self._is_live = True

    def put(self, message: EventMessage) -> None:
        if not self._is_live or not self._is_wanted(message):
            return
        if len(self._queue) >= READER_EVENTS_MAX:
            self._queue.clear()
            self._cut_off.set()
            self.close()
        else:
            self._queue.append(message)
        self._has_more.set()

    def _is_wanted(self, message: EventMessage) -> bool:
        return (self.with_tasks or message.kind != TASK) and self._wants(message)

    def __aiter__(self) -> AsyncIterator[EventMessage]:
        return self

    async def __anext__(self) -> EventMessage:
        while not self._queue:
            if self.is_behind:
                raise StopAsyncIteration
            self._has_more.clear()
            await self._has_more.wait()
        return self._queue.popleft()

    async def cut_off(self) -> None:
        """Return once the reader is too far behind."""
        await self._cut_off.wait()

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
    ) -> Iterator[tuple[int, EventMessage]]:
        """The history of the swarm this node is in, or was in last, with the entries' indexes."""
        if self._store is None or self._names is None:
            return
        names = self._names
        for happening in self._store.history.read(
            since_ms=since_ms, after_index=after_index, with_tasks=with_tasks
        ):
            for message in _messages(happening, names, with_tasks=with_tasks):
                yield happening.index, message

    def _happened(self, store: Store, names: _Names, happening: Happening) -> None:
        names.note(happening)
        if self._is_told(store, happening):
            return
        for with_tasks in (False, True):
            readers = [one for one in self._readers if one.with_tasks is with_tasks]
            if readers:
                for message in _messages(happening, names, with_tasks=with_tasks):
                    for reader in readers:
                        reader.put(message)

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
