"""Several engines in one loop on virtual time, each on a disk of its own, over a wire of memory."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from random import Random
from typing import TypeVar

from swarmlet.core.errors import SwarmError, UnavailableError, first_of
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.env.sealed import SealKey, SealKeys
from swarmlet.raft.engine import Origin, RaftEngine, RaftLimits
from swarmlet.store.proposer import Member, MemberChange
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead
from tests.raft.member import DIRECTORY, KEY, Memory
from tests.sim.disk import SimCrash, SimDisk
from tests.sim.loop import HostClock, SimClock, run_sim, sim_env

T = TypeVar("T")

DELAY_S = 0.0005
OFTEN = RaftLimits(snapshot_entries=20, slow_follower_entries=5)


class Channel:
    """Implements wire.channel.RaftChannel. A cut wire loses what is on it, and ends when mended."""

    def __init__(self, wire: "Wire", here: str, there: str) -> None:
        self.wire, self.here, self.there, self.node_id = wire, here, there, NodeID(there)
        self.inbox: deque[bytes] = deque()
        self.news, self.closed = asyncio.Event(), asyncio.Event()
        self.is_closed = self.is_torn = False
        self.last_at_s = 0.0
        self.other: Channel

    def send(self, frame: bytes) -> bool:
        if self.is_closed:
            return False
        self.pass_on(self.other.arrive, frame)
        return True

    def pass_on(self, what: Callable[..., None], *args: bytes) -> None:
        """In order: timers of one moment fire in any."""
        loop = asyncio.get_running_loop()
        self.last_at_s = max(self.last_at_s + 1e-6, loop.time() + DELAY_S)
        loop.call_at(self.last_at_s, what, *args)

    def arrive(self, frame: bytes) -> None:
        if self.wire.is_cut(self.here, self.there):
            self.is_torn = self.other.is_torn = True
        elif not self.is_torn:
            self.inbox.append(frame)
            self.news.set()

    async def write(self) -> None:
        """What `send` took is on its way already."""
        await self.closed.wait()

    async def receive(self) -> bytes:
        while not self.inbox:
            if self.is_closed:
                raise ChannelClosedError
            self.news.clear()
            await self.news.wait()
        return self.inbox.popleft()

    def close(self) -> None:
        """The other side hears of it, unless the wire is cut."""
        if not self.is_closed:
            self.end()
            if not self.wire.is_cut(self.here, self.there):
                self.pass_on(self.other.end)

    def end(self) -> None:
        self.is_closed = True
        self.closed.set()
        self.news.set()


class Wire:
    """Who reaches whom."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.apart: set[str] = set()  # each of these reaches nobody
        self.channels: list[Channel] = []
        self.snapshots: list[tuple[str, str, int]] = []  # from, to, chunks

    def is_cut(self, here: str, there: str) -> bool:
        return here != there and (here in self.apart or there in self.apart)

    def mend(self) -> None:
        self.apart.clear()
        for channel in self.channels:
            if channel.is_torn:
                channel.end()


class Way:
    """Implements raft.peers.Dialer for one host."""

    def __init__(self, host: "Host") -> None:
        self.host, self.wire = host, host.world.wire

    def _target(self, addr: str) -> "Host":
        name = addr.split(":")[0]
        target = self.wire.hosts[name]
        if not target.is_up or self.wire.is_cut(self.host.name, name):
            raise UnavailableError(f"{addr} cannot be reached.")
        return target

    async def open(self, addr: str) -> Channel:
        await asyncio.sleep(DELAY_S)
        target = self._target(addr)
        near = Channel(self.wire, self.host.name, target.name)
        far = Channel(self.wire, target.name, self.host.name)
        near.other, far.other = far, near
        self.wire.channels += [near, far]
        target.world.begin(target.serve(far))
        return near

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        target = self._target(addr)
        count = 0

        async def stream() -> AsyncIterator[bytes]:
            nonlocal count
            for chunk in chunks:
                await asyncio.sleep(DELAY_S)
                self._target(addr)
                count += 1
                yield chunk

        answer = await target.engine.take_snapshot(head, stream(), NodeID(self.host.name))
        self.wire.snapshots.append((self.host.name, target.name, count))
        return answer


