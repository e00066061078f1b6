"""TLS between nodes: contexts made of credentials, and the one context a listener keeps for ever
while what it stands for is replaced.

The server asks for a certificate and verifies the signatures of one that is given, not its dates:
an expired one may still renew (docs/adr/0003-expired-certificates-may-renew.md). Whoever turns a
verified chain into an identity judges the dates.
"""

import asyncio.sslproto
import os
import ssl
from collections.abc import Sequence
from typing import Any, Final

from swarmlet.core.ids import NodeID
from swarmlet.wire.credentials import Credentials

MANAGER_NAME: Final = "swarm-manager"
"""In the certificate of every manager: `server_hostname` of a call to one."""

CA_NAME: Final = "swarm-ca"
"""The same of the CA's calls."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; what 1.3 offers is all of that kind."""

NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME; Python's ssl has no name for it

BUFFER_SIZE_B: Final = 16 * 1024
"""For each connection on asyncio's own loop, instead of 256 KiB: a TLS record, and a fifth of the
memory a session costs (measured)."""


def client_context(credentials: Credentials, *, checks_dates: bool = True) -> ssl.SSLContext:
    """For calls to a manager of the swarm whose root is trusted; shows the node's certificate where
    there is one. The name dialled (`server_hostname`) has to be in the manager's certificate.

    Without `checks_dates` the manager's certificate may be expired: for a renewal alone. Raises
    ValueError where root, chain or key cannot be used.
    """
    context = _bare(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    return _filled(context, credentials, checks_dates=checks_dates)


def unverified_context() -> ssl.SSLContext:
    """For questions whose answers are checked by other means: nobody is verified, or shown."""
    context = _bare(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the node port: a certificate is verified if one is given, whatever its dates.

    No tickets: they cost a third of a handshake (measured). A connection of TLS 1.2 may still
    resume another by its number; it has no verified chain, so it is nobody's. Raises ValueError as
    `client_context` does.
    """
    context = _bare(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    return _filled(context, credentials, checks_dates=False)


class Trust:
    """The credentials of now, and what is made of them; a listener's `Front` asks at each
    connection."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials, self.server = credentials, server_context(credentials)

    def replace(self, credentials: Credentials) -> None:
        """From the next connection on, all at once. Raises ValueError, and nothing is changed."""
        server = server_context(credentials)
        self.credentials, self.server = credentials, server


class Front(ssl.SSLContext):
    """What a listener holds: each new connection is made by the trust's context of that moment.

    A context of its own, because no call takes a root out of one again; both loops call `wrap_bio`
    once for each connection.
    """

    trust: Trust

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self.trust.server.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def new_front(trust: Trust) -> Front:
    """The context to listen with."""
    front = Front(ssl.PROTOCOL_TLS_SERVER)
    front.trust = trust
    return front


def verified_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """The peer's certificates as DER, leaf first, root last, as they were verified; empty where
    none was shown."""
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return tuple(connection.get_verified_chain())
    inner: Any = connection._sslobj  # type: ignore[attr-defined]  # nothing public
    chain: Sequence[Any] | None = inner.get_verified_chain()
    return tuple(ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in chain or ())


def peer_name(connection: ssl.SSLObject) -> NodeID:
    """The node that the peer's verified certificate names. Raises ValueError where none is."""
    certificate: dict[str, Any] = connection.getpeercert() or {}
    for names in certificate.get("subject", ()):
        for kind, value in names:
            if kind == "commonName" and value:
                return NodeID(value)
    raise ValueError("the certificate names no node")


def keep_connections_small() -> None:
    """Bound the buffer of each TLS connection of asyncio's own loop; uvloop's are small."""
    if hasattr(asyncio.sslproto.SSLProtocol, "max_size"):
        asyncio.sslproto.SSLProtocol.max_size = BUFFER_SIZE_B


def _bare(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    return context


def _filled(
    context: ssl.SSLContext, credentials: Credentials, *, checks_dates: bool
) -> ssl.SSLContext:
    try:
        context.load_verify_locations(cadata=credentials.root_pem.decode("ascii"))
        if credentials.key_pem:
            _load_chain(context, credentials)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise ValueError("the node's certificate, key or root cannot be used for TLS") from error
    if not checks_dates:
        context.verify_flags |= NO_CHECK_TIME
    return context


def _load_chain(context: ssl.SSLContext, credentials: Credentials) -> None:
    """OpenSSL's wrapper reads files only: the key is shown to it in memory, never on a disk."""
    file = os.memfd_create("swarmlet-node", os.MFD_CLOEXEC)
    try:
        content = memoryview(credentials.key_pem + b"\n" + credentials.chain_pem)
        while content:
            content = content[os.write(file, content) :]
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
