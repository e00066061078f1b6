"""How a node reaches the node port of a manager: `NodeLink` over TLS.

Verified calls demand that who answers is a manager of the swarm whose root `credentials` trust: its
certificate names swarm-manager, for the CA's calls swarm-ca. The name that was dialled plays no
part, so a manager may have any address.
"""

from typing import Final

import msgspec
from aiohttp import web

from swarmlet.wire.answers import check_leads
from swarmlet.wire.calls import Call, in_words, url_of
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.forward import Origin
from swarmlet.wire.manager_link import ManagerLink
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    PortHello,
)
from swarmlet.wire.pools import PoolKind
from swarmlet.wire.relay import ask_further, pass_back
from swarmlet.wire.routes import (
    CERTIFICATE,
    HELLO,
    JOIN,
    LOGS,
    RENEW,
    ROOT,
    SESSION,
    STREAM,
)
from swarmlet.wire.stream_socket import MESSAGE_BOUND_B as STREAM_BOUND_B
from swarmlet.wire.stream_socket import StreamSocket
from swarmlet.wire.websocket import WebSocketChannel

POLL_TIMEOUT_S: Final = 20.0  # the same where the port waits for the CA before it answers


class TlsLink(ManagerLink):
    """One per node, for all its rooms. `resolver` replaces the host's."""

    async def hello(self, addr: str) -> PortHello:
        return await self._ask(addr, Call(route=HELLO), PortHello)

    async def root(self, addr: str) -> bytes:
        return await self._answer(addr, Call(route=ROOT))

    async def request_certificate(
        self, addr: str, request: CertificateRequest, credentials: Credentials
    ) -> CertificateTicket:
        call = Call(
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
        call = Call(
            route=CERTIFICATE,
            name=node_id,
            credentials=credentials,
            checks_dates=not credentials.chain_pem,
            timeout_s=POLL_TIMEOUT_S,
        )
        return await self._ask(addr, call, CertificateStatus)

    async def open_session(self, addr: str, credentials: Credentials) -> WebSocketChannel:
        call = Call(route=SESSION, credentials=credentials)
        return WebSocketChannel(await self._open(addr, call))

    async def open_log_stream(
        self, addr: str, subscription: str, credentials: Credentials
    ) -> WebSocketChannel:
        call = Call(route=LOGS, name=subscription, credentials=credentials)
        return WebSocketChannel(await self._open(addr, call), may_rest=True)

    async def open_stream(
        self, addr: str, stream_id: str, credentials: Credentials
    ) -> StreamSocket:
        call = Call(route=STREAM, name=stream_id, credentials=credentials, bound_b=STREAM_BOUND_B)
        return StreamSocket(ws=await self._open(addr, call))

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
            async with in_words(addr):
                url = url_of(addr, path)
                answer = await ask_further(pool.client, url, request, origin=origin)
                check_leads(answer)
            return await pass_back(answer, request)
