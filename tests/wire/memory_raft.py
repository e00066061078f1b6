"""Frames between two managers in memory: the ends of a Raft channel, and of a snapshot's way."""

import asyncio
from collections import deque
from typing import Any

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.wire.channel import RAFT_QUEUE_FRAMES_MAX, RAFT_QUEUE_MAX_B, ChannelClosedError

CLOSE_TIMEOUT_S = 1.0
PARTS_MAX = 4  # of a snapshot, sent and not read yet


class FrameEnd:
    """A `RaftChannel`. A frame arrives after the net's delay, in order; a cut holds it up, and the
    connection ends when the cut is noticed."""

    def __init__(self, connection: Any, node_id: str, way: tuple[str, str]) -> None:
        self.node_id = NodeID(node_id)
        self.connection, self._way = connection, way
        self.other = self
        self.used = asyncio.Event()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_b = 0
        self._inbox: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._is_closed = self._is_over = self._is_writing = False
        self._given_up = asyncio.Event()

    def send(self, frame: bytes) -> bool:
        assert isinstance(frame, bytes), "a frame is shared by nobody"
        assert len(frame) <= FRAME_SIZE_MAX_B, f"a frame of {len(frame)} bytes"
        if self._is_closed or self._is_over:
            return False
        is_full = len(self._queue) >= RAFT_QUEUE_FRAMES_MAX
        if is_full or self._queued_b + len(frame) > RAFT_QUEUE_MAX_B:
            self.connection.abort()
            return False
        self._queue.append((self._now_s() + self.connection.delay_s(*self._way), frame))
        self._queued_b += len(frame)
        self._tell()
        return True

    async def write(self) -> None:
        self._use()
        self._is_writing = True
        try:
            while not self._is_over and (self._queue or not self._is_closed):
                await self._carry()
        finally:
            self._is_writing = False
            if not self._is_over:  # else what has arrived can still be read
                self._finish()

    async def receive(self) -> bytes:
        self._use()
        while not self._inbox or self._is_closed:
            if self._is_over or self._is_closed:
                raise ChannelClosedError
            await self._wait()
        frame = self._inbox.popleft()
        self.other._tell()
        return frame

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._tell()
            if self._is_writing and self._queue:
                asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._give_up)
            else:
                self._finish()

    def shut(self, *, drops: bool) -> None:
        """The connection has ended; what has arrived may still be read, unless it `drops`."""
        self._is_over = True
        if drops:
            self._inbox.clear()
        self._tell()

    async def put(self, part: bytes) -> None:
        """Send one part of a snapshot; waits while the other side is slow. Raises
        ChannelClosedError."""
        await asyncio.sleep(self.connection.delay_s(*self._way))
        await self.connection.passable()
        while len(self.other._inbox) >= PARTS_MAX and not self._is_over:
            await self._wait()
        if self._is_over or self._is_closed:
            raise ChannelClosedError
        self._arrive(part)

    async def parts(self):
        """A snapshot's parts up to the empty one."""
        try:
            while part := await self.receive():
                yield part
        except ChannelClosedError:
            raise InvalidArgumentError("The snapshot broke off before its end.") from None

    async def _carry(self) -> None:
        if not self._queue:
            await self._wait()
            return
        due_s, frame = self._queue[0]
        if due_s > self._now_s():
            await asyncio.sleep(due_s - self._now_s())
        if not self.connection.is_passable():
            await self._until_passable()
        if not self._is_over and self._queue:
            self._queue.popleft()
            self._queued_b -= len(frame)
            self._arrive(frame)

    async def _until_passable(self) -> None:
        """Or until there is nothing left to send."""
        waits = [
            asyncio.ensure_future(self.connection.passable()),
            asyncio.ensure_future(self._given_up.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _give_up(self) -> None:
        self._queue.clear()
        self._given_up.set()

    def _arrive(self, frame: bytes) -> None:
        self.other._inbox.append(frame)
        self.other._tell()

    def _finish(self) -> None:
        """Whoever closes while the other cannot hear it is gone for itself alone."""
        self._is_closed = True
        if self.connection.is_passable():
            self.connection.close()

    async def _wait(self) -> None:
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _use(self) -> None:
        self.used.set()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
