"""Where this node listens and what it tells others: addresses as users give them."""

import errno
import fcntl
import socket
import struct
from typing import Final, Protocol

from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError
from swarmlet.model.address import Address, is_ip

LOOPBACK: Final = "127.0.0.1"
INTERFACE_LENGTH_MAX: Final = 15  # bytes; IFNAMSIZ less the final zero
_IFREQ: Final = "16s24x"
_SIOCGIFADDR: Final = 0x8915  # netdevice(7): an interface's IPv4 address
_IN_ADDR: Final = slice(20, 24)  # of struct ifreq: name, then family and port, then this
# Documentation prefixes (RFC 5737, RFC 3849): "connecting" a datagram socket sends nothing, it only
# asks the kernel which source address the default route has.
_PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class Addresses(Protocol):
    """What a host knows of its own addresses; the simulation has its own."""

    def own(self) -> str:
        """The address this host would use towards others; loopback where it has no way out."""
        ...

    def resolve(self, host: str) -> str:
        """An IP address as it is, an interface's name as its address.

        Raises InvalidArgumentError where it is neither: a host name may mean another host later.
        """
        ...

    def check_free(self, host: str, port: int) -> None:
        """Raises FailedPreconditionError where this address and port cannot be listened on."""
        ...


class HostAddresses:
    """The kernel's answers."""

    def own(self) -> str:
        for family, probe in _PROBES:
            with socket.socket(family, socket.SOCK_DGRAM) as asked:
                try:
                    asked.connect((probe, 9))
                except OSError:
                    continue
                return str(asked.getsockname()[0])
        return LOOPBACK

    def resolve(self, host: str) -> str:
        if is_ip(host):
            return host
        name = host.encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack(_IFREQ, name))
            except OSError:
                name = b""
        if not 0 < len(name) <= INTERFACE_LENGTH_MAX:
            raise InvalidArgumentError(
                f"{host!r} is no IP address, and no interface of this host that has one",
                remedy="Give one of this host's addresses; `ip addr` lists them.",
            )
        return socket.inet_ntoa(answer[_IN_ADDR])

    def check_free(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except socket.gaierror as error:
                raise InvalidArgumentError(
                    f"the listen address {host} cannot be resolved",
                    remedy="Give an IP of this host.",
                ) from error
            except OSError as error:
                raise _not_free(host, port, error) from error


def _not_free(host: str, port: int, error: OSError) -> FailedPreconditionError:
    where = Address(host=host, port=port)
    if error.errno == errno.EADDRINUSE:
        return FailedPreconditionError(
            f"the listen address {where} is already in use by another program",
            remedy="Choose another port with --listen-addr.",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return FailedPreconditionError(
            f"the listen address {host} does not belong to this host",
            remedy="Give an address of this host with --listen-addr, or leave it out.",
        )
    return FailedPreconditionError(
        f"cannot listen on {where}: {error.strerror}",
        remedy="Choose another address with --listen-addr.",
    )
