"""One accepted connection of the node port: whose it is, and what it may still do."""

import asyncio
import logging
from typing import Final, TypedDict, Unpack

from aiohttp import web

from swarmlet.core.identity import Identity
from swarmlet.wire.routes import LOGS, RAFT, SESSION, STREAM, TASK_STREAM, PortRoute

HEAD_SIZE_MAX_B: Final = 160 * 1024
"""Of the first request: until it is whole nobody is known, and it must not cost memory."""

_HEAD_END: Final = b"\r\n\r\n"


class HttpSettings(TypedDict, total=False):
    """What aiohttp's protocol is told."""

    auto_decompress: bool
    keepalive_timeout: float
    lingering_time: float
    logger: logging.Logger
    max_field_size: int
    max_line_size: int


class Connection(web.RequestHandler):
    """aiohttp's own protocol, which serves one request after the other, and what we know besides.

    `peer` counts once `is_identified`; `route` and `origin` are those of the request under way.
    `spoke` is done with the first request's head, or the connection's end. While it lives it is in
    `registry`.
    """

    __slots__ = (
        "_registry",
        "_unread",
        "_unread_b",
        "is_identified",
        "origin",
        "peer",
        "route",
        "source",
        "spoke",
    )

    def __init__(
        self,
        server: web.Server,
        source: str,
        registry: "dict[Connection, None]",
        **settings: Unpack[HttpSettings],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=None, **settings)  # type: ignore[arg-type]
        self.source, self._registry = source, registry
        self.peer: Identity | None = None
        self.is_identified = False
        self.route: PortRoute | None = None
        self.origin: Identity | None = None
        self.spoke: asyncio.Future[None] = loop.create_future()
        self._unread, self._unread_b = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._registry[self] = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self.spoke.done():
            self._watch_head(data)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.has_spoken()
        self._registry.pop(self, None)
        super().connection_lost(exc)

    def has_spoken(self) -> None:
        if not self.spoke.done():
            self.spoke.set_result(None)

    def abort(self) -> None:
        """End it at once; nothing more is sent, and what it asked for is over."""
        if self.transport is not None:
            self.transport.abort()

    def others(self) -> int:
        """How many connections the port has."""
        return len(self._registry)

    def of_same_caller(self) -> int:
        """How many of them are of this node; without a certificate, of strangers at this
        address."""
        return sum(1 for other in self._registry if other.caller() == self.caller())

    def caller(self) -> tuple[str, str]:
        """Whose connection it is: a node, or whoever is at this address."""
        return ("", self.source) if self.peer is None else (self.peer.node_id, "")

    def belongs_to(self, node_id: str) -> bool:
        """Whether this node is its peer, or the one whose request it carries now."""
        return any(each is not None and each.node_id == node_id for each in self._identities())

    def is_session(self) -> bool:
        """Whether what is under way has no end of its own."""
        return self.route in (SESSION, LOGS, STREAM, TASK_STREAM, RAFT)

    def has_ended(self, now_ms: int) -> bool:
        """Whether a certificate that let in what is under way is over since. An idle connection
        may stay: each request is judged again."""
        if self.route is None or self.route.allows_expired:
            return False
        return any(each is not None and each.ends_ms < now_ms for each in self._identities())

    def _identities(self) -> tuple[Identity | None, Identity | None]:
        return self.peer, self.origin

    def _watch_head(self, data: bytes) -> None:
        self._unread_b += len(data)
        if _HEAD_END in self._unread + data:
            self.has_spoken()
        elif self._unread_b > HEAD_SIZE_MAX_B:
            self.abort()
        self._unread = (self._unread + data)[1 - len(_HEAD_END) :]
