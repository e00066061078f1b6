"""One call to a node port: its deadline, whom it trusts, and what goes wrong in words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from swarmlet.model.address import parse_address
from swarmlet.wire.answers import OWN_HEADERS, StrangerError, check_answer, read_answer
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.failures import failure
from swarmlet.wire.pools import DIAL_TIMEOUT_S, Pool, PoolKind, Pools
from swarmlet.wire.routes import CA_ROUTES, PortRoute
from swarmlet.wire.tls import CA_NAME, MANAGER_NAME
from swarmlet.wire.websocket import MESSAGE_BOUND_B, watch_connection

REQUEST_TIMEOUT_S: Final = 5.0  # from the connection to the whole answer

_T = TypeVar("_T")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is the part of the route's path that differs; without credentials nobody is
    verified."""

    route: PortRoute
    name: str = ""
    body: bytes = b""
    credentials: Credentials | None = None
    checks_dates: bool = True
    timeout_s: float = REQUEST_TIMEOUT_S
    bound_b: int = MESSAGE_BOUND_B  # of a message that comes on a WebSocket

    def path(self) -> str:
        before, brace, _ = self.route.path.partition("{")
        return before + quote(self.name, safe="") if brace else before

    def kind(self) -> PoolKind:
        return PoolKind(credentials=self.credentials, checks_dates=self.checks_dates)

    def server_name(self) -> str:
        return CA_NAME if self.route in CA_ROUTES else MANAGER_NAME


class Calls:
    """What all calls of a node share. `resolver` replaces the host's."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._pools = Pools(check_answer, resolver)

    async def close(self) -> None:
        """Ends what is still open; sessions too."""
        await self._pools.close()

    async def _ask(self, addr: str, call: Call, kind: type[_T]) -> _T:
        body = await self._answer(addr, call)
        try:
            return msgspec.json.decode(body, type=kind)
        except (ValueError, RecursionError) as error:
            raise failure(addr, StrangerError("its answer cannot be read")) from error

    async def _answer(self, addr: str, call: Call) -> bytes:
        async with (
            self._reached(addr, call) as pool,
            pool.client.request(
                call.route.method,
                url_of(addr, call.path()),
                server_hostname=call.server_name(),
                headers=OWN_HEADERS,
                data=call.body or None,
                allow_redirects=False,
            ) as answer,
        ):
            return await read_answer(answer)

    async def _open(self, addr: str, call: Call) -> aiohttp.ClientWebSocketResponse:
        async with self._reached(addr, call) as pool:
            ws = await pool.client.ws_connect(
                url_of(addr, call.path()),
                server_hostname=call.server_name(),
                headers=OWN_HEADERS,
                max_msg_size=call.bound_b,
            )
            pool.keep(ws)
            watch_connection(ws)
            return ws

    @asynccontextmanager
    async def _reached(self, addr: str, call: Call) -> AsyncIterator[Pool]:
        """For one call: its deadline, and what goes wrong in words."""
        deadline = asyncio.timeout(DIAL_TIMEOUT_S + call.timeout_s)
        async with self._pools.pool(call.kind()) as pool, in_words(addr), deadline:
            yield pool


@asynccontextmanager
async def in_words(addr: str) -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, StrangerError) as error:
        raise failure(addr, error) from error


def url_of(addr: str, path: str) -> URL:
    """`path` is sent as it is. Raises InvalidArgumentError where `addr` is none."""
    where = parse_address(addr, "manager address")
    return URL(f"https://{where}{path}", encoded=True)
