"""Members that have nothing but their connections, on a net in memory and on virtual time."""

import asyncio
import contextlib
from collections.abc import Callable

from swarmlet.core.errors import SwarmError, UnavailableError
from swarmlet.raft.acquaintance import Acquaintances
from swarmlet.raft.hello import Hello
from swarmlet.raft.membership import Members
from swarmlet.raft.peers import Peers
from swarmlet.store.proposer import Member
from tests.agent.virtual_time import run_virtual, until, virtual_env
from tests.sim.disk import SimDisk
from tests.wire.memory_raft import FrameEnd

CUT_NOTICED_S = 3.0


class Wire:
    """What stands between two ends, as `tests.wire.memory_link.Connection` does."""

    def __init__(self, net, dialler, answerer):
        self.net, self.hosts = net, (dialler.name, answerer.name)
        self.is_closed = self.is_hung = False
        self.near = FrameEnd(self, answerer.member.node_id, self.hosts)
        self.far = FrameEnd(self, dialler.member.node_id, self.hosts[::-1])
        self.near.other, self.far.other = self.far, self.near
        net.wires.append(self)

    def delay_s(self, _one, _other):
        return self.net.delay_s()

    def is_passable(self):
        return (
            not self.is_hung
            and self.net.reaches(*self.hosts)
            and self.net.reaches(*self.hosts[::-1])
        )

    async def passable(self):
        while not self.is_closed and not self.is_passable():  # noqa: ASYNC110 - a test's matrix
            await asyncio.sleep(0.05)

    def close(self, *, drops=False):
        if not self.is_closed:
            self.is_closed = True
            self.net.wires.remove(self)
        self.near.shut(drops=drops)
        self.far.shut(drops=drops)

    def abort(self):
        self.close(drops=True)


class Net:
    def __init__(self):
        self.wires, self.ports, self.dials = [], {}, []
        self.cuts: set[tuple[str, str]] = set()
        self.delay_s: Callable[[], float] = lambda: 0.001
        self.refused: list[SwarmError] = []

    def reaches(self, one, other):
        return (one, other) not in self.cuts

    def cut(self, one, other):
        self.cuts |= {(one, other), (other, one)}
        for wire in list(self.wires):
            if not wire.is_passable():
                asyncio.get_running_loop().call_later(CUT_NOTICED_S, self._notice, wire)

    def _notice(self, wire):
        if not wire.is_passable():
            wire.abort()

    def mend(self):
        self.cuts.clear()

    def live(self, *names):
        return [wire for wire in self.wires if set(wire.hosts) == set(names)]


