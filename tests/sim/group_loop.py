"""The loop of many members: one of them may be stopped while the others go on.

A task and all that it starts carry, in their context, whose they are. What belongs to a member that
is paused waits, as behind SIGSTOP; when it goes on, all timers that ran out meanwhile fire at once.
"""

import asyncio
import contextvars
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.sim.loop import SimClock, SimDeadlockError, SimLoop

T = TypeVar("T")

WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="")
CANCELLED_MAX = 100  # timers called off that lie about, as in asyncio


class GroupLoop(SimLoop):
    """`on_step` is called after each turn with those whose callbacks ran in it, in their order."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__(clock)
        self.on_step: Callable[[dict[str, None]], object] | None = None
        self._paused: dict[str, deque[asyncio.Handle]] = {}
        self.turns = self.handles = 0

    def pause(self, whose: str) -> None:
        self._paused.setdefault(whose, deque())

    def is_paused(self, whose: str) -> bool:
        return whose in self._paused

    def go_on(self, whose: str) -> None:
        self._ready.extend(self._paused.pop(whose, ()))  # type: ignore[attr-defined]

    def _run_once(self) -> None:
        """asyncio's, without a selector, and with members that wait."""
        ready, scheduled, clock = self._ready, self._scheduled, self.clock  # type: ignore[attr-defined]
        if self._timer_cancelled_count > CANCELLED_MAX:  # type: ignore[has-type]
            self._sweep()
            scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise SimDeadlockError("no timer is set and nobody can wake us")
            clock.now_s = max(clock.now_s, scheduled[0]._when)
        until_s = clock.now_s + max(1e-9, math.ulp(clock.now_s))
        while scheduled and scheduled[0]._when < until_s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                ready.append(handle)
        self._run_ready(ready)

    def _run_ready(self, ready: deque[asyncio.Handle]) -> None:
        touched: dict[str, None] = {}
        paused = self._paused
        self.turns += 1
        self.handles += len(ready)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:  # type: ignore[attr-defined]
                continue
            whose = handle._context.get(WHOSE, "")  # type: ignore[attr-defined]
            if whose:
                if whose in paused:
                    paused[whose].append(handle)
                    continue
                touched[whose] = None
            handle._run()
        if touched and self.on_step is not None:
            self.on_step(touched)

    def _sweep(self) -> None:
        kept = []
        for handle in self._scheduled:  # type: ignore[attr-defined]
            if handle._cancelled:
                handle._scheduled = False
            else:
                kept.append(handle)
        heapq.heapify(kept)
        self._scheduled, self._timer_cancelled_count = kept, 0

    def start(self, whose: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of a member's; what it starts is its own too."""
        return self.create_task(work, context=self.context_of(whose))

    def context_of(self, whose: str) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(WHOSE.set, whose)
        return context


def group_loop() -> GroupLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, GroupLoop)
    return loop


def run_group_sim(clock: SimClock, main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=lambda: GroupLoop(clock)) as runner:
        return runner.run(main)
