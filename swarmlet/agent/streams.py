"""Streams into this node's tasks: programs beside them, and connections to their ports.

Each has a connection of its own to the manager that asked for it. It ends with the session it was
asked for in; a program that still runs then is killed. A slow reader holds back the program, one
that does not read its input the writer: neither ever a heartbeat.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from swarmlet.agent.worker import Worker
from swarmlet.core.errors import NotFoundError, SwarmError, first_of
from swarmlet.core.ids import TaskID
from swarmlet.model.task import TaskState
from swarmlet.runtime.base import (
    Dialed,
    ExecProcess,
    NotExecutedError,
    RuntimeProblemError,
)
from swarmlet.wire.channel import AgentConnector, ChannelClosedError, StreamChannel
from swarmlet.wire.messages import (
    STREAM_DATA_MAX_B,
    ExecRequest,
    OpenStream,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamReady,
    StreamResize,
)

log = logging.getLogger("swarmlet.agent")

STREAMS_MAX: Final = 160
"""Of one node at once. Managers ask for fewer (`manager.stream_broker`); some of an earlier one may
be ending still."""


class StreamServer:
    """The streams of one session; its task group owns them."""

    def __init__(self, worker: Worker, connector: AgentConnector, group: asyncio.TaskGroup) -> None:
        self._worker, self._connector, self._group = worker, connector, group
        self._open: dict[str, None] = {}

    def open(self, wanted: OpenStream) -> None:
        if wanted.stream_id in self._open:
            return
        if len(self._open) >= STREAMS_MAX:
            log.warning("stream.too_many", extra={"task_id": wanted.task_id})
            return
        self._open[wanted.stream_id] = None
        self._group.create_task(self._serve(wanted), name="stream")

    async def _serve(self, wanted: OpenStream) -> None:
        try:
            channel = await self._connector.open_stream(wanted.stream_id)
            try:
                await channel.send(await self._run(wanted, channel))
                await channel.left()  # a slow reader is to get all of it
            finally:
                channel.close()
        except* (ChannelClosedError, NotFoundError):
            pass  # nobody is there any more
        except* SwarmError as problems:
            extra = {"task_id": wanted.task_id, "cause": first_of(problems).message}
            log.warning("stream.not_served", extra=extra)
        except* Exception:  # what is done in a task never ends the session
            log.exception("stream.broken", extra={"task_id": wanted.task_id})
        finally:
            del self._open[wanted.stream_id]

    async def _run(self, wanted: OpenStream, channel: StreamChannel) -> StreamExit:
        """How it ended, or why it did not begin. Raises ChannelClosedError, also in a group."""
        try:
            self._check(wanted.task_id)
            if isinstance(wanted.request, ExecRequest):
                return await self._exec(wanted.task_id, wanted.request, channel)
            return await self._dial(wanted.task_id, wanted.request.port, channel)
        except RuntimeProblemError as problem:
            return _failed(problem)
        except BaseExceptionGroup as problems:
            first = first_of(problems)
            if not isinstance(first, RuntimeProblemError):
                raise
            return _failed(first)

    def _check(self, task_id: TaskID) -> None:
        """Raises RuntimeProblemError where it is no running task of this node's."""
        status = self._worker.statuses().get(task_id)
        if status is None:
            raise RuntimeProblemError(f"This node has no task {task_id}.")
        if status.state != TaskState.RUNNING:
            raise RuntimeProblemError(f"Task {task_id} does not run.")

    async def _exec(
        self, task_id: TaskID, request: ExecRequest, channel: StreamChannel
    ) -> StreamExit:
        process = await self._worker.runtime.exec(task_id, request)
        try:
            await channel.send(StreamReady())
            async with asyncio.TaskGroup() as group:
                others = (
                    group.create_task(_type_in(process, channel)),
                    group.create_task(_until_left(channel)),
                )
                while (part := await process.read()) is not None:
                    for piece in _pieces(part[1]):
                        await channel.send(StreamData(stream=part[0], data=piece))
                exit_code = await process.wait()
                for other in others:
                    other.cancel()
            return StreamExit(exit_code=exit_code)
        finally:
            await process.close()

    async def _dial(self, task_id: TaskID, port: int, channel: StreamChannel) -> StreamExit:
        connection = await self._worker.runtime.dial(task_id, port)
        try:
            await channel.send(StreamReady())
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(_until_left(channel))
                sending = group.create_task(_send_on(connection, channel))
                while data := await connection.read():
                    for piece in _pieces(data):
                        await channel.send(StreamData(stream=1, data=piece))
                await channel.send(StreamEnd())
                await sending
                watching.cancel()
            return StreamExit()
        finally:
            await connection.close()


async def _until_left(channel: StreamChannel) -> None:
    """Also while nothing of it is read. Raises ChannelClosedError."""
    await channel.left()
    raise ChannelClosedError


async def _type_in(process: ExecProcess, channel: StreamChannel) -> None:
    """Until cancelled. Raises ChannelClosedError."""
    while True:
        match await channel.receive():
            case StreamData(data=data):
                await process.write(data)
            case StreamEnd():
                await process.end_input()
            case StreamResize(rows=rows, columns=columns):
                await process.resize(rows, columns)
            case _:
                raise ChannelClosedError


async def _send_on(connection: Dialed, channel: StreamChannel) -> None:
    """All that the caller sends, to its end. Raises ChannelClosedError, RuntimeProblemError."""
    while isinstance(frame := await channel.receive(), StreamData):
        await connection.write(frame.data)
    if not isinstance(frame, StreamEnd):
        raise ChannelClosedError
    await connection.end_input()


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), STREAM_DATA_MAX_B):
        yield data[start : start + STREAM_DATA_MAX_B]


def _failed(problem: RuntimeProblemError) -> StreamExit:
    exit_code = problem.exit_code if isinstance(problem, NotExecutedError) else 0
    return StreamExit(exit_code=exit_code, problem=problem.message)
