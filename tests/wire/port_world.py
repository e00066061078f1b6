"""A node port on a real socket, with a small service behind it, and a raw client."""

import asyncio
import contextlib
import functools
import inspect
import socket
import ssl
import time
from types import SimpleNamespace

import msgspec
import pytest
import uvloop
from aiohttp import web

from swarmlet.ca.identity import identify
from swarmlet.ca.root import new_root
from swarmlet.core.errors import NotFoundError, NotLeaderError
from swarmlet.core.ids import NodeID
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.model.address import Address
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.client import TlsLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.forward import PROTOCOL_HEADER
from swarmlet.wire.gate import GateLimits
from swarmlet.wire.messages import StreamExit, StreamReady, StreamRefused
from swarmlet.wire.node_api import (
    CertificateStatus,
    CertificateTicket,
    MemberGrant,
    PortHello,
    SnapshotAnswer,
    UnlockKeyAnswer,
)
from swarmlet.wire.reception import PortParts
from swarmlet.wire.server import NodePort
from swarmlet.wire.tls import MANAGER_NAME, Trust, client_context
from tests.wire.identities import CLUSTER, SwarmCA

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
HOUR_MS = 3_600_000
HOUR_NS = 3_600 * 1_000_000_000
NOW_MS = int(time.time() * 1000)
OURS = SwarmCA(NOW_MS - 72 * HOUR_MS, 1)
OTHERS = SwarmCA(NOW_MS - 72 * HOUR_MS, 2)
MANAGER = OURS.credentials("m1", "manager")
WORKER = OURS.credentials("w1")
STRANGER = Credentials(root_pem=OURS.root_pem)
NODES = {"m1": "manager", "m2": "manager", "w1": "worker", "w2": "worker", "demoted": "worker"}
JOIN_BODY = b'{"csr":"x","token":"t"}'
RENEW_BODY = b'{"csr":"x"}'


def expired(node_id, role="worker"):
    return OURS.credentials(node_id, role, now_ms=NOW_MS - 48 * HOUR_MS, expiry_ns=HOUR_NS)


def not_begun(node_id, role="worker"):
    return OURS.credentials(node_id, role, now_ms=NOW_MS + 24 * HOUR_MS)


def other_cluster(node_id, role="worker"):
    """The same root signed it."""
    ca = SwarmCA(OURS.now_ms, 1, cluster_id="another")
    ca.root = OURS.root
    return ca.credentials(node_id, role)


def trusting_us(credentials):
    """Somebody else's certificate, of one who accepts our manager's."""
    return msgspec.structs.replace(credentials, root_pem=OURS.root_pem)


def self_signed():
    root = new_root(NOW_MS, SwarmCA(NOW_MS, 3).entropy)
    return Credentials(root_pem=OURS.root_pem, chain_pem=root.cert_pem, key_pem=root.key_pem)


def on_both_loops(test):
    """The test as one of asyncio's own loop and one of uvloop's."""
    given = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(test)
    def run(loop, **arguments):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**arguments))

    run.__signature__ = given.replace(parameters=[*given.parameters.values(), loop])
    return pytest.mark.parametrize("loop", LOOPS)(run)


class FakeClock:
    def __init__(self):
        self.ahead_ms = 0

    def mono_s(self):
        return time.monotonic()

    def wall_ms(self):
        return int(time.time() * 1000) + self.ahead_ms


class EchoService:
    """Sends back what a session says, and notes who called."""

    def __init__(self):
        self.calls, self.batches, self.chunks, self.leader = [], [], [], None
        self.reads_logs = asyncio.Event()
        self.reads_logs.set()
        self.streams = []

    def hello(self):
        return PortHello(protocol=1, node_id="m1", cluster_id=CLUSTER, now_ms=NOW_MS)

    def root_pem(self):
        return OURS.root_pem

    def leader_addr(self):
        return self.leader

    async def request_certificate(self, request, peer, source):
        self.calls.append(("request", peer and peer.node_id, source))
        return CertificateTicket(node_id="new" if peer is None else peer.node_id)

    async def certificate_status(self, node_id, source):
        self.calls.append(("status", node_id, source))
        return CertificateStatus(state=1, csr=node_id)

    async def serve_session(self, channel, peer, source):
        if peer.node_id == "w2":
            raise NotLeaderError("Another manager leads.", managers=("10.0.0.9:2377",))
        self.calls.append(("session", peer.node_id, source))
        with contextlib.suppress(ChannelClosedError):
            while True:
                await channel.send(await channel.receive())

    async def take_logs(self, source, peer, subscription):
        self.calls.append(("logs", peer.node_id, subscription))
        while True:
            await self.reads_logs.wait()
            batch = await source.receive()
            self.batches.append(batch)
            if batch.is_last:
                return

    async def take_stream(self, channel, peer, stream_id):
        """An echo, until it is told to end."""
        if stream_id == "unknown":
            raise NotFoundError("stream", stream_id)
        self.calls.append(("stream", peer.node_id, stream_id))
        self.streams.append(channel)
        with contextlib.suppress(ChannelClosedError):
            while not isinstance(frame := await channel.receive(), StreamExit):
                await channel.send(frame)
            await channel.send(frame)
            await channel.left()

    async def serve_task_stream(self, channel, peer):
        if self.leader is not None:
            raise NotLeaderError("Another manager leads.", managers=(self.leader,))
        ask = await channel.ask()
        self.calls.append(("task-stream", peer.node_id, ask))
        if ask.task_id == "unknown":
            await channel.send(StreamRefused(code="not-found", message="task unknown not found"))
            return
        await channel.send(StreamReady())
        await self.take_stream(channel, peer, ask.task_id)

    async def serve_raft(self, channel, peer):
        self.calls.append(("raft", peer.node_id, channel.node_id))
        async with asyncio.TaskGroup() as group:
            group.create_task(channel.write())
            with contextlib.suppress(ChannelClosedError):
                while channel.send(await channel.receive()):
                    pass
            channel.close()

    async def take_snapshot(self, head, chunks, peer):
        self.calls.append(("snapshot", peer.node_id, head))
        async for chunk in chunks:
            self.chunks.append(chunk)
        return SnapshotAnswer(index=len(self.chunks))

    async def join_members(self, request, peer, source):
        self.calls.append(("join-members", peer.node_id, source, request.addr))
        return MemberGrant(raft_id=7)

    async def leave_members(self, request, peer):
        self.calls.append(("leave-members", peer.node_id, request.raft_id))

    async def unlock_key(self, peer):
        self.calls.append(("unlock-key", peer.node_id))
        return UnlockKeyAnswer(key="c2VjcmV0", version=3)


