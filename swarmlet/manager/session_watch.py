"""The one timer for all sessions, and how often a node may register."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from typing import Final

from swarmlet.core.ids import NodeID
from swarmlet.env.base import Clock
from swarmlet.manager.node_session import NodeSession

# Of a node without a quiet time. SwarmKit has 3, but here a new certificate or root has a node
# register anew, and one that may not for more than three seconds counts as lost.
REGISTRATIONS_MAX: Final = 10
NEWS_MAX: Final = 12  # the same with another certificate or root each time
REGISTRATION_QUIET_S: Final = 8.0  # SwarmKit dispatcher/dispatcher.go


class SilenceWatch:
    """Ends sessions that fell silent. A session is looked at when it would be silent if nothing
    had been heard since the last look, in whole seconds: a beat costs nothing here."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_second: dict[int, list[NodeSession]] = {}
        self._added = asyncio.Event()

    def add(self, session: NodeSession) -> None:
        second = ceil(session.silent_at_s())
        if second < min(self._by_second, default=second + 1):
            self._added.set()
        self._by_second.setdefault(second, []).append(session)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._added.clear()
            for session in self._due(self._clock.mono_s()):
                session.give_up()
            first = min(self._by_second, default=None)
            wait_s = None if first is None else max(0.0, first - self._clock.mono_s())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._added.wait()

    def _due(self, now_s: float) -> Iterator[NodeSession]:
        for second in sorted(self._by_second):
            if second > now_s:
                return
            for session in self._by_second.pop(second):
                if session.is_over:
                    continue
                if session.silent_at_s() <= now_s:
                    yield session
                else:
                    self.add(session)


class RegistrationRate:
    """A node that registers over and over is refused until it was quiet for a while. Pure."""

    def __init__(self) -> None:
        # By when each last came: that moment, how often, and how often with news.
        self._known: dict[NodeID, tuple[float, int, int]] = {}

    def wait_s(self, node_id: NodeID, now_s: float, *, is_news: bool = False) -> float:
        """How long the node has to wait; 0 where it may register now, which then counts. With
        `is_news` it says something new of its certificate: a root rotation makes every node
        register several times in a row."""
        self._forget_quiet(now_s)
        at_s, count, news = self._known.get(node_id, (now_s, 0, 0))
        count, news = (count, news + 1) if is_news else (count + 1, news)
        if count > REGISTRATIONS_MAX or news > NEWS_MAX:
            return at_s + REGISTRATION_QUIET_S - now_s
        self._known.pop(node_id, None)
        self._known[node_id] = (now_s, count, news)
        return 0.0

    def forget(self, node_id: NodeID) -> None:
        """It stopped in order: what comes next is a restart."""
        self._known.pop(node_id, None)

    def _forget_quiet(self, now_s: float) -> None:
        for node_id, (at_s, _, _) in list(self._known.items()):
            if now_s - at_s < REGISTRATION_QUIET_S:
                return
            del self._known[node_id]
