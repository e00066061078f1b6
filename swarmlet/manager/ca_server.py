"""The CA on the leader: nodes ask it for certificates, and it signs (behaviour of SwarmKit's
ca/server.go).

A request is taken down in its node's row, which is all that counts: an answer that got lost, a
leader that went away or a node that was restarted cost nothing, for the same request (its bytes)
always leads to the same row. A join makes the row, and counts a use of its token in the same
transaction; a renewal needs no token, for the certificate says who asks.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from swarmlet.ca.csr import public_key_of
from swarmlet.ca.unlock_key import answer_of, kek_of
from swarmlet.core.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    OutcomeUnknownError,
    StaleVersionError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
    node_removed,
)
from swarmlet.core.identity import Identity
from swarmlet.core.ids import NodeID, new_id
from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Env
from swarmlet.manager.ca_requests import (
    FINAL,
    TakenDown,
    Transaction,
    check_last,
    check_same_role,
    is_answered,
    join,
    node_of,
    renewal,
    status_of,
)
from swarmlet.manager.ca_signer import CertificateAuthority, CertificateSigner
from swarmlet.manager.join_grant import check_grant, find_grant
from swarmlet.manager.rate_limit import JoinLimits, RenewalLimits
from swarmlet.model.change import Event
from swarmlet.model.node import IssuanceState, Node
from swarmlet.model.validate import AVAILABILITIES
from swarmlet.model.view import View, cluster_of
from swarmlet.store.store import Store
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    UnlockKeyAnswer,
)

log = logging.getLogger("swarmlet.manager")

STATUS_WAIT_S: Final = 5.0  # for a signature, in one call; SwarmKit ca/certificates.go
WAITERS_MAX: Final = 5_000  # who waits for a status; more are answered at once
UNSURE_MAX: Final = 1_000  # joins whose outcome nobody knew, remembered
CSR_LENGTH_MAX: Final = 8_192  # characters of PEM; one for P-256 has about 400


class CertificateServer:
    """Component of the leader. Every verb raises NotLeaderError where it does not run."""

    name: Final = "certificate-server"

    def __init__(self, store: Store, env: Env, authority: CertificateAuthority) -> None:
        self._store, self._env = store, env
        self._signer = CertificateSigner(store, env, authority)
        self._joins, self._renewals = JoinLimits(), RenewalLimits()
        self._waiters: dict[str, asyncio.Event] = {}  # by node, for any change of its row
        self._waiting = 0
        self._unsure: dict[bytes, NodeID] = {}  # by request: a row that may come to be yet
        self._is_running = False

    async def run(self) -> None:
        """Sign whatever waits, until cancelled."""
        unsubscribe = self._store.subscribe(self._on_events)
        self._unsure.clear()  # a new leader knows all that came before it
        self._is_running = True
        try:
            await self._signer.run()
        finally:
            self._is_running = False
            unsubscribe()
            for waiter in self._waiters.values():
                waiter.set()
            self._waiters.clear()

    def is_at_rest(self) -> bool:
        """Whether nobody waits for a signature."""
        return not len(self._signer)

    def gauges(self) -> dict[str, float]:
        return {
            "swarmlet_ca_waiting": float(len(self._signer)),
            "swarmlet_ca_issued_total": float(self._signer.issued),
            "swarmlet_ca_failed_total": float(self._signer.failed),
        }

    async def request(
        self, request: CertificateRequest, peer: Identity | None, source: str
    ) -> CertificateTicket:
        """Take down a join (with a token) or a renewal (by the peer's certificate, which the
        gatekeeper has admitted). `source` is the node's own address.

        Raises InvalidArgumentError, UnauthorizedError, ForbiddenError, UnavailableError.
        """
        self._check_running()
        if not 0 < len(request.csr) <= CSR_LENGTH_MAX:
            raise InvalidArgumentError(
                "the certificate request is empty or too long",
                remedy="Let the node make a new request: restart its daemon.",
            )
        csr = request.csr.encode(errors="replace")
        try:
            if request.token:
                return await self._join(csr, request, source)
            if peer is not None:
                return await self._renew(csr, peer, source)
        except StaleVersionError as error:
            raise UnavailableError(
                "The node's row is written by others all the time; ask again."
            ) from error
        raise UnauthorizedError(
            "A certificate request needs a join token, or the node's present certificate.",
            remedy="Join with a token: `swarmlet join-token worker` on a manager prints one.",
        )

    async def status(self, node_id: str, source: str = "") -> CertificateStatus:
        """How far the node's certificate is; waits some seconds for the signature. Raises
        NotFoundError."""
        self._check_running()
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                while self._row(node_id).certificate.state not in FINAL:
                    if self._waiting >= WAITERS_MAX:
                        break
                    await self._row_changed(node_id)
                    self._check_running()
        except TimeoutError:
            log.debug("ca.status_not_final", extra={"node_id": node_id, "source": source})
        return status_of(self._row(node_id))

    def source_of(self, node_id: NodeID) -> "OwnSource":
        """The CA for the node in this very process."""
        return OwnSource(self, node_id)

    async def renew_own(self, csr: bytes, node_id: NodeID) -> CertificateTicket:
        """A renewal of the node in this very process: who asks is beyond doubt."""
        self._check_running()
        await self._store.update(lambda view: renewal(view, node_id, csr))
        return CertificateTicket(node_id=node_id)

    def root_pem(self) -> bytes:
        """The bundle that join tokens name by its digest."""
        return cluster_of(self._store.view()).root_ca.cert_pem

    def unlock_key(self) -> UnlockKeyAnswer:
        """What a manager is to be locked with."""
        return answer_of(kek_of(cluster_of(self._store.view())))

    def _check_running(self) -> None:
        if not self._is_running:
            raise NotLeaderError("This manager does not lead, so it has no say in certificates.")

    # Joining --------------------------------------------------------------------------------------
    async def _join(
        self, csr: bytes, request: CertificateRequest, source: str
    ) -> CertificateTicket:
        now_s = self._env.clock.mono_s()
        self._joins.begin(source, now_s)
        try:
            known = self._known(csr, request.token)
            if known is None:
                self._check_join(csr, request)
            elif known.certificate.state == IssuanceState.FAILED:
                find_grant(self._store.view(), request.token)
        except SwarmError as refusal:
            self._joins.failed(source, now_s)
            log.warning("ca.join_refused", extra={"source": source, "cause": refusal.message})
            raise
        if known is None or known.certificate.state == IssuanceState.FAILED:
            self._joins.succeeded(now_s)
            known = await self._take_down(csr, request, source)
        return CertificateTicket(node_id=known.id)

    def _known(self, csr: bytes, token: str) -> Node | None:
        """The node this very request was taken down for; whatever became of its token since, only
        the key's owner gains by the answer. Raises ForbiddenError for a token of another role."""
        view = self._store.view()
        node = node_of(view, csr)
        if node is not None:
            with suppress(InvalidArgumentError, UnauthorizedError):
                check_same_role(node, find_grant(view, token))
        return node

    def _check_join(self, csr: bytes, request: CertificateRequest) -> None:
        """The token first: it costs little, and strangers stop here."""
        check_grant(find_grant(self._store.view(), request.token), self._env.clock.wall_ms())
        if request.availability not in ("", *AVAILABILITIES):
            raise InvalidArgumentError(
                f"invalid availability: {request.availability!r}",
                remedy=f"It is one of {', '.join(AVAILABILITIES)}.",
            )
        public_key_of(csr)

    async def _take_down(self, csr: bytes, request: CertificateRequest, source: str) -> Node:
        """The row of the node that joins. The same request may be under way twice: it is looked at
        again, on all that is in flight."""
        joining: TakenDown | None = None
        node_id = self._unsure.pop(csr, None) or NodeID(new_id(self._env.entropy))
        now_ms = self._env.clock.wall_ms()

        def build(view: View) -> Transaction:
            nonlocal joining
            joining = join(view, request, node_id=node_id, csr=csr, now_ms=now_ms)
            return joining.changes, ()

        try:
            await self._store.update(build)
        except ConflictError:  # an entry given up for lost came late, with this very id
            await self._store.update(build)
        except OutcomeUnknownError:
            if len(self._unsure) < UNSURE_MAX:
                self._unsure[csr] = node_id
            raise
        assert joining is not None, "a committed transaction was built"
        row, token_id = joining.row, joining.token_id
        fields = {"node_id": row.id, "role": row.certificate.role, "source": source}
        log.info("ca.join", extra={**fields, "token_id": token_id})
        return row

    # Renewing -------------------------------------------------------------------------------------
    async def _renew(self, csr: bytes, peer: Identity, source: str) -> CertificateTicket:
        ticket = CertificateTicket(node_id=peer.node_id)
        node = self._store.view().nodes.get(peer.node_id)
        if node is None:
            raise node_removed(peer.node_id)
        if is_answered(node.certificate, csr, peer):
            return ticket
        now_ms = self._env.clock.wall_ms()
        is_expired = now_ms > peer.ends_ms
        self._renewals.take(peer.node_id, self._env.clock.mono_s(), is_expired=is_expired)
        if is_expired:
            fields = {"node_id": peer.node_id, "source": source}
            log.warning(
                "ca.expired_renewal",
                extra={**fields, "expired_s": (now_ms - peer.ends_ms) // MS_PER_S},
            )
            check_last(node, peer, now_ms)
        public_key_of(csr)
        await self._store.update(lambda view: renewal(view, peer.node_id, csr))
        return ticket

    # Waiting --------------------------------------------------------------------------------------
    def _row(self, node_id: str) -> Node:
        node = self._store.view().nodes.get(node_id)
        if node is None:
            raise NotFoundError(
                "node", node_id, remedy="It was removed, or never asked: join with a token."
            )
        return node

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.table is Node and (waiter := self._waiters.pop(event.id, None)) is not None:
                waiter.set()

    async def _row_changed(self, node_id: str) -> None:
        waiter = self._waiters.setdefault(node_id, asyncio.Event())
        self._waiting += 1
        try:
            await waiter.wait()
        finally:
            self._waiting -= 1


class OwnSource:
    """Implements `ca.source.CertificateSource` for the leader's own node."""

    def __init__(self, server: CertificateServer, node_id: NodeID) -> None:
        self._server, self._node_id = server, node_id

    async def request(self, csr_pem: bytes) -> str:
        ticket = await self._server.renew_own(csr_pem, self._node_id)
        return ticket.node_id

    async def status(self, node_id: str) -> CertificateStatus:
        return await self._server.status(node_id)

    async def root(self) -> bytes:
        return self._server.root_pem()

    async def unlock_key(self, credentials: Credentials) -> UnlockKeyAnswer:
        return self._server.unlock_key()
