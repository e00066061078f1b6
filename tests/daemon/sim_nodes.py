"""Whole daemons on virtual time, whose ports and links are a network in memory."""

import asyncio
from contextlib import asynccontextmanager

from swarmlet.api.engine import InitRequest, JoinRequest
from swarmlet.core.errors import UnavailableError
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.engine import DaemonEngine
from swarmlet.daemon.host import Host
from swarmlet.model.cluster import SwarmSpec
from swarmlet.model.defaults import complete_swarm
from tests.daemon.no_network import NoLink
from tests.sim.disk import SimDisk
from tests.sim.loop import SimClock, run_sim, sim_env
from tests.sim.world import DATA, SMALL, SimRuntime, facts
from tests.wire.memory_link import MemoryNet, MemoryPort

PORT = 2377


def run_pair(story, limit_s=None):
    """A manager that has founded a swarm and another host's daemon beside it: `story` gets the
    clock and both; they stop in order behind it."""
    clock = SimClock()

    async def whole():
        net = MemoryNet()
        manager, other = (SimNode(net, host, clock) for host in ("m.x", "w.x"))
        async with asyncio.timeout(limit_s):
            for node in (manager, other):
                await node.start()
            await manager.init()
            await story(clock, manager, other)
            for node in (other, manager):
                await node.stop()

    run_sim(clock, whole())


def run_managers(count, story, *, limit_s=None, others=0):
    """`count` managers m1.x, m2.x, ... of one swarm, and hosts w1.x, ... in none: `story` gets the
    clock and the `SimSwarm`; all stop in order behind it."""
    clock = SimClock()

    async def whole():
        async with asyncio.timeout(limit_s):
            swarm = SimSwarm(clock, [f"m{n}.x" for n in range(1, count + 1)])
            swarm.add(f"w{n}.x" for n in range(1, others + 1))
            await swarm.start()
            await swarm.found(count)
            await story(clock, swarm)
            for node in reversed(swarm.nodes):
                await node.stop()

    run_sim(clock, whole())


class SimSwarm:
    """Hosts on one net, in order. `found` makes a swarm of the first ones, all managers."""

    def __init__(self, clock, hosts, net=None):
        self.clock, self.net = clock, net or MemoryNet()
        self.nodes = []
        self.add(hosts)

    def add(self, hosts):
        self.nodes += [SimNode(self.net, host, self.clock) for host in hosts]

    def __getitem__(self, number):
        return self.nodes[number]

    async def start(self, *nodes):
        for node in nodes or self.nodes:
            await node.start()

    async def found(self, count=1):
        await self.nodes[0].init()
        for node in self.nodes[1:count]:
            await node.join(self.nodes[0], "manager")

    @property
    def running(self):
        return [node for node in self.nodes if node.is_running]

    @property
    def managers(self):
        return [node for node in self.running if node.member is not None]

    @property
    def leader(self):
        """Of those that lead by their own account, the one of the newest term; None where none
        does."""
        leading = [node for node in self.managers if node.member.leads()]
        return max(leading, key=lambda node: node.leadership.term, default=None)

    async def until_led(self, limit_s=30.0, but=None):
        """The leader, once there is one, other than `but`."""
        async with asyncio.timeout(limit_s):
            while self.leader in (None, but):  # noqa: ASYNC110 - a state is no event
                await asyncio.sleep(0.02)
        return self.leader

    def cut(self, *nodes):
        """These reach each other, and nobody else does, and the other way round."""
        inside = {node.host for node in nodes}
        self.net.may_reach = lambda one, other: (one in inside) == (other in inside)
        self.net.changed()

    def mend(self):
        self.net.may_reach = lambda _one, _other: True
        self.net.changed()


class MemoryNetwork:
    """Implements NodeNetwork for one host of a MemoryNet."""

    def __init__(self, net, host, clock):
        self._net, self._host, self._clock = net, host, clock
        self.link = net.link(host, clock)
        self.exchange = NoLink().exchange

    def plan_port(self, plan):
        port = MemoryPort(
            self._net,
            host=self._host,
            addr=f"{self._host}:{plan.listen.port}",
            own=plan.own,
            gatekeeper=plan.gatekeeper,
            service=plan.service,
            clock=self._clock,
        )
        port.gauges = dict
        return port

    @asynccontextmanager
    async def announce(self, at, cluster_id, node_id):
        yield

    async def find(self):
        return []

    async def pass_on(self, addr, request, own):
        raise UnavailableError("the API is not on this net")

    async def close(self):
        """Nothing is kept open."""


