"""What can go wrong between dialling a manager and reading its answer, as sentences for people."""

import os
import ssl
from typing import Final

import aiohttp

from swarmlet.core.errors import SwarmError, UnauthorizedError, UnavailableError
from swarmlet.wire.answers import StrangerError

# X509_V_ERR_* of OpenSSL, as `SSLCertVerificationError.verify_code` has them
NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
WRONG_NAME: Final = 62

CHECK_ADDRESS: Final = (
    "Check the address; managers listen on port 2377 unless they were told another."
)
CHECK_IPV6: Final = "Managers take IPv6 where they were told so: `--listen-addr [::]:2377`."
CHECK_CLOCKS: Final = "Compare the clocks of this host and of that manager's."
OTHER_MANAGER: Final = "Ask another manager, or try again in a moment."
REFUSED_BY_US: Final = (
    "This node may have been removed from its swarm: `swarmlet leave --force`, then join again."
)


def failure(addr: str, error: Exception) -> SwarmError:
    """Why a call to `addr` failed: UnauthorizedError where the other side is not the swarm's
    manager, or does not take this node for one of the swarm's; UnavailableError for the rest."""
    tls = _tls_error(error)
    if tls is not None:
        return _tls_failure(addr, tls)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unreached(addr, error)
    if isinstance(error, TimeoutError):
        return _silent(addr, is_connected=not isinstance(error, aiohttp.ConnectionTimeoutError))
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return _closed(addr)
    return no_manager(
        addr, str(error) if isinstance(error, StrangerError) else "what it answers is not HTTP"
    )


def no_manager(addr: str, why: str) -> UnavailableError:
    """Something else listens there."""
    return UnavailableError(
        f"What listens at {addr} is no swarmlet manager: {why}", remedy=CHECK_ADDRESS
    )


def _tls_error(error: Exception) -> ssl.SSLError | None:
    """What TLS itself said; aiohttp's wrappers of it say less."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, aiohttp.ClientError):
            return seen
        seen = seen.__cause__
    return None


def _untrusted(addr: str, error: ssl.SSLCertVerificationError) -> UnauthorizedError:
    if error.verify_code == EXPIRED:
        return UnauthorizedError(
            f"The certificate of the manager at {addr} has expired, by this host's clock",
            remedy=f"{CHECK_CLOCKS} A manager that runs renews its certificate by itself.",
        )
    if error.verify_code == NOT_YET_VALID:
        return UnauthorizedError(
            f"The certificate of the manager at {addr} is not valid yet, by this host's clock",
            remedy=CHECK_CLOCKS,
        )
    if error.verify_code == WRONG_NAME:
        return UnauthorizedError(
            f"What listens at {addr} belongs to this swarm, but is no manager",
            remedy="Give the address of a manager; `swarmlet node ls` on one of them lists them.",
        )
    return UnauthorizedError(
        f"What listens at {addr} does not belong to this swarm: its certificate was not signed by "
        "the swarm's root CA",
        remedy="Check the address, and that the token or certificate is of that manager's swarm.",
    )


def _tls_failure(addr: str, error: ssl.SSLError) -> SwarmError:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(addr, error)
    if "ALERT_PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return no_manager(addr, "it speaks no TLS of version 1.2 or newer")
    if "ALERT" in reason:
        return UnauthorizedError(
            f"The manager at {addr} does not accept this node's certificate",
            remedy=REFUSED_BY_US,
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _closed(addr)
    return no_manager(addr, "it does not speak TLS")


def _unreached(addr: str, error: aiohttp.ClientConnectorError) -> UnavailableError:
    why = error.os_error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UnavailableError(
            f"The host name in {addr} cannot be resolved",
            remedy="Check the name, or give the manager's IP address.",
        )
    if isinstance(why, ConnectionRefusedError):
        is_ipv6 = addr.startswith("[")
        return UnavailableError(
            f"Nothing listens at {addr}: the connection was refused",
            remedy=f"{CHECK_IPV6 if is_ipv6 else CHECK_ADDRESS} Is the daemon running there?",
        )
    if isinstance(why, ConnectionResetError):
        return _closed(addr)
    return UnavailableError(
        f"{addr} cannot be reached: {cause_of(why)}",
        remedy="Check the address, and this host's network.",
    )


def cause_of(why: OSError) -> str:
    """In the system's words. asyncio's own name Python's calls; where several addresses of a name
    failed, each in its way, there is no number."""
    return os.strerror(why.errno).lower() if why.errno else "none of its addresses answers"


def _closed(addr: str) -> UnavailableError:
    """Servers that refuse a certificate may say nothing either."""
    return UnavailableError(
        f"{addr} closed the connection without an answer: it is no manager, or stopping, or has "
        "too much to do, or does not take this node for one of its swarm",
        remedy=OTHER_MANAGER,
    )


def _silent(addr: str, *, is_connected: bool) -> UnavailableError:
    if is_connected:
        return UnavailableError(f"{addr} did not answer in time", remedy=OTHER_MANAGER)
    return UnavailableError(
        f"{addr} did not answer in time: no connection came about",
        remedy="Check the address, and that no firewall drops what is sent there.",
    )
