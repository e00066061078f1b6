"""The wire between simulated managers: what TCP does to frames, on virtual time.

Within a connection nothing is lost or changes its order: frames come late (now and then by a whole
retransmission) and stall while a direction is cut; the connection ends after three seconds of that.
What was under way when one end closed can still arrive, after frames of the next connection even.
A process that is killed closes what it had; a host without power says nothing.
"""

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from random import Random
from typing import Protocol

import msgspec

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead

DELAY_S = (0.0002, 0.0015)
LATE_ONE_IN = 250  # frames that need a retransmission
LATE_S = (0.02, 0.3)
USER_TIMEOUT_S = 3.0  # of data that nobody acknowledges
DIAL_TIMEOUT_S = 3.0
BETWEEN_S = 1e-6  # two frames: timers of one moment fire in any order
MENDED_S = (0.01, 0.4)  # until what stalled is sent again
LATE_CLOSE_S = (0.0, 1.5)  # what a closed connection's last frames may take
QUEUE_MAX_B = 64 * 1024 * 1024
PORT = 2377


class Host(Protocol):
    """Who listens. `accept` and `take_snapshot` must not wait."""

    name: str
    node_id: NodeID

    def accept(self, channel: "Channel") -> None: ...

    def accept_snapshot(self, channel: "Channel") -> None: ...


class Channel:
    """One end. Implements wire.channel.RaftChannel."""

    def __init__(self, net: "GroupNet", host: Host, peer: Host) -> None:
        self.net, self.host, self.peer, self.node_id = net, host, peer, peer.node_id
        self.is_closed = False
        self._inbox: deque[bytes | None] = deque()  # None: the other side closed
        self._waiter: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._last_at_s = 0.0
        self._stalled: deque[bytes | None] = deque()
        self.other: Channel

    def send(self, frame: bytes) -> bool:
        if self.is_closed or self.host.name in self.net.dead:
            return False
        if sum(len(waiting or b"") for waiting in self._stalled) > QUEUE_MAX_B:
            self.close()
            return False
        self.net.counts["frames"] += 1
        self._pass_on(frame)
        return True

    async def write(self) -> None:
        """What `send` took is on its way already."""
        if not self.is_closed:
            self._closed = asyncio.get_running_loop().create_future()
            await self._closed

    async def receive(self) -> bytes:
        while not self._inbox:
            if self.is_closed:
                raise ChannelClosedError
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        frame = self._inbox.popleft()
        if frame is None or self.is_closed:
            self.end()
            raise ChannelClosedError
        return frame

    def close(self) -> None:
        """In order: what was sent before can still be read."""
        if not self.is_closed:
            self.end()
            if self.net.rng.random() < 0.5:
                self._last_at_s += self.net.rng.uniform(*LATE_CLOSE_S)
            self._pass_on(None)

    def end(self) -> None:
        """This end is gone, and the other does not hear of it."""
        self.is_closed = True
        self.net.channels.pop(self, None)
        self._wake()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def mended(self) -> None:
        """The way to the other end is open again."""
        stalled, self._stalled = self._stalled, deque()
        self._last_at_s = self.net.now_s + self.net.rng.uniform(*MENDED_S)
        for frame in stalled:
            self._pass_on(frame)

    def _pass_on(self, frame: bytes | None) -> None:
        net = self.net
        if self._stalled or net.is_cut(self.host.name, self.peer.name):
            self._stalled.append(frame)
            return
        self._last_at_s = max(self._last_at_s + BETWEEN_S, net.now_s + net.delay_s())
        net.loop.call_at(self._last_at_s, self._arrive, frame, context=net.context)

    def _arrive(self, frame: bytes | None) -> None:
        if self._stalled or self.net.is_cut(self.host.name, self.peer.name):
            self._stalled.append(frame)
        elif not self.other.is_closed and self.peer.name not in self.net.dead:
            self.other._inbox.append(frame)
            self.other._wake()

    def lost(self) -> None:
        """The kernel gives the connection up."""
        if not self.is_closed:
            self.net.counts["connection timed out"] += 1
            self.end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class GroupNet:
    """`ports`: who listens at which address. `dead`: hosts whose process is gone; of those in
    `dark` not even the kernel answers."""

    def __init__(self, rng: Random, counts: Counter[str]) -> None:
        self.rng, self.counts, self.slow = rng, counts, 1.0
        self.context = contextvars.Context()
        self.ports: dict[str, Host] = {}
        self.channels: dict[Channel, None] = {}
        self.dead: dict[str, None] = {}
        self.dark: dict[str, None] = {}
        self.loop: asyncio.AbstractEventLoop
        self._cuts: dict[tuple[str, str], float] = {}
        self.on_change: Callable[[], object] = lambda: None  # who reaches whom

    @property
    def now_s(self) -> float:
        return self.loop.time()

    def delay_s(self) -> float:
        delay_s = self.rng.uniform(*DELAY_S) * self.slow
        if self.rng.randrange(LATE_ONE_IN) == 0:
            self.counts["retransmission"] += 1
            delay_s += self.rng.uniform(*LATE_S)
        return delay_s

    # What happens to the wire

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    def is_open(self, one: str, other: str) -> bool:
        """Both ways."""
        return not self.is_cut(one, other) and not self.is_cut(other, one)

    def cuts(self) -> list[tuple[str, str]]:
        return list(self._cuts)

    def cut(self, source: str, target: str) -> None:
        """One way."""
        if source != target and (source, target) not in self._cuts:
            self._cuts[source, target] = self.now_s
            self.on_change()
            self.loop.call_later(
                USER_TIMEOUT_S, self._give_up, source, target, self.now_s, context=self.context
            )

    def mend(self, source: str, target: str) -> None:
        if self._cuts.pop((source, target), None) is not None:
            self.on_change()
            for channel in list(self.channels):
                if (channel.host.name, channel.peer.name) == (source, target):
                    channel.mended()

    def _give_up(self, source: str, target: str, since_s: float) -> None:
        if self._cuts.get((source, target)) == since_s:
            for channel in self.between(source, target):
                channel.lost()

    def between(self, one: str, other: str) -> list[Channel]:
        pair = {one, other}
        return [c for c in self.channels if {c.host.name, c.peer.name} == pair]

    def drop(self, one: str, other: str) -> bool:
        """Reset what connects the two; whether there was something."""
        channels = self.between(one, other)
        for channel in channels:
            channel.close()
        return bool(channels)

    def die(self, name: str, *, is_dark: bool) -> None:
        """The process of a host is gone."""
        self.dead[name] = None
        if is_dark:
            self.dark[name] = None
        for channel in [c for c in self.channels if c.host.name == name]:
            if is_dark:
                channel.end()
                self.loop.call_later(USER_TIMEOUT_S, channel.other.lost, context=self.context)
            else:
                channel.close()

    def live(self, name: str) -> None:
        """A host is there again; its kernel knows nothing of what was open."""
        self.dead.pop(name, None)
        self.dark.pop(name, None)
        for channel in list(self.channels):
            if channel.peer.name == name and channel.other.is_closed:
                self.loop.call_later(self.rng.uniform(*LATE_S), channel.lost, context=self.context)

    # What hosts do

    async def connect(self, host: Host, addr: str) -> Channel:
        """Raises UnavailableError."""
        await asyncio.sleep(2 * self.delay_s())
        peer = self.ports.get(addr)
        if peer is None or (peer.name in self.dead and peer.name not in self.dark):
            raise UnavailableError(f"Nobody listens at {addr}.")
        is_there = peer.name not in self.dark
        both = ((host.name, peer.name), (peer.name, host.name))
        if not is_there or any(self.is_cut(*way) for way in both):
            await asyncio.sleep(DIAL_TIMEOUT_S)
            raise UnavailableError(f"{addr} does not answer.")
        near, far = Channel(self, host, peer), Channel(self, peer, host)
        near.other, far.other = far, near
        self.channels[near] = self.channels[far] = None
        self.counts["connections"] += 1
        return near


