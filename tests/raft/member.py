"""A member in the simulated world, with a state machine that remembers all it saw."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

import msgspec

from swarmlet.core.ids import RaftID
from swarmlet.env.frames import key_ring
from swarmlet.env.sealed import SealKey, SealKeys, seal_key
from swarmlet.raft.engine import DEFAULTS, Origin, RaftEngine, RaftLimits
from swarmlet.store.proposer import Member
from tests.sim.disk import SimDisk
from tests.sim.loop import SimClock, run_sim, sim_env

T = TypeVar("T")

DIRECTORY = "/data/raft"
JOURNAL, SNAPSHOT = f"{DIRECTORY}/journal", f"{DIRECTORY}/snapshot"
ME = Member(raft_id=RaftID(7), node_id="n1", address="10.0.0.1:2377")
KEY = seal_key(b"k" * 32)
OFTEN = RaftLimits(snapshot_entries=5, slow_follower_entries=0)


class Memory:
    """`seen` is (index, entry) of all that was applied; a snapshot has one chunk for each."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self.on_apply: Callable[[int, bytes], None] = lambda index, entry: None

    def apply(self, index: int, entry: bytes) -> None:
        assert not self.seen or index > self.seen[-1][0]
        self.on_apply(index, entry)
        self.seen.append((index, entry))

    def snapshot(self) -> Iterator[bytes]:
        held = list(self.seen)
        return (msgspec.msgpack.encode(item) for item in held)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.seen = [msgspec.msgpack.decode(c, type=tuple[int, bytes]) for c in chunks]

    @property
    def entries(self) -> list[bytes]:
        return [entry for _, entry in self.seen]


class Node:
    """One boot of a member on a disk."""

    def __init__(
        self,
        disk: SimDisk,
        *,
        seed: int = 0,
        key: SealKey | SealKeys = KEY,
        limits: RaftLimits = DEFAULTS,
        me: Member = ME,
    ) -> None:
        self.disk, self.clock, self.memory = disk, SimClock(), Memory()
        self.env = sim_env(seed, disk, self.clock)
        self._args = (DIRECTORY, key_ring(key), self.memory, me, limits)
        self.engine: RaftEngine

    def run(self, work: Callable[[RaftEngine], Awaitable[T]], *, must_exist: bool = False) -> T:
        """Start, do `work` while the engine runs, stop. Raises what stopped the engine."""
        return run_sim(self.clock, self._main(work, must_exist))

    async def _main(self, work: Callable[[RaftEngine], Awaitable[T]], must_exist: bool) -> T:
        self.engine = RaftEngine(self.env, *self._args)
        await self.engine.start(Origin.RESUME if must_exist else Origin.FOUND)
        result: list[T] = []

        async def worker() -> None:
            result.append(await work(self.engine))
            await self.engine.stop()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.engine.run())
                group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return result[0]


async def nothing(engine: RaftEngine) -> None:
    """Only start and stop."""


def propose_all(*entries: bytes) -> Callable[[RaftEngine], Awaitable[list[int]]]:
    """Work: propose one after the other; the indexes."""

    async def work(engine: RaftEngine) -> list[int]:
        return [await engine.propose(entry, n) for n, entry in enumerate(entries)]

    return work


async def settle(rounds: int = 200) -> None:
    """Let everything that needs no time to pass happen."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def outcome(work: Awaitable[T]) -> T | Exception:
    with suppress(asyncio.CancelledError):
        try:
            return await work
        except Exception as error:  # noqa: BLE001 - the error is what the test looks at
            return error
    raise AssertionError("cancelled")
