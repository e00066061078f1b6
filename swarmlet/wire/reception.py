"""What happens to each request on the node port: one way in for all routes.

Which route, which protocol, who calls (once a connection), whether the gatekeeper lets that one in;
then the leader answers: this manager, or the one it passes the call on to. Every refusal is a
`PortProblem`.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec
from aiohttp import web

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.identity import Identity
from swarmlet.wire.bodies import (
    check_length,
    read_body,
    read_snapshot_head,
    snapshot_chunks,
    too_large,
)
from swarmlet.wire.connection import Connection
from swarmlet.wire.forward import (
    FORWARDED_HEADER,
    PROBLEM_HEADER,
    PROTOCOL_HEADER,
    Forward,
    Origin,
    decode_origin,
    encode_problem,
    passed_on_once,
    problem_of,
)
from swarmlet.wire.messages import LOG_BATCH_MAX_B, PROTOCOL_VERSION
from swarmlet.wire.node_api import CertificateRequest, MemberRequest
from swarmlet.wire.port import Gatekeeper, PortService
from swarmlet.wire.raft_socket import RaftSocket
from swarmlet.wire.routes import (
    API,
    API_PREFIX,
    CERTIFICATE,
    HELLO,
    JOIN,
    LOGS,
    MANAGERS,
    MEMBER_JOIN,
    MEMBER_LEAVE,
    RAFT,
    RENEW,
    ROOT,
    ROUTES,
    SESSION,
    SNAPSHOT,
    STREAM,
    TASK_STREAM,
    UNLOCK_KEY,
    PortRoute,
)
from swarmlet.wire.stream_socket import MESSAGE_BOUND_B, StreamSocket
from swarmlet.wire.tls import Trust, verified_chain
from swarmlet.wire.upgrade import SessionUpgrade, Upgrade
from swarmlet.wire.websocket import WebSocketLogSource

log = logging.getLogger("swarmlet.wire")

API_BODY_SIZE_MAX_B: Final = 4 * 1024 * 1024
"""Of a call to the API, as on its own socket."""

NO_CONTENT: Final = 204

STRANGERS_MAX: Final = 0.75
"""Of all connections, as long as they are not known: nodes find room beyond that."""

SCARCE: Final = 0.5
"""Of all connections: beyond that nobody has more than its share."""

SHARE_MAX: Final = 0.25
"""Of all connections, for one node, or one address of strangers."""


class PortParts(msgspec.Struct, frozen=True, kw_only=True):
    """What stands behind a port. `identify` makes an identity of a verified chain (DER, leaf first)
    or raises UnauthorizedError; `api` answers a request, given its raw path in the API."""

    identify: Callable[[Sequence[bytes]], Identity]
    gatekeeper: Gatekeeper
    service: PortService
    api: Callable[[web.Request, str], Awaitable[web.StreamResponse]]
    forward: Forward


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, once admitted; `is_forwarded` where a manager speaks for it."""

    identity: Identity | None
    source: str
    is_forwarded: bool

    def node(self) -> Identity:
        """Raises UnauthorizedError for a caller without a certificate."""
        if self.identity is None:
            raise UnauthorizedError("This needs a node's certificate, and none was shown.")
        return self.identity


def find_route(method: str, raw_path: str) -> tuple[PortRoute, str]:
    """The route, and the part of the path that differs, decoded (of the API: raw, with its slash).
    Raises NotFoundError for anything that is not in the table."""
    for route, pattern in _PATTERNS:
        found = pattern.fullmatch(raw_path)
        if found is not None and route.method in (method, "*"):
            rest = found.group(1) if pattern.groups else ""
            return route, rest if route is API else unquote(rest)
    raise NotFoundError("route", f"{method} {raw_path[:100]}", "Compare the nodes' releases.")


def check_protocol(request: web.BaseRequest, route: PortRoute) -> None:
    """A hello tells anybody what is spoken here; all else needs to be understood. Raises
    FailedPreconditionError, InvalidArgumentError."""
    if route is HELLO:
        return
    text = request.headers.get(PROTOCOL_HEADER, "")
    if not re.fullmatch("[0-9]{1,6}", text):
        raise InvalidArgumentError(
            f"This port is for nodes of a swarm: the header {PROTOCOL_HEADER} is missing or wrong.",
            remedy="Join with `swarmlet join`; the API for people is on the daemon's own socket.",
        )
    if abs(int(text) - PROTOCOL_VERSION) > 1:
        raise FailedPreconditionError(
            f"This manager speaks protocol {PROTOCOL_VERSION}, the caller {text}: more than one "
            "apart is not understood.",
            remedy="Upgrade the older node; releases in between keep both reachable.",
        )


