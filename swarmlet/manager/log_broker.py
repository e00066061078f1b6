"""Logs of tasks, gathered from the nodes that run them, merged as they come."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import ForbiddenError, NotFoundError
from swarmlet.core.ids import NodeID, ServiceID, TaskID, new_id
from swarmlet.core.limits import NS_PER_MS
from swarmlet.env.base import Env
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.hearsay import check_line
from swarmlet.model.change import Event
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View
from swarmlet.store.store import Store
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.messages import (
    CloseLogs,
    LogBatch,
    LogLine,
    LogOptions,
    Message,
    OpenLogs,
    decode_message,
    encode,
)
from swarmlet.wire.port import LogSource

log = logging.getLogger("swarmlet.manager")

BATCHES_MAX: Final = 4  # of one reader that wait for it; then its agents wait
OPEN_TIMEOUT_S: Final = 10.0  # for an agent to open a stream it was asked for
RESUME_TIMEOUT_S: Final = 20.0  # for a node to come back, while its logs are followed
STDERR: Final = 2


class _Stream:
    """One node's part of a reading: the logs of these tasks."""

    def __init__(self, node_id: NodeID, task_ids: Sequence[TaskID], deadline_s: float) -> None:
        self.node_id, self.task_id, self.deadline_s = node_id, task_ids[0], deadline_s
        self.task_ids = frozenset(task_ids)
        self.sent_ns: dict[TaskID, int] = {}  # that far earlier streams of the node came
        self.is_open = False


