"""Sessions and log streams over a WebSocket: both ends, one message a frame."""

import asyncio
import logging
from typing import Final, TypeAlias

from aiohttp import ClientError, ClientWebSocketResponse, WSMessage, WSMsgType, web

from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
from swarmlet.wire.keepalive import keep_small, watch, watch_patiently
from swarmlet.wire.messages import LogBatch, Message, decode_message, encode

log = logging.getLogger("swarmlet.wire")

WebSocket: TypeAlias = web.WebSocketResponse | ClientWebSocketResponse

MESSAGE_BOUND_B: Final = FRAME_SIZE_MAX_B + 1
"""Told to aiohttp, whose bound is exclusive: a frame of the largest size has to pass."""

TLS_BUFFER_B: Final = 32 * 1024
"""Each way, of a connection whose reader may rest: beyond that a sender waits, and nothing more is
read. TLS takes half a MiB unless it is told otherwise."""

PROBLEM_LENGTH_MAX: Final = 200  # characters of a log line: it quotes what was sent

CLOSE_TIMEOUT_S: Final = 1.0
"""For the other side to answer the end of a session it was told of."""


def new_websocket(bound_b: int = MESSAGE_BOUND_B) -> web.WebSocketResponse:
    """The server's end, to be prepared. aiohttp's own heartbeat would be a timer for each."""
    return web.WebSocketResponse(
        timeout=CLOSE_TIMEOUT_S,
        compress=False,
        heartbeat=None,
        max_msg_size=bound_b,
    )


def watch_connection(ws: WebSocket | asyncio.Transport) -> None:
    """Let the kernel notice a host that is gone: sessions and streams are silent for long."""
    connection = ws.get_extra_info("socket")
    if connection is not None:  # else it is closed already
        watch(connection)


def let_rest(ws: WebSocket) -> None:
    """Its reader may rest for hours: that ends nothing, and what lies on it meanwhile is bounded,
    in the kernel and here. To be read with `receive_when_asked`."""
    connection, transport = ws.get_extra_info("socket"), transport_of(ws)
    if connection is None or transport is None or transport.is_closing():
        return  # it is closed already
    watch_patiently(connection)
    keep_small(connection)
    transport.set_write_buffer_limits(TLS_BUFFER_B)
    limit_reading = getattr(transport, "set_read_buffer_limits", None)
    if limit_reading is not None:  # TLS alone has one
        limit_reading(TLS_BUFFER_B)
    if ws._writer is not None:
        ws._writer._limit = 0  # each message waits for room; without it a quarter of a MiB does not


async def receive_when_asked(ws: WebSocket) -> WSMessage:
    """The next message, and as little as can be of what is behind it: aiohttp would read half a MiB
    ahead of who is slow."""
    read_on(ws)
    message = await ws.receive()
    if ws._reader is not None and message.type is WSMsgType.BINARY:
        ws._reader._protocol.pause_reading()
    return message


def read_on(ws: WebSocket) -> None:
    """Let what comes be seen, as the end of the other side."""
    if ws._reader is not None:
        ws._reader._protocol.resume_reading()


def transport_of(ws: WebSocket) -> asyncio.Transport | None:
    """None where it is not open; nothing public leads to a client's."""
    writer = ws._writer
    return None if writer is None else writer.transport


class WebSocketChannel:
    """One end of a session (`AgentChannel`), and the agent's end of a log stream (`LogSink`).

    `ws` is open already; `may_rest`: its reader may. A frame that is no message ends the channel,
    as a lost connection does: who sends one cannot be understood.
    """

    def __init__(self, ws: WebSocket, *, may_rest: bool = False) -> None:
        self._ws, self._may_rest = ws, may_rest
        if may_rest:
            let_rest(ws)
        self._is_closed = False
        self._is_over = False  # nothing more can be read

    async def send(self, message: Message) -> None:
        frame = encode(message)
        assert len(frame) <= FRAME_SIZE_MAX_B, f"{type(message).__name__} of {len(frame)} bytes"
        if self._is_closed:
            raise ChannelClosedError
        try:
            await self._ws.send_bytes(frame)
        except (OSError, ClientError) as error:
            raise ChannelClosedError from error

    async def receive(self) -> Message:
        if self._is_over:
            raise ChannelClosedError
        frame = await (receive_when_asked(self._ws) if self._may_rest else self._ws.receive())
        if frame.type is not WSMsgType.BINARY:  # its end, or text, which nobody sends
            self._end()
            raise ChannelClosedError
        try:
            message: Message = decode_message(frame.data)
        except (ValueError, RecursionError) as error:
            log.warning("wire.message_unreadable", extra={"error": str(error)[:PROBLEM_LENGTH_MAX]})
            self._end()
            raise ChannelClosedError from error
        return message

    def close(self) -> None:
        """What was sent before still goes out; what came before can still be read."""
        self._is_closed = True
        transport = transport_of(self._ws)
        if transport is not None:
            transport.close()

    def _end(self) -> None:
        self._is_over = True
        self.close()


class WebSocketLogSource:
    """The manager's end of a log stream (`LogSource`)."""

    def __init__(self, channel: AgentChannel) -> None:
        self._channel = channel

    async def receive(self) -> LogBatch:
        message = await self._channel.receive()
        if not isinstance(message, LogBatch):
            log.warning("wire.message_unreadable", extra={"error": type(message).__name__})
            self.close()
            raise ChannelClosedError
        return message

    def close(self) -> None:
        self._channel.close()
