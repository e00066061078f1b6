"""Nodes that joined, over a network in memory: agent, connector, port, gatekeeper, dispatcher."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.agent.agent import Agent
from swarmlet.agent.remote import RemoteConnector
from swarmlet.ca.join_token import cert_digest
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    NotLeaderError,
    QuorumLostError,
    UnavailableError,
)
from swarmlet.core.ids import ClusterID, NodeID, RaftID, TaskID
from swarmlet.core.limits import LEADERLESS_S
from swarmlet.env.real import RealDisk
from swarmlet.manager.dispatcher import LEADER_WEIGHT
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.manager.manager import Manager
from swarmlet.manager.port import Ties
from swarmlet.manager.removals import follow_removals
from swarmlet.model.change import Create, Remove, Update
from swarmlet.model.cluster import RootCA
from swarmlet.model.node import IssuanceState, Node, NodeCertificate, NodeState
from swarmlet.model.task import TaskState as S
from swarmlet.model.task import TaskStatus
from swarmlet.model.view import cluster_of
from swarmlet.raft.membership import Members
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from swarmlet.wire.channel import ChannelClosedError, RaftChannel
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import (
    Heartbeat,
    Hello,
    LogOptions,
    ManagerAddr,
    StatusReport,
    SwarmInfo,
)
from swarmlet.wire.node_api import (
    CertificateRequest,
    MemberRequest,
    PortHello,
    SnapshotAnswer,
    SnapshotHead,
)
from swarmlet.wire.remotes import Remotes
from tests.agent.fake_runtime import FakeRuntime
from tests.agent.virtual_time import START_MS, VirtualClock, run_virtual, until, virtual_env
from tests.manager.group_log import GroupLog
from tests.manager.swarm import (
    DESCRIPTION,
    NODE,
    OTHER,
    Swarm,
    node_row,
    reading_of,
    service_rows,
    task_row,
)
from tests.wire.identities import CLUSTER, SwarmCA
from tests.wire.memory_link import MemoryNet, MemoryPort

LEAD, JOINED = "10.0.0.1:2377", "10.0.0.3:2377"


class World:
    """A leader, a manager that knows who leads and nothing else yet, and a worker: node-2 on host
    `w`."""

    def __init__(self, directory: Path) -> None:
        self.swarm, self.net, self.ca = Swarm(directory), MemoryNet(), SwarmCA(START_MS)
        self.clock = VirtualClock()
        store = self.swarm.store
        self.lead = MemoryPort(
            self.net,
            host="m",
            addr=LEAD,
            own=self.ca.own(NODE, "manager"),
            gatekeeper=StoreGatekeeper(
                store, ClusterID(CLUSTER), self.clock, self.swarm.manager.standing
            ),
            service=self.swarm.manager.port,
            clock=self.clock,
        )
        own = self.ca.own("joined", "manager")
        self.follower, self.follower_log = new_follower(own)
        self.joined = MemoryPort(
            self.net,
            host="j",
            addr=JOINED,
            own=own,
            gatekeeper=StoreGatekeeper(
                Store(self.swarm.env), ClusterID(CLUSTER), self.clock, self.follower.standing
            ),
            service=self.follower.port,
            clock=self.clock,
        )
        self.own: OwnIdentity = self.ca.own(OTHER)
        self.runtime = FakeRuntime(self.clock)
        self.heard: list[SwarmInfo] = []
        self._directory = str(directory / "worker")

    def agent(self, addr: str = LEAD) -> Agent:
        link = self.net.link("w", self.clock)
        return Agent(
            virtual_env(RealDisk(), seed=2),
            OTHER,
            self.runtime,
            RemoteConnector(link, self.own, remotes(addr)),
            state_dir=self._directory,
            describe=lambda: replace(DESCRIPTION, hostname="worker"),
            own=self.own,
            on_info=self.heard.append,
        )

    def node(self) -> Node:
        return self.swarm.node(OTHER)

    async def is_in_state(self, state: NodeState, limit_s: float = 60.0) -> None:
        await until(lambda: self.node().status.state == state, limit_s)

    async def change_node(self, **fields: object) -> None:
        row = self.node()
        await self.swarm.store.commit([Update(obj=replace(row, **fields), seen=row.version)])

    async def begin(self) -> None:
        await self.swarm.begin()
        await self.swarm.store.commit(service_rows())
        cluster = cluster_of(self.swarm.store.view())
        root = RootCA(cert_pem=self.ca.root_pem, cert_digest=cert_digest(self.ca.root_pem))
        await self.swarm.store.commit(
            [Update(obj=replace(cluster, root_ca=root), seen=cluster.version)]
        )
        joined = node_row(NodeID("joined"), "manager")
        await self.swarm.store.commit([Create(obj=joined)])


def new_follower(own: OwnIdentity) -> tuple[Manager, GroupLog]:
    """Behind the port of a manager that has just joined."""
    env = virtual_env(RealDisk(), seed=3)
    log = GroupLog(store := Store(env))
    places = ((1, NODE, LEAD), (3, "joined", JOINED))
    log.group = Members(
        members=tuple(
            Member(raft_id=RaftID(raft_id), node_id=node_id, address=addr)
            for raft_id, node_id, addr in places
        )
    )
    log.is_leader, log.leader = False, RaftID(1)
    store.attach(log)
    ties = Ties(own=own, peers=Peers(), dial_back=_nobody)
    manager = Manager(env, store, log, NodeID("joined"), (), ties)
    return manager, log


class Frames:
    """A connection of the Raft group that keeps what is sent."""

    def __init__(self, node_id: NodeID) -> None:
        self.node_id, self.sent = node_id, []

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame)
        return True

    async def receive(self) -> bytes:
        raise ChannelClosedError

    def close(self) -> None:
        pass


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class Peers:
    """What other members' calls end in."""

    async def serve_peer(self, channel: RaftChannel) -> None:
        channel.send(b"frame")

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer_node_id: NodeID
    ) -> SnapshotAnswer:
        return SnapshotAnswer(index=sum([len(chunk) async for chunk in chunks]))


