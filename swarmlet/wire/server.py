"""The node port: where other nodes reach this manager, over TLS and behind the gate."""

import asyncio
import logging
import resource
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from swarmlet.core.errors import SwarmError
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Clock
from swarmlet.model.address import Address
from swarmlet.wire.connection import Connection, HttpSettings
from swarmlet.wire.gate import Gate, GateLimits, address_of, listen
from swarmlet.wire.reception import API_BODY_SIZE_MAX_B, PortParts, Reception, tell_protocol
from swarmlet.wire.routes import RAFT, SNAPSHOT
from swarmlet.wire.tls import Trust, keep_connections_small, new_front

log = logging.getLogger("swarmlet.wire")

IDLE_TIMEOUT_S: Final = 30.0
"""Between two requests on one connection."""

SHUTDOWN_TIMEOUT_S: Final = 2.0
"""For requests under way when the port closes."""

LINE_SIZE_MAX_B: Final = 131_072  # the API's: filters that name hundreds of secrets
FIELD_SIZE_MAX_B: Final = 8190  # aiohttp's own

FILES_KEPT: Final = 500
"""Of the process's file descriptors: for its disk, its runtime and its own calls."""

REFUSED_MAX: Final = 100
"""Connections beyond the bound that still hear why they are refused."""

CERTIFICATE_PERIOD_S: Final = 1.0
"""How soon a connection ends after the certificate it was let in by, and one between members after
this manager has come to know better."""


class _NoGarbage(logging.Filter):
    """Drops aiohttp's tracebacks for bytes that are no HTTP: anybody could fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if record.exc_info else None
        return not isinstance(problem, (BadHttpMessage, web.RequestPayloadError))


_http_log = logging.getLogger("swarmlet.wire.http")
_http_log.addFilter(_NoGarbage())


def room_for_connections() -> int:
    """What the limit of open files leaves."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(files - FILES_KEPT, FILES_KEPT) if files != resource.RLIM_INFINITY else 1_000_000


class NodePort:
    """Component `run`. `opened` is set while the port listens; `addresses` say where, for a port
    that was asked for as 0."""

    def __init__(
        self,
        at: Address,
        trust: Trust,
        parts: PortParts,
        clock: Clock,
        limits: GateLimits | None = None,
    ) -> None:
        self._at, self._trust, self._clock = at, trust, clock
        self._gatekeeper = parts.gatekeeper
        self._limits = limits or GateLimits(connections=room_for_connections())
        self._reception = Reception(parts, trust, self._limits.connections - REFUSED_MAX)
        self._gate: Gate | None = None
        self.opened = asyncio.Event()
        self.addresses: tuple[Address, ...] = ()

    async def run(self) -> None:
        """Listen until cancelled, then close in order: what is under way has two seconds, sessions
        end at once. Raises FailedPreconditionError where the address cannot be listened on."""
        keep_connections_small()
        sockets = await listen(self._at)
        self.addresses = tuple(map(address_of, sockets))
        app = web.Application(client_max_size=API_BODY_SIZE_MAX_B)
        app.router.add_route("*", r"/{path:[\s\S]*}", self._reception.answer)
        app.on_response_prepare.append(tell_protocol)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        assert runner.server is not None, "set up just now"
        gate = self._gate = Gate(
            sockets, new_front(self._trust), _Welcome(runner.server), self._limits
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(gate.run(), name="gate")
                group.create_task(self._watch_certificates(gate), name="certificates")
                self.opened.set()
        finally:
            self._gate = None
            self.opened.clear()
            for connection in list(gate.connections):
                if connection.is_session():
                    connection.force_close()
            await runner.cleanup()

    def close_node(self, node_id: NodeID) -> None:
        """End all live connections of this node at once."""
        for connection in self._connections():
            if connection.belongs_to(node_id):
                connection.abort()

    def gauges(self) -> dict[str, float]:
        """Numbers for /metrics."""
        gate = self._gate
        if gate is None:
            return {}
        return {
            "swarmlet_port_connections": len(gate.connections),
            "swarmlet_port_unfinished_handshakes": gate.unfinished,
            "swarmlet_port_refused_total": gate.refused,
            "swarmlet_port_failed_handshakes_total": gate.failed,
        }

    async def _watch_certificates(self, gate: Gate) -> None:
        """TLS looks at dates once, if at all; a session lives on. The clock may jump, so it is
        asked again and again instead of reckoned with."""
        while True:
            await asyncio.sleep(CERTIFICATE_PERIOD_S)
            now_ms = self._clock.wall_ms()
            for connection in list(gate.connections):
                peer = connection.peer
                node_id = "" if peer is None else peer.node_id
                if connection.has_ended(now_ms):
                    log.info("port.certificate_ended", extra={"node_id": node_id})
                    connection.abort()
                elif cause := self._refusal(connection):
                    log.warning("port.member_refused", extra={"node_id": node_id, "cause": cause})
                    connection.abort()

    def _refusal(self, connection: Connection) -> str:
        """Why the peer of a connection between members would not be let in now. It may have been
        while this manager was behind, or knew no leader."""
        route = connection.route
        if route not in (RAFT, SNAPSHOT):
            return ""
        try:
            self._gatekeeper.admit(connection.peer, route)
        except SwarmError as refusal:
            return refusal.message
        return ""

    def _connections(self) -> list[Connection]:
        return [] if self._gate is None else list(self._gate.connections)


class _Welcome:
    """Makes the protocol of each connection."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def __call__(self, source: str, registry: dict[Connection, None]) -> Connection:
        settings = HttpSettings(
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT_S,
            lingering_time=SHUTDOWN_TIMEOUT_S,
            logger=_http_log,
            max_field_size=FIELD_SIZE_MAX_B,
            max_line_size=LINE_SIZE_MAX_B,
        )
        return Connection(self._server, source, registry, **settings)
