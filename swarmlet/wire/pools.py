"""Connections of the calling side: made with the credentials of the moment, and closed when others
have taken their place."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver

from swarmlet.core.errors import UnauthorizedError
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.keepalive import watched_socket
from swarmlet.wire.tls import client_context, unverified_context

DIAL_TIMEOUT_S: Final = 10.0  # TCP and TLS together, for each of a name's addresses
KEPT_TIMEOUT_S: Final = 10.0  # shorter than a port keeps an idle connection, so none is found dead
KEPT_MAX: Final = 100  # of one kind at once; whoever comes then waits

SAID_BY_BROWSERS: Final = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT)
"""Headers that tell a port nothing, and that it would keep as long as a session lasts."""

Check = Callable[[aiohttp.ClientResponse], Awaitable[None]]


class PoolKind(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls may share connections. `credentials` None: nobody is verified, nothing shown.
    `keeps`: a connection serves one call after the other, else each call has its own."""

    credentials: Credentials | None
    checks_dates: bool = True
    keeps: bool = False


class Pool:
    """A client with its connections. WebSockets live on in it after the call that opened them."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client, self.users = client, 0
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    def keep(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Until its connection is gone the pool stays open."""
        self._sockets.append(socket)

    async def is_used(self) -> bool:
        """Lets go of the WebSockets that have ended."""
        ended = [one for one in self._sockets if not _is_connected(one)]
        self._sockets = [one for one in self._sockets if one not in ended]
        for one in ended:
            await one.close()  # nothing is sent any more: aiohttp forgets the connection
        return bool(self.users or self._sockets)

    async def close(self) -> None:
        """What is still open ends."""
        await self.client.close()
        for one in self._sockets:
            await one.close()


class Pools:
    """All pools of a node. `check` sees the head of each answer; `resolver` replaces the host's."""

    def __init__(self, check: Check, resolver: AbstractResolver | None = None) -> None:
        self._check, self._resolver = check, resolver
        self._pools: dict[PoolKind, Pool] = {}
        self._retired: list[Pool] = []

    @asynccontextmanager
    async def pool(self, kind: PoolKind) -> AsyncIterator[Pool]:
        """Pools of other credentials retire: nothing new is opened in them, and they are closed
        once what they carry has ended. Raises UnauthorizedError where no TLS can be made of
        `kind`'s credentials."""
        if kind.credentials is not None:
            await self._retire_others(kind.credentials)
        pool = self._pools.get(kind) or self._opened(kind)
        pool.users += 1
        try:
            yield pool
        finally:
            pool.users -= 1

    async def close(self) -> None:
        """Everything, used or not."""
        pools = [*self._pools.values(), *self._retired]
        self._pools, self._retired = {}, []
        for pool in pools:
            await pool.close()

    async def _retire_others(self, credentials: Credentials) -> None:
        for kind in [*self._pools]:
            if kind.credentials not in (None, credentials):
                self._retired.append(self._pools.pop(kind))
        for pool in [*self._pools.values(), *self._retired]:
            if not await pool.is_used() and pool in self._retired:
                self._retired.remove(pool)
                await pool.close()

    def _opened(self, kind: PoolKind) -> Pool:
        connector = aiohttp.TCPConnector(
            ssl=_context(kind),
            resolver=self._resolver,
            limit=KEPT_MAX if kind.keeps else 0,
            force_close=not kind.keeps,
            keepalive_timeout=KEPT_TIMEOUT_S if kind.keeps else None,
            socket_factory=watched_socket if kind.keeps else None,
        )
        client = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=DIAL_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            raise_for_status=self._check,
            auto_decompress=False,
            skip_auto_headers=SAID_BY_BROWSERS,
        )
        self._pools[kind] = Pool(client)
        return self._pools[kind]


def _is_connected(socket: aiohttp.ClientWebSocketResponse) -> bool:
    return socket.get_extra_info("socket") is not None


def _context(kind: PoolKind) -> ssl.SSLContext:
    if kind.credentials is None:
        return unverified_context()
    try:
        return client_context(kind.credentials, checks_dates=kind.checks_dates)
    except ValueError as error:
        raise UnauthorizedError(
            str(error), remedy="Leave the swarm (`swarmlet leave --force`) and join again."
        ) from error
