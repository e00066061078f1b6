"""The way into the node port: everybody may knock, and nobody who does costs more than a little.

Before a connection is known it holds one of few places, per address and in all, for seconds at
most: until it has sent something that looks like TLS, finished the handshake and sent a request's
head. An address whose places are taken waits for one of its own, as a socket and no more, so that a
hundred nodes of one host may come at once; who is too many even for that is turned away and tries
again. asyncio's own listener has no bound at all, and a minute's patience.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from swarmlet.core.errors import FailedPreconditionError
from swarmlet.model.address import Address
from swarmlet.wire.connection import Connection
from swarmlet.wire.tls import Front

log = logging.getLogger("swarmlet.wire")

BACKLOG: Final = 4096
DEFER_ACCEPT_S: Final = 3  # who never sends a byte is never accepted
PEEK_PERIOD_S: Final = 0.05
PAUSE_S: Final = 0.2  # without file descriptors or memory: the backlog holds the rest
TLS_SHUTDOWN_TIMEOUT_S: Final = 2.0
TLS_HANDSHAKE: Final = 22  # RFC 8446 §5.1: the record's type; its version follows, 3.x
TLS_VERSION: Final = 3
_PEEK_B: Final = 2


_Place = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Welcome = Callable[[str, dict[Connection, None]], Connection]


class GateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`unfinished` and `unfinished_per_source`: connections that have not sent a request yet;
    `waiting`: beyond those, sockets that wait for a place of their address."""

    handshake_s: float = 5.0
    first_request_s: float = 10.0
    accepts_per_turn: int = 8
    unfinished: int = 512
    unfinished_per_source: int = 128
    waiting: int = 1024
    connections: int = 1_000_000


class _Source:
    """One address: how many connections it has here, and its places."""

    def __init__(self, places: int) -> None:
        self.places, self.connections = asyncio.Semaphore(places), 0


class Gate:
    """Accepts connections on `sockets`; `welcome` makes the protocol for one from this address and
    among these others."""

    def __init__(
        self,
        sockets: list[socket.socket],
        front: Front,
        welcome: Welcome,
        limits: GateLimits,
    ) -> None:
        self._sockets, self._front, self._welcome = sockets, front, welcome
        self._limits = limits
        self._sources: dict[str, _Source] = {}
        self._arrived: dict[socket.socket, None] = {}  # whose task has not begun
        self._waiting = 0
        self.unfinished = 0
        self.connections: dict[Connection, None] = {}  # those that have finished the handshake
        self._is_short = False  # of file descriptors or memory, as far as was told
        self.refused = 0
        self.failed = 0

    async def run(self) -> None:
        """Until cancelled; then nothing is accepted any more, and who was not known is gone."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            try:
                for listener in self._sockets:
                    loop.add_reader(listener, self._accept, listener, group)
                await asyncio.Event().wait()
            finally:  # before the group ends, which takes nobody in any more
                for listener in self._sockets:
                    loop.remove_reader(listener)
                    listener.close()
                for accepted in self._arrived:
                    accepted.close()

    def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        """A few, then the loop breathes: the rest waits in the backlog."""
        for _ in range(self._limits.accepts_per_turn):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, group, error)
                return
            self._is_short = False
            source = plain_source(address[0])
            if self._is_full(source):
                self.refused += 1
                connection.close()
                continue
            connection.setblocking(False)
            self._count(source)
            self._arrived[connection] = None
            group.create_task(self._bring_in(connection, source))

    def _is_full(self, source: str) -> bool:
        known, limits = self._sources.get(source), self._limits
        if len(self.connections) >= limits.connections:
            return True
        if known is not None and known.connections >= limits.unfinished_per_source:
            return self._waiting >= limits.waiting
        return self.unfinished >= limits.unfinished

    def _count(self, source: str) -> None:
        known = self._sources.setdefault(source, _Source(self._limits.unfinished_per_source))
        known.connections += 1
        self._waiting += 1

    def _pause(self, listener: socket.socket, group: asyncio.TaskGroup, error: OSError) -> None:
        if not self._is_short:
            log.warning("port.accept_failed", extra={"error": str(error)})
        self._is_short = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        group.create_task(self._resume(listener, group))

    async def _resume(self, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        await asyncio.sleep(PAUSE_S)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, group)

    async def _bring_in(self, accepted: socket.socket, source: str) -> None:
        """From the first byte to the first request; afterwards the connection is its own owner."""
        known = self._sources[source]
        del self._arrived[accepted]
        try:
            await self._place(known, accepted)
            try:
                connection = await self._handshake(accepted, source)
                await self._first_request(connection)
            finally:
                self.unfinished -= 1
                known.places.release()
        except (OSError, TimeoutError):
            self.failed += 1
        except Exception:
            # One connection nobody thought of must not close the port to all others.
            log.exception("port.connection_failed")
            self.failed += 1
        finally:
            known.connections -= 1
            if not known.connections:
                del self._sources[source]

    async def _place(self, known: _Source, accepted: socket.socket) -> None:
        """One of the address's own. Raises TimeoutError, and ConnectionError where others came
        first to the last of all places."""
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                await known.places.acquire()
        except BaseException:
            accepted.close()
            raise
        finally:
            self._waiting -= 1
        if self.unfinished >= self._limits.unfinished:
            known.places.release()
            accepted.close()
            raise ConnectionError("no place is free")
        self.unfinished += 1

    async def _handshake(self, accepted: socket.socket, source: str) -> Connection:
        limits, loop = self._limits, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.handshake_s):
                await _look(accepted)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Made here, for uvloop's call answers with a protocol of its own.
            connection = self._welcome(source, self.connections)
            await loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._front,
                ssl_handshake_timeout=limits.handshake_s,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S,
            )
        except BaseException:
            accepted.close()
            raise
        return connection

    async def _first_request(self, connection: Connection) -> None:
        await asyncio.wait({connection.spoke}, timeout=self._limits.first_request_s)
        if not connection.spoke.done():
            connection.abort()
            raise TimeoutError


def plain_source(host: str) -> str:
    """An IPv4 address that came over an IPv6 socket is itself."""
    return host.removeprefix("::ffff:") if "." in host else host


async def listen(address: Address) -> list[socket.socket]:
    """Sockets for all that `address` stands for. Raises FailedPreconditionError."""
    remedy = "Name another address with --listen-addr, or stop what uses this one."
    sockets: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, place in found:
            sockets.append(_listener(family, place))
    except OSError as error:
        for each in sockets:
            each.close()
        cause = (error.strerror or str(error)).lower()
        raise FailedPreconditionError(
            f"The node port {address} cannot be opened: {cause}.", remedy
        ) from error
    return sockets


def address_of(listener: socket.socket) -> Address:
    """Where it listens."""
    name = listener.getsockname()
    return Address(host=name[0], port=name[1])


def _listener(family: int, place: _Place) -> socket.socket:
    """`[::]` takes IPv4 as well, as Docker's does."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place[0] != "::"))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_ACCEPT_S)
        listener.setblocking(False)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def _look(accepted: socket.socket) -> None:
    """Whether a TLS handshake begins here, before anything is made for it. Raises ConnectionError.
    The look takes nothing away, so readiness would not wait for more: it is repeated."""
    head = b""
    while len(head) < _PEEK_B:
        try:
            head = accepted.recv(_PEEK_B, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        else:
            if not head:
                raise ConnectionError("closed before it began")
        if len(head) < _PEEK_B:
            await asyncio.sleep(PEEK_PERIOD_S)
    if head[0] != TLS_HANDSHAKE or head[1] != TLS_VERSION:
        raise ConnectionError("not TLS")