async def _nobody(addr: str) -> PortHello:
    raise AssertionError(f"nobody asks {addr}")


def remotes(addr: str) -> Remotes:
    return Remotes(virtual_env(RealDisk()).rng, [ManagerAddr(node_id=NodeID(""), addr=addr)])


Story = Callable[[World, Agent], Awaitable[None]]


def play(directory: Path, story: Story, addr: str = LEAD) -> None:
    async def main() -> None:
        world = World(directory)
        await world.begin()
        with follow_removals(world.swarm.store, world.lead.close_node):
            async with asyncio.TaskGroup() as group:
                managers = [world.swarm.manager.run(), world.follower.run()]
                parts = [*managers, world.lead.run(), world.joined.run()]
                tasks = [group.create_task(part) for part in parts]
                await asyncio.sleep(0.1)
                agent = world.agent(addr)
                tasks.append(group.create_task(agent.run()))
                await story(world, agent)
                for task in tasks:
                    task.cancel()

    run_virtual(main())


def test_worker_registers_with_its_address_and_who_signed_its_certificate(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.is_in_state(NodeState.READY)
        node = world.node()
        assert (node.status.addr, node.description.hostname) == ("w", "worker")
        assert node.description.tls_info.trust_root.encode() == world.ca.root_pem
        assert node.description.tls_info.cert_issuer_public_key
        await until(lambda: len(world.heard) == 1)
        assert world.heard[0].managers == (
            ManagerAddr(node_id=NODE, addr="127.0.0.1:2377", weight=LEADER_WEIGHT),
        )
        assert world.heard[0].root_pem == world.ca.root_pem
        assert world.heard[0].role == "worker"
        assert agent.is_registered()

    play(tmp_path, story)


def test_worker_runs_tasks_and_its_logs_are_read(tmp_path: Path):
    async def story(world: World, _: Agent):
        await world.swarm.create(task_row("a", node_id=OTHER))
        await world.swarm.reaches("a", S.RUNNING)
        world.runtime.write(TaskID("a"), b"hello")
        swarm = world.swarm
        reading = reading_of(swarm.manager, swarm.env, [swarm.task("a")], LogOptions())
        assert [line.data async for line in reading] == [b"hello"]
        await until(lambda: len(world.net.connections) == 1)

    play(tmp_path, story)


def test_worker_that_is_asked_to_renew_hears_of_it_and_shows_its_new_certificate(tmp_path: Path):
    async def story(world: World, _: Agent):
        await world.is_in_state(NodeState.READY)
        await until(lambda: len(world.heard) == 1)
        await world.change_node(certificate=NodeCertificate(state=IssuanceState.ROTATE))
        await until(lambda: world.heard[-1].certificate_state == IssuanceState.ROTATE)
        dials = len(world.net.dials)
        turned = world.ca.credentials(OTHER)
        world.own.replace(turned, world.own.identity)
        await until(lambda: len(world.net.dials) == dials + 1, limit_s=0.1)
        await world.is_in_state(NodeState.READY)
        assert len(world.net.connections) == 1

    play(tmp_path, story)


def test_removed_worker_is_cut_off_at_once_refused_and_says_so(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.is_in_state(NodeState.READY)
        await world.swarm.store.commit([Remove(table=Node, id=OTHER)])
        assert not world.net.connections
        await asyncio.sleep(120)
        assert "was removed" in agent.refusal
        assert len(world.net.dials) < 40
        assert not world.net.connections
        link = world.net.link("w", world.clock)
        with pytest.raises(ForbiddenError):
            await link.open_log_stream(LEAD, "s", world.own.credentials)

    play(tmp_path, story)


def test_cut_worker_is_disconnected_then_down_and_comes_back_with_its_tasks(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.swarm.create(task_row("a", node_id=OTHER))
        await world.swarm.reaches("a", S.RUNNING)
        began_s = asyncio.get_running_loop().time()
        world.net.cut("m", "w", both_ways=False)
        await world.is_in_state(NodeState.DISCONNECTED)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(3, abs=0.2)
        await world.is_in_state(NodeState.DOWN)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(6, abs=0.2)
        await asyncio.sleep(60)
        assert not agent.is_registered()
        world.net.mend("m", "w")
        await world.is_in_state(NodeState.READY)
        assert world.runtime.running() == ["a"]
        assert world.runtime.removed == []

    play(tmp_path, story)


def test_worker_that_stops_in_order_is_expected_back_and_its_tasks_are_adopted(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.swarm.create(task_row("a", node_id=OTHER))
        await world.swarm.reaches("a", S.RUNNING)
        await agent.stop()
        await world.is_in_state(NodeState.DISCONNECTED)
        assert "expected back" in world.node().status.message
        again = world.agent()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(again.run())
            await world.is_in_state(NodeState.READY)
            await until(again.is_at_rest)
            world.runtime.kill(TaskID("a"))
            await world.swarm.reaches("a", S.FAILED)
            running.cancel()

    play(tmp_path, story)


def test_worker_that_asks_a_manager_that_follows_is_sent_to_the_leader(tmp_path: Path):
    async def story(world: World, _: Agent):
        await world.is_in_state(NodeState.READY)
        assert [(host, addr) for host, addr, _ in world.net.dials] == [("w", JOINED), ("w", LEAD)]

    play(tmp_path, story, JOINED)


def test_port_of_a_manager_whose_store_is_empty_says_who_it_is_and_hears_members(tmp_path: Path):
    async def story(world: World, _: Agent):
        link = world.net.link("new", world.clock)
        hello = await link.hello(JOINED)
        assert (hello.node_id, hello.cluster_id) == ("joined", CLUSTER)
        assert await link.root(JOINED) == world.ca.root_pem
        service, lead = world.joined.service, world.ca.own(NODE, "manager")
        assert service.leader_addr() == LEAD
        channel = Frames(NODE)
        await service.serve_raft(channel, lead.identity)
        assert channel.sent == [b"frame"]
        with pytest.raises(ForbiddenError, match="another node's"):
            await service.serve_raft(channel, world.own.identity)
        head = SnapshotHead(sender=1, receiver=3, term=1, facts=b"")
        answer = await service.take_snapshot(head, chunks(b"ab", b"c"), lead.identity)
        assert answer == SnapshotAnswer(index=3)

    play(tmp_path, story)


def test_port_of_a_manager_that_follows_leaves_all_else_to_the_leader(tmp_path: Path):
    async def story(world: World, _: Agent):
        link = world.net.link("new", world.clock)
        request = CertificateRequest(csr="x", token="no token")
        with pytest.raises(InvalidArgumentError, match="token"):
            await link.request_certificate(JOINED, request, Credentials(root_pem=world.ca.root_pem))
        service, peer = world.joined.service, world.own.identity
        for call in (
            service.request_certificate(request, peer, ""),
            service.certificate_status("x", ""),
            service.join_members(MemberRequest(addr="10.0.0.9:1"), peer, ""),
            service.leave_members(MemberRequest(), peer),
        ):
            with pytest.raises(NotLeaderError):
                await call
        with pytest.raises(NotLeaderError) as refused:
            await service.serve_session(None, peer, "")
        assert refused.value.managers == (LEAD,)
        with pytest.raises(UnavailableError, match="does not have the swarm's state yet"):
            await service.unlock_key(peer)
        world.follower_log.follow(None)
        world.follower_log.silent.update((1, 3))
        await asyncio.sleep(0)
        with pytest.raises(QuorumLostError, match="0 of 2 managers answer, and 2 are needed"):
            service.leader_addr()

    play(tmp_path, story)


def test_agent_that_asks_during_an_election_is_told_who_has_won(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.is_in_state(NodeState.READY)
        log, service = world.follower_log, world.joined.service
        clock, peer = world.clock, world.own.identity
        log.follow(None)
        await asyncio.sleep(0)
        began_s = clock.mono_s()
        asyncio.get_running_loop().call_later(1.0, log.follow, RaftID(1))
        with pytest.raises(NotLeaderError) as told:
            await service.serve_session(None, peer, "")
        assert told.value.managers == (LEAD,)
        assert clock.mono_s() - began_s == pytest.approx(1.0, abs=0.01)
        log.follow(None)
        log.silent.update((1, 3))
        await asyncio.sleep(0)
        with pytest.raises(QuorumLostError):
            await service.serve_session(None, peer, "")
        assert clock.mono_s() - began_s == pytest.approx(1.0 + LEADERLESS_S, abs=0.01)

    play(tmp_path, story)


def test_agents_that_waited_for_an_election_are_sent_on_one_by_one(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.is_in_state(NodeState.READY)
        log, service, told_s = world.follower_log, world.joined.service, []

        async def ask():
            with pytest.raises(NotLeaderError):
                await service.serve_session(None, world.own.identity, "")
            told_s.append(world.clock.mono_s() - began_s)

        log.follow(None)
        await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            for _ in range(1_400):
                group.create_task(ask())
            await asyncio.sleep(0.5)
            began_s = world.clock.mono_s()
            log.follow(RaftID(1))
        assert max(told_s) == pytest.approx(2.0, abs=0.1)
        assert all(0.2 < told_s[at] / (at / 700) < 5 for at in range(100, 1_400, 100))

    play(tmp_path, story)


def test_session_of_a_leader_that_steps_down_hears_and_tells_nothing_more(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.swarm.create(task_row("a", node_id=OTHER))
        await agent.stop()
        link = world.net.link("w", world.clock)
        channel = await link.open_session(LEAD, world.own.credentials)
        await channel.send(Hello(protocol=1, node_id=OTHER, description=DESCRIPTION))
        await world.is_in_state(NodeState.READY)
        mute = await link.open_session(LEAD, world.own.credentials)
        report = StatusReport(number=1, statuses=((TaskID("a"), TaskStatus(state=S.RUNNING)),))
        for _ in range(20):  # in flight when it steps down
            await channel.send(Heartbeat())
            await channel.send(report)
        world.swarm.log.lose()
        await asyncio.sleep(0.01)
        assert not world.net.connections
        with pytest.raises(ChannelClosedError):
            await mute.send(Heartbeat())
        assert world.swarm.manager.dispatcher.gauges() == {"swarmlet_dispatcher_sessions": 0}
        world.swarm.log.lead()
        await asyncio.sleep(30)  # nobody is left: held, and then down
        assert world.node().status.state == NodeState.DOWN
        assert world.swarm.task("a").status.state == S.ASSIGNED

    play(tmp_path, story)


def test_port_of_a_manager_that_does_not_lead_serves_no_session(tmp_path: Path):
    async def story(world: World, agent: Agent):
        await world.is_in_state(NodeState.READY)
        service = world.lead.service
        assert service.leader_addr() is None
        world.swarm.log.lose()
        await until(lambda: not agent.is_registered())
        with pytest.raises(UnavailableError, match="have no leader at the moment"):
            service.leader_addr()
        world.swarm.log.lead()
        await world.is_in_state(NodeState.READY)

    play(tmp_path, story)
