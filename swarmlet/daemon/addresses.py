"""Where this node listens and what it tells others: addresses as users give them."""

import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec

from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError
from swarmlet.core.limits import LISTEN_PORT
from swarmlet.env.base import Env
from swarmlet.model.address import Address, is_ip, parse_address, parse_host
from swarmlet.network.interfaces import ipv4_of, only_address, outgoing_address

LOOPBACK: Final = "127.0.0.1"
WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node is: it listens at an IP address; others are told `advertised`, whose host may be
    a name that they look up themselves. `data_path` is "" where none is given."""

    listen: Address
    advertised: Address
    data_path: str = ""


class Addresses(Protocol):
    """What a host knows of its own addresses; the simulation has its own."""

    def own(self, towards: Sequence[str] = ()) -> str:
        """The address this host would use towards these, or others in general; loopback where it
        has no way out. May wait for a name server."""
        ...

    def resolve(self, host: str) -> str:
        """An IP address as it is, an interface's name as its address, a host's name as the address
        it has now; may wait for a name server. Raises InvalidArgumentError where it is none."""
        ...

    def check_free(self, host: str, port: int) -> None:
        """Raises FailedPreconditionError where this address and port cannot be listened on."""
        ...


class HostAddresses:
    """The kernel's answers."""

    def own(self, towards: Sequence[str] = ()) -> str:
        return outgoing_address(towards) or only_address() or LOOPBACK

    def resolve(self, host: str) -> str:
        address = host if is_ip(host) else ipv4_of(host) or _looked_up(host)
        if not address:
            raise InvalidArgumentError(
                f"{host!r} is no IP address, no interface of this host that has one, and no host "
                "name that can be resolved",
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


async def choose_place(
    env: Env,
    addresses: Addresses,
    *,
    listen: str,
    advertise: str,
    data_path: str,
    towards: Sequence[str] = (),
) -> Place:
    """A node's place as its user describes it, with defaults: everywhere, port 2377, the address
    that hosts `towards` see of this one. Raises InvalidArgumentError."""

    def own() -> str:
        return addresses.own(towards)

    return await env.blocking(partial(_place, addresses, listen, advertise, data_path, own))


def _place(
    addresses: Addresses, listen: str, advertise: str, data_path: str, own: Callable[[], str]
) -> Place:
    given = parse_address(listen or WILDCARDS[0], "ListenAddr")
    at = Address(host=addresses.resolve(given.host), port=given.port)
    return Place(
        listen=at,
        advertised=_advertised(addresses, advertise, at, own),
        data_path=addresses.resolve(parse_host(data_path, "DataPathAddr")) if data_path else "",
    )


def _advertised(
    addresses: Addresses, text: str, listen: Address, own: Callable[[], str]
) -> Address:
    """What others are told: what the user said, else the listen address, else this host's own."""
    if text:
        chosen = parse_address(text, "AdvertiseAddr", listen.port)
        found = addresses.resolve(chosen.host)
        if found in WILDCARDS:
            raise InvalidArgumentError(
                f"the advertise address {chosen.host} is no address that others can call",
                remedy="Give one of this host's addresses; `ip addr` lists them.",
            )
        is_name = "." in chosen.host and not is_ip(chosen.host)  # an interface's has none
        return chosen if is_name else Address(host=found, port=chosen.port)
    host = own() if listen.host in WILDCARDS else listen.host
    return Address(host=host, port=listen.port)


def _looked_up(host: str) -> str:
    if not host.rpartition(".")[2][:1].isalpha():  # else 1.2.3 is an address: inet_aton(3)
        return ""
    try:
        found = socket.getaddrinfo(host, LISTEN_PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    return str(found[0][4][0])


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
