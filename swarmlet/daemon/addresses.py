"""Where this node listens and what it tells others: addresses as users give them."""

import errno
import socket
from typing import Final, Protocol

from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError
from swarmlet.model.address import Address, is_ip
from swarmlet.network.interfaces import ipv4_of, outgoing_address

LOOPBACK: Final = "127.0.0.1"


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
        return outgoing_address() or LOOPBACK

    def resolve(self, host: str) -> str:
        address = host if is_ip(host) else ipv4_of(host)
        if not address:
            raise InvalidArgumentError(
                f"{host!r} is no IP address, and no interface of this host that has one",
                remedy="Give one of this host's addresses; `ip addr` lists them.",
            )
        return address

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