class Host:
    """A node: its disk survives its boots."""

    def __init__(self, world: "World", name: str, raft_id: int) -> None:
        self.world, self.name, self.boots = world, name, 0
        self.me = Member(raft_id=RaftID(raft_id), node_id=name, address=f"{name}:2377")
        self.disk, self.is_up, self.failure = SimDisk(), False, None
        self.keys = SealKeys(current=KEY)
        self.engine: RaftEngine
        self.memory = Memory()
        self.task: asyncio.Task[None] | None = None

    async def boot(self, origin: Origin = Origin.RESUME, contacts: tuple[Member, ...] = ()) -> None:
        self.boots += 1
        self.memory, self.failure = Memory(), None
        clock = HostClock(self.world.clock)
        env = sim_env(f"{self.world.seed}/{self.name}/{self.boots}", self.disk, clock)
        self.engine = RaftEngine(
            env, DIRECTORY, self.keys, self.memory, self.me, self.world.limits, Way(self)
        )
        await self.engine.start(origin, contacts)
        self.is_up = True
        self.task = self.world.begin(self._run())

    async def _run(self) -> None:
        try:
            await self.engine.run()
        except (SwarmError, SimCrash) as error:
            self.failure = error
        finally:
            self.is_up = False

    async def serve(self, channel: Channel) -> None:
        try:
            await self.engine.serve_peer(channel)
        except UnavailableError:
            channel.close()

    async def kill(self, *, power: bool = False) -> None:
        """The process ends without a word; with `power`, unsynced writes are lost as well."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])
        if power:
            self.disk.crash(self.world.rng)
        else:
            self.disk.reopen()

    async def stop(self) -> None:
        await self.engine.stop()
        assert self.task is not None
        await asyncio.wait([self.task])

    @property
    def entries(self) -> list[bytes]:
        return self.memory.entries


class World:
    """`run` it: hosts are booted and what they did is undone at the end."""

    def __init__(self, seed: int = 0, limits: RaftLimits | None = None) -> None:
        self.seed, self.rng, self.clock, self.wire = seed, Random(seed), SimClock(), Wire()
        self.limits = limits or RaftLimits()
        self.group: asyncio.TaskGroup

    def run(self, story: Callable[["World"], Awaitable[T]]) -> T:
        return run_sim(self.clock, self._main(story))

    async def _main(self, story: Callable[["World"], Awaitable[T]]) -> T:
        try:
            async with asyncio.TaskGroup() as self.group:
                self.tasks: list[asyncio.Task[None]] = []
                result = await story(self)
                for task in self.tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors
        return result

    def begin(self, work) -> asyncio.Task[None]:
        task = self.group.create_task(work)
        self.tasks.append(task)
        return task

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    def host(self, name: str) -> Host:
        return self.wire.hosts[name]

    def add(self, name: str, raft_id: int) -> Host:
        host = self.wire.hosts[name] = Host(self, name, raft_id)
        return host

    def up(self) -> list[Host]:
        return [host for host in self.wire.hosts.values() if host.is_up]

    async def found(self, *names: str) -> list[Host]:
        """A group of these: the first founds it, the others join one by one."""
        hosts = [self.add(name, number + 10) for number, name in enumerate(names)]
        await hosts[0].boot(Origin.FOUND)
        for host in hosts[1:]:
            await self.join(host)
        return hosts

    async def join(self, host: Host) -> None:
        await self.enlist(host)
        await self.change("promote", host)

    async def enlist(self, host: Host) -> None:
        """As a learner."""
        leader = await self.leader()
        await leader.engine.change_members(MemberChange(verb="add-learner", member=host.me))
        await host.boot(Origin.JOIN, leader.engine.members())

    async def change(self, verb: str, host: Host) -> None:
        leader = await self.leader()
        await leader.engine.change_members(MemberChange(verb=verb, member=host.me))

    async def leader(self, limit_s: float = 10.0) -> Host:
        """The one that is ready to write."""
        until_s = self.now_s + limit_s
        while self.now_s < until_s:
            ready = [host for host in self.up() if host.engine._driver.leadership.is_ready]
            if ready:
                return max(ready, key=lambda host: host.engine._driver.leadership.term)
            await asyncio.sleep(0.005)
        raise AssertionError(f"no leader within {limit_s} s")

    async def write(self, *entries: bytes) -> None:
        leader = await self.leader()
        for entry in entries:
            await leader.engine.propose(entry, 0)

    async def other_leader(self, before: Host, limit_s: float = 10.0) -> Host:
        until_s = self.now_s + limit_s
        while self.now_s < until_s:
            leader = await self.leader()
            if leader is not before:
                return leader
            await asyncio.sleep(0.01)
        raise AssertionError(f"{before.name} still leads after {limit_s} s")

    async def agree(self, limit_s: float = 10.0) -> None:
        """All that are up have applied the same, and as much as the leader."""
        until_s = self.now_s + limit_s
        while self.now_s < until_s:
            leader = await self.leader()
            seen = leader.memory.seen
            if all(host.memory.seen == seen for host in self.up()):
                return
            await asyncio.sleep(0.02)
        raise AssertionError({host.name: len(host.memory.seen) for host in self.up()})


def ring(current: SealKey, *older: SealKey) -> SealKeys:
    return SealKeys(current=current, older=older)