class _Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Streams of a node that broke off and may go on with its next session."""

    task_ids: tuple[TaskID, ...]
    problem: str
    deadline_s: float


class _Reading:
    """One reader: its streams by subscription, and a bounded queue of what they brought."""

    def __init__(
        self,
        env: Env,
        post: Callable[[NodeID, Message], bool],
        options: LogOptions,
    ) -> None:
        self._env, self._post, self._options = env, post, options
        self._services: set[ServiceID] = set()
        self._awaited: set[TaskID] = set()
        self._queue: deque[tuple[LogLine, ...]] = deque()
        self._changed, self._has_room = asyncio.Event(), asyncio.Event()
        self._seen: set[TaskID] = set()
        self._sent_ns: dict[TaskID, int] = {}
        self._lost: dict[NodeID, _Lost] = {}
        self._began_ns = env.clock.wall_ms() * NS_PER_MS
        self.streams: dict[str, _Stream] = {}
        self.is_closed = False

    def begin(self, view: View, tasks: Sequence[Task], services: Sequence[ServiceID]) -> None:
        """Ask for what there is by now, and (following) note what there may be."""
        if self._options.follow:
            self._services.update(one for one in services if view.services.get(one) is not None)
            self._awaited.update(task.id for task in tasks if view.tasks.get(task.id) is not None)
        self.ask([view.tasks.get(task.id) or task for task in tasks])
        for service_id in services:
            self.ask(sorted(view.tasks.scan("service", service_id), key=lambda task: task.id))

    def ask(self, tasks: Sequence[Task]) -> None:
        """Have the nodes of these tasks, where they run or ran, open a stream each. What was
        rejected never ran."""
        by_node: dict[NodeID, list[TaskID]] = {}
        for task in tasks:
            if task.status.state < TaskState.RUNNING:
                continue
            self._awaited.discard(task.id)
            has_run = task.node_id and task.status.state != TaskState.REJECTED
            if has_run and task.id not in self._seen:
                self._seen.add(task.id)
                by_node.setdefault(task.node_id, []).append(task.id)
        for node_id, task_ids in by_node.items():
            self._ask_node(node_id, task_ids)

    def _ask_node(
        self, node_id: NodeID, task_ids: Sequence[TaskID], options: LogOptions | None = None
    ) -> None:
        subscription = new_id(self._env.entropy)
        wanted = OpenLogs(
            subscription=subscription, task_ids=tuple(task_ids), options=options or self._options
        )
        if self._post(node_id, wanted):
            deadline_s = self._env.clock.mono_s() + OPEN_TIMEOUT_S
            stream = self.streams[subscription] = _Stream(node_id, task_ids, deadline_s)
            if options is not None:
                stream.sent_ns = {one: self._sent_ns.get(one, 0) for one in task_ids}
        else:
            self.say(task_ids[0], f"node {node_id} is not connected; its logs are out of reach")

    def on_events(self, events: Sequence[Event]) -> None:
        """Follow what is new of the services, and the tasks that had not run yet."""
        for event in events:
            if isinstance(event.new, Task):
                if event.new.service_id in self._services or event.id in self._awaited:
                    self.ask((event.new,))
                    self._changed.set()
            elif event.new is None:
                self._services.discard(ServiceID(event.id))
                self._awaited.discard(TaskID(event.id))
                self._changed.set()

    def say(self, task_id: TaskID, problem: str) -> None:
        """One line of our own, on stderr."""
        at_ns = self._env.clock.wall_ms() * NS_PER_MS
        self._queue.append((LogLine(task_id, at_ns, STDERR, f"swarmlet: {problem}\n".encode()),))
        self._changed.set()

    async def put(self, subscription: str, batch: LogBatch) -> None:
        """Waits while the reader is slow. Raises ChannelClosedError where nobody reads any more,
        ForbiddenError for lines of a task that the node was not asked for."""
        while len(self._queue) >= BATCHES_MAX and not self.is_closed:
            self._has_room.clear()
            await self._has_room.wait()
        stream = self.streams.get(subscription)
        if stream is None or self.is_closed:
            raise ChannelClosedError
        if any(line.task_id not in stream.task_ids for line in batch.lines):
            raise ForbiddenError(f"Node {stream.node_id} sent logs it was not asked for.")
        for line in batch.lines:
            check_line(line)
        if batch.problem:
            self.say(stream.task_id, batch.problem)
        self._take_lines(stream, batch.lines)
        if batch.is_last:
            del self.streams[subscription]
        self._changed.set()

    def _take_lines(self, stream: _Stream, lines: tuple[LogLine, ...]) -> None:
        new = tuple(line for line in lines if line.at_ns > stream.sent_ns.get(line.task_id, -1))
        if self._options.follow:
            for line in new:
                self._sent_ns[line.task_id] = max(line.at_ns, self._sent_ns.get(line.task_id, 0))
        if new:
            self._queue.append(new)

    def end(self, subscription: str, problem: str) -> None:
        """A stream that ended without its last batch. While following it goes on with the node's
        next session, if that comes soon: a node whose certificate is renewed registers anew."""
        stream = self.streams.pop(subscription, None)
        if stream is None:
            return
        if not self._options.follow:
            self.say(stream.task_id, problem)
            return
        earlier = self._lost.get(stream.node_id)
        task_ids = {*stream.task_ids, *(earlier.task_ids if earlier else ())}
        self._lost[stream.node_id] = _Lost(
            task_ids=tuple(sorted(task_ids)),
            problem=problem,
            deadline_s=self._env.clock.mono_s() + RESUME_TIMEOUT_S,
        )
        self._changed.set()

    def resume(self, node_id: NodeID) -> None:
        """The node has another session: it is asked for what it had not sent yet."""
        lost = self._lost.pop(node_id, None)
        if lost is None:
            return
        options = self._options
        unsent_ns = options.since_ns if options.tail < 0 else max(options.since_ns, self._began_ns)
        since_ns = min(self._sent_ns.get(task_id, unsent_ns) for task_id in lost.task_ids)
        self._ask_node(node_id, lost.task_ids, replace(options, tail=-1, since_ns=since_ns))
        self._changed.set()

    def lose(self, node_id: NodeID) -> None:
        """The node's session ended, and with it its streams."""
        for subscription in [s for s, one in self.streams.items() if one.node_id == node_id]:
            self.end(subscription, f"the connection to node {node_id} was lost")

    async def take(self) -> tuple[LogLine, ...]:
        """The next lines; empty once there will be no more."""
        while not self._queue:
            if not (self.streams or self._services or self._awaited or self._lost):
                return ()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s()):
                    await self._changed.wait()
            self._give_up_late()
        self._has_room.set()
        return self._queue.popleft()

    def _patience_s(self) -> float | None:
        """Until the first stream that is not open yet should be, or a lost one be back."""
        unopened = (one.deadline_s for one in self.streams.values() if not one.is_open)
        lost = (one.deadline_s for one in self._lost.values())
        first_s = min((*unopened, *lost), default=None)
        return None if first_s is None else max(0.0, first_s - self._env.clock.mono_s())

    def _give_up_late(self) -> None:
        now_s = self._env.clock.mono_s()
        for subscription, stream in list(self.streams.items()):
            if not stream.is_open and stream.deadline_s <= now_s:
                del self.streams[subscription]
                self.say(stream.task_id, f"node {stream.node_id} did not send its logs")
        for node_id, lost in list(self._lost.items()):
            if lost.deadline_s <= now_s:
                del self._lost[node_id]
                self.say(lost.task_ids[0], lost.problem)

    def close(self) -> None:
        """The reader is gone: so are its streams."""
        self.is_closed = True
        self._has_room.set()
        for subscription, stream in self.streams.items():
            self._post(stream.node_id, CloseLogs(subscription=subscription))


