"""Virtual time: a loop in which waiting moves the clock, and the Env of a simulated node."""

import asyncio
import heapq
import math
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from swarmlet.env.base import Env
from tests.sim.disk import SimDisk

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000  # wall time at the start of every simulation
SCATTER = 0x9E3779B97F4A7C15  # Knuth's multiplicative hashing
TICKING_S = 60.0  # a wait no longer than this is the ticking of an idle swarm


class SimDeadlockError(Exception):
    """No timer is set, nothing is ready, and no one outside can wake us."""


@dataclass
class SimClock:
    """`skew_ms` is what this node's wall clock is wrong by."""

    now_s: float = 0.0
    skew_ms: int = 0

    def mono_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self.now_s * 1000) + self.skew_ms


@dataclass
class HostClock:
    """One host's of several in a world, wrong by `skew_ms` against the world's."""

    world: SimClock
    skew_ms: int = 0

    def mono_s(self) -> float:
        return self.world.now_s

    def wall_ms(self) -> int:
        return self.world.wall_ms() + self.skew_ms


class _NoSelect(selectors.BaseSelector):
    """Registers what asyncio itself registers, and waits by moving the clock."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise SimDeadlockError("no timer is set and nobody can wake us")
        self._clock.now_s += max(0.0, timeout)
        return []


class _NumberedTask(asyncio.Task[Any]):
    """Its place in a set comes from when it was made, not from where it lies in memory: a group
    that ends cancels its tasks in the order of a set. Scattered, so that all orders come."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self._place = number * SCATTER >> 8
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._place

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.SelectorEventLoop):
    """Runs as fast as it can; `time()` is the simulation's."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        super().__init__(_NoSelect(clock))
        self._tasks_made = 0
        self.set_task_factory(self._new_task)

    def _new_task(
        self, _: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Task[Any]:
        self._tasks_made += 1
        return _NumberedTask(self._tasks_made, work, loop=self, **options)

    def time(self) -> float:
        return self.clock.now_s

    def skip(self, gap_s: float) -> None:
        """Let wall time pass in which nothing happens: waits of more than a minute see it pass, and
        end at once where they would have ended. Shorter ones go on as if it had not been: they are
        heartbeats and looks, and in an idle swarm one is like the other."""
        now_s = self.clock.now_s
        for handle in self._scheduled:  # type: ignore[attr-defined]
            if handle._when - now_s > TICKING_S:
                handle._when = max(now_s, handle._when - gap_s)
        heapq.heapify(self._scheduled)  # type: ignore[attr-defined]
        self.clock.skew_ms += int(gap_s * 1000)

    @property
    def _clock_resolution(self) -> float:
        """asyncio fires what is due before time() plus this: after 97 days of virtual time its own
        nanosecond is lost in the sum, and no timer would fire any more."""
        return max(1e-9, math.ulp(self.clock.now_s))

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """The host's clock plays no part."""


async def inline(work: Callable[[], T]) -> T:
    """env.Blocking without a thread; others get their turn before and after, as with one."""
    await asyncio.sleep(0)
    result = work()
    await asyncio.sleep(0)
    return result


class _InOrder:
    """Calls run one after the other, in the order in which they were made."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __call__(self, work: Callable[[], T]) -> T:
        async with self._lock:
            return await inline(work)


def sim_env(seed: int | str, disk: SimDisk, clock: SimClock | None = None) -> Env:
    """A node's world. Chance and entropy are separate streams: a draw in one shifts no other."""
    chance, entropy = Random(f"{seed}/rng"), Random(f"{seed}/entropy")
    return Env(
        clock=clock or SimClock(),
        rng=chance,
        entropy=entropy.randbytes,
        disk=disk,
        blocking=_InOrder(),
    )


def run_sim(clock: SimClock, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time, and end whatever it left behind."""
    with asyncio.Runner(loop_factory=lambda: SimLoop(clock)) as runner:
        return runner.run(main)
