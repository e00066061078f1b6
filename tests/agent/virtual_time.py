"""Virtual time for tests of single parts: the simulation's loop, and a clock that reads it."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from swarmlet.env.base import Disk, Env
from tests.sim.loop import EPOCH_MS, SimClock, SimLoop, inline

T = TypeVar("T")

START_MS = EPOCH_MS
blocking = inline


class VirtualClock:
    """The running loop's time as monotonic and wall time."""

    def mono_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return START_MS + round(self.mono_s() * 1000)


def virtual_env(disk: Disk, seed: int = 1) -> Env:
    rng = random.Random(seed)
    return Env(clock=VirtualClock(), rng=rng, entropy=rng.randbytes, disk=disk, blocking=blocking)


def run_virtual(main: Coroutine[Any, Any, T], limit_s: float = 100_000.0) -> T:
    """Run `main` on a loop of its own, for at most `limit_s` of virtual time."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=lambda: SimLoop(SimClock())) as runner:
        return runner.run(bounded())


async def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait, on virtual time, until `is_so`."""
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while not is_so():
        assert asyncio.get_running_loop().time() < deadline_s, "waited in vain"
        await asyncio.sleep(0.01)
