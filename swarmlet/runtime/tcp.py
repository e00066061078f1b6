"""Connections to ports of tasks, for every runtime that can reach them by an address."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.wire.keepalive import keep_small
from swarmlet.wire.messages import STREAM_DATA_MAX_B

CONNECT_TIMEOUT_S: Final = 5.0  # on this host: longer is a listener that takes nobody
LISTEN: Final = "0A"  # a socket's state in /proc/net/tcp
_FAMILIES: Final = ("tcp", "tcp6")


class TcpConnection:
    """One connection (base.Dialed). What `write` took is with the kernel when it returns."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        writer.transport.set_write_buffer_limits(high=0)
        connection = writer.get_extra_info("socket")
        if connection is not None:  # else it is closed already
            keep_small(connection)

    async def read(self) -> bytes:
        try:
            return await self._reader.read(STREAM_DATA_MAX_B)
        except OSError as error:
            raise _broken(error) from error

    async def write(self, data: bytes) -> None:
        try:
            if not self._writer.is_closing():  # uvloop raises RuntimeError of a closed one
                self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise _broken(error) from error

    async def end_input(self) -> None:
        with contextlib.suppress(OSError):
            if not self._writer.is_closing():  # else reading tells
                self._writer.write_eof()

    async def close(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _broken(error: OSError) -> RuntimeProblemError:
    reason = error.strerror or str(error) or "it was closed"
    return RuntimeProblemError(f"The connection to the task broke off: {reason}.")


async def connect(task_id: TaskID, addresses: Sequence[str], port: int) -> TcpConnection:
    """To the first address that takes it. Raises RuntimeProblemError."""
    reason = "it has no address"
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(address, port)
        except TimeoutError:
            reason = f"{address} did not answer within {CONNECT_TIMEOUT_S:.0f} s"
        except OSError as error:
            reason = f"{address}: {os.strerror(error.errno) if error.errno else error}"
        else:
            return TcpConnection(reader, writer)
    raise RuntimeProblemError(
        f"Port {port} of task {task_id} cannot be reached from its node ({reason}).",
        remedy="Look whether the task listens there: `swarmlet service logs`.",
    )


class Listener:
    """A socket of this host that listens: its address as a connection needs it, whose it is."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.address = _reachable(fields[1].partition(":")[0])
        self.uid, self.inode = int(fields[7]), fields[9]


def find_listeners(port: int) -> list[Listener]:
    """All that listen on this TCP port of the host, IPv4 first. Blocks: it reads /proc/net."""
    return [
        Listener(fields)
        for family in _FAMILIES
        for fields in _listening(family)
        if int(fields[1].rpartition(":")[2], 16) == port
    ]


def is_ours(listener: Listener) -> bool:
    """Whether this process has it: nobody is led to the daemon's own ports."""
    wanted, folder = f"socket:[{listener.inode}]", Path("/proc/self/fd")
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(folder / name) == wanted:
                return True
    return False


def _listening(family: str) -> list[list[str]]:
    """The kernel tells of those first."""
    found: list[list[str]] = []
    try:
        with Path("/proc/net", family).open() as file:
            next(file, "")
            for line in file:
                fields = line.split()
                if fields[3] != LISTEN:
                    break
                found.append(fields)
    except FileNotFoundError:  # a host without IPv6
        return []
    return found


def _reachable(text: str) -> str:
    """The kernel's hex of an address, word by word in the host's order; one that stands for all is
    reached by loopback."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    raw = b"".join(words)
    if len(raw) == 4:
        return ".".join(map(str, raw)) if any(raw) else "127.0.0.1"
    if not any(raw):
        return "::1"
    return ":".join(raw[at : at + 2].hex() for at in range(0, len(raw), 2))
