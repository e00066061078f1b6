"""How a node reaches the node port of a manager: `NodeLink` over TLS.

Verified calls demand that who answers is a manager of the swarm whose root `credentials` trust: its
certificate names swarm-manager, for the CA's calls swarm-ca. The name that was dialled plays no
part, so a manager may have any address.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.abc import AbstractResolver
from yarl import URL

from swarmlet.model.address import parse_address
from swarmlet.wire.answers import OWN_HEADERS, StrangerError, check_answer, read_answer
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.failures import failure
from swarmlet.wire.forward import Origin
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    PortHello,
)
from swarmlet.wire.pools import DIAL_TIMEOUT_S, Pool, PoolKind, Pools
from swarmlet.wire.relay import ask_further, pass_back
from swarmlet.wire.routes import (
    API,
    API_PREFIX,
    CA_ROUTES,
    CERTIFICATE,
    HELLO,
    JOIN,
    LOGS,
    RENEW,
    ROOT,
    SESSION,
    PortRoute,
)
from swarmlet.wire.tls import CA_NAME, MANAGER_NAME
from swarmlet.wire.websocket import MESSAGE_BOUND_B, WebSocketChannel, watch_connection

REQUEST_TIMEOUT_S: Final = 5.0  # from the connection to the whole answer
POLL_TIMEOUT_S: Final = 20.0  # the same where the port waits for the CA before it answers

_T = TypeVar("_T")


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is the part of the route's path that differs, `raw_path` all of it, quoted already;
    without credentials nobody is verified."""

    route: PortRoute
    name: str = ""
    raw_path: str = ""
    body: bytes = b""
    credentials: Credentials | None = None
    checks_dates: bool = True
    timeout_s: float = REQUEST_TIMEOUT_S

    def path(self) -> str:
        if self.raw_path:
            return self.raw_path
        before, brace, _ = self.route.path.partition("{")
        return before + quote(self.name, safe="") if brace else before

    def kind(self) -> PoolKind:
        return PoolKind(credentials=self.credentials, checks_dates=self.checks_dates)

    def server_name(self) -> str:
        return CA_NAME if self.route in CA_ROUTES else MANAGER_NAME


class TlsLink:
    """One per node, for all its rooms. `resolver` replaces the host's."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._pools = Pools(check_answer, resolver)

    async def hello(self, addr: str) -> PortHello:
        return await self._ask(addr, _Call(route=HELLO), PortHello)

    async def root(self, addr: str) -> bytes:
        async with self._reached(addr, _Call(route=ROOT)) as pool:
            return await _answer(pool, addr, _Call(route=ROOT))

    async def request_certificate(
        self, addr: str, request: CertificateRequest, credentials: Credentials
    ) -> CertificateTicket:
        call = _Call(
            route=JOIN if request.token else RENEW,
            credentials=credentials,
            body=msgspec.json.encode(request),
            checks_dates=bool(request.token),
        )
        return await self._ask(addr, call, CertificateTicket)

    async def certificate_status(
        self, addr: str, node_id: str, credentials: Credentials
    ) -> CertificateStatus:
        """A node that has a certificate renews it, so the manager's may be expired here too."""
        call = _Call(
            route=CERTIFICATE,
            name=node_id,
            credentials=credentials,
            checks_dates=not credentials.chain_pem,
            timeout_s=POLL_TIMEOUT_S,
        )
        return await self._ask(addr, call, CertificateStatus)

    async def open_session(self, addr: str, credentials: Credentials) -> WebSocketChannel:
        return await self._open(addr, _Call(route=SESSION, credentials=credentials))

    async def open_log_stream(
        self, addr: str, subscription: str, credentials: Credentials
    ) -> WebSocketChannel:
        call = _Call(route=LOGS, name=subscription, credentials=credentials)
        return await self._open(addr, call)

    async def forward(
        self,
        addr: str,
        request: web.BaseRequest,
        path: str,
        *,
        origin: Origin | None,
        credentials: Credentials,
    ) -> web.StreamResponse:
        """`wire.forward.Forward`. Where a renewal is passed on, the other manager's certificate may
        be expired as it may be for the node that asks."""
        is_lax = path.startswith((RENEW.path, CERTIFICATE.path.partition("{")[0]))
        kind = PoolKind(credentials=credentials, checks_dates=not is_lax, keeps=True)
        async with self._pools.pool(kind) as pool:
            async with _in_words(addr):
                url = _url(addr, path)
                answer = await ask_further(pool.client, url, request, origin=origin)
            return await pass_back(answer, request)

    async def read_api(self, addr: str, path: str, credentials: Credentials) -> bytes:
        """The body of the API's answer to a GET of this node's own; `path` is raw."""
        route = msgspec.structs.replace(API, method="GET")
        call = _Call(route=route, raw_path=API_PREFIX + path, credentials=credentials)
        async with self._reached(addr, call) as pool:
            return await _answer(pool, addr, call)

    async def close(self) -> None:
        """Ends what is still open; sessions too."""
        await self._pools.close()

    async def _ask(self, addr: str, call: _Call, kind: type[_T]) -> _T:
        async with self._reached(addr, call) as pool:
            body = await _answer(pool, addr, call)
            try:
                return msgspec.json.decode(body, type=kind)
            except (ValueError, RecursionError) as error:
                raise StrangerError("its answer cannot be read") from error

    async def _open(self, addr: str, call: _Call) -> WebSocketChannel:
        async with self._reached(addr, call) as pool:
            ws = await pool.client.ws_connect(
                _url(addr, call.path()),
                server_hostname=call.server_name(),
                headers=OWN_HEADERS,
                max_msg_size=MESSAGE_BOUND_B,
            )
            pool.keep(ws)
            watch_connection(ws)
            return WebSocketChannel(ws)

    @asynccontextmanager
    async def _reached(self, addr: str, call: _Call) -> AsyncIterator[Pool]:
        """For one call: its deadline, and what goes wrong in words."""
        deadline = asyncio.timeout(DIAL_TIMEOUT_S + call.timeout_s)
        async with self._pools.pool(call.kind()) as pool, _in_words(addr), deadline:
            yield pool


@asynccontextmanager
async def _in_words(addr: str) -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, StrangerError) as error:
        raise failure(addr, error) from error


async def _answer(pool: Pool, addr: str, call: _Call) -> bytes:
    async with pool.client.request(
        call.route.method,
        _url(addr, call.path()),
        server_hostname=call.server_name(),
        headers=OWN_HEADERS,
        data=call.body or None,
        allow_redirects=False,
    ) as answer:
        return await read_answer(answer)


def _url(addr: str, path: str) -> URL:
    """`path` is sent as it is. Raises InvalidArgumentError where `addr` is none."""
    where = parse_address(addr, "manager address")
    return URL(f"https://{where}{path}", encoded=True)
