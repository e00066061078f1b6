"""The kernel notices a host that is gone, where the program has nothing to send or waits."""

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import AddrInfoType

KEEPALIVE_PERIOD_S: Final = 1
"""The kernel asks the other side this often while nothing is sent."""

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


def watched_socket(address: "AddrInfoType") -> socket.socket:
    """One that is about to be connected there."""
    made = socket.socket(*address[:3])
    watch(made)
    return made
