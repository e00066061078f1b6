"""A Raft channel over a WebSocket: both ends, one frame a message.

`send` only queues, so that the Raft core never waits; a writer carries the queue, and a peer that
reads too slowly loses the channel: what is missing then is found out and sent again by the core.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import ClientError, WSMsgType

from swarmlet.core.ids import NodeID
from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.wire.channel import RAFT_QUEUE_FRAMES_MAX, RAFT_QUEUE_MAX_B, ChannelClosedError
from swarmlet.wire.websocket import CLOSE_TIMEOUT_S, WebSocket, transport_of

log = logging.getLogger("swarmlet.wire")

Opening: TypeAlias = Callable[[], Awaitable[WebSocket]]


class RaftSocket:
    """Implements `RaftChannel` on a WebSocket that is open, or that `opening` gives, the same one
    each time; it is asked when something is to be read or written, not before."""

    def __init__(
        self, node_id: NodeID, *, ws: WebSocket | None = None, opening: Opening | None = None
    ) -> None:
        self.node_id = node_id
        self._ws, self._opening = ws, opening
        self._queue: deque[bytes] = deque()
        self._queued_b = 0
        self._wake = asyncio.Event()
        self._is_writing = self._is_closed = False
        self._is_broken = False  # what came before can still be read

    def send(self, frame: bytes) -> bool:
        assert len(frame) <= FRAME_SIZE_MAX_B, f"a frame of {len(frame)} bytes"
        if self._is_closed or self._is_broken:
            return False
        is_full = len(self._queue) >= RAFT_QUEUE_FRAMES_MAX
        if is_full or self._queued_b + len(frame) > RAFT_QUEUE_MAX_B:
            log.warning("wire.raft_too_slow", extra={"node_id": self.node_id})
            self._abort()
            return False
        self._queue.append(frame)
        self._queued_b += len(frame)
        self._wake.set()
        return True

    async def write(self) -> None:
        self._is_writing = True
        try:
            ws = await self._opened()
            while not self._is_closed or self._queue:
                await self._carry(ws)
        except (OSError, ClientError, ChannelClosedError):
            self._is_broken = True  # who reads hears of it
        except BaseException:
            self._abort()
            raise
        finally:
            self._is_writing = False
            self._shut()

    async def receive(self) -> bytes:
        ws = await self._opened()
        frame = await ws.receive()
        if self._is_closed or frame.type is not WSMsgType.BINARY:  # its end, or what nobody sends
            self.close()
            raise ChannelClosedError
        data: bytes = frame.data
        return data

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._wake.set()
        if self._is_writing and self._queue:
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._abort)
        else:
            self._shut()

    async def _opened(self) -> WebSocket:
        if self._is_closed:
            raise ChannelClosedError
        if self._ws is None:
            assert self._opening is not None, "open, or to be opened"
            self._ws = await self._opening()
        return self._ws

    async def _carry(self, ws: WebSocket) -> None:
        """What is queued; else wait for more."""
        while self._queue:
            frame = self._queue.popleft()
            self._queued_b -= len(frame)
            await ws.send_bytes(frame)
        if not self._is_closed:
            self._wake.clear()
            await self._wake.wait()

    def _shut(self) -> None:
        """What the transport holds already may still go out, for a while."""
        transport = None if self._ws is None else transport_of(self._ws)
        if transport is not None and not transport.is_closing():
            transport.close()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)

    def _abort(self) -> None:
        self._is_closed = True
        self._queue.clear()
        self._queued_b = 0
        self._wake.set()
        transport = None if self._ws is None else transport_of(self._ws)
        if transport is not None:
            transport.abort()
