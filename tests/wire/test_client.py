"""A node's calls to real node ports over loopback."""

import asyncio
import inspect
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from swarmlet.ca.identity import check_dates, identify
from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    StaleVersionError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.identity import Identity
from swarmlet.core.limits import NS_PER_S
from swarmlet.env.real import real_env
from swarmlet.model.address import Address
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
from swarmlet.wire.client import TlsLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import Goodbye, Heartbeat, LogBatch, StatusAck
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    PortHello,
)
from swarmlet.wire.port import LogSource
from swarmlet.wire.reception import PortParts
from swarmlet.wire.routes import PortRoute
from swarmlet.wire.server import NodePort
from swarmlet.wire.tls import Trust
from tests.wire.identities import SwarmCA
from tests.wire.port_world import on_both_loops

HOUR_MS = 3_600_000
NOW_MS = int(time.time() * 1000)
CA, OTHER_CA = SwarmCA(NOW_MS - 48 * HOUR_MS, 1), SwarmCA(NOW_MS - 48 * HOUR_MS, 2)
WORKER = CA.credentials("worker1")
MANAGER = CA.credentials("manager1", "manager")
EXPIRED = CA.credentials(
    "manager1", "manager", now_ms=NOW_MS - 9 * HOUR_MS, expiry_ns=3_600 * NS_PER_S
)
NOBODY = Credentials(root_pem=CA.root_pem)


class Gatekeeper:
    """Dates and roles."""

    def admit(self, peer: Identity | None, route: PortRoute) -> None:
        if ("" if peer is None else peer.role) not in route.roles:
            raise ForbiddenError("not for this role")
        if peer is not None and not route.allows_expired:
            check_dates(peer, NOW_MS)


class Service:
    """A manager's insides: what it was asked, and what it answers."""

    def __init__(self, leader: str | None = None) -> None:
        self.leader, self.refusal = leader, None
        self.requests: list[tuple[CertificateRequest, str]] = []
        self.batches: list[LogBatch] = []
        self.streams_over = asyncio.Event()
        self.channels: list[AgentChannel] = []

    def hello(self) -> PortHello:
        return PortHello(protocol=1, node_id="manager1", cluster_id="c", now_ms=5)

    def root_pem(self) -> bytes:
        return CA.root_pem

    def leader_addr(self) -> str | None:
        return self.leader

    async def request_certificate(self, request, peer, source):
        self.check()
        self.requests.append((request, "" if peer is None else peer.node_id))
        return CertificateTicket(node_id="node5")

    async def certificate_status(self, node_id, source):
        self.check()
        return CertificateStatus(state=3, role="worker", chain=node_id)

    async def serve_session(self, channel, peer, source):
        """An echo."""
        self.check()
        self.channels.append(channel)
        while True:
            await channel.send(await channel.receive())

    async def take_logs(self, source: LogSource, peer, subscription):
        self.check()
        try:
            while True:
                self.batches.append(await source.receive())
        finally:
            self.streams_over.set()

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal


async def api(request: web.Request, path: str) -> web.StreamResponse:
    """Echoes, in parts; or breaks off."""
    answer = web.StreamResponse(status=201, headers={"Path": path, "Content-Type": "text/x"})
    answer.headers["Got"] = ",".join(sorted(request.headers))
    await answer.prepare(request)
    async for part in request.content.iter_any():
        await answer.write(part)
    if path.startswith("/broken"):
        request.transport.abort()
    return answer


