"""The network in memory does what the product's own port and link do: who is let in, what a cut
looks like."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import pytest

from swarmlet.core.errors import (
    ForbiddenError,
    NotFoundError,
    NotLeaderError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, TaskID
from swarmlet.manager.gatekeeper import CertificateGatekeeper
from swarmlet.wire.channel import AgentChannel, AskedStream, ChannelClosedError, StreamChannel
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import (
    DialRequest,
    Heartbeat,
    LogBatch,
    StreamData,
    StreamReady,
    StreamRefused,
    TaskStreamAsk,
)
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    PortHello,
)
from swarmlet.wire.port import LogSource
from tests.agent.virtual_time import START_MS, VirtualClock, run_virtual
from tests.wire.identities import CLUSTER, SwarmCA
from tests.wire.memory_link import MemoryLink, MemoryNet, MemoryPort

ADDR, OTHER_ADDR = "10.0.0.1:2377", "10.0.0.2:2377"
DAY_MS = 24 * 3600 * 1000
REQUEST = CertificateRequest(csr="csr", token="token")


class FakeService:
    """Remembers who came."""

    def __init__(self, leader: str | None = None) -> None:
        self.leader = leader
        self.seen: list[tuple[str, str]] = []
        self.batches: list[LogBatch] = []
        self.beats = 0

    def hello(self) -> PortHello:
        return PortHello(protocol=1, node_id="m", cluster_id=CLUSTER, now_ms=START_MS)

    def root_pem(self) -> bytes:
        return b"root"

    def leader_addr(self) -> str | None:
        return self.leader

    async def request_certificate(
        self, request: CertificateRequest, peer: Identity | None, source: str
    ) -> CertificateTicket:
        self.seen.append(("" if peer is None else peer.node_id, source))
        return CertificateTicket(node_id="new")

    async def certificate_status(self, node_id: str, source: str) -> CertificateStatus:
        raise NotFoundError("node", node_id)

    async def serve_session(self, channel: AgentChannel, peer: Identity, source: str) -> None:
        if self.leader is not None:
            raise NotLeaderError("Another leads.", managers=(self.leader,))
        self.seen.append((peer.node_id, source))
        while True:
            await channel.receive()
            self.beats += 1
            await channel.send(Heartbeat())

    async def take_logs(self, source: LogSource, peer: Identity, subscription: str) -> None:
        while not self.batches or not self.batches[-1].is_last:
            self.batches.append(await source.receive())


class World:
    def __init__(self) -> None:
        self.net, self.ca, self.clock = MemoryNet(), SwarmCA(START_MS), VirtualClock()
        self.service = FakeService()
        self.ports = [self.port("m", ADDR, self.service)]
        self.worker = self.ca.credentials("w")

    def port(self, host: str, addr: str, service: FakeService, role: str = "manager") -> MemoryPort:
        return MemoryPort(
            self.net,
            host=host,
            addr=addr,
            own=self.ca.own(host, role),
            gatekeeper=CertificateGatekeeper(ClusterID(CLUSTER), self.clock),
            service=service,
            clock=self.clock,
        )

    @property
    def link(self) -> MemoryLink:
        return self.net.link("h", self.clock)

    def play(self, story: Callable[["World"], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(port.run()) for port in self.ports]
                await asyncio.sleep(0)
                await story(self)
                for task in running:
                    task.cancel()

        run_virtual(main())


def test_net_answers_who_asks_without_a_certificate():
    async def story(world: World):
        assert (await world.link.hello(ADDR)).cluster_id == CLUSTER
        assert await world.link.root(ADDR) == b"root"
        joining = Credentials(root_pem=world.ca.root_pem)
        ticket = await world.link.request_certificate(ADDR, REQUEST, joining)
        assert ticket == CertificateTicket(node_id="new")
        with pytest.raises(NotFoundError):
            await world.link.certificate_status(ADDR, "x", joining)
        with pytest.raises(UnauthorizedError):
            await world.link.open_session(ADDR, joining)
        assert world.service.seen == [("", "h")]

    World().play(story)


def other_swarm(world: World) -> Credentials:
    stranger = SwarmCA(START_MS, seed=2).credentials("w")
    return msgspec.structs.replace(stranger, root_pem=world.ca.root_pem)


def without_its_key(world: World) -> Credentials:
    thief = world.ca.credentials("thief")
    return msgspec.structs.replace(world.worker, key_pem=thief.key_pem)


def expired(world: World) -> Credentials:
    return world.ca.credentials("w", now_ms=START_MS - 100 * DAY_MS)


def too_early(world: World) -> Credentials:
    return world.ca.credentials("w", now_ms=START_MS + DAY_MS)


def of_another_cluster(world: World) -> Credentials:
    world.ca.cluster_id = "other"
    return world.ca.credentials("w")


def that_trust_another_root(world: World) -> Credentials:
    return SwarmCA(START_MS, seed=2).credentials("w")


STRANGERS = [
    other_swarm,
    without_its_key,
    expired,
    too_early,
    of_another_cluster,
    that_trust_another_root,
]


@pytest.mark.parametrize("make", STRANGERS)
def test_net_opens_no_session_with_credentials(make: Callable[[World], Credentials]):
    async def story(world: World):
        with pytest.raises(UnauthorizedError):
            await world.link.open_session(ADDR, make(world))
        assert not world.service.seen

    World().play(story)


def test_net_lets_an_expired_certificate_renew_where_the_managers_is_expired_too():
    async def story(world: World):
        world.ports[0].own = world.ca.own("m", "manager", now_ms=START_MS - 95 * DAY_MS)
        with pytest.raises(UnauthorizedError, match="expired"):
            await world.link.open_session(ADDR, world.worker)
        renewal = CertificateRequest(csr="csr")
        await world.link.request_certificate(ADDR, renewal, expired(world))
        assert world.service.seen == [("w", "h")]

    World().play(story)


def test_net_trusts_no_worker_that_serves():
    async def story(world: World):
        world.ports[0].own = world.ca.own("m", "worker")
        with pytest.raises(UnauthorizedError, match="no manager"):
            await world.link.open_session(ADDR, world.worker)

    World().play(story)


async def session(world: World) -> AgentChannel:
    channel = await world.link.open_session(ADDR, world.worker)
    await channel.send(Heartbeat())
    assert await channel.receive() == Heartbeat()
    return channel


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def lost_after_s(channel: AgentChannel) -> float:
    began_s = now_s()
    try:
        while True:
            await channel.receive()
    except ChannelClosedError:
        return now_s() - began_s


def test_net_closes_sessions_that_may_not_go_on():
    async def story(world: World):
        channel = await session(world)
        world.ports[0].close_node("w")
        assert await lost_after_s(channel) == 0
        world.worker = world.ca.credentials("w", expiry_ns=2 * 3600 * 10**9)
        assert await lost_after_s(await session(world)) == pytest.approx(2 * 3600, abs=5)
        world.worker = world.ca.credentials("w")
        channel = await session(world)
        world.net.end_process("h")
        assert await lost_after_s(channel) == 0
        assert not world.net.connections

    World().play(story)


def test_net_notices_a_cut_after_three_seconds_and_a_short_one_never():
    async def story(world: World):
        channel = await session(world)
        for both_ways in (True, False):
            world.net.cut("m", "h", both_ways=both_ways)
            await asyncio.sleep(1)
            world.net.mend("m", "h")
            await asyncio.sleep(10)
            await channel.send(Heartbeat())
            assert await channel.receive() == Heartbeat()
        world.net.cut("m", "h")
        beats = world.service.beats
        with pytest.raises(ChannelClosedError):
            await channel.send(Heartbeat())
        assert await lost_after_s(channel) == 0
        assert world.service.beats == beats
        with pytest.raises(UnavailableError, match="does not answer"):
            await world.link.open_session(ADDR, world.worker)
        world.net.mend("m", "h")
        await session(world)

    World().play(story)


def test_net_forwards_what_needs_the_leader_and_refuses_sessions_in_its_name():
    async def story(world: World):
        link, joining = world.link, Credentials(root_pem=world.ca.root_pem)
        assert await link.request_certificate(OTHER_ADDR, REQUEST, joining)
        assert world.service.seen == [("", "h")]
        with pytest.raises(NotLeaderError) as refused:
            await link.open_session(OTHER_ADDR, world.worker)
        assert refused.value.managers == (ADDR,)
        world.ports[1].own = world.ca.own("m2", "worker")
        with pytest.raises(SwarmError):
            await link.request_certificate(OTHER_ADDR, REQUEST, joining)
        world.service.leader = OTHER_ADDR
        world.ports[1].own = world.ca.own("m2", "manager")
        with pytest.raises(UnavailableError):
            await link.request_certificate(OTHER_ADDR, REQUEST, joining)

    world = World()
    world.ports.append(world.port("m2", OTHER_ADDR, FakeService(ADDR)))
    world.play(story)


def test_net_carries_logs_to_their_last_batch():
    async def story(world: World):
        sink = await world.link.open_log_stream(ADDR, "s", world.worker)
        await sink.send(LogBatch(problem="x"))
        await sink.send(LogBatch(is_last=True))
        sink.close()
        await asyncio.sleep(0.1)
        assert [batch.is_last for batch in world.service.batches] == [False, True]
        with pytest.raises(ChannelClosedError):
            await sink.send(LogBatch())

    World().play(story)


def test_net_loses_calls_with_the_port_that_serves_them():
    async def story(world: World):
        started = asyncio.Event()

        async def never(*_: object) -> CertificateTicket:
            started.set()
            return await asyncio.Event().wait()

        world.service.request_certificate = never
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.port("m3", OTHER_ADDR, world.service).run())
            await asyncio.sleep(0)
            call = world.link.request_certificate(
                OTHER_ADDR, REQUEST, Credentials(root_pem=world.ca.root_pem)
            )
            calling = group.create_task(_refused(call))
            await started.wait()
            running.cancel()
            assert await calling == "The connection was lost."

    World().play(story)


async def _refused(call: Awaitable[object]) -> str:
    try:
        await call
    except UnavailableError as refusal:
        return refusal.message
    return ""


def test_fakes_forbid_nothing_by_themselves():
    """A gatekeeper's refusal comes through as it is."""

    async def story(world: World):
        class Nobody:
            def admit(self, peer: Identity | None, route: object) -> None:
                raise ForbiddenError("no")

        world.ports[0].gatekeeper = Nobody()
        with pytest.raises(ForbiddenError, match="no"):
            await world.link.open_session(ADDR, world.worker)

    World().play(story)


