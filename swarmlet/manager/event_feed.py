"""The last events of the swarm, and whoever waits for the next ones."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, Self

from swarmlet.core.limits import NS_PER_MS
from swarmlet.env.base import Clock
from swarmlet.manager.events import EventMessage, messages_of
from swarmlet.model.change import Event
from swarmlet.model.view import View
from swarmlet.store.store import Store

EVENTS_KEPT: Final = 256  # for those who ask for the past; moby's daemon/events keeps as many
READER_EVENTS_MAX: Final = 1_024  # that wait for one reader, before it is cut off

Wanted = Callable[[EventMessage], bool]


class EventReader:
    """The past that was asked for, then what comes, in order and without a gap between them.

    A reader that lets more than `READER_EVENTS_MAX` wait is cut off: `is_behind` is true, reading
    ends, and `cut_off` returns.
    """

    def __init__(
        self, past: Sequence[EventMessage], wants: Wanted, end: Callable[["EventReader"], None]
    ) -> None:
        self.past = tuple(past)
        self._wants, self._end = wants, end
        self._queue: deque[EventMessage] = deque()
        self._has_more, self._cut_off = asyncio.Event(), asyncio.Event()

    @property
    def is_behind(self) -> bool:
        return self._cut_off.is_set()

    def put(self, message: EventMessage) -> None:
        if not self._wants(message):
            return
        if len(self._queue) >= READER_EVENTS_MAX:
            self._queue.clear()
            self._cut_off.set()
            self.close()
        else:
            self._queue.append(message)
        self._has_more.set()

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
        self._end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EventFeed:
    """One a daemon: it outlives the stay in a swarm, its events do not outlive the daemon.

    What the log replays at a start is kept like what is new, where it was not told in this life of
    the daemon: the stamps are the entries' own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: deque[EventMessage] = deque(maxlen=EVENTS_KEPT)
        self._readers: tuple[EventReader, ...] = ()
        self._told: dict[str, tuple[int, int]] = {}  # by swarm: index and stamp of the newest

    def follow(self, store: Store) -> None:
        """Tell of everything this store applies from now on, as long as it lives. Not of what a
        snapshot brings, at a start or where this manager fell behind: nobody knows when that was.
        """
        store.subscribe(partial(self._applied, store), at_restore=False)

    def now_ns(self) -> int:
        """The wall clock that `until` is compared with."""
        return self._clock.wall_ms() * NS_PER_MS

    def subscribe(self, since_ns: int, until_ns: int, wants: Wanted) -> EventReader:
        """Those kept from `since_ns` to `until_ns` (0: no bound; none where both are 0) and, from
        this moment on, all that come."""
        past: list[EventMessage] = []
        if since_ns or until_ns:
            past = [
                message
                for message in self._kept
                if since_ns <= message.at_ms * NS_PER_MS <= (until_ns or message.at_ms * NS_PER_MS)
                and wants(message)
            ]
        reader = EventReader(past, wants, self._forget)
        self._readers = (*self._readers, reader)
        return reader

    def _applied(self, store: Store, events: Sequence[Event]) -> None:
        view = store.view()
        messages = list(messages_of(view, events, store.stamp_ms))
        if not messages or self._is_told(view, store.stamp_ms):
            return
        for message in messages:
            self._kept.append(message)
            for reader in self._readers:
                reader.put(message)

    def _is_told(self, view: View, at_ms: int) -> bool:
        """Whether an entry was told in an earlier stay in the same swarm, whose log is replayed."""
        cluster = next(iter(view.clusters.all()), None)
        swarm = "" if cluster is None else cluster.id
        told = self._told.get(swarm)
        if told is not None and view.index <= told[0] and at_ms <= told[1]:
            return True
        self._told = {swarm: (view.index, at_ms)}
        return False

    def _forget(self, reader: EventReader) -> None:
        self._readers = tuple(one for one in self._readers if one is not reader)
