"""The one timer for all sessions: which of them have fallen silent."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from typing import Final

from swarmlet.env.base import Clock
from swarmlet.manager.node_session import NodeSession

LATE_MAX_S: Final = 1.0  # of a look; more is a process that stood still, and heard nobody
CATCH_UP_S: Final = 3.0  # then, for what was said meanwhile to be read


class SilenceWatch:
    """Ends sessions that fell silent. A session is looked at when it would be silent if nothing
    had been heard since the last look, in whole seconds: a beat costs nothing here. Where this
    process stood still, nobody counts as silent before what they said could be read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_second: dict[int, dict[NodeSession, None]] = {}
        self._second_of: dict[NodeSession, int] = {}
        self._not_before_s = 0.0
        self._added = asyncio.Event()

    def add(self, session: NodeSession) -> None:
        second = ceil(max(session.silent_at_s(), self._not_before_s))
        if second < min(self._by_second, default=second + 1):
            self._added.set()
        self._by_second.setdefault(second, {})[session] = None
        self._second_of[session] = second

    def forget(self, session: NodeSession) -> None:
        """It has ended: what its connection cost is not kept until it would be silent."""
        if (second := self._second_of.pop(session, None)) is not None:
            del self._by_second[second][session]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._added.clear()
            self._look()
            first = min(self._by_second, default=None)
            wait_s = None if first is None else max(0.0, first - self._clock.mono_s())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._added.wait()
            now_s = self._clock.mono_s()
            if first is not None and now_s > first + LATE_MAX_S:
                self._not_before_s = now_s + CATCH_UP_S

    def _look(self) -> None:
        for session in self._due(self._clock.mono_s()):
            session.give_up()

    def _due(self, now_s: float) -> Iterator[NodeSession]:
        for second in sorted(self._by_second):
            if second > now_s:
                return
            for session in self._by_second.pop(second):
                del self._second_of[session]
                if max(session.silent_at_s(), self._not_before_s) <= now_s:
                    yield session
                else:
                    self.add(session)
