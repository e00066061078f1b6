"""The addresses of this host, as its kernel tells them. Nothing is sent, nothing waited for."""

import fcntl
import socket
import struct
from collections.abc import Sequence
from typing import Final

NAME_LENGTH_MAX: Final = 15  # bytes; IFNAMSIZ less the final zero
_IFREQ: Final = "16s24x"
_SIOCGIFADDR: Final = 0x8915  # netdevice(7): an interface's IPv4 address
_IN_ADDR: Final = slice(20, 24)  # of struct ifreq: name, then family and port, then this
# Documentation prefixes (RFC 5737, RFC 3849): "connecting" a datagram socket sends nothing, it only
# asks the kernel which source address the default route has.
_PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def interfaces() -> list[str]:
    """Their names, sorted."""
    return sorted(name for _, name in socket.if_nameindex())


def ipv4_of(interface: str) -> str:
    """An interface's first IPv4 address; "" where it has none, or there is no such interface."""
    name = interface.encode()
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack(_IFREQ, name))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[_IN_ADDR])


def outgoing_address(towards: Sequence[str] = ()) -> str:
    """The address this host uses towards the first of these hosts that it has a way to, else
    towards others in general; "" where it has no way out. A host's name may be looked up."""
    probes = [(family, host) for host in towards for family, _ in _PROBES]
    for family, probe in (*probes, *_PROBES):
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            try:
                asked.connect((probe, 9))
            except (OSError, UnicodeError):
                continue
            return str(asked.getsockname()[0])
    return ""


def only_address() -> str:
    """This host's IPv4 address where it has exactly one beside loopback's, else ""."""
    found = [ipv4_of(name) for name in interfaces()]
    others = [address for address in found if address and not address.startswith("127.")]
    return others[0] if len(others) == 1 else ""
