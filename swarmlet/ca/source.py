"""Whom a node asks for its next certificate, the leader's CA in the process or over the wire, and
what it believes of the answer."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from swarmlet.ca.csr import new_csr
from swarmlet.ca.identity import belongs_to, verify_chain
from swarmlet.ca.key_file import NodeKeys
from swarmlet.ca.keys import key_from_pem
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import UnauthorizedError, UnavailableError
from swarmlet.core.identity import Identity
from swarmlet.model.node import IssuanceState
from swarmlet.wire.channel import NodeLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.node_api import CertificateRequest, CertificateStatus, UnlockKeyAnswer
from swarmlet.wire.remotes import Remotes

MANAGERS_ASKED: Final = 3  # in one call, before the caller is told that nobody answers

T = TypeVar("T")


class CertificateSource(Protocol):
    """The CA as a node sees it. Every call raises UnavailableError where it cannot be asked now,
    UnauthorizedError where one side does not accept the other's certificate, and the CA's own
    refusal."""

    async def request(self, csr_pem: bytes) -> str:
        """Ask for this node's next certificate; the id of the node it will be for. A request that
        the CA knows already counts once."""
        ...

    async def status(self, node_id: str) -> CertificateStatus:
        """May wait some seconds while the certificate is not signed yet."""
        ...

    async def root(self) -> bytes:
        """The root bundle, told by nobody who must be believed."""
        ...

    async def unlock_key(self, credentials: Credentials) -> UnlockKeyAnswer:
        """What the swarm's managers are locked with, told to who shows a manager's certificate."""
        ...


class RemoteAuthority:
    """The CA behind any manager's port. Each call tries another manager where one is away; who does
    not take this node for the swarm's, or is not taken for it, is asked less from then on."""

    def __init__(self, link: NodeLink, own: OwnIdentity, remotes: Remotes) -> None:
        self._link, self._own, self._remotes = link, own, remotes

    async def request(self, csr_pem: bytes) -> str:
        request = CertificateRequest(csr=csr_pem.decode())
        ticket = await self._ask(
            lambda addr: self._link.request_certificate(addr, request, self._own.credentials)
        )
        return ticket.node_id

    async def status(self, node_id: str) -> CertificateStatus:
        return await self._ask(
            lambda addr: self._link.certificate_status(addr, node_id, self._own.credentials)
        )

    async def root(self) -> bytes:
        return await self._ask(self._link.root)

    async def unlock_key(self, credentials: Credentials) -> UnlockKeyAnswer:
        return await self._ask(lambda addr: self._link.unlock_key(addr, credentials))

    async def _ask(self, call: Callable[[str], Awaitable[T]]) -> T:
        addr = ""
        for left in reversed(range(MANAGERS_ASKED)):
            addr = self._remotes.choose(avoid=addr).addr
            try:
                answer = await call(addr)
            except (UnavailableError, UnauthorizedError) as error:
                self._remotes.observe(addr, ok=False)
                if not left or isinstance(error, UnauthorizedError):
                    raise
            else:
                self._remotes.observe(addr, ok=True)
                return answer
        raise AssertionError("the last try answers or raises")


def csr_of(keys: NodeKeys) -> bytes:
    """The request for this key: always the same bytes, so that it can be told again."""
    return new_csr(key_from_pem(keys.tls_key_pem))


def is_issued(status: CertificateStatus) -> bool:
    return status.state in (IssuanceState.ISSUED, IssuanceState.ROTATE)


def holder_of(status: CertificateStatus, root_pem: bytes, keys: NodeKeys) -> Identity:
    """Who an issued certificate makes this node, whatever its dates: those only say whose clock is
    right. Raises UnauthorizedError where it leads to no root of the bundle, is for another key, or
    does not say the role it should."""
    chain_pem = status.chain.encode()
    identity = verify_chain(chain_pem, root_pem, None)
    if status.role and identity.role != status.role:
        raise UnauthorizedError(f"The new certificate does not say {status.role}.")
    if not belongs_to(chain_pem, key_from_pem(keys.tls_key_pem)):
        raise UnauthorizedError("The new certificate is for another key.")
    return identity