class SimDialer:
    """Implements raft.peers.Dialer for one host."""

    def __init__(self, net: GroupNet, host: Host) -> None:
        self._net, self._host = net, host

    async def open(self, addr: str) -> Channel:
        channel = await self._net.connect(self._host, addr)
        channel.peer.accept(channel.other)
        return channel

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        channel = await self._net.connect(self._host, addr)
        try:
            channel.peer.accept_snapshot(channel.other)
            channel.send(msgspec.msgpack.encode(head))
            for chunk in chunks:
                await asyncio.sleep(self._net.delay_s())
                if not channel.send(b"c" + chunk):
                    raise ChannelClosedError
            channel.send(b"e")
            answer = msgspec.msgpack.decode(await channel.receive(), type=SnapshotAnswer)
        finally:
            channel.close()
        self._net.counts["snapshots sent"] += 1
        return answer


TakeSnapshot = Callable[[SnapshotHead, AsyncIterator[bytes], NodeID], Awaitable[SnapshotAnswer]]


async def serve_snapshot(channel: Channel, take: TakeSnapshot) -> None:
    """The receiving end of one."""
    try:
        head = msgspec.msgpack.decode(await channel.receive(), type=SnapshotHead)
        answer = await take(head, _chunks(channel), channel.node_id)
        channel.send(msgspec.msgpack.encode(answer))
    except UnavailableError:
        return  # the sender is gone, or this member does not take it now
    finally:
        channel.close()


async def _chunks(channel: Channel) -> AsyncIterator[bytes]:
    while (frame := await channel.receive()) != b"e":
        yield frame[1:]
