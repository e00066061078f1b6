"""Streams into tasks: a caller on one side, on the other a node's agent, which this manager asks to
open a connection of its own.

Runs on the leader, which has the nodes' sessions. A stream ends with its caller, with its task's
side, with the session of its node (so also when the node registers anew) and with this manager's
leading: how it ends could not be written down any more. No use without a note of it: see
`stream_notes`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Final, TypeAlias

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, new_id
from swarmlet.env.base import Env
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.stream_notes import Place, StreamNotes
from swarmlet.manager.task_stream import TaskStream
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, task_spec_of
from swarmlet.store.store import Store
from swarmlet.wire.channel import AskedStream, ChannelClosedError, StreamChannel
from swarmlet.wire.messages import (
    EXEC_SIZE_MAX_B,
    ExecRequest,
    OpenStream,
    ReadLogs,
    StreamExit,
    StreamReady,
    StreamRefused,
    StreamRequest,
    TaskStreamAsk,
    encode,
)
from swarmlet.wire.until_first import until_first

log = logging.getLogger("swarmlet.manager")

STREAMS_MAX: Final = 256  # of the swarm at once: 0.8 to 1.3 MiB each where nobody reads
NODE_STREAMS_MAX: Final = 128  # into the tasks of one node at once
ASK_TIMEOUT_S: Final = 5.0  # for another manager to say what it wants
USE_ID_LENGTH: Final = 12  # of a stream's id, the part that is told


ServeLogs: TypeAlias = Callable[[StreamChannel, ReadLogs], Awaitable[None]]


async def _no_logs(channel: StreamChannel, _wanted: ReadLogs) -> None:
    channel.close()


class StreamBroker:
    """One a manager; elsewhere than on the leader every stream is refused."""

    name: Final = "streams"

    def __init__(self, store: Store, dispatcher: Dispatcher, env: Env) -> None:
        self._store, self._dispatcher, self._env = store, dispatcher, env
        self._notes = StreamNotes(store, self._spawn)
        self._streams: dict[str, TaskStream] = {}
        self._group: asyncio.TaskGroup | None = None
        self.serve_logs: ServeLogs = _no_logs  # replaced where there is a log broker
        self._ends = dispatcher.on_session_end
        dispatcher.on_session_end = self._on_session_end

    async def run(self) -> None:
        """Until cancelled; then all streams end."""
        self._notes = StreamNotes(self._store, self._spawn)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await asyncio.Event().wait()
                finally:
                    self._group = None
        finally:
            for stream in list(self._streams.values()):
                stream.fail("The manager that led the swarm leads it no more.")

    async def open(self, ask: TaskStreamAsk) -> TaskStream:
        """A stream that is ready, or whose first frame is the StreamExit that says why its program
        does not run. Whoever has it closes it.

        Raises NotFoundError (no such task), FailedPreconditionError (it does not run, does not
        declare the port, its runtime refuses), InvalidArgumentError, UnavailableError (its node is
        not connected or does not answer, too many streams, no note of it can be written) and
        NotLeaderError, after which nothing was done.
        """
        place = self._place(ask)
        stream = self._reserve(place)
        try:
            stream.use = await self._notes.begin(ask, place, stream.id[:USE_ID_LENGTH])
            self._ask_node(stream, ask)
            await stream.ready()
        except BaseException as problem:
            stream.fail(problem.message if isinstance(problem, SwarmError) else "It was given up.")
            raise
        return stream

    async def serve(self, channel: AskedStream, manager_id: str) -> None:
        """A stream for a caller of another manager, until it ends."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                ask = await channel.ask()
            if ask.logs is not None:
                await self.serve_logs(channel, ask.logs)
                return
            stream = await self._open_for(channel, ask)
            if stream is not None:
                try:
                    await channel.send(StreamReady())
                    await pump(channel, stream)
                finally:
                    stream.close()
        except (ChannelClosedError, TimeoutError):
            log.debug("stream.asker_gone", extra={"node_id": manager_id})

    def bring(self, channel: StreamChannel, node_id: str, stream_id: str) -> TaskStream:
        """A node's end of a stream that it was asked for. Raises NotFoundError where nobody waits
        for it, ForbiddenError where another was asked, or it has brought it already."""
        stream = self._streams.get(stream_id)
        if stream is None:
            raise NotFoundError("stream", stream_id, "Whoever asked for it is gone.")
        if stream.node_id != node_id or not stream.bring(channel):
            raise ForbiddenError(f"Node {node_id} was not asked for this stream.")
        return stream

    async def take(self, channel: StreamChannel, node_id: str, stream_id: str) -> None:
        """The same, until the stream has ended. Raises as `bring`."""
        stream = self.bring(channel, node_id, stream_id)
        try:
            await stream.over.wait()
        finally:
            stream.fail(f"The connection to node {node_id} was lost.")

    def gauges(self) -> dict[str, float]:
        return {"swarmlet_streams": float(len(self._streams))}

    # Inside

    async def _open_for(self, channel: AskedStream, ask: TaskStreamAsk) -> TaskStream | None:
        """None where it was refused, which was said."""
        try:
            return await self.open(ask)
        except SwarmError as refusal:
            managers = refusal.managers if isinstance(refusal, NotLeaderError) else ()
            await channel.send(
                StreamRefused(
                    code=refusal.code,
                    message=refusal.message,
                    remedy=refusal.remedy,
                    managers=managers,
                )
            )
            return None

    def _place(self, ask: TaskStreamAsk) -> Place:
        """Where the stream leads. Raises as `open`."""
        if self._group is None or ask.logs is not None:  # logs are read here, or not at all
            raise NotLeaderError("This manager does not lead the swarm.", remedy="Try again.")
        view = self._store.view()
        task = view.tasks.get(ask.task_id)
        if task is None:
            raise NotFoundError("task", ask.task_id)
        service = view.services.get(task.service_id)
        name = task.service_id if service is None else service.name
        if task.status.state != TaskState.RUNNING:
            state = TaskState(task.status.state).name.lower()
            raise FailedPreconditionError(
                f"Task {task.id} does not run: it is {state}.",
                remedy=f"`swarmlet service ps {name}` lists the tasks that do.",
            )
        _check(ask.request, view, task, name)
        return Place(task_id=task.id, service=name, node_id=task.node_id)

    def _reserve(self, place: Place) -> TaskStream:
        node_id = NodeID(place.node_id)
        if not self._dispatcher.has_session(node_id):
            raise _not_connected(node_id)
        if len(self._streams) >= STREAMS_MAX:
            raise _too_many(f"The swarm serves {STREAMS_MAX} streams into tasks already")
        if sum(1 for one in self._streams.values() if one.node_id == node_id) >= NODE_STREAMS_MAX:
            raise _too_many(f"Node {node_id} serves {NODE_STREAMS_MAX} streams already")
        stream = TaskStream(new_id(self._env.entropy), node_id, self._on_end)
        self._streams[stream.id] = stream
        return stream

    def _ask_node(self, stream: TaskStream, ask: TaskStreamAsk) -> None:
        wanted = OpenStream(stream_id=stream.id, task_id=ask.task_id, request=ask.request)
        if not self._dispatcher.post(stream.node_id, wanted):
            raise _not_connected(stream.node_id)

    def _on_end(self, stream: TaskStream) -> None:
        self._streams.pop(stream.id, None)
        if stream.use is not None:
            self._notes.end(stream.use, stream.exit_code, stream.problem)

    def _spawn(self, work: Coroutine[None, None, None]) -> object:
        if self._group is None:
            work.close()  # the next leader knows nothing of it
            return None
        return self._group.create_task(work, name="stream note")

    def _on_session_end(self, node_id: NodeID) -> None:
        self._ends(node_id)
        for stream in list(self._streams.values()):
            if stream.node_id == node_id:
                stream.fail(f"The session of node {node_id} with its manager has ended.")


