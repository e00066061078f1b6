"""A node's side of streams: its own running tasks, bounded, closed however they end."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from swarmlet.agent import streams
from swarmlet.agent.streams import StreamServer
from swarmlet.core.errors import NotFoundError, UnavailableError
from swarmlet.core.ids import TaskID
from swarmlet.model.task import TaskState as S
from swarmlet.model.task import TaskStatus
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.wire.channel import ChannelClosedError, MemoryStream, memory_stream
from swarmlet.wire.messages import (
    STREAM_DATA_MAX_B,
    DialRequest,
    ExecRequest,
    OpenStream,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamReady,
    StreamRequest,
)
from tests.agent.fake_runtime import FakeRuntime
from tests.agent.fakes import assigned
from tests.agent.virtual_time import VirtualClock, run_virtual, until


class World:
    """A session's streams, the far ends of which are kept by their ids."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.runtime = FakeRuntime(VirtualClock())
        self.states = {"t": S.RUNNING, "new": S.STARTING}
        self.far: dict[str, MemoryStream] = {}
        self.refusal: Exception | None = None
        self.server = StreamServer(self, self, group)

    def statuses(self):
        return {TaskID(name): TaskStatus(state=state) for name, state in self.states.items()}

    async def open_stream(self, stream_id: str) -> MemoryStream:
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        near, self.far[stream_id] = memory_stream()
        return near

    async def opened(self, name: str, request: StreamRequest, task: str = "t") -> MemoryStream:
        self.server.open(OpenStream(stream_id=name, task_id=TaskID(task), request=request))
        await until(lambda: name in self.far)
        return self.far[name]

    def is_idle(self) -> bool:
        return not self.server._open


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            world = World(group)
            await world.runtime.prepare(assigned("t"))
            await world.runtime.start(assigned("t"))
            await story(world)

    run_virtual(main())


def run(*argv: str) -> ExecRequest:
    return ExecRequest(argv=argv, has_stdin=True)


def test_stream_is_only_into_a_running_task_of_this_node():
    async def story(world: World):
        for task, words in (("nix", "has no task nix"), ("new", "does not run")):
            far = await world.opened(task, run("echo"), task)
            last = await far.receive()
            assert isinstance(last, StreamExit)
            assert (words in last.problem, last.exit_code) == (True, 0)
            far.close()
        await until(world.is_idle)
        assert world.runtime.programs == []

    play(story)


def test_large_output_comes_in_pieces_and_the_program_is_closed():
    async def story(world: World):
        far = await world.opened("s", run("flood"))
        assert await far.receive() == StreamReady()
        frame = await far.receive()
        assert isinstance(frame, StreamData)
        assert len(frame.data) <= STREAM_DATA_MAX_B
        far.close()
        await until(world.is_idle)
        assert world.runtime.programs[0].is_closed

    play(story)


def test_connection_ends_only_when_both_sides_have():
    async def story(world: World):
        far = await world.opened("s", DialRequest(port=80))
        assert await far.receive() == StreamReady()
        await far.send(StreamData(stream=0, data=b"x"))
        assert await far.receive() == StreamData(stream=1, data=b"x")
        await asyncio.sleep(1000)
        await far.send(StreamEnd())
        assert [await far.receive(), await far.receive()] == [StreamEnd(), StreamExit()]
        await asyncio.sleep(1000)
        assert not world.is_idle(), "it may be read slowly"
        far.close()
        await until(world.is_idle)
        assert world.runtime.connections[0].is_closed

    play(story)


def test_connection_that_breaks_is_said_in_a_sentence():
    async def story(world: World):
        far = await world.opened("s", DialRequest(port=80))
        await far.receive()
        (connection,) = world.runtime.connections

        async def broken(_data: bytes) -> None:
            raise RuntimeProblemError("The connection was reset.")

        connection.write = broken
        await far.send(StreamData(stream=0, data=b"x"))
        assert await far.receive() == StreamExit(problem="The connection was reset.")
        assert connection.is_closed
        far.close()

    play(story)


@pytest.mark.parametrize("refusal", [NotFoundError("stream", "s"), UnavailableError("gone")])
def test_stream_that_cannot_be_opened_to_the_manager_is_forgotten(refusal):
    async def story(world: World):
        world.refusal = refusal
        world.server.open(OpenStream(stream_id="s", task_id=TaskID("t"), request=run("echo")))
        await until(world.is_idle)

    play(story)


def test_fault_in_the_runtime_ends_one_stream_and_nothing_else():
    async def story(world: World):
        async def faulty(*_args: object) -> None:
            raise AssertionError("a bug")

        world.runtime.exec = faulty
        far = await world.opened("s", run("echo"))
        with pytest.raises(ChannelClosedError):
            await far.receive()
        await until(world.is_idle)

    play(story)


def test_streams_are_bounded_and_each_is_opened_once(monkeypatch):
    monkeypatch.setattr(streams, "STREAMS_MAX", 2)

    async def story(world: World):
        ends = [await world.opened(name, run("sleep")) for name in ("a", "b")]
        for name in ("a", "c"):
            world.server.open(OpenStream(stream_id=name, task_id=TaskID("t"), request=run("sleep")))
        await asyncio.sleep(1)
        assert len(world.runtime.programs) == 2
        assert "c" not in world.far
        for end in ends:
            end.close()
        await until(world.is_idle)

    play(story)


def test_programs_end_with_the_session():
    async def main() -> None:
        kept = SimpleNamespace()

        async def session() -> None:
            async with asyncio.TaskGroup() as group:
                kept.world = world = World(group)
                await world.runtime.prepare(assigned("t"))
                await world.runtime.start(assigned("t"))
                await world.opened("s", run("sleep"))
                await asyncio.Event().wait()

        running = asyncio.ensure_future(session())
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait((running,))
        assert kept.world.runtime.programs[0].is_closed

    run_virtual(main())
