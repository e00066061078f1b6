"""A network of node ports in memory: what TLS and sockets do between nodes, on virtual time.

`MemoryNet` is the wire: hosts by name, who reaches whom, what is connected. `MemoryPort` is a
manager's node port on one of them, in front of any `PortService`. `MemoryLink` is a host's way to
ports: the `NodeLink` of its agent, its joins and its renewals.

As with TLS, each side verifies the other's chain by `ca.identity` against the root it trusts, a
server must be a manager, a shown certificate must come with its key, and the gatekeeper judges the
rest. As with sockets, a cut is noticed after three seconds, a process that ends closes at once, and
what was sent before an orderly close can still be read. Everything is encoded on the way.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from swarmlet.ca.identity import belongs_to, check_dates, verify_chain
from swarmlet.ca.keys import key_from_pem
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import ForbiddenError, SwarmError, UnauthorizedError, UnavailableError
from swarmlet.core.identity import Identity
from swarmlet.env.base import Clock
from swarmlet.wire.answers import until_ready
from swarmlet.wire.channel import (
    AgentChannel,
    ChannelClosedError,
    LogSink,
    MemoryChannel,
    MemoryStream,
    RaftChannel,
    StreamChannel,
    memory_channel,
    memory_stream,
)
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import (
    TaskStreamAsk,
    encode,
)
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    MemberGrant,
    MemberRequest,
    PortHello,
    SnapshotAnswer,
    SnapshotHead,
    UnlockKeyAnswer,
)
from swarmlet.wire.port import Gatekeeper, PortService
from swarmlet.wire.routes import (
    API,
    CERTIFICATE,
    HELLO,
    JOIN,
    LOGS,
    MEMBER_JOIN,
    MEMBER_LEAVE,
    RAFT,
    RENEW,
    ROOT,
    SESSION,
    SNAPSHOT,
    STREAM,
    TASK_STREAM,
    UNLOCK_KEY,
    PortRoute,
)
from tests.wire.memory_ends import Asked, End, Source
from tests.wire.memory_raft import FrameEnd

T = TypeVar("T")

CUT_NOTICED_S = 3.0  # TCP_USER_TIMEOUT of sessions
DIAL_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 15.0
MEMBER_TIMEOUT_S = 40.0
INSTALL_TIMEOUT_S = 120.0


class MemoryNet:
    """Hosts, by name. `may_reach` may be replaced by a test's own matrix (from, to), and
    `frame_delay_s`, which is asked for each frame between managers; their order stays. Who
    `is_frozen` takes up no connection."""

    def __init__(self, delay_s: float = 0.001) -> None:
        self.delay_s = delay_s
        self.may_reach: Callable[[str, str], bool] = lambda _from, _to: True
        self.frame_delay_s: Callable[[str, str], float] = lambda _from, _to: self.delay_s
        self.ports: dict[str, MemoryPort] = {}
        self.connections: dict[Connection, None] = {}
        self.is_frozen: Callable[[str], bool] = lambda _host: False
        self.dials: list[tuple[str, str, str]] = []  # (from, address, route), newest last
        self._cuts: dict[tuple[str, str], None] = {}

    def link(self, host: str, clock: Clock) -> "MemoryLink":
        return MemoryLink(self, host, clock)

    def reaches(self, one: str, other: str) -> bool:
        """Whether packets go from `one` to `other`."""
        if one == other:
            return True
        lost = ((one, other), (one, "*"), ("*", other))
        return not any(pair in self._cuts for pair in lost) and self.may_reach(one, other)

    def is_whole(self, one: str, other: str) -> bool:
        """Whether packets go both ways: TCP needs no less."""
        return self.reaches(one, other) and self.reaches(other, one)

    def cut(self, one: str, other: str = "*", *, both_ways: bool = True) -> None:
        """Lose every packet from `one` to `other`, or to and from everybody."""
        self._cuts[(one, other)] = None
        if both_ways:
            self._cuts[(other, one)] = None
        self.changed()

    def mend(self, one: str, other: str = "*") -> None:
        self._cuts.pop((one, other), None)
        self._cuts.pop((other, one), None)
        self.changed()

    def mend_all(self) -> None:
        self._cuts.clear()
        self.changed()

    def changed(self) -> None:
        """`may_reach` answers otherwise now."""
        for connection in list(self.connections):
            connection.look()

    def end_process(self, host: str) -> None:
        """The kernel closes what the process had open; others see it at once."""
        for connection in list(self.connections):
            if host in (connection.host, connection.port.host):
                connection.abort()

    async def dial(self, host: str, addr: str) -> "MemoryPort":
        port = self.ports.get(addr)
        await asyncio.sleep(self.delay_s)
        if port is not None and (not self.is_whole(host, port.host) or self.is_frozen(port.host)):
            await asyncio.sleep(DIAL_TIMEOUT_S)
            raise UnavailableError(f"{addr} does not answer.")
        if port is None:
            raise UnavailableError(f"Nobody listens at {addr}.")
        return port


class Connection:
    """What is open between a host and a port: a session, a log stream, a Raft channel, a snapshot
    on its way."""

    def __init__(self, net: MemoryNet, host: str, port: "MemoryPort", peer: Identity) -> None:
        self.host, self.port, self.peer, self._net = host, port, peer, net
        self.near: Any = None
        self.far: Any = None
        self.is_closed = self.is_lost = False
        self.ended = asyncio.Event()
        self.refusal: SwarmError | None = None
        self._changed = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        net.connections[self] = None

    def carry(self, ends: Iterable[MemoryChannel | MemoryStream]) -> None:
        """Until the certificate ends."""
        self.near, self.far = (End(self, end) for end in ends)
        ends_in_ms = max(0, self.peer.ends_ms - self.port.clock.wall_ms())
        self._later("certificate", ends_in_ms / 1000)

    def carry_frames(self) -> None:
        way = (self.host, self.port.host)
        self.near = FrameEnd(self, self.port.own.identity.node_id, way)
        self.far = FrameEnd(self, self.peer.node_id, way[::-1])
        self.near.other, self.far.other = self.far, self.near

    def close(self) -> None:
        """In order: what was sent can still be read."""
        if not self.is_closed:
            self.is_closed = True
            self.ended.set()
            self._net.connections.pop(self, None)
            self._shut(drops=False)
            self._changed.set()
            for timer in self._timers.values():
                timer.cancel()

    def abort(self) -> None:
        self.is_lost = self.is_lost or not self.is_closed
        self._shut(drops=True)
        self.close()

    def is_passable(self) -> bool:
        return self._net.is_whole(self.host, self.port.host)

    def delay_s(self, one: str, other: str) -> float:
        return self._net.frame_delay_s(one, other)

    def _shut(self, *, drops: bool) -> None:
        for end in (self.near, self.far):
            end.shut(drops=drops)

    def look(self) -> None:
        """The net has changed."""
        self._changed.set()
        self._changed = asyncio.Event()
        if self.is_passable():
            timer = self._timers.pop("cut", None)
            if timer is not None:
                timer.cancel()
        elif "cut" not in self._timers:
            self._later("cut", CUT_NOTICED_S)

    async def passable(self) -> None:
        while not self.is_closed and not self._net.is_whole(self.host, self.port.host):
            await self._changed.wait()

    def _later(self, name: str, delay_s: float) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, self.abort)


class MemoryPort:
    """A manager's node port. `run` serves until cancelled; `opened` says that it does."""

    def __init__(
        self,
        net: MemoryNet,
        *,
        host: str,
        addr: str,
        own: OwnIdentity,
        gatekeeper: Gatekeeper,
        service: PortService,
        clock: Clock,
    ) -> None:
        self.net, self.host, self.addr, self.own = net, host, addr, own
        self.gatekeeper, self.service, self.clock = gatekeeper, service, clock
        self.opened = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._context = contextvars.copy_context()

    async def run(self) -> None:
        self._context = contextvars.copy_context()
        try:
            async with asyncio.TaskGroup() as self._group:
                self.net.ports[self.addr] = self
                self.opened.set()
                await asyncio.Event().wait()
        finally:
            self._group = None
            self.net.ports.pop(self.addr, None)
            self.opened.clear()
            for connection in self.connections():
                connection.abort()

    def connections(self) -> "list[Connection]":
        return [one for one in self.net.connections if one.port is self]

    def close_node(self, node_id: str) -> None:
        """Abort all the node's live connections."""
        for connection in self.connections():
            if connection.peer.node_id == node_id:
                connection.abort()

    def identify(self, credentials: Credentials) -> Identity | None:
        """Who a caller is, by the certificate it shows."""
        if not credentials.chain_pem:
            return None
        _check_key(credentials)
        root_pem = self.own.credentials.root_pem
        return verify_chain(credentials.chain_pem, root_pem, self.clock.wall_ms())

    def spawn(self, work: Awaitable[T]) -> "asyncio.Task[T]":
        """A task of this host's, whoever calls. Raises UnavailableError where it has closed."""
        if self._group is None or self.net.ports.get(self.addr) is not self:
            work.close()  # type: ignore[attr-defined]
            raise UnavailableError("The connection was lost.")
        try:
            return self._group.create_task(work, context=self._context.copy())  # type: ignore[arg-type]
        except RuntimeError:  # its host is going down at this moment
            work.close()  # type: ignore[attr-defined]
            raise UnavailableError("The connection was lost.") from None

    async def call(self, work: Awaitable[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Serve one request; the end of this port is the end of it."""
        task = self.spawn(_caught(work))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait((task,))
        except TimeoutError:
            raise UnavailableError(f"{self.addr} did not answer in time.") from None
        finally:
            task.cancel()
        return _answer_of(task)


def _answer_of(task: "asyncio.Task[T | SwarmError]") -> T:
    if task.cancelled() or not isinstance(task.exception(), Exception | None):
        raise UnavailableError("The connection was lost.")  # the other host's power, perhaps
    answer = task.result()
    if isinstance(answer, SwarmError):
        raise answer
    return answer


async def _caught(work: Awaitable[T]) -> T | SwarmError:
    try:
        return await work
    except SwarmError as refusal:
        return refusal


class MemoryLink:
    """A host's way to ports."""

    def __init__(self, net: MemoryNet, host: str, clock: Clock) -> None:
        self._net, self._host, self._clock = net, host, clock

    async def hello(self, addr: str) -> PortHello:
        port = await self._dial(addr, HELLO)
        return _through(port.service.hello())

    async def root(self, addr: str) -> bytes:
        port = await self._dial(addr, ROOT)
        return port.service.root_pem()

    async def request_certificate(
        self, addr: str, request: CertificateRequest, credentials: Credentials
    ) -> CertificateTicket:
        body = _through(request)
        return await self._call(
            addr,
            JOIN if request.token else RENEW,
            credentials,
            lambda service, peer: service.request_certificate(
                body, None if body.token else peer, self._host
            ),
        )

    async def certificate_status(
        self, addr: str, node_id: str, credentials: Credentials
    ) -> CertificateStatus:
        return await self._call(
            addr,
            CERTIFICATE,
            credentials,
            lambda service, _: service.certificate_status(node_id, self._host),
        )

    async def open_session(self, addr: str, credentials: Credentials) -> AgentChannel:
        return await self._open(
            addr,
            SESSION,
            credentials,
            lambda service, one: service.serve_session(one.far, one.peer, self._host),
        )

    async def open_log_stream(
        self, addr: str, subscription: str, credentials: Credentials
    ) -> LogSink:
        return await self._open(
            addr,
            LOGS,
            credentials,
            lambda service, one: service.take_logs(Source(one.far), one.peer, subscription),
        )

    async def open_stream(
        self, addr: str, stream_id: str, credentials: Credentials
    ) -> StreamChannel:
        return await self._open(
            addr,
            STREAM,
            credentials,
            lambda service, one: service.take_stream(one.far, one.peer, stream_id),
        )

    async def open_task_stream(
        self, addr: str, ask: TaskStreamAsk, credentials: Credentials
    ) -> StreamChannel:
        asked = encode(ask)
        near = await self._open(
            addr,
            TASK_STREAM,
            credentials,
            lambda service, one: service.serve_task_stream(Asked(one.far, asked), one.peer),
        )
        try:
            await until_ready(near)
        except BaseException:
            near.close()
            raise
        return near

    async def open_raft(self, addr: str, credentials: Credentials) -> RaftChannel:
        return await self._open(
            addr, RAFT, credentials, lambda service, one: service.serve_raft(one.far, one.peer)
        )

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes], credentials: Credentials
    ) -> SnapshotAnswer:
        """What the receiver says before it has read all is the answer, as with HTTP."""
        port, connection = await self._connect(addr, SNAPSHOT, credentials)
        parts, body = connection.far.parts(), _through(head)
        taking = port.service.take_snapshot(body, parts, connection.peer)
        try:
            task = port.spawn(_caught(taking))
            task.add_done_callback(lambda _: connection.close())
            try:
                for part in (*filter(None, chunks), b""):
                    await connection.near.put(part)
            except ChannelClosedError:
                pass  # the answer says why, where there is one
            async with asyncio.timeout(INSTALL_TIMEOUT_S):
                await connection.ended.wait()
            is_lost = connection.is_lost
        except TimeoutError:
            raise UnavailableError(f"{addr} did not answer in time.") from None
        finally:
            connection.abort()
        if is_lost or not task.done() or not connection.is_passable():
            raise UnavailableError("The connection was lost.")
        return _through(_answer_of(task))

    async def join_members(
        self, addr: str, request: MemberRequest, credentials: Credentials
    ) -> MemberGrant:
        body = _through(request)
        return await self._call(
            addr,
            MEMBER_JOIN,
            credentials,
            lambda service, peer: service.join_members(body, peer, self._host),
        )

    async def leave_members(
        self, addr: str, request: MemberRequest, credentials: Credentials
    ) -> None:
        body = _through(request)
        await self._call(
            addr,
            MEMBER_LEAVE,
            credentials,
            lambda service, peer: service.leave_members(body, peer),
        )

    async def unlock_key(self, addr: str, credentials: Credentials) -> UnlockKeyAnswer:
        return await self._call(
            addr, UNLOCK_KEY, credentials, lambda service, peer: service.unlock_key(peer)
        )

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _dial(self, addr: str, route: PortRoute) -> MemoryPort:
        self._net.dials.append((self._host, addr, route.name))
        return await self._net.dial(self._host, addr)

    async def _enter(
        self, addr: str, route: PortRoute, credentials: Credentials
    ) -> tuple[MemoryPort, Identity | None]:
        port = await self._dial(addr, route)
        is_lax = route in (RENEW, CERTIFICATE, RAFT, SNAPSHOT) and bool(credentials.chain_pem)
        now_ms = None if is_lax else self._clock.wall_ms()
        _check_server(addr, port, credentials, now_ms)
        peer = port.identify(credentials)
        port.gatekeeper.admit(peer, route)
        return port, peer

    async def _call(
        self,
        addr: str,
        route: PortRoute,
        credentials: Credentials,
        act: Callable[[PortService, Identity | None], Awaitable[T]],
    ) -> T:
        port, peer = await self._enter(addr, route, credentials)
        leader = port.service.leader_addr() if route.needs_leader else None
        if leader is not None:
            port = await self._forwarded(port, leader, peer, route)
        timeout_s = MEMBER_TIMEOUT_S if route in (MEMBER_JOIN, MEMBER_LEAVE) else CALL_TIMEOUT_S
        answer = await port.call(act(port.service, peer), timeout_s)
        await asyncio.sleep(self._net.delay_s)
        if not self._net.is_whole(self._host, port.host):
            raise UnavailableError(f"{addr} did not answer in time.")
        return _through(answer)

    async def _forwarded(
        self, port: MemoryPort, leader: str, peer: Identity | None, route: PortRoute
    ) -> MemoryPort:
        """The leader's port, which has admitted both the forwarder and the caller."""
        far = await self._net.dial(port.host, leader)
        _check_server(leader, far, port.own.credentials, port.clock.wall_ms())
        forwarder = far.identify(port.own.credentials)
        far.gatekeeper.admit(forwarder, API)
        far.gatekeeper.admit(peer, route)
        if far.service.leader_addr() is not None:
            raise UnavailableError("The manager that was asked does not lead any more.")
        return far

    async def _connect(
        self, addr: str, route: PortRoute, credentials: Credentials
    ) -> tuple[MemoryPort, Connection]:
        port, peer = await self._enter(addr, route, credentials)
        if peer is None:
            raise ForbiddenError("A certificate is needed.")
        connection = Connection(self._net, self._host, port, peer)
        if route in (RAFT, SNAPSHOT):
            connection.carry_frames()
        elif route in (STREAM, TASK_STREAM):
            connection.carry(memory_stream())
        else:
            connection.carry(memory_channel())
        return port, connection

    async def _open(
        self,
        addr: str,
        route: PortRoute,
        credentials: Credentials,
        serve: Callable[[PortService, Connection], Awaitable[None]],
    ) -> Any:
        port, connection = await self._connect(addr, route, credentials)

        async def work() -> None:
            try:
                await serve(port.service, connection)
            except SwarmError as refusal:
                connection.refusal = refusal
            finally:
                connection.close()
                connection.near.used.set()

        port.spawn(work())
        async with asyncio.TaskGroup() as group:  # until it is used, or refused
            pair = (connection.near, connection.far)
            waits = [group.create_task(end.used.wait()) for end in pair]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        if connection.refusal is not None and not connection.far.used.is_set():
            raise connection.refusal
        return connection.near


def _through(body: T) -> T:
    """As it comes out at the other end of a wire."""
    return msgspec.json.decode(msgspec.json.encode(body), type=type(body))


def _check_server(
    addr: str, port: MemoryPort, credentials: Credentials, now_ms: int | None
) -> None:
    """What a client demands of who answers. Raises UnauthorizedError."""
    shown = port.own.credentials
    _check_key(shown)
    server = verify_chain(shown.chain_pem, credentials.root_pem, now_ms)
    if now_ms is not None:
        check_dates(server, now_ms)
    if server.role != "manager":
        raise UnauthorizedError(f"{addr} is no manager of this swarm.")


@lru_cache(maxsize=1024)
def _is_own(chain_pem: bytes, key_pem: bytes) -> bool:
    return belongs_to(chain_pem, key_from_pem(key_pem))


def _check_key(credentials: Credentials) -> None:
    """Nobody can show a certificate without its key."""
    if not _is_own(credentials.chain_pem, credentials.key_pem):
        raise UnauthorizedError("The certificate was shown without its key.")