class Swarm(AsyncExitStack):
    """Ports that run while inside, and a link that is closed with them."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        super().__init__()
        self.link = TlsLink(resolver)
        self.push_async_callback(self.link.close)

    async def port(
        self, service: Service, credentials: Credentials = MANAGER, host: str = "127.0.0.1"
    ) -> str:
        parts = PortParts(
            identify=lambda chain: identify(chain, NOW_MS),
            gatekeeper=Gatekeeper(),
            service=service,
            api=api,
            forward=self.link.forward,
        )
        self.trust = Trust(credentials)
        port = NodePort(Address(host=host, port=0), self.trust, parts, real_env().clock)
        await self.enter_async_context(_running(port))
        return str(port.addresses[0])


@asynccontextmanager
async def _running(port: NodePort) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(port.run())
        await port.opened.wait()
        yield
        task.cancel()


def with_swarm(test):
    """On both loops."""

    async def run(**arguments):
        async with Swarm() as swarm:
            await test(swarm, **arguments)

    given = inspect.signature(test)
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = given.replace(parameters=[*given.parameters.values()][1:])
    return on_both_loops(run)


@with_swarm
async def test_anybody_is_greeted_and_shown_the_root(swarm):
    addr = await swarm.port(Service(), OTHER_CA.credentials("m", "worker"))
    assert await swarm.link.hello(addr) == PortHello(
        protocol=1, node_id="manager1", cluster_id="c", now_ms=5
    )
    assert await swarm.link.root(addr) == CA.root_pem


@with_swarm
async def test_a_node_joins_by_its_token_and_polls(swarm):
    service = Service()
    addr = await swarm.port(service)
    asked = CertificateRequest(csr="CSR", token="T", availability="drain")
    ticket = await swarm.link.request_certificate(addr, asked, NOBODY)
    assert ticket == CertificateTicket(node_id="node5")
    assert service.requests == [(asked, "")]
    status = await swarm.link.certificate_status(addr, "a/b c", NOBODY)
    assert status == CertificateStatus(state=3, role="worker", chain="a/b c")


@with_swarm
async def test_a_renewal_goes_to_a_manager_whose_certificate_expired(swarm):
    service = Service()
    addr = await swarm.port(service, EXPIRED)
    renewal = CertificateRequest(csr="CSR")
    await swarm.link.request_certificate(addr, renewal, WORKER)
    assert service.requests == [(renewal, "worker1")]
    assert (await swarm.link.certificate_status(addr, "worker1", WORKER)).chain == "worker1"
    for call in (
        swarm.link.open_session(addr, WORKER),
        swarm.link.open_log_stream(addr, "s", WORKER),
        swarm.link.request_certificate(addr, CertificateRequest(csr="C", token="T"), NOBODY),
        swarm.link.certificate_status(addr, "worker1", NOBODY),
    ):
        with pytest.raises(UnauthorizedError, match="has expired"):
            await call


@with_swarm
async def test_a_session_carries_messages_both_ways_until_it_ends(swarm):
    service = Service()
    addr = await swarm.port(service)
    channel = await swarm.link.open_session(addr, WORKER)
    for message in (Heartbeat(), Goodbye(back_in_s=4), StatusAck(number=7)):
        await channel.send(message)
        assert await channel.receive() == message
    service.channels[0].close()
    with pytest.raises(ChannelClosedError):
        await channel.receive()
    with pytest.raises(ChannelClosedError):
        await channel.send(Heartbeat())


@with_swarm
async def test_a_log_stream_is_read_to_its_end(swarm):
    service = Service()
    addr = await swarm.port(service)
    sink = await swarm.link.open_log_stream(addr, "sub/1", WORKER)
    sent = [LogBatch(problem=str(n)) for n in range(20)]
    for batch in sent:
        await sink.send(batch)
    sink.close()
    async with asyncio.timeout(2):
        await service.streams_over.wait()
    assert service.batches == sent


REFUSALS = [
    InvalidArgumentError("a", "b"),
    UnauthorizedError("the token's secret is wrong", "rotate"),
    ForbiddenError("removed"),
    NotFoundError("node", "n5"),
    StaleVersionError("x"),
    UnavailableError("not now", "later"),
    NotLeaderError("not me", "ask them", ("10.0.0.1:2377", "[fd00::1]:2377")),
    NotLeaderError("ä" * 400),
]


@pytest.mark.parametrize("refusal", REFUSALS)
@with_swarm
async def test_a_refusal_arrives_as_the_error_it_is(swarm, refusal):
    service = Service()
    addr = await swarm.port(service)
    service.refusal = refusal
    for call in (
        swarm.link.certificate_status(addr, "n", NOBODY),
        swarm.link.request_certificate(addr, CertificateRequest(csr="C"), WORKER),
        swarm.link.open_session(addr, WORKER),
        swarm.link.open_log_stream(addr, "s", WORKER),
    ):
        with pytest.raises(type(refusal)) as raised:
            await call
        got = raised.value
        assert (type(got), got.message, got.remedy) == (
            type(refusal),
            refusal.message,
            refusal.remedy,
        )
        assert getattr(got, "managers", None) == getattr(refusal, "managers", None)


@with_swarm
async def test_an_error_nobody_knows_is_an_outage(swarm):
    class NewError(SwarmError):
        code, http_status = "from-the-future", 499

    service = Service()
    addr = await swarm.port(service)
    service.refusal = NewError("new", "wait")
    with pytest.raises(SwarmError, match="new"):
        await swarm.link.certificate_status(addr, "n", NOBODY)


@with_swarm
async def test_other_credentials_count_from_the_next_call_on(swarm):
    service = Service()
    addr = await swarm.port(service)
    session = await swarm.link.open_session(addr, WORKER)
    other = OTHER_CA.credentials("worker1")
    swarm.trust.replace(OTHER_CA.credentials("manager1", "manager"))
    with pytest.raises(UnauthorizedError, match="does not belong to this swarm"):
        await swarm.link.open_session(addr, WORKER)
    renewed = await swarm.link.open_session(addr, other)
    for channel in (session, renewed):
        await channel.send(Heartbeat())
        assert await channel.receive() == Heartbeat()


@with_swarm
async def test_pools_of_old_credentials_are_closed_once_they_are_unused(swarm):
    service = Service()
    addr = await swarm.port(service)
    session = await swarm.link.open_session(addr, WORKER)
    renewed = CA.credentials("worker1")
    await swarm.link.certificate_status(addr, "n", renewed)
    pools = swarm.link._pools
    (old,) = pools._retired
    await session.send(Heartbeat())
    assert await session.receive() == Heartbeat()
    session.close()
    await asyncio.sleep(0.05)
    await swarm.link.certificate_status(addr, "n", renewed)
    assert old.client.closed
    assert (len(pools._pools), pools._retired) == (1, [])


class Names(AbstractResolver):
    """`manager.example` has three addresses; nobody listens at the first two."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        places = (
            (socket.AF_INET6, "::1"),
            (socket.AF_INET, "127.0.0.2"),
            (socket.AF_INET, "127.0.0.1"),
        )
        return [
            {
                "hostname": host,
                "host": place,
                "port": port,
                "family": kind,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for kind, place in places
        ]

    async def close(self):
        return


@on_both_loops
async def test_a_name_with_several_addresses_is_tried_out():
    async with Swarm(Names()) as swarm:
        addr = await swarm.port(Service())
        name = addr.replace("127.0.0.1", "manager.example")
        assert (await swarm.link.certificate_status(name, "n", NOBODY)).chain == "n"
        channel = await swarm.link.open_session(name, WORKER)
        await channel.send(Heartbeat())
        assert await channel.receive() == Heartbeat()


@with_swarm
async def test_an_ipv6_address_is_dialled(swarm):
    addr = await swarm.port(Service(), host="::1")
    assert addr.startswith("[::1]:")
    assert (await swarm.link.certificate_status(addr, "n", NOBODY)).chain == "n"


@with_swarm
async def test_calls_for_the_leader_are_passed_on_by_other_managers(swarm):
    leader = Service()
    follower = Service(await swarm.port(leader))
    addr = await swarm.port(follower, CA.credentials("manager2", "manager"))
    await swarm.link.request_certificate(addr, CertificateRequest(csr="C", token="T"), NOBODY)
    await swarm.link.request_certificate(addr, CertificateRequest(csr="R"), WORKER)
    assert [peer for _, peer in leader.requests] == ["", "worker1"]
    assert follower.requests == []
    leader.refusal = UnauthorizedError("the token was rotated", "ask for the new one")
    with pytest.raises(UnauthorizedError, match="the token was rotated"):
        await swarm.link.certificate_status(addr, "n", NOBODY)
    follower.leader = "127.0.0.1:1"
    with pytest.raises(UnavailableError, match=r"Nothing listens at 127\.0\.0\.1:1"):
        await swarm.link.certificate_status(addr, "n", NOBODY)


@with_swarm
async def test_close_ends_what_is_open(swarm):
    addr = await swarm.port(Service())
    channel = await swarm.link.open_session(addr, WORKER)
    reading = await swarm.link.open_session(addr, WORKER)

    async def read() -> None:
        with pytest.raises(ChannelClosedError):
            await reading.receive()

    async with asyncio.timeout(2), asyncio.TaskGroup() as group:
        group.create_task(read())
        await asyncio.sleep(0.01)
        await swarm.link.close()
    with pytest.raises(ChannelClosedError):
        await channel.receive()
