"""A request's connection taken over for bytes both ways, as Docker's attach and exec start do.

For the routes of containers (`POST /containers/{id}/attach`, `POST /exec/{id}/start`) and streams
into tasks (`task_streams`), on this daemon's own socket. Not for what is answered over a manager's
port too: TLS has no half-close here.

Input ends with the client's half-close while output goes on. The stream belongs to the request's
task: it ends with its work, with its client, or with the server, whichever comes first.

The client speaks after the head of the answer, as Docker's clients do. Of bytes it sends before,
aiohttp's compiled parser drops some; what its other one keeps is the beginning of the input. A
client that half-closes before it has the head is taken for one that has left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from swarmlet.api.call import COMMON_HEADERS, Call
from swarmlet.api.streams import (
    RAW,
    SYSTEM_ERROR,
    frame,
    output_type,
    saying_problems,
    while_read,
)

if TYPE_CHECKING:
    from aiohttp._websocket.reader import WebSocketReader

CHUNK_SIZE_B: Final = 32_768
"""Most that one read gives, as Go's copies do; writes should be no larger."""

INPUT_BUFFER_B: Final = 65_536
"""Of input nobody has read: the client is made to wait at twice that, and one read of the loop."""

LINGER_S: Final = 1.0
"""For a client to close after the end of the output. A socket that is closed while input lies
unread in it is reset, and the client prints that as an error."""

Serve = Callable[["RawStream"], Awaitable[None]]


class RawStream(asyncio.Protocol):
    """The connection after the takeover: `read` and `write` are for the work, of one reader."""

    def __init__(self, transport: asyncio.Transport, former: web.RequestHandler) -> None:
        self._transport = transport
        self._former = former
        self._input = asyncio.StreamReader(limit=INPUT_BUFFER_B)
        self._input.set_transport(transport)
        self._has_room = asyncio.Event()
        if not former.writing_paused:
            self._has_room.set()

    async def read(self) -> bytes:
        """What came, at most CHUNK_SIZE_B; b"" when the client sends no more."""
        return await self._input.read(CHUNK_SIZE_B)

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises ConnectionResetError: the client is gone."""
        self._check()
        self._transport.write(data)
        await self._has_room.wait()
        self._check()

    async def finish(self) -> None:
        """Everything is sent, the client told that nothing follows, and what it still sends let
        go. Raises ConnectionResetError."""
        self._check()  # of a closed one uvloop takes no limits
        self._transport.set_write_buffer_limits(high=0)  # room is: all is sent
        await self._has_room.wait()
        self._check()
        if self._input.at_eof():
            return
        self._transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await self.read():
                    pass

    def _check(self) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client has left")

    def data_received(self, data: bytes) -> None:
        self._input.feed_data(data)

    def eof_received(self) -> bool:
        """Says that the connection stays open: output goes on."""
        self._input.feed_eof()
        return True

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._input.feed_eof()
        self._has_room.set()
        self._former.connection_lost(exc)  # the server counts its connections


class _Answered(web.StreamResponse):
    """Tells aiohttp that the answer is given, and that no request follows on this connection."""

    @property
    def keep_alive(self) -> bool:
        return False

    async def prepare(self, request: web.BaseRequest) -> None:
        """The head is sent already."""

    async def write_eof(self, data: bytes = b"") -> None:
        """So is all that was to be."""


class _Early:
    """In the place of a parser: gets what aiohttp has kept of the bytes behind the head."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The stream learns it from the connection."""


def _head(call: Call, kind: str) -> bytes:
    """Old ways of asking, without `Upgrade`, get the same stream behind another head."""
    if "Upgrade" in call.request.headers:
        first, more = "101 UPGRADED", {"Connection": "Upgrade", "Upgrade": "tcp"}
    else:
        first, more, kind = "200 OK", {}, RAW
    headers = {**COMMON_HEADERS, "Content-Type": kind, **more}
    lines = [f"HTTP/1.1 {first}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode()


def _take_over(call: Call, transport: asyncio.Transport, kind: str) -> RawStream:
    former, early = call.request.protocol, _Early()
    former.set_parser(cast("WebSocketReader", early))  # from now on nothing is parsed as HTTP
    stream = RawStream(transport, former)
    transport.set_protocol(stream)
    if early.data:
        stream.data_received(early.data)
    transport.write(_head(call, kind))
    return stream


async def hijack(call: Call, serve: Serve, *, is_tty: bool) -> web.StreamResponse:
    """Answer the request with a stream that `serve` reads and writes; its return ends the output
    and the connection. It is cancelled when the client has left (within GONE_CHECK_PERIOD_S) and
    when the server stops. Outputs other than a terminal's are to be written in frames.

    What can be refused has to be refused before: behind the head a problem is a line of the output.
    """
    await call.request.read()
    transport = call.request.transport
    if transport is None or transport.is_closing():
        return _Answered()  # the client did not wait
    stream = _take_over(call, transport, output_type(call, is_tty=is_tty))

    async def say(message: str) -> None:
        await stream.write(
            f"{message}\r\n".encode() if is_tty else frame(SYSTEM_ERROR, f"{message}\n".encode())
        )

    async def work() -> None:
        async with saying_problems(say):
            await serve(stream)
        with suppress(ConnectionError):
            await stream.finish()
            transport.close()

    try:
        await while_read(call, work())
    finally:
        transport.abort()  # who reads nothing is not waited for
    return _Answered()