async def echo_api(request, path):
    """Part by part, as it comes."""
    response = web.StreamResponse(headers={"Shown-Path": path})
    await response.prepare(request)
    async for part in request.content.iter_any():
        await response.write(part)
    await response.write_eof()
    return response


class World:
    """`nodes`: who is in the swarm, and as what."""

    def __init__(self, credentials=MANAGER, *, limits=None, host="127.0.0.1"):
        self.nodes = {node_id: SimpleNamespace(role=role) for node_id, role in NODES.items()}
        self.clock, self.service, self.link = FakeClock(), EchoService(), TlsLink()
        self.trust = Trust(credentials)
        store = SimpleNamespace(view=lambda: SimpleNamespace(nodes=self.nodes))
        parts = PortParts(
            identify=lambda chain: identify(chain, self.clock.wall_ms()),
            gatekeeper=StoreGatekeeper(store, CLUSTER, self.clock),
            service=self.service,
            api=echo_api,
            forward=self.link.forward,
        )
        limits = limits or GateLimits()
        self.port = NodePort(Address(host=host, port=0), self.trust, parts, self.clock, limits)

    @property
    def addr(self):
        return str(self.port.addresses[0])

    def remove(self, node_id):
        del self.nodes[node_id]
        self.port.close_node(NodeID(node_id))

    async def settled(self, **numbers):
        """Wait until the port's own numbers are these."""
        expected = {GAUGES[name]: number for name, number in numbers.items()}
        for _ in range(1000):
            if expected.items() <= self.port.gauges().items():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.port.gauges())


GAUGES = {
    "connections": "swarmlet_port_connections",
    "unfinished": "swarmlet_port_unfinished_handshakes",
    "refused": "swarmlet_port_refused_total",
}


@contextlib.asynccontextmanager
async def opened(*args, **options):
    world = World(*args, **options)
    running = asyncio.ensure_future(world.port.run())
    waiting = asyncio.ensure_future(world.port.opened.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
    try:
        yield world
    finally:
        await world.link.close()
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled(), running.exception()


async def connect(addr, credentials=STRANGER, *, context=None, source=None, name=MANAGER_NAME):
    """A TLS connection: reader and writer."""
    host, _, port = addr.rpartition(":")
    return await asyncio.open_connection(
        host.strip("[]"),
        int(port),
        ssl=context or client_context(credentials, checks_dates=False),
        server_hostname=name,
        local_addr=source and (source, 0),
    )


def head(method, path, body=b"", headers=()):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    given = {PROTOCOL_HEADER: "1", **dict(headers)}
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def read_answer(reader):
    """Status and body."""
    first = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in first.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return int(first.split()[1]), await reader.readexactly(length)


async def ask(addr, credentials, method="GET", path="/node/v1/hello", body=b"", **options):
    """Status and body, or (0, why) where TLS did not let us speak."""
    headers = options.pop("headers", ())
    try:
        async with asyncio.timeout(10):
            reader, writer = await connect(addr, credentials, **options)
            try:
                writer.write(head(method, path, body, headers) + body)
                return await read_answer(reader)
            finally:
                writer.transport.abort()
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError) as error:
        return 0, str(error).encode()


def code(body):
    return msgspec.json.decode(body)["code"]


async def until_closed(reader, limit_s=5.0):
    """Seconds until the other side closes; what it says until then does not count."""
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await reader.read(4096):
                pass
    return time.monotonic() - began


def raw_socket(addr, source="127.0.0.1"):
    host, _, port = addr.rpartition(":")
    client = socket.socket()
    client.setblocking(False)
    client.bind((source, 0))
    with contextlib.suppress(BlockingIOError):
        client.connect((host, int(port)))
    return client


async def raw(addr, data=b""):
    host, _, port = addr.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    return reader, writer
