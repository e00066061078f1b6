"""Watching from a coroutine: every applied entry's events, in order, without a gap."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final, Self

import msgspec

from swarmlet.core.errors import UnavailableError
from swarmlet.model.change import Event
from swarmlet.store.store import Store

WATCH_EVENTS_MAX: Final = 10_000  # events a reader may be behind


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry changed."""

    index: int
    events: tuple[Event, ...]


class Watch:
    """A bounded stream of applied entries, from the moment it is made.

    Make it and read a view without an await between them: the view and the stream meet exactly.
    `position` is the index up to which the reader has seen everything. A reader that falls more
    than `events_max` events behind gets what it has not read replaced by UnavailableError, once and
    for all.
    """

    def __init__(self, store: Store, *, events_max: int = WATCH_EVENTS_MAX) -> None:
        self.position = store.index
        self._store, self._events_max = store, events_max
        self._queue: deque[Applied] = deque()
        self._queued = 0
        self._is_behind = self._is_closed = False
        self._changed = asyncio.Event()
        self._unsubscribe = store.subscribe(self._applied)

    def __aiter__(self) -> AsyncIterator[Applied]:
        return self

    async def __anext__(self) -> Applied:
        while not self._queue:
            if self._is_behind:
                raise UnavailableError(
                    f"The reader fell more than {self._events_max} changes behind the store.",
                    remedy="Read everything again and watch from there.",
                )
            if self._is_closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        applied = self._queue.popleft()
        self._queued -= len(applied.events)
        self.position = applied.index
        return applied

    def close(self) -> None:
        """End the stream; a waiting reader is told. What is queued may still be read."""
        self._unsubscribe()
        self._is_closed = True
        self._changed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _applied(self, events: Sequence[Event]) -> None:
        self._queued += len(events)
        if self._queued > self._events_max:
            self._queue.clear()
            self._is_behind = True
            self._unsubscribe()
        else:
            self._queue.append(Applied(index=self._store.index, events=tuple(events)))
        self._changed.set()