class StreamService(FakeService):
    """Streams are echoes; that of a manager is ready at once, or refused."""

    async def take_stream(self, channel: StreamChannel, peer: Identity, stream_id: str) -> None:
        if stream_id == "made-up":
            raise NotFoundError("stream", stream_id)
        self.seen.append((peer.node_id, stream_id))
        with suppress(ChannelClosedError):
            while True:
                await channel.send(await channel.receive())

    async def serve_task_stream(self, channel: AskedStream, peer: Identity) -> None:
        if self.leader is not None:
            raise NotLeaderError("Another leads.", managers=(self.leader,))
        ask = await channel.ask()
        if ask.task_id == "nix":
            await channel.send(StreamRefused(code="not-found", message="task nix not found"))
            return
        await channel.send(StreamReady())
        await self.take_stream(channel, peer, ask.who)


def test_streams_go_both_ways_are_refused_and_end_with_a_cut():
    async def story(world: World):
        near = await world.link.open_stream(ADDR, "s", world.worker)
        ask = TaskStreamAsk(task_id=TaskID("t"), request=DialRequest(port=80), who="alice")
        manager = world.ca.credentials("m2", "manager")
        passed_on = await world.link.open_task_stream(ADDR, ask, manager)
        for channel in (near, passed_on):
            await channel.send(StreamData(stream=0, data=b"x"))
            assert await channel.receive() == StreamData(stream=0, data=b"x")
        assert world.service.seen == [("w", "s"), ("m2", "alice")]
        with pytest.raises(NotFoundError):
            await world.link.open_stream(ADDR, "made-up", world.worker)
        refused = msgspec.structs.replace(ask, task_id=TaskID("nix"))
        with pytest.raises(NotFoundError, match="task nix not found"):
            await world.link.open_task_stream(ADDR, refused, manager)
        with pytest.raises(ForbiddenError):
            await world.link.open_task_stream(ADDR, ask, world.worker)
        passed_on.close()
        world.net.cut("h")
        assert 3.0 <= await lost_after_s(near) < 3.5
        world.net.mend("h")
        world.service.leader = "elsewhere"
        with pytest.raises(NotLeaderError):
            await world.link.open_task_stream(ADDR, ask, manager)

    world = World()
    world.service = StreamService()
    world.ports = [world.port("m", ADDR, world.service)]
    world.play(story)