class _Sink:
    """The near end of a node's log stream in this process; everything is encoded on the way."""

    def __init__(self, reading: _Reading, subscription: str) -> None:
        self._reading, self._subscription = reading, subscription

    async def send(self, batch: LogBatch) -> None:
        await self._reading.put(self._subscription, _through(batch))

    def close(self) -> None:
        self._reading.end(self._subscription, "the stream of its logs broke off")


def _through(batch: LogBatch) -> LogBatch:
    """As it comes out at the other end of a wire."""
    received = decode_message(encode(batch))
    assert isinstance(received, LogBatch)
    return received


class LogBroker:
    """Readers of logs on this manager. Only the leader has the nodes' sessions."""

    def __init__(self, store: Store, dispatcher: Dispatcher, env: Env) -> None:
        self._store, self._dispatcher, self._env = store, dispatcher, env
        self._readings: dict[_Reading, None] = {}
        dispatcher.on_session_end = self._on_session_end
        dispatcher.on_session_begin = self._on_session_begin

    async def read(
        self,
        tasks: Sequence[Task],
        options: LogOptions,
        services: Sequence[ServiceID] = (),
    ) -> AsyncIterator[LogLine]:
        """Lines of these tasks and of all of `services` as they come. Without `follow` until all
        nodes are done; with it until the tasks have ended and the services are gone, or the caller
        stops. A node that cannot be asked is named in a line on stderr. Tasks that have not run yet
        have no logs and are waited for only with `follow`.
        """
        reading = _Reading(self._env, self._dispatcher.post, options)
        unsubscribe = self._store.subscribe(reading.on_events)
        self._readings[reading] = None
        try:
            reading.begin(self._store.view(), tasks, services)
            while lines := await reading.take():
                for line in lines:
                    yield line
        finally:
            unsubscribe()
            del self._readings[reading]
            reading.close()

    def open_stream(self, node_id: NodeID, subscription: str) -> _Sink:
        """Where `node_id` sends the logs it was asked for, once. Raises NotFoundError where nobody
        waits for them, ForbiddenError where another node was asked."""
        for reading in self._readings:
            stream = reading.streams.get(subscription)
            if stream is None:
                continue
            if stream.node_id != node_id or stream.is_open:
                raise ForbiddenError(f"Node {node_id} was not asked for these logs.")
            stream.is_open = True
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

    def gauges(self) -> dict[str, float]:
        return {"swarmlet_log_readers": float(len(self._readings))}

    def _on_session_end(self, node_id: NodeID) -> None:
        for reading in self._readings:
            reading.lose(node_id)

    def _on_session_begin(self, node_id: NodeID) -> None:
        for reading in self._readings:
            reading.resume(node_id)
