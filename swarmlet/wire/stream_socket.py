"""Streams into tasks over a WebSocket: both ends, one frame a message.

Whoever reads holds back whoever writes, for as long as it likes: what nobody asked for stays in the
buffers of the two sockets, which are kept small. An end that waits to be read hears nothing: so
that the other side is gone is looked for besides (`left`).
"""

import asyncio
import logging
from typing import Final

from aiohttp import ClientError, WSMsgType

from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.keepalive import drop_unsent, is_lost
from swarmlet.wire.messages import (
    STREAM_MESSAGE_MAX_B,
    StreamFrame,
    TaskStreamAsk,
    decode_frame,
    decode_stream_ask,
    encode,
)
from swarmlet.wire.raft_socket import Opening
from swarmlet.wire.websocket import (
    CLOSE_TIMEOUT_S,
    PROBLEM_LENGTH_MAX,
    WebSocket,
    let_rest,
    receive_when_asked,
    transport_of,
)

log = logging.getLogger("swarmlet.wire")

MESSAGE_BOUND_B: Final = STREAM_MESSAGE_MAX_B + 1  # as aiohttp counts
LEFT_CHECK_PERIOD_S: Final = 0.5


class StreamSocket:
    """Implements `AskedStream` on a WebSocket that is open, or that `opening` gives, the same one
    each time; it is asked when something is to be read or written, not before. A message that is no
    frame ends the stream, as a lost connection does."""

    def __init__(self, *, ws: WebSocket | None = None, opening: Opening | None = None) -> None:
        self._ws, self._opening = ws, opening
        self._is_closed = self._is_over = False
        if ws is not None:
            let_rest(ws)

    async def send(self, frame: StreamFrame) -> None:
        await self.send_bytes(encode(frame))

    async def send_bytes(self, message: bytes) -> None:
        """An ask, or a frame. Raises ChannelClosedError."""
        assert len(message) <= STREAM_MESSAGE_MAX_B, f"a frame of {len(message)} bytes"
        ws = await self._opened()
        try:
            await ws.send_bytes(message)
        except (OSError, ClientError) as error:
            raise ChannelClosedError from error

    async def receive(self) -> StreamFrame:
        raw = await self._receive()
        try:
            frame: StreamFrame = decode_frame(raw)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from error
        return frame

    async def ask(self) -> TaskStreamAsk:
        raw = await self._receive()
        try:
            ask: TaskStreamAsk = decode_stream_ask(raw)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from error
        return ask

    async def left(self, *, or_closed: bool = True) -> None:
        ws = await self._opened()
        while not self._is_closed and not _has_left(ws, or_closed=or_closed):  # noqa: ASYNC110
            await asyncio.sleep(LEFT_CHECK_PERIOD_S)

    def close(self) -> None:
        self._is_closed = True
        transport = None if self._ws is None else transport_of(self._ws)
        if transport is not None and not transport.is_closing():
            transport.close()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, _reset, transport)

    async def _receive(self) -> bytes:
        if self._is_over:
            raise ChannelClosedError
        ws = await self._opened()
        message = await receive_when_asked(ws)
        if message.type is not WSMsgType.BINARY:  # its end, or what nobody sends
            self._is_over = True
            self.close()
            raise ChannelClosedError
        data: bytes = message.data
        return data

    def _unreadable(self, error: Exception) -> ChannelClosedError:
        log.warning("wire.message_unreadable", extra={"error": str(error)[:PROBLEM_LENGTH_MAX]})
        self._is_over = True
        self.close()
        return ChannelClosedError()

    async def _opened(self) -> WebSocket:
        if self._is_closed:
            raise ChannelClosedError
        if self._ws is None:
            assert self._opening is not None, "open, or to be opened"
            self._ws = await self._opening()
            let_rest(self._ws)
        return self._ws


def _reset(transport: asyncio.Transport) -> None:
    """Let the other side see the end, also behind what it does not read."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        drop_unsent(connection)
    transport.abort()


def _has_left(ws: WebSocket, *, or_closed: bool) -> bool:
    transport = transport_of(ws)
    if transport is None or transport.is_closing():
        return True
    connection = transport.get_extra_info("socket")
    return connection is None or is_lost(connection, or_closed=or_closed)
