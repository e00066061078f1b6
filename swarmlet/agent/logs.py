"""Logs on their way out: each subscription has a stream of its own, bounded, so that a slow
reader holds back the reading of the files and never a heartbeat."""

import asyncio
import logging
from typing import Final

from swarmlet.core.errors import NotFoundError, SwarmError, first_of
from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import Runtime, RuntimeProblemError
from swarmlet.wire.channel import AgentConnector, ChannelClosedError, LogSink
from swarmlet.wire.messages import LogBatch, LogLine, LogOptions, OpenLogs

log = logging.getLogger("swarmlet.agent")

SUBSCRIPTIONS_MAX: Final = 64  # of one node at once
BUFFER_LINES_MAX: Final = 256  # of one subscription, waiting to be sent
BUFFER_SIZE_MAX_B: Final = 64 * 1024
BUSY_PERIOD_S: Final = 2.0  # how often a log that is read to its end says that it is still read


class _Buffer:
    """Lines between the readers of a subscription and its one sender."""

    def __init__(self) -> None:
        self._lines: list[LogLine] = []
        self._size_b = 0
        self._has_room, self._has_lines = asyncio.Event(), asyncio.Event()
        self._is_ended = False

    async def put(self, line: LogLine) -> None:
        while len(self._lines) >= BUFFER_LINES_MAX or self._size_b >= BUFFER_SIZE_MAX_B:
            self._has_room.clear()
            await self._has_room.wait()
        self._lines.append(line)
        self._size_b += len(line.data)
        self._has_lines.set()

    def end(self) -> None:
        self._is_ended = True
        self._has_lines.set()

    @property
    def is_done(self) -> bool:
        """Ended, and all of it taken."""
        return self._is_ended and not self._lines

    async def take(self) -> tuple[LogLine, ...]:
        """All that waits; empty once ended."""
        while not self._lines and not self._is_ended:
            self._has_lines.clear()
            await self._has_lines.wait()
        lines, self._lines, self._size_b = tuple(self._lines), [], 0
        self._has_room.set()
        return lines


class LogPublisher:
    """The subscriptions of one session; its task group owns them."""

    def __init__(
        self, runtime: Runtime, connector: AgentConnector, group: asyncio.TaskGroup
    ) -> None:
        self._runtime, self._connector, self._group = runtime, connector, group
        self._open: dict[str, asyncio.Task[None]] = {}

    def open(self, wanted: OpenLogs) -> None:
        if wanted.subscription in self._open:
            return
        task = self._group.create_task(self._publish(wanted), name="log stream")
        self._open[wanted.subscription] = task
        task.add_done_callback(lambda _: self._open.pop(wanted.subscription))

    def close(self, subscription: str) -> None:
        task = self._open.get(subscription)
        if task is not None:
            task.cancel()

    async def _publish(self, wanted: OpenLogs) -> None:
        try:
            sink = await self._connector.open_log_stream(wanted.subscription)
            try:
                await self._stream(wanted, sink)
            finally:
                sink.close()
        except* (ChannelClosedError, NotFoundError):
            pass  # nobody reads any more
        except* SwarmError as problems:
            extra = {"subscription": wanted.subscription, "cause": first_of(problems).message}
            log.warning("logs.not_sent", extra=extra)
        except* Exception:  # the logs of a task never end the session
            log.exception("logs.broken", extra={"subscription": wanted.subscription})

    async def _stream(self, wanted: OpenLogs, sink: LogSink) -> None:
        if len(self._open) > SUBSCRIPTIONS_MAX:
            problem = f"the node already serves {SUBSCRIPTIONS_MAX} log readers"
            await sink.send(LogBatch(is_last=True, problem=problem))
            return
        buffer = _Buffer()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(buffer, sink, is_followed=wanted.options.follow))
            async with asyncio.TaskGroup() as readers:
                for task_id in wanted.task_ids:
                    readers.create_task(self._read(task_id, wanted.options, buffer, sink))
            buffer.end()
        await sink.send(LogBatch(is_last=True))

    async def _read(
        self, task_id: TaskID, options: LogOptions, buffer: _Buffer, sink: LogSink
    ) -> None:
        try:
            async for line in self._runtime.logs(task_id, options):
                await buffer.put(line)
        except RuntimeProblemError as problem:
            await sink.send(LogBatch(problem=f"task {task_id}: {problem.message}"))

    async def _send(self, buffer: _Buffer, sink: LogSink, *, is_followed: bool) -> None:
        """Also that there is nothing yet: files that were read through for a few lines take long,
        and a reader that waits for their end must know a node that reads from one that is gone."""
        while not buffer.is_done:
            try:
                async with asyncio.timeout(None if is_followed else BUSY_PERIOD_S):
                    lines = await buffer.take()
            except TimeoutError:
                lines = ()
            if lines or not buffer.is_done:
                await sink.send(LogBatch(lines=lines))