async def tell_protocol(_: web.Request, response: web.StreamResponse) -> None:
    """For every answer, whoever made it."""
    response.headers[PROTOCOL_HEADER] = str(PROTOCOL_VERSION)


class Reception:
    """`connections_max` bounds how many connections are served at once."""

    def __init__(self, parts: PortParts, trust: Trust, connections_max: int) -> None:
        self._parts, self._trust, self._connections_max = parts, trust, connections_max
        self._answers: dict[str, Callable[[web.Request, Caller, str], Awaitable[_Answer]]] = {
            HELLO.name: self._hello,
            ROOT.name: self._root,
            JOIN.name: self._join,
            RENEW.name: self._renew,
            CERTIFICATE.name: self._certificate,
            SESSION.name: self._session,
            LOGS.name: self._logs,
            STREAM.name: self._stream,
            API.name: self._api,
            RAFT.name: self._raft,
            SNAPSHOT.name: self._snapshot,
            MEMBER_JOIN.name: self._member_join,
            MEMBER_LEAVE.name: self._member_leave,
            TASK_STREAM.name: self._task_stream,
            UNLOCK_KEY.name: self._unlock_key,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request's answer; nothing is raised but what ends the connection."""
        connection = request.protocol
        assert isinstance(connection, Connection), "the port accepts no others"
        connection.has_spoken()
        try:
            response = await self._answer(request, connection)
        except SwarmError as error:
            response = _refusal(request, error)
        except web.HTTPRequestEntityTooLarge:
            response = _refusal(request, too_large(API_BODY_SIZE_MAX_B))
        except ConnectionError:
            connection.abort()  # the caller is gone: nobody reads what is said now
            return web.Response()
        except Exception:
            # One broken request must not end the daemon, and its traceback is not for callers.
            log.exception("port.request_failed", extra={"path": request.path[:200]})
            response = _refusal(request, SwarmError("internal error: see the daemon's log"))
        finally:
            is_admitted = connection.route is not None
            connection.route = connection.origin = None
        # Strangers hold no connections, and nobody does who is refused.
        if connection.peer is None or not is_admitted:
            connection.close()
            if not response.prepared:
                response.force_close()
        return response

    async def _answer(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        route, name = find_route(request.method, request.rel_url.raw_path)
        check_protocol(request, route)
        caller = self._admit(request, connection, route)
        connection.route, connection.origin = route, caller.identity
        leader = self._parts.service.leader_addr() if route.needs_leader else None
        if leader is not None:
            return await self._pass_on(leader, request, route, caller)
        return await self._answers[route.name](request, caller, name)

    def _admit(self, request: web.Request, connection: Connection, route: PortRoute) -> Caller:
        """Raises UnauthorizedError, ForbiddenError, UnavailableError, InvalidArgumentError."""
        peer = self._identified(connection)
        forwarded = request.headers.get(FORWARDED_HEADER)
        if forwarded is None:
            self._parts.gatekeeper.admit(peer, route)
            return Caller(identity=peer, source=connection.source, is_forwarded=False)
        if not route.needs_leader:
            raise InvalidArgumentError(f"`{route.name}` is not passed on.")
        if peer is None or peer.role != "manager":
            raise ForbiddenError("Only a manager passes on what others ask.")
        # Whoever speaks for others needs a certificate of now: an expired one may be a stolen one,
        # and would be renewed as anybody.
        forwarding = msgspec.structs.replace(route, roles=MANAGERS, allows_expired=False)
        self._parts.gatekeeper.admit(peer, forwarding)
        origin = decode_origin(forwarded)
        self._parts.gatekeeper.admit(origin.identity, route)
        return Caller(identity=origin.identity, source=origin.source, is_forwarded=True)

    def _identified(self, connection: Connection) -> Identity | None:
        """Whose connection it is, found out once."""
        if not connection.is_identified:
            transport = connection.transport
            tls = None if transport is None else transport.get_extra_info("ssl_object")
            if tls is None:
                raise ConnectionResetError("closed meanwhile")
            chain = verified_chain(tls)
            connection.peer = self._parts.identify(chain) if chain else None
            connection.is_identified = True
        self._check_room(connection)
        return connection.peer

    def _check_room(self, connection: Connection) -> None:
        part = 1.0 if connection.peer is not None else STRANGERS_MAX
        others, room = connection.others(), self._connections_max
        is_scarce = others > room * SCARCE
        if others > room * part or (is_scarce and connection.of_same_caller() > room * SHARE_MAX):
            raise UnavailableError(
                "This manager has no room for more connections.",
                remedy="Ask another manager, or raise the daemon's limit of open files.",
            )

    async def _pass_on(
        self, leader: str, request: web.Request, route: PortRoute, caller: Caller
    ) -> web.StreamResponse:
        if caller.is_forwarded:
            raise passed_on_once(leader)
        if route is not API:
            check_length(request)
        return await self._parts.forward(
            leader,
            request,
            request.rel_url.raw_path_qs,
            origin=Origin(identity=caller.identity, source=caller.source),
            credentials=self._trust.credentials,
        )

    async def _hello(self, _request: web.Request, _caller: Caller, _name: str) -> "_Answer":
        return _json(self._parts.service.hello())

    async def _root(self, _request: web.Request, _caller: Caller, _name: str) -> "_Answer":
        return _plain(self._parts.service.root_pem(), "application/x-pem-file")

    async def _join(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        """By the token alone: whoever has a certificate already is no other for it."""
        asked = await read_body(request, CertificateRequest)
        if not asked.token:
            raise InvalidArgumentError("A join needs a join token.")
        return _json(await self._parts.service.request_certificate(asked, None, caller.source))

    async def _renew(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        asked = await read_body(request, CertificateRequest)
        if asked.token:
            raise InvalidArgumentError(
                "A renewal has no join token: the certificate says who asks."
            )
        ticket = await self._parts.service.request_certificate(asked, caller.node(), caller.source)
        return _json(ticket)

    async def _certificate(self, _request: web.Request, caller: Caller, name: str) -> "_Answer":
        return _json(await self._parts.service.certificate_status(name, caller.source))

    async def _session(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        async with SessionUpgrade(request) as upgrade:
            service = self._parts.service
            await service.serve_session(upgrade, caller.node(), caller.source)
        return upgrade.response()

    async def _logs(self, request: web.Request, caller: Caller, name: str) -> "_Answer":
        async with SessionUpgrade(request, LOG_BATCH_MAX_B + 1, may_rest=True) as upgrade:
            source = WebSocketLogSource(upgrade)
            await self._parts.service.take_logs(source, caller.node(), name)
        return upgrade.response()

    async def _stream(self, request: web.Request, caller: Caller, name: str) -> "_Answer":
        async with Upgrade(request, MESSAGE_BOUND_B) as upgrade:
            channel = StreamSocket(opening=upgrade.websocket)
            await self._parts.service.take_stream(channel, caller.node(), name)
        return upgrade.response()

    async def _task_stream(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        async with Upgrade(request, MESSAGE_BOUND_B) as upgrade:
            channel = StreamSocket(opening=upgrade.websocket)
            await self._parts.service.serve_task_stream(channel, caller.node())
        return upgrade.response()

    async def _api(self, request: web.Request, _caller: Caller, path: str) -> "_Answer":
        return await self._parts.api(request, path)

    async def _raft(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        node = caller.node()
        async with Upgrade(request) as upgrade:
            channel = RaftSocket(node.node_id, opening=upgrade.websocket)
            await self._parts.service.serve_raft(channel, node)
        return upgrade.response()

    async def _snapshot(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        node, head = caller.node(), await read_snapshot_head(request)
        chunks = snapshot_chunks(request)
        return _json(await self._parts.service.take_snapshot(head, chunks, node))

    async def _member_join(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        node, asked = caller.node(), await read_body(request, MemberRequest)
        return _json(await self._parts.service.join_members(asked, node, caller.source))

    async def _member_leave(self, request: web.Request, caller: Caller, _name: str) -> "_Answer":
        node, asked = caller.node(), await read_body(request, MemberRequest)
        await self._parts.service.leave_members(asked, node)
        return web.Response(status=NO_CONTENT)

    async def _unlock_key(self, _request: web.Request, caller: Caller, _name: str) -> "_Answer":
        return _json(await self._parts.service.unlock_key(caller.node()))


_Answer = web.StreamResponse


def _pattern(route: PortRoute) -> re.Pattern[str]:
    if route is API:
        return re.compile(re.escape(API_PREFIX) + r"(/[\s\S]*)")
    before, brace, _ = route.path.partition("{")
    return re.compile(re.escape(before) + ("([^/]{1,200})" if brace else ""))


_PATTERNS: Final = tuple((route, _pattern(route)) for route in ROUTES)


def _json(value: msgspec.Struct) -> web.Response:
    return _plain(msgspec.json.encode(value), "application/json")


def _plain(body: bytes, content_type: str, status: int = 200) -> web.Response:
    return web.Response(body=body, content_type=content_type, status=status)


def _refusal(request: web.Request, error: SwarmError) -> web.StreamResponse:
    """Where an answer has begun already there is no other to give: the connection ends."""
    connection = request.protocol
    if request.writer.output_size:
        connection.force_close()
        return web.Response()
    problem = problem_of(error)
    response = _plain(msgspec.json.encode(problem), "application/json", error.http_status)
    response.headers[PROBLEM_HEADER] = encode_problem(problem)
    return response
