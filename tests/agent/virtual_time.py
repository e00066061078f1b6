"""An event loop on virtual time: where it would wait, the clock jumps to the next timer."""

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from swarmlet.env.base import Disk, Env

T = TypeVar("T")

START_MS = 1_700_000_000_000


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: a wait for a timer moves the loop's time, a wait for nothing is a deadlock."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits and no timer is set: a deadlock"
        self.loop.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


class VirtualClock:
    """The running loop's time as monotonic and wall time."""

    def mono_s(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return START_MS + round(self.mono_s() * 1000)


async def inline(work: Callable[[], T]) -> T:
    """Blocking work at once, with a breath before, as a thread would give one."""
    await asyncio.sleep(0)
    return work()


def blocking(work: Callable[[], T]) -> Awaitable[T]:
    return inline(work)


def virtual_env(disk: Disk, seed: int = 1) -> Env:
    rng = random.Random(seed)
    return Env(clock=VirtualClock(), rng=rng, entropy=rng.randbytes, disk=disk, blocking=blocking)


def run_virtual(main: Coroutine[Any, Any, T], limit_s: float = 100_000.0) -> T:
    """Run `main` on a loop of its own, for at most `limit_s` of virtual time."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())


async def until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait, on virtual time, until `is_so`."""
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while not is_so():
        assert asyncio.get_running_loop().time() < deadline_s, "waited in vain"
        await asyncio.sleep(0.01)
