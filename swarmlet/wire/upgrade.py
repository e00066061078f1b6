"""The server's end of a WebSocket that is opened by its first message: whoever refuses before that
answers as to any other request."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from aiohttp import web

from swarmlet.core.errors import InvalidArgumentError, SwarmError, UnavailableError
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.messages import Message
from swarmlet.wire.websocket import (
    CLOSE_TIMEOUT_S,
    WebSocketChannel,
    new_websocket,
    watch_connection,
)


class Upgrade:
    """An `AgentChannel`, and the answer to the request that asked for it. As a context manager it
    ends the channel in order; an error after the first message ends it too, and no more."""

    def __init__(self, request: web.Request) -> None:
        """Raises InvalidArgumentError where the request is for no WebSocket."""
        self._request, self._socket = request, new_websocket()
        if not self._socket.can_prepare(request):
            raise InvalidArgumentError("This route is for a WebSocket.")
        self._opening = asyncio.Lock()
        self._channel: WebSocketChannel | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if self._channel is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
        self._channel.close()
        return isinstance(error, SwarmError)

    def response(self) -> web.StreamResponse:
        """Raises UnavailableError where nothing was said at all."""
        if self._channel is None:
            raise UnavailableError("The session was closed before it began.")
        return self._socket

    async def send(self, message: Message) -> None:
        await (await self._opened()).send(message)

    async def receive(self) -> Message:
        return await (await self._opened()).receive()

    def close(self) -> None:
        self._is_closed = True
        if self._channel is not None:
            self._channel.close()

    async def _opened(self) -> WebSocketChannel:
        if self._channel is not None:
            return self._channel
        async with self._opening:
            self._channel = self._channel or await self._open()
        return self._channel

    async def _open(self) -> WebSocketChannel:
        if self._is_closed:
            raise ChannelClosedError
        try:
            await self._socket.prepare(self._request)
            watch_connection(self._socket)
        except OSError as error:
            raise ChannelClosedError from error
        return WebSocketChannel(self._socket)
