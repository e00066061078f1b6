"""The replicated log of three members in one process: proposals, reads at a follower, idle.

    scripts/bench group                  about a quarter of a minute
    scripts/bench group --writes 20000   more proposals
    scripts/bench group --json out.json  the figures for a program

Each proposal is fsynced by a majority before it is answered. Members share one loop and one disk;
their frames go through memory, without TLS.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from raft import POINTS, Counter, run, writes

from swarmlet.core.errors import UnavailableError
from swarmlet.env.real import real_env
from swarmlet.env.sealed import SealKeys, new_seal_key, seal_key
from swarmlet.raft.engine import Origin, RaftEngine
from swarmlet.store.proposer import Member, MemberChange
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead

NAMES = ("a", "b", "c")
READS = 500
IDLE_S = 4.0


class Channel:
    """One end of a connection; frames arrive in the loop's next turn."""

    def __init__(self, node_id: str) -> None:
        self.node_id, self.frames = node_id, deque()
        self.news, self.closed = asyncio.Event(), asyncio.Event()
        self.other: Channel

    def send(self, frame: bytes) -> bool:
        if not self.closed.is_set():
            asyncio.get_running_loop().call_soon(self.other.arrive, frame)
        return not self.closed.is_set()

    def arrive(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.news.set()

    async def write(self) -> None:
        await self.closed.wait()

    async def receive(self) -> bytes:
        while not self.frames:
            if self.closed.is_set():
                raise ChannelClosedError
            self.news.clear()
            await self.news.wait()
        return self.frames.popleft()

    def close(self) -> None:
        for end in (self, self.other):
            end.closed.set()
            end.news.set()


class Way:
    """Implements raft.peers.Dialer."""

    def __init__(self, me: str, engines: dict[str, RaftEngine], group: asyncio.TaskGroup) -> None:
        self.me, self.engines, self.group = me, engines, group

    async def open(self, addr: str) -> Channel:
        if addr not in self.engines:
            raise UnavailableError(f"{addr} is not there yet.")
        near, far = Channel(addr), Channel(self.me)
        near.other, far.other = far, near
        self.group.create_task(self.serve(addr, far))
        return near

    async def serve(self, addr: str, channel: Channel) -> None:
        with suppress(UnavailableError):  # it is starting or stopping
            await self.engines[addr].serve_peer(channel)
        channel.close()

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        async def stream() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return await self.engines[addr].take_snapshot(head, stream(), self.me)


async def started(folder: str, group: asyncio.TaskGroup) -> dict[str, RaftEngine]:
    engines: dict[str, RaftEngine] = {}
    for number, name in enumerate(NAMES, 1):
        env = real_env(name)
        me = Member(raft_id=number, node_id=name, address=name)
        keys = SealKeys(current=seal_key(new_seal_key(env.entropy)))
        way = Way(name, engines, group)
        engine = RaftEngine(env, f"{folder}/{name}", keys, Counter(), me, dialer=way)
        if engines:
            await engines["a"].change_members(MemberChange(verb="add-learner", member=me))
        engines[name] = engine
        await engine.start(Origin.FOUND if number == 1 else Origin.JOIN)
        group.create_task(engine.run())
        if number > 1:
            await engines["a"].change_members(MemberChange(verb="promote", member=me))
    return engines


async def reads(engine: RaftEngine) -> dict[str, float]:
    times_s = []
    for _ in range(READS):
        start = time.perf_counter()
        await engine.read_barrier()
        times_s.append(time.perf_counter() - start)
    times_s.sort()
    return {
        "p50_ms": round(times_s[READS // 2] * 1e3, 2),
        "p99_ms": round(times_s[int(READS * 0.99)] * 1e3, 2),
    }


async def bench_group(folder: str, count: int) -> dict[str, object]:
    results: dict[str, object] = {}
    async with asyncio.TaskGroup() as group:
        engines = await started(folder, group)
        for clients, size_b in POINTS:
            few = count // 8 if clients == 1 else count
            results[f"{clients} x {size_b} B"] = await writes(engines["a"], clients, size_b, few)
        results["read at a follower"] = await reads(engines["b"])
        await asyncio.sleep(1)  # for a snapshot that is being written
        cpu_s = time.process_time()
        await asyncio.sleep(IDLE_S)
        results["idle_cpu_percent"] = round((time.process_time() - cpu_s) / IDLE_S * 100, 2)
        start = time.perf_counter()
        await engines["a"].stop()
        results["leader stops, ms"] = round((time.perf_counter() - start) * 1e3, 1)
        for name in ("b", "c"):
            await engines[name].stop()
    return results


if __name__ == "__main__":
    run(__doc__.splitlines()[0], bench_group, 8_000)
