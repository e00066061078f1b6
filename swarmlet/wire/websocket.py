"""Sessions and log streams over a WebSocket: both ends, one message a frame."""

import asyncio
import logging
from typing import Final, TypeAlias

from aiohttp import ClientError, ClientWebSocketResponse, WSMsgType, web

from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
from swarmlet.wire.keepalive import watch
from swarmlet.wire.messages import LogBatch, Message, decode_message, encode

log = logging.getLogger("swarmlet.wire")

WebSocket: TypeAlias = web.WebSocketResponse | ClientWebSocketResponse

MESSAGE_BOUND_B: Final = FRAME_SIZE_MAX_B + 1
"""Told to aiohttp, whose bound is exclusive: a frame of the largest size has to pass."""

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


def transport_of(ws: WebSocket) -> asyncio.Transport | None:
    """None where it is not open; nothing public leads to a client's."""
    writer = ws._writer
    return None if writer is None else writer.transport


class WebSocketChannel:
    """One end of a session (`AgentChannel`), and the agent's end of a log stream (`LogSink`).

    `ws` is open already. A frame that is no message ends the channel, as a lost connection does:
    who sends one cannot be understood.
    """

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
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
        frame = await self._ws.receive()
        if frame.type is not WSMsgType.BINARY:  # its end, or text, which nobody sends
            self._end()
            raise ChannelClosedError
        try:
            message: Message = decode_message(frame.data)
        except (ValueError, RecursionError) as error:
            log.warning("wire.message_unreadable", extra={"error": str(error)})
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
