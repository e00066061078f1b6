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
    MESSAGE_BOUND_B,
    WebSocketChannel,
    new_websocket,
    read_on,
    transport_of,
    watch_connection,
)


class Upgrade:
    """A WebSocket to be, and the answer to the request that asked for it. As a context manager it
    ends the WebSocket in order; an error after it was opened ends it too, and no more."""

    def __init__(self, request: web.Request, bound_b: int = MESSAGE_BOUND_B) -> None:
        """Raises InvalidArgumentError where the request is for no WebSocket."""
        self._request, self._socket = request, new_websocket(bound_b)
        if not self._socket.can_prepare(request):
            raise InvalidArgumentError("This route is for a WebSocket.")
        self._opening = asyncio.Lock()
        self._is_open = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if not self._is_open:
            return False
        read_on(self._socket)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
        transport = transport_of(self._socket)
        if transport is not None:
            transport.close()
        return isinstance(error, SwarmError)

    def response(self) -> web.StreamResponse:
        """Raises UnavailableError where nothing was said at all."""
        if not self._is_open:
            raise UnavailableError("The session was closed before it began.")
        return self._socket

    async def websocket(self) -> web.WebSocketResponse:
        """Opened by the first who asks. Raises ChannelClosedError where the caller is gone."""
        async with self._opening:
            if not self._is_open:
                try:
                    await self._socket.prepare(self._request)
                    watch_connection(self._socket)
                except OSError as error:
                    raise ChannelClosedError from error
                self._is_open = True
        return self._socket


class SessionUpgrade(Upgrade):
    """An `AgentChannel` besides."""

    def __init__(
        self, request: web.Request, bound_b: int = MESSAGE_BOUND_B, *, may_rest: bool = False
    ) -> None:
        """`may_rest`: its reader may."""
        super().__init__(request, bound_b)
        self._may_rest = may_rest
        self._channel: WebSocketChannel | None = None
        self._is_closed = False

    async def send(self, message: Message) -> None:
        await (await self._opened()).send(message)

    async def receive(self) -> Message:
        return await (await self._opened()).receive()

    def close(self) -> None:
        self._is_closed = True
        if self._channel is not None:
            self._channel.close()

    async def _opened(self) -> WebSocketChannel:
        if self._channel is None:
            if self._is_closed:
                raise ChannelClosedError
            socket = await self.websocket()
            self._channel = self._channel or WebSocketChannel(socket, may_rest=self._may_rest)
        return self._channel