async def pump(client: StreamChannel, stream: TaskStream) -> None:
    """Carry frames both ways until all that the task's side said was read, or the client left."""
    await until_first(_forth(client, stream), _back(stream, client), client.left())


async def _forth(client: StreamChannel, stream: TaskStream) -> None:
    """Until the client left."""
    with suppress(ChannelClosedError):
        while True:
            await stream.send(await client.receive())


async def _back(stream: TaskStream, client: StreamChannel) -> None:
    with suppress(ChannelClosedError):
        frame = None
        while not isinstance(frame, StreamExit):
            frame = await stream.receive()
            await client.send(frame)
        await client.left()  # it may read slowly, and nothing of this is to be lost


def _check(request: StreamRequest, view: View, task: Task, name: str) -> None:
    """Raises InvalidArgumentError, FailedPreconditionError."""
    if isinstance(request, ExecRequest):
        if not request.argv or not request.argv[0]:
            raise InvalidArgumentError("No exec command specified")
        if len(encode(request)) > EXEC_SIZE_MAX_B:
            raise InvalidArgumentError(
                f"A command and its environment have {EXEC_SIZE_MAX_B // 1024} KiB at most.",
                remedy="Hand it more on its standard input.",
            )
        return
    ports = declared_ports(view, task)
    if request.port not in ports:
        listed = ", ".join(map(str, ports)) or "none"
        raise FailedPreconditionError(
            f"Service {name} does not declare port {request.port}; its TCP ports: {listed}.",
            remedy=f"`swarmlet service update --publish-add mode=host,target={request.port} {name}`"
            " declares it.",
        )


def declared_ports(view: View, task: Task) -> list[int]:
    """The TCP ports that the service of this task publishes, as the task has them: in order."""
    endpoint = task_spec_of(view, task).endpoint_spec
    ports = [] if endpoint is None else endpoint.ports
    return sorted({port.target_port for port in ports if port.protocol in ("", "tcp")})


def _not_connected(node_id: NodeID) -> UnavailableError:
    return UnavailableError(
        f"Node {node_id} is not connected.",
        remedy=f"`swarmlet node inspect --pretty {node_id}` says since when.",
    )


def _too_many(fact: str) -> UnavailableError:
    return UnavailableError(f"{fact}, and no more.", remedy="End one of them first.")
