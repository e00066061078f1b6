"""Logs of tasks, for readers of this manager and of the others: gathered from the nodes while this
one leads, which alone has their sessions; asked of the leader otherwise. See `log_reader`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Final

from swarmlet.core.errors import (
    ForbiddenError,
    NotFoundError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, TaskID
from swarmlet.env.base import Env
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.log_progress import Progress
from swarmlet.manager.log_reading import Reading
from swarmlet.store.store import Store
from swarmlet.wire.channel import ChannelClosedError, StreamChannel
from swarmlet.wire.messages import (
    STREAM_DATA_MAX_B,
    LogBatch,
    LogLine,
    ReadLogs,
    StreamData,
    StreamExit,
    StreamReady,
    StreamRefused,
    decode_message,
    encode,
)
from swarmlet.wire.port import LogSource
from swarmlet.wire.until_first import until_first

log = logging.getLogger("swarmlet.manager")

READERS_MAX: Final = 128  # of one manager at once, those of other managers included
SIZE_B: Final = 4  # of what stands before each batch on its way to another manager


class TooManyReadersError(UnavailableError):
    """No further reader of logs is served now."""

    code = "too-many-readers"


class _Sink:
    """The near end of a node's log stream in this process; everything is encoded on the way."""

    def __init__(self, reading: Reading, subscription: str) -> None:
        self._reading, self._subscription = reading, subscription

    async def send(self, batch: LogBatch) -> None:
        await self._reading.put(self._subscription, _through(batch))

    def close(self) -> None:
        self._reading.end(self._subscription, "broke off its stream")


def _through(batch: LogBatch) -> LogBatch:
    """As it comes out at the other end of a wire."""
    received = decode_message(encode(batch))
    assert isinstance(received, LogBatch)
    return received


class LogBroker:
    """One a manager. `run` is the time in which it leads; else `batches` raises NotLeaderError."""

    name: Final = "logs"

    def __init__(self, store: Store, dispatcher: Dispatcher, env: Env) -> None:
        self._store, self._dispatcher, self._env = store, dispatcher, env
        self._readings: dict[Reading, None] = {}
        self._leads = False
        dispatcher.on_session_end = self._on_session_end
        dispatcher.on_session_begin = self._on_session_begin

    async def run(self) -> None:
        """Until cancelled; then all readings end."""
        self._leads = True
        try:
            await asyncio.Event().wait()
        finally:
            self._leads = False
            for reading in self._readings:
                reading.depose()

    async def batches(self, wanted: ReadLogs) -> AsyncGenerator[Sequence[LogLine], None]:
        """Lines of these tasks and of all of the services as they come, some at once; first none,
        once it has begun. Without `follow` until all nodes are done; with it until the tasks have
        ended and the services are gone, or the caller stops. A node out of reach is named in a line
        of our own (stream `OWN`). Tasks that have not run yet have no logs and are waited for only
        with `follow`. Where it is resumed, it goes on behind the marks.

        Raises NotLeaderError where this manager does not lead, or leads no more;
        TooManyReadersError.
        """
        if not self._leads:
            raise NotLeaderError("This manager does not lead the swarm.", remedy="Ask again.")
        if len(self._readings) >= READERS_MAX:
            raise TooManyReadersError(
                f"This manager serves {READERS_MAX} readers of logs already.",
                remedy="End one of them, or try again later.",
            )
        progress = Progress(wanted.options, wanted.began_ns, wanted.marks)
        reading = Reading(
            self._env,
            self._dispatcher.post,
            self._store.view,
            progress,
            is_resumed=wanted.is_resumed,
        )
        unsubscribe = self._store.subscribe(reading.on_events)
        self._readings[reading] = None
        try:
            reading.begin(wanted.task_ids, wanted.services)
            yield ()
            while lines := await reading.take():
                yield lines
        finally:
            unsubscribe()
            del self._readings[reading]
            reading.close()

    async def serve(self, channel: StreamChannel, wanted: ReadLogs) -> None:
        """A reading for another manager's caller, until it ends. It ends without a StreamExit where
        this manager leads no more: whoever asked goes on with the next."""
        try:
            if not self._leads:
                await channel.send(
                    StreamRefused(code=NotLeaderError.code, message="This manager does not lead.")
                )
                return
            await channel.send(StreamReady())
            await until_first(self._copy(channel, wanted), channel.left())
        finally:
            channel.close()

    async def _copy(self, channel: StreamChannel, wanted: ReadLogs) -> None:
        problem = ""
        with suppress(ChannelClosedError, NotLeaderError):
            try:
                async with aclosing(self.batches(wanted)) as batches:
                    async for lines in batches:
                        for piece in _pieces(lines) if lines else ():
                            await channel.send(StreamData(stream=1, data=piece))
            except (ChannelClosedError, NotLeaderError):
                raise
            except SwarmError as error:
                problem = error.message
            await channel.send(StreamExit(problem=problem))
            await channel.left()  # it may read slowly, and nothing of this is to be lost

    def open_stream(self, node_id: NodeID, subscription: str) -> _Sink:
        """Where `node_id` sends the logs it was asked for, once. Raises NotFoundError where nobody
        waits for them, ForbiddenError where another node was asked."""
        for reading in self._readings:
            stream = reading.streams.get(subscription)
            if stream is None:
                continue
            if stream.node_id != node_id or stream.is_open:
                raise ForbiddenError(f"Node {node_id} was not asked for these logs.")
            reading.open(subscription)
            return _Sink(reading, subscription)
        raise NotFoundError("log subscription", subscription, "Its reader is gone.")

    async def take(self, source: LogSource, node_id: NodeID, subscription: str) -> None:
        """Read a node's log stream to its end. Raises as `open_stream`."""
        sink = self.open_stream(node_id, subscription)
        try:
            is_last = False
            while not is_last:
                batch = await source.receive()
                await sink.send(batch)
                is_last = batch.is_last
        except ChannelClosedError:
            log.debug("logs.stream_closed", extra={"node_id": node_id})
        finally:
            sink.close()
            source.close()

    def is_there(self, task_id: TaskID) -> bool:
        """Whether the task has a row still."""
        return self._store.view().tasks.get(task_id) is not None

    def gauges(self) -> dict[str, float]:
        return {"swarmlet_log_readers": float(len(self._readings))}

    def _on_session_end(self, node_id: NodeID) -> None:
        for reading in self._readings:
            reading.lose(node_id)

    def _on_session_begin(self, node_id: NodeID) -> None:
        for reading in self._readings:
            reading.resume(node_id)


def _pieces(lines: Sequence[LogLine]) -> Iterable[bytes]:
    """A batch and its size, in pieces that fit a frame."""
    raw = encode(lines)
    raw = len(raw).to_bytes(SIZE_B, "big") + raw
    return (raw[at : at + STREAM_DATA_MAX_B] for at in range(0, len(raw), STREAM_DATA_MAX_B))
