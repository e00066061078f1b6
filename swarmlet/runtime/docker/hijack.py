"""A request whose connection becomes a stream of bytes both ways (Docker's attach and exec start).

By hand and not with aiohttp, which keeps a switched connection to itself: the answer is a head of a
few lines, and what follows it is the stream.
"""

import asyncio
from typing import Final

from aiohttp import ClientPayloadError

HEAD_SIZE_MAX_B: Final = 64 * 1024
BODY_SIZE_MAX_B: Final = 64 * 1024
SWITCHED: Final = 101
OK: Final = 200  # what an engine says that was not asked to switch, and does it
TCP_PORT: Final = 2375  # where a host names none


class Switched:
    """The connection once the engine has switched."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def close(self) -> None:
        self.writer.transport.abort()


class NotSwitchedError(Exception):
    """The engine answered something else."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


async def switch(socket_path: str, address: str, target: str, body: bytes) -> Switched:
    """POST `body` to `target` of the engine at `socket_path`, or else at `address` (host:port).
    Raises OSError, aiohttp's ClientPayloadError for what is no answer, NotSwitchedError."""
    if socket_path:
        reader, writer = await asyncio.open_unix_connection(socket_path, limit=HEAD_SIZE_MAX_B)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            host.strip("[]"), int(port or TCP_PORT), limit=HEAD_SIZE_MAX_B
        )
    switched = Switched(reader, writer)
    try:
        writer.write(_head(target, address or "docker", len(body)) + body)
        await writer.drain()
        await _read_answer(reader)
    except BaseException:
        switched.close()
        raise
    return switched


def _head(target: str, host: str, size_b: int) -> bytes:
    lines = (
        f"POST {target} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {size_b}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


async def _read_answer(reader: asyncio.StreamReader) -> None:
    status, size_b = _parse(await _read_head(reader))
    if status not in (SWITCHED, OK):
        body = await reader.read(min(size_b, BODY_SIZE_MAX_B))
        raise NotSwitchedError(status, body)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("the connection broke off") from None
    except asyncio.LimitOverrunError:
        raise ClientPayloadError(f"its answer is longer than {HEAD_SIZE_MAX_B} bytes") from None


def _parse(head: bytes) -> tuple[int, int]:
    """(status, size of the body that is known to follow)."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ClientPayloadError("what it answers is no HTTP")
    sizes = [
        value.strip()
        for name, _, value in (line.partition(":") for line in lines)
        if name.lower() == "content-length"
    ]
    return int(words[1]), int(sizes[0]) if sizes and sizes[0].isdecimal() else BODY_SIZE_MAX_B