class Node:
    """A member at a host; each `start` is another boot. It is its own dialler and `PeerEvents`."""

    def __init__(self, net, name, raft_id, *, node_id=None):
        self.net, self.name = net, name
        self.member = Member(raft_id=raft_id, node_id=node_id or name, address=f"{name}:2377")
        self.env = virtual_env(SimDisk(), raft_id)
        self.acquaintances, self.group = Acquaintances(), Members()
        self.boot, self.term, self.last_index = 0, 1, 1
        self.told, self.frames, self.refusals = [], [], []
        self.epochs = {}
        self.peers, self._tasks = None, []

    # Life

    def start(self, group):
        self.boot += 1
        self.epochs = {}
        self.peers = Peers(self.env, self.member, self, Boot(self, self.boot))
        self._group = group
        self.net.ports[self.member.address] = self
        self._tasks = [group.create_task(self._quiet(self.peers.run()))]
        self.peers.want(self.group.members)

    def kill(self, *, is_host_lost=False):
        """The kernel closes what the process had; a lost host closes nothing."""
        self.net.ports.pop(self.member.address, None)
        for wire in list(self.net.wires):
            if self.name in wire.hosts:
                if is_host_lost:
                    self.net.cut(*wire.hosts)
                else:
                    wire.abort()
        for task in self._tasks:
            task.cancel()

    async def _quiet(self, work):
        with contextlib.suppress(asyncio.CancelledError):
            await work

    def want(self, *members):
        self.group = Members(members=tuple(sorted(members, key=lambda m: m.raft_id)))
        if self.peers is not None:
            self.peers.want(self.group.members)

    # Dialer

    async def open(self, addr):
        self.net.dials.append((asyncio.get_running_loop().time(), self.name, addr))
        node = self.net.ports.get(addr)
        await asyncio.sleep(self.net.delay_s())
        if node is not None and not self.net.reaches(self.name, node.name):
            await asyncio.sleep(10)
        if node is None or addr not in self.net.ports:
            raise UnavailableError("Nobody listens.")
        wire = Wire(self.net, self, node)
        refused = asyncio.get_running_loop().create_future()
        node._tasks.append(node._group.create_task(node._accept(wire.far, refused)))
        async with asyncio.timeout(10):
            waiting = asyncio.ensure_future(wire.far.used.wait())
            await asyncio.wait((waiting, refused), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if refused.done():
            raise refused.result()
        return wire.near

    async def _accept(self, end, refused):
        try:
            await self._quiet(self.peers.serve(end))
        except SwarmError as error:
            self.net.refused.append(error)
            refused.set_result(error)
        finally:
            end.connection.close()

    async def send_snapshot(self, addr, head, chunks):
        return addr, head, list(chunks)

    # PeerEvents, of the present boot

    def hello(self, to):
        return Hello(
            sender=self.member.raft_id,
            receiver=to,
            boot=self.boot,
            term=self.term,
            last_index=self.last_index,
        )

    def judge(self, hello, node_id):
        return self.acquaintances.judge(
            hello,
            node_id,
            me=self.member,
            members=self.group,
            live=self.peers.live(hello.sender),
        )

    def connected(self, raft_id, epoch):
        assert raft_id not in self.epochs, "the old one goes first"
        self.epochs[raft_id] = epoch
        self.told.append(("connected", raft_id, epoch))

    def disconnected(self, raft_id, epoch):
        assert self.epochs.pop(raft_id) == epoch
        self.told.append(("disconnected", raft_id, epoch))

    def received(self, raft_id, epoch, frame):
        assert self.epochs[raft_id] == epoch, "frames of the connection that counts alone"
        if frame == b"garbage":
            raise ValueError("not a frame of the core's")
        self.frames.append((raft_id, frame))

    def refused(self, raft_id, refusal):
        self.refusals.append((raft_id, refusal.reason))

    def send(self, raft_id, frame):
        return self.peers.send(raft_id, self.epochs.get(raft_id, 0), frame)


class Boot:
    """The `PeerEvents` of one boot; what comes of an earlier one is nobody's any more."""

    def __init__(self, node, boot):
        self._node, self._boot = node, boot

    def __getattr__(self, name):
        is_over = self._node.boot != self._boot
        return (lambda *_: None) if is_over else getattr(self._node, name)


class World:
    """Members 1..n named m1..mn, who know each other, and are started by the story."""

    def __init__(self, number):
        self.net = Net()
        self.nodes = [Node(self.net, f"m{n}", n) for n in range(1, number + 1)]
        for node in self.nodes:
            node.want(*(each.member for each in self.nodes))

    def is_whole(self):
        """Each has one connection to each other, and both ends mean the same one."""
        pairs = [(one, other) for one in self.nodes for other in self.nodes if one is not other]
        return all(
            other.member.raft_id in one.epochs and len(self.net.live(one.name, other.name)) == 1
            for one, other in pairs
        )


async def begin(world, group):
    """Start all, and wait until each has its connection to each other."""
    for node in world.nodes:
        node.start(group)
    await until(world.is_whole, 5)


def now_s():
    return asyncio.get_running_loop().time()


def play(number, story, limit_s=100_000.0):
    """Run `story(world, group)` with members that it starts; what still runs then is ended."""

    async def main():
        world = World(number)
        async with asyncio.TaskGroup() as group:
            await story(world, group)
            for node in world.nodes:
                for task in node._tasks:
                    task.cancel()

    run_virtual(main(), limit_s)