class Addresses:
    def __init__(self, host):
        self._host = host

    def own(self, towards=()):
        return self._host

    def resolve(self, host):
        return host

    def check_free(self, host, port):
        """Always free."""


class SimNode:
    """A host: its disk and its runtime outlive its daemons."""

    def __init__(self, net, host, clock):
        self.net, self.host, self.clock = net, host, clock
        self.disk, self.runtime, self.lives = SimDisk(), SimRuntime(clock), 0
        self.engine = self._task = None
        self.options = {}  # of the next life's Host

    @property
    def is_running(self):
        return self._task is not None and not self._task.done()

    @property
    def member(self):
        """This node's Raft member, while there is one."""
        stay = self.engine._stay
        return None if stay is None or not hasattr(stay, "manager") else stay.manager.member

    @property
    def leadership(self):
        return self.member.group.leadership

    async def start(self):
        self.lives += 1
        self.runtime.next_life()
        ready = asyncio.Event()
        self._task = self._begin(self._life(ready))
        waiting = asyncio.get_running_loop().create_task(ready.wait())
        await asyncio.wait((self._task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()

    def _begin(self, life):
        return asyncio.get_running_loop().create_task(life)

    def _env(self):
        return sim_env(f"{self.host}/{self.lives}", self.disk, self.clock)

    async def stop(self):
        self.engine.stop()
        await self._task

    async def kill(self):
        """The daemon ends at once, if it has not already: nothing is said or written any more."""
        self.disk.is_dead = True
        self._task.cancel()
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.exception()

    async def lose(self):
        """The process ends at once, and the kernel says so to whoever talks with it."""
        await self.kill()
        self.net.end_process(self.host)
        self.disk.reopen()

    async def lose_power(self, rng):
        """And what was not synced is gone, or not."""
        await self.kill()
        self.net.end_process(self.host)
        self.disk.crash(rng)

    def cut(self, *others):
        """Reach none of these any more, or nobody."""
        for host in [other.host for other in others] or ["*"]:
            self.net.cut(self.host, host)

    def mend(self, *others):
        for host in [other.host for other in others] or ["*"]:
            self.net.mend(self.host, host)

    async def init(self, **more):
        request = InitRequest(
            spec=complete_swarm(SwarmSpec()), listen_addr=f"{self.host}:{PORT}", **more
        )
        await self.engine.init_swarm(request)

    async def join(self, manager, role="worker"):
        cluster = (await manager.engine.control().read()).clusters.all()
        tokens = next(iter(cluster)).root_ca.tokens
        request = JoinRequest(
            token=getattr(tokens, role),
            remote_addrs=(f"{manager.host}:{PORT}",),
            listen_addr=f"{self.host}:{PORT}",
        )
        await self.engine.join_swarm(request)

    @property
    def state(self):
        return self.engine.swarm_state()

    async def until(self, wanted, limit_s=60.0):
        """Wait for a state of this node in the swarm."""
        async with asyncio.timeout(limit_s):
            while self.state.state != wanted:  # noqa: ASYNC110 - a state is no event
                await asyncio.sleep(0.1)

    async def _life(self, ready):
        env = self._env()
        data = DataDir(env.disk, DATA)
        data.open()
        host = Host(
            env=env,
            data=data,
            runtime=self.runtime,
            facts=facts(self.runtime),
            addresses=Addresses(self.host),
            network=MemoryNetwork(self.net, self.host, self.clock),
            settle=lambda: None,
            raft_limits=SMALL,
            **self.options,
        )
        async with asyncio.TaskGroup() as group:
            self.engine = DaemonEngine(host, group)
            await self.engine.open()
            ready.set()
            await self.engine.stopped.wait()
            await self.engine.close()
