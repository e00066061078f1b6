"""Addresses in requests: where to listen, what to tell others, which pools to take subnets from."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import (
    ADDR_POOL,
    DATA_PATH_PORT_MAX,
    DATA_PATH_PORT_MIN,
    LISTEN_PORT,
    PORT_MAX,
    SUBNET_SIZE,
    SUBNET_SIZE_MAX,
    VXLAN_PORT,
)
from swarmlet.model.network import IPAMPool

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,251}[A-Za-z0-9])?")
HOST_LABEL_MAX: Final = 63  # characters between two dots of a host name (RFC 1035)
_PORT: Final = re.compile(r"[0-9]{1,5}")
_ADDRESSES_MIN: Final = 8  # the size of a /29, the smallest subnet a swarm cuts

_Network: TypeAlias = IPv4Network | IPv6Network


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """`host` is an IP address, a host name or the name of a network interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, field: str, port: int = LISTEN_PORT) -> Address:
    """`host`, `host:port`, `[ipv6]:port`, a bare IPv6 address; `port` stands where none is given.

    Raises InvalidArgumentError that names `field`, such as `invalid ListenAddr "": invalid empty
    address`.
    """
    if not text:
        raise _invalid(field, text, "invalid empty address")
    host, given = _split(text, field)
    if given is not None:
        if not _PORT.fullmatch(given) or not 0 < int(given) <= PORT_MAX:
            raise _invalid(field, text, f"the port must be 1 to {PORT_MAX}, not {given!r}")
        port = int(given)
    if not is_ip(host) and not _is_name(host):
        raise _invalid(field, text, f"{host!r} is no IP address, host name or interface")
    return Address(host=host, port=port)


def _split(text: str, field: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise _invalid(field, text, "an IPv6 address is written [address]:port")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:  # a bare IPv6 address has no port
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def is_ip(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_name(text: str) -> bool:
    """Whether it may name a host or an interface; resolvers choke on other lengths of a label."""
    labels = text.split(".")
    return bool(_HOST.fullmatch(text)) and all(0 < len(each) <= HOST_LABEL_MAX for each in labels)


def _invalid(field: str, text: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f'invalid {field} "{text[:300]}": {why}',
        remedy="Write an IP address or a name, of a host or an interface, with :port if need be.",
    )


def parse_host(text: str, field: str) -> str:
    """An IP address or an interface's name without a port (data path address)."""
    if not is_ip(text) and not _is_name(text):
        raise _invalid(field, text, "it is no IP address or interface")
    return text


def data_path_port(port: int) -> int:
    """The VXLAN port to use; 0 asks for the default."""
    if port == 0:
        return VXLAN_PORT
    if not DATA_PATH_PORT_MIN <= port <= DATA_PATH_PORT_MAX:
        raise InvalidArgumentError(
            f"invalid DataPathPort {port}: it must be 0 (for {VXLAN_PORT}) "
            f"or {DATA_PATH_PORT_MIN} to {DATA_PATH_PORT_MAX}"
        )
    return port


def address_pools(pools: Sequence[str], subnet_size: int) -> tuple[tuple[str, ...], int]:
    """The pools and the prefix length of the subnets cut from them, defaults filled in."""
    size = subnet_size or SUBNET_SIZE
    if not 0 < size <= SUBNET_SIZE_MAX:
        raise InvalidArgumentError(f"invalid SubnetSize {size}: it must be 1 to {SUBNET_SIZE_MAX}")
    networks = [_subnet(pool, "DefaultAddrPool") for pool in pools or (ADDR_POOL,)]
    for at, network in enumerate(networks):
        if network.prefixlen > size:
            raise InvalidArgumentError(
                f"invalid DefaultAddrPool: {network} is smaller than one subnet (/{size})"
            )
        for other in networks[:at]:
            if network.version == other.version and network.overlaps(other):
                raise InvalidArgumentError(
                    f"invalid DefaultAddrPool: {network} and {other} overlap"
                )
    return tuple(str(network) for network in networks), size


def ipam_pool(pool: IPAMPool) -> IPAMPool:
    """A subnet as users give it, its gateway (by default the first address) filled in."""
    subnet = _subnet(pool.subnet, "subnet")
    if subnet.num_addresses < _ADDRESSES_MIN:
        raise InvalidArgumentError(f"invalid subnet {subnet}: it is smaller than a /29")
    if pool.ip_range:
        inner = _subnet(pool.ip_range, "ip-range")
        if inner.version != subnet.version or inner.network_address not in subnet:
            raise InvalidArgumentError(f"invalid ip-range {inner}: it is not inside {subnet}")
    gateway = pool.gateway or str(subnet.network_address + 1)
    if not is_ip(gateway) or ip_address(gateway) not in subnet:
        raise InvalidArgumentError(f"invalid gateway {gateway}: it is no address of {subnet}")
    return msgspec.structs.replace(pool, subnet=str(subnet), gateway=gateway)


def _subnet(text: str, what: str) -> _Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgumentError(
            f"invalid {what}: invalid CIDR address: {text}", remedy="Write it as 10.0.9.0/24."
        ) from None
