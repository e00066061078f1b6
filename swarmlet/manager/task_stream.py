"""One stream into a task on the leader: the node's end of it, once that was brought."""

import asyncio
from collections.abc import Callable
from typing import Final

from swarmlet.core.errors import FailedPreconditionError, UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.manager.hearsay import told_problem
from swarmlet.manager.stream_notes import Use
from swarmlet.wire.channel import ChannelClosedError, StreamChannel
from swarmlet.wire.messages import (
    STREAM_DATA_MAX_B,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamFrame,
    StreamReady,
    StreamResize,
)

OPEN_TIMEOUT_S: Final = 10.0  # for the agent to bring its end
READY_TIMEOUT_S: Final = 12.0  # from there to the program, or the connection


class TaskStream:
    """Implements `StreamChannel` for the caller. Its last frame is a StreamExit, also where the
    node is lost. `on_end` is called once, with this; then `exit_code` and `problem` say how it
    ended."""

    def __init__(
        self, stream_id: str, node_id: NodeID, on_end: Callable[["TaskStream"], None]
    ) -> None:
        self.id, self.node_id, self._on_end = stream_id, node_id, on_end
        self.use: Use | None = None
        self.exit_code, self.problem = 0, ""
        self.over = asyncio.Event()
        self._brought = asyncio.Event()
        self._channel: StreamChannel | None = None
        self._last: StreamExit | None = None  # to be given out
        self._is_told = False

    def bring(self, channel: StreamChannel) -> bool:
        """The agent's end; False where there is one already, or the stream is over."""
        if self._channel is not None or self.over.is_set():
            return False
        self._channel = channel
        self._brought.set()
        return True

    async def ready(self) -> None:
        """Return once the task's side has begun, or said that its program does not run. Raises
        UnavailableError, FailedPreconditionError."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._brought.wait()
            async with asyncio.timeout(READY_TIMEOUT_S):
                frame = await self._begun().receive()
        except TimeoutError:
            raise UnavailableError(
                f"Node {self.node_id} did not open the stream in time.",
                remedy="See its daemon's log.",
            ) from None
        except ChannelClosedError as end:
            raise UnavailableError(self.problem or self._lost()) from end
        if isinstance(frame, StreamExit):
            if frame.problem and not frame.exit_code:
                raise FailedPreconditionError(told_problem(frame.problem))
            self._finish(frame)
        elif not isinstance(frame, StreamReady):
            raise UnavailableError(self._nonsense())

    async def send(self, frame: StreamFrame) -> None:
        """Waits while the task's side is slow. What it does not read any more is let go: that it is
        gone, `receive` says. Raises ChannelClosedError for what a caller may not send."""
        is_allowed = isinstance(frame, StreamEnd | StreamResize) or (
            isinstance(frame, StreamData)
            and frame.stream == 0
            and len(frame.data) <= STREAM_DATA_MAX_B
        )
        if not is_allowed:
            raise ChannelClosedError
        try:
            await self._begun().send(frame)
        except ChannelClosedError:
            await asyncio.sleep(0)  # whoever sends on and on lets others run

    async def receive(self) -> StreamFrame:
        if self._last is None:
            try:
                frame = await self._begun().receive()
            except ChannelClosedError:
                frame = StreamExit(problem=self.problem or self._lost())
            if isinstance(frame, StreamData | StreamEnd) and _is_of_task(frame):
                return frame
            self._finish(
                frame if isinstance(frame, StreamExit) else StreamExit(problem=self._nonsense())
            )
        if self._is_told or self._last is None:
            raise ChannelClosedError
        self._is_told = True
        return self._last

    async def left(self, *, or_closed: bool = True) -> None:
        """Never: that its side is gone, the session of its node tells, and then `receive`."""
        await asyncio.Event().wait()

    def fail(self, problem: str) -> None:
        """End it, with a sentence for the caller."""
        if not self.over.is_set():
            self.problem = self.problem or problem
            self._end()

    def close(self) -> None:
        """The caller is gone."""
        self.fail("The caller has left.")

    def _begun(self) -> StreamChannel:
        if self._channel is None:
            raise ChannelClosedError
        return self._channel

    def _finish(self, frame: StreamExit) -> None:
        problem = told_problem(frame.problem)
        self._last = StreamExit(exit_code=frame.exit_code, problem=problem)
        if not self.over.is_set():
            self.exit_code, self.problem = frame.exit_code, problem
            self._end()

    def _end(self) -> None:
        self.over.set()
        self._brought.set()  # whoever waits for it finds it closed
        if self._channel is not None:
            self._channel.close()
        self._on_end(self)

    def _lost(self) -> str:
        return f"The connection to node {self.node_id} was lost."

    def _nonsense(self) -> str:
        return f"Node {self.node_id} sent what does not belong to a stream."


def _is_of_task(frame: StreamData | StreamEnd) -> bool:
    if isinstance(frame, StreamEnd):
        return True
    return frame.stream in (1, 2) and len(frame.data) <= STREAM_DATA_MAX_B
