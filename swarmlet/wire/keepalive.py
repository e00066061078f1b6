"""What the kernel does for a connection on which nothing moves: it notices a host that is gone, and
keeps little of what nobody reads."""

import select
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import AddrInfoType

KEEPALIVE_PERIOD_S: Final = 1
"""The kernel asks the other side this often while nothing is sent."""

UNANSWERED_MAX: Final = 4
"""The same packet, sent so often without an answer, is three seconds: the kernel doubles its pause,
of 0.2 s to begin with."""

KERNEL_BUFFER_B: Final = 64 * 1024
"""Each way, of a connection whose reader may rest; the kernel reserves twice as much. Left alone it
takes many MiB, which no limit of a process counts, and where it runs short every connection of the
host stalls. Between hosts 50 ms apart this lets 1.3 MB/s through."""

_AT_ONCE: Final = struct.pack("ii", 1, 0)  # struct linger
_TCP_INFO_BEGIN_B: Final = 8  # of struct tcp_info (linux/tcp.h)
_RETRANSMITS: Final = 2
_PROBES: Final = 3

SILENCE_TIMEOUT_S: Final = 3
"""What was sent, or asked, and is not acknowledged for so long ends the connection."""


def watch(connection: socket.socket) -> None:
    """Let the connection end with its other host."""
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_PERIOD_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_PERIOD_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE_TIMEOUT_S // KEEPALIVE_PERIOD_S),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_TIMEOUT_S * 1000),
    ):
        connection.setsockopt(level, option, value)


def watch_patiently(connection: socket.socket) -> None:
    """The same for a connection whose reader may rest for hours: what it does not read is no sign
    of a lost host. Where something was sent `is_lost` has to be asked."""
    watch(connection)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def keep_small(connection: socket.socket) -> None:
    """Bound what waits in the kernel, to be sent and to be read."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER_B)


def drop_unsent(connection: socket.socket) -> None:
    """Its close is to be a reset: what the other side has not read in time is of no use any more,
    and the kernel would offer it for minutes."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


def is_lost(connection: socket.socket, *, or_closed: bool) -> bool:
    """Whether the connection is broken, or what was sent on it is not acknowledged again and again;
    with `or_closed` whether the other side has closed it, also behind much that is not read."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP if or_closed else 0)  # the others come unasked
    if poll.poll(0):
        return True
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BEGIN_B)
    return max(info[_RETRANSMITS], info[_PROBES]) >= UNANSWERED_MAX


def watched_socket(address: "AddrInfoType") -> socket.socket:
    """One that is about to be connected there."""
    made = socket.socket(*address[:3])
    watch(made)
    return made
