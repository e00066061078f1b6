"""Streams into tasks through the leader: with the agent of its own process, the fake runtime's
programs, and agents that do what they should not; on virtual time."""

import asyncio
from pathlib import Path

import pytest

from swarmlet.agent.agent import Agent
from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    QuorumLostError,
    UnavailableError,
)
from swarmlet.core.ids import TaskID
from swarmlet.manager import stream_broker
from swarmlet.manager.task_stream import TaskStream
from swarmlet.model.change import Remove, SetStatus
from swarmlet.model.node import Node
from swarmlet.model.task import TaskState as S
from swarmlet.model.task import TaskStatus
from swarmlet.wire.answers import until_ready
from swarmlet.wire.channel import ChannelClosedError, memory_stream
from swarmlet.wire.messages import (
    EXEC_SIZE_MAX_B,
    DialRequest,
    ExecRequest,
    Heartbeat,
    OpenStream,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamFrame,
    StreamReady,
    StreamRefused,
    StreamRequest,
    StreamResize,
    TaskStreamAsk,
    decode_stream_ask,
    encode,
)
from tests.agent.virtual_time import until
from tests.manager.swarm import NODE, OTHER, Swarm, play, play_with_agent, task_row
from tests.manager.test_dispatcher import registered

WHO = "alice (uid 1000) at m1"


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


def ask(*argv: str, task: str = "t", **more: object) -> TaskStreamAsk:
    return TaskStreamAsk(task_id=TaskID(task), request=ExecRequest(argv=argv, **more), who=WHO)


def port(number: int, who: str = WHO) -> TaskStreamAsk:
    return TaskStreamAsk(task_id=TaskID("t"), request=DialRequest(port=number), who=who)


class Notes:
    """What the history was told, newest last."""

    def __init__(self, swarm: Swarm) -> None:
        self.all: list[tuple[str, dict[str, str]]] = []
        swarm.store.history.listen(self._take)

    def _take(self, happening) -> None:
        for message in happening.messages:
            if message.kind == "task":
                assert message.id == "t"
                self.all.append((message.action, message.attributes))

    def actions(self) -> list[str]:
        return [action for action, _ in self.all]


async def frames_of(stream) -> list[StreamFrame]:
    """To the last one."""
    frames = []
    while not frames or not isinstance(frames[-1], StreamExit):
        frames.append(await stream.receive())
    return frames


async def running_task(swarm: Swarm) -> None:
    await swarm.create(task_row("t"))
    await swarm.reaches("t", S.RUNNING)


def test_program_runs_and_its_use_is_noted_before_and_after(swarm: Swarm):
    notes = Notes(swarm)

    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        stream = await swarm.manager.streams.open(ask("echo", "hello", "--password", "x"))
        assert notes.actions() == ["exec_start"], "before anything of it is to be seen"
        assert await frames_of(stream) == [
            StreamData(stream=1, data=b"hello --password x\n"),
            StreamExit(exit_code=0),
        ]
        stream.close()
        with pytest.raises(ChannelClosedError):
            await stream.receive()
        await until(lambda: len(notes.all) == 2)
        begun, ended = notes.all
        assert begun[1]["command"] == "echo hello --password <redacted>"
        assert (begun[1]["who"], begun[1]["service"], begun[1]["node"]) == (WHO, "web", NODE)
        assert ended == ("exec_die", {**begun[1], "exitCode": "0"})
        assert "env" not in str(notes.all)
        await until(lambda: not swarm.manager.streams.gauges()["swarmlet_streams"])

    play_with_agent(swarm, story)


def test_note_of_a_use_has_no_line_of_anybody_elses(swarm: Swarm):
    notes = Notes(swarm)

    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        stream = await swarm.manager.streams.open(ask("echo", "a\n2026 task exec_start\x1b[2K"))
        stream.close()
        assert notes.all[0][1]["command"] == "echo a 2026 task exec_start [2K"

    play_with_agent(swarm, story)


def test_input_sizes_ends_and_exit_code_go_through(swarm: Swarm):
    notes = Notes(swarm)

    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        broker = swarm.manager.streams
        cat = await broker.open(ask("cat", has_stdin=True))
        for number in range(50):
            await cat.send(StreamData(stream=0, data=b"%d" % number))
            assert await cat.receive() == StreamData(stream=1, data=b"%d" % number)
        await cat.send(StreamEnd())
        assert await frames_of(cat) == [StreamExit()]
        size = await broker.open(ask("size", is_tty=True, rows=10, columns=20))
        await size.send(StreamResize(rows=30, columns=40))
        assert await size.receive() == StreamData(stream=1, data=b"10 20\n")
        assert await size.receive() == StreamData(stream=1, data=b"30 40\n")
        size.close()
        failing = await broker.open(ask("exit", "7"))
        assert await frames_of(failing) == [StreamExit(exit_code=7)]
        await until(lambda: len(notes.all) == 6)
        ends = [attributes for action, attributes in notes.all if action == "exec_die"]
        assert [end.get("exitCode") for end in ends] == ["0", None, "7"]
        assert ends[1]["problem"] == "The caller has left."
        assert all(program.is_closed for program in swarm.runtime.programs)

    play_with_agent(swarm, story)


def test_program_that_cannot_be_started_is_the_streams_first_and_last_word(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        stream = await swarm.manager.streams.open(ask("nonsense"))
        (last,) = await frames_of(stream)
        assert isinstance(last, StreamExit)
        assert last.exit_code == 127
        assert "nonsense" in last.problem

    play_with_agent(swarm, story)


def test_caller_that_leaves_ends_the_program_also_one_that_reads_nothing(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        stream = await swarm.manager.streams.open(ask("sleep", has_stdin=True))

        async def type_in():
            while not stream.over.is_set():
                await stream.send(StreamData(stream=0, data=b"x"))

        async with asyncio.TaskGroup() as group:
            typing = group.create_task(type_in())
            await asyncio.sleep(1)
            assert not typing.done()
            stream.close()
            (program,) = swarm.runtime.programs
            await until(lambda: program.is_closed)
            typing.cancel()

    play_with_agent(swarm, story)


def test_connections_of_one_caller_to_a_port_are_one_use(swarm: Swarm):
    notes = Notes(swarm)

    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        broker = swarm.manager.streams
        for _number in range(3):
            streams = [await broker.open(port(80)) for _ in range(4)]
            for stream in streams:
                await stream.send(StreamData(stream=0, data=b"x"))
                await stream.send(StreamEnd())
                echo = [StreamData(stream=1, data=b"x"), StreamEnd(), StreamExit()]
                assert await frames_of(stream) == echo
            await asyncio.sleep(5)
        assert notes.actions() == ["forward_start"]
        other = await broker.open(port(80, who="bob"))
        await asyncio.sleep(20)
        assert notes.actions() == ["forward_start", "forward_start", "forward_end"]
        assert notes.all[2][1]["connections"] == "12"
        assert notes.all[2][1]["port"] == "80"
        other.close()
        await asyncio.sleep(20)
        assert notes.actions()[3:] == ["forward_end"]
        again = await broker.open(port(80))
        assert notes.actions()[4:] == ["forward_start"]
        again.close()

    play_with_agent(swarm, story)


def test_stream_is_refused_with_what_stands_in_its_way(swarm: Swarm):
    notes = Notes(swarm)

    async def story(swarm: Swarm, _: Agent):
        broker = swarm.manager.streams
        await swarm.create(task_row("t"), task_row("far", S.RUNNING, OTHER), task_row("new", S.NEW))
        await swarm.reaches("t", S.RUNNING)
        too_large = ask("x" * EXEC_SIZE_MAX_B)
        for wanted, kind, words in (
            (ask("true", task="nix"), NotFoundError, "task nix not found"),
            (ask("true", task="new"), FailedPreconditionError, "does not run: it is new"),
            (ask("true", task="far"), UnavailableError, "Node node-2 is not connected"),
            (port(81), FailedPreconditionError, "does not declare port 81; its TCP ports: 80"),
            (ask(), InvalidArgumentError, "No exec command"),
            (ask(""), InvalidArgumentError, "No exec command"),
            (too_large, InvalidArgumentError, "128 KiB at most"),
        ):
            with pytest.raises(kind, match=words):
                await broker.open(wanted)
        assert notes.all == []
        swarm.runtime.listening = False
        with pytest.raises(FailedPreconditionError, match="Nothing listens on port 80"):
            await broker.open(port(80))
        assert broker.gauges() == {"swarmlet_streams": 0}

    play_with_agent(swarm, story)


def test_no_use_without_a_note_of_it(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        commit = swarm.store.commit
        for raised, kind in (
            (QuorumLostError("Too few managers answer."), QuorumLostError),
            (NotLeaderError("Another leads."), NotLeaderError),
        ):

            async def fail(*_args, raised=raised, **_more):
                await asyncio.sleep(0)
                raise raised

            swarm.store.commit = fail
            with pytest.raises(kind):
                await swarm.manager.streams.open(ask("echo"))
            swarm.store.commit = commit
        assert swarm.runtime.programs == []
        assert swarm.manager.streams.gauges() == {"swarmlet_streams": 0}

    play_with_agent(swarm, story)


def test_caller_that_leaves_while_the_note_is_written_leaves_no_use_behind(swarm: Swarm):
    """Else the next connections would count as part of a use that nobody ever heard of."""
    notes = Notes(swarm)

    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        commit, broker = swarm.store.commit, swarm.manager.streams

        async def never(*_args, **_more):
            await asyncio.Event().wait()

        swarm.store.commit = never
        async with asyncio.TaskGroup() as group:
            first = group.create_task(broker.open(port(80)))
            await asyncio.sleep(1)
            joined = group.create_task(broker.open(port(80)))
            await asyncio.sleep(1)
            swarm.store.commit = commit
            first.cancel()
        assert notes.actions() == ["forward_start"]
        joined.result().close()
        await asyncio.sleep(20)
        assert notes.actions() == ["forward_start", "forward_end"]
        assert notes.all[1][1]["connections"] == "1"
        assert broker.gauges() == {"swarmlet_streams": 0}

    play_with_agent(swarm, story)


def test_streams_are_bounded_for_a_node_and_for_the_swarm(swarm: Swarm, monkeypatch):
    monkeypatch.setattr(stream_broker, "NODE_STREAMS_MAX", 3)

    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        broker = swarm.manager.streams
        streams = [await broker.open(ask("sleep")) for _ in range(3)]
        with pytest.raises(UnavailableError, match="Node node-1 serves 3 streams already"):
            await broker.open(ask("sleep"))
        monkeypatch.setattr(stream_broker, "STREAMS_MAX", 3)
        with pytest.raises(UnavailableError, match="The swarm serves 3 streams"):
            await broker.open(ask("sleep"))
        streams.pop().close()
        (await broker.open(ask("echo"))).close()
        for stream in streams:
            stream.close()

    play_with_agent(swarm, story)


def test_streams_end_with_the_session_of_their_node_in_a_sentence(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await running_task(swarm)
        broker = swarm.manager.streams
        stream = await broker.open(ask("sleep"))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(frames_of(stream))
            await asyncio.sleep(0.1)
            node = swarm.node()
            await swarm.store.commit([Remove(table=Node, id=NODE, seen=node.version)])
            (last,) = await reading
        assert "session of node node-1" in last.problem
        await until(lambda: swarm.runtime.programs[0].is_closed)

    play_with_agent(swarm, story)


def test_streams_end_when_leadership_does_and_none_is_opened_after(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        broker = swarm.manager.streams
        stream = await broker.open(ask("sleep"))
        swarm.log.lose()
        (last,) = await frames_of(stream)
        assert last.problem
        with pytest.raises(NotLeaderError):
            await broker.open(ask("sleep"))

    play_with_agent(swarm, story)


def test_task_that_ends_takes_its_programs_along(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        stream = await swarm.manager.streams.open(ask("sleep"))
        swarm.runtime.kill(TaskID("t"))
        assert await frames_of(stream) == [StreamExit(exit_code=137)]

    play_with_agent(swarm, story)


# An agent that is not ours


async def strange(swarm: Swarm, request: StreamRequest | None = None):
    """A session of the node without an agent behind it, and a stream that is being opened."""
    channel = await registered(swarm)
    await swarm.create(task_row("t"))
    status = TaskStatus(state=S.RUNNING, at_ms=1)
    await swarm.store.commit([SetStatus(id=TaskID("t"), status=status)])
    opening = asyncio.ensure_future(
        swarm.manager.streams.open(ask("sh") if request is None else port(80))
    )
    while not isinstance(wanted := await channel.receive(), OpenStream):
        pass
    assert wanted.task_id == "t"
    return wanted.stream_id, opening, channel


def test_node_that_does_not_bring_its_end_is_given_up(swarm: Swarm):
    async def story(swarm: Swarm):
        _, opening, channel = await strange(swarm)
        beating = asyncio.ensure_future(beat(channel))
        with pytest.raises(UnavailableError, match="did not open the stream in time"):
            await opening
        beating.cancel()
        assert swarm.manager.streams.gauges() == {"swarmlet_streams": 0}

    play(swarm, story)


async def beat(channel):
    while True:
        await channel.send(Heartbeat())
        await asyncio.sleep(3)


def test_stream_is_for_the_node_that_was_asked_once_and_not_made_up(swarm: Swarm):
    async def story(swarm: Swarm):
        stream_id, opening, _ = await strange(swarm)
        assert len(stream_id) == 25
        broker = swarm.manager.streams
        with pytest.raises(ForbiddenError, match="was not asked"):
            broker.bring(memory_stream()[1], OTHER, stream_id)
        with pytest.raises(NotFoundError):
            broker.bring(memory_stream()[1], NODE, "made-up")
        near, far = memory_stream()
        broker.bring(far, NODE, stream_id)
        with pytest.raises(ForbiddenError):
            broker.bring(memory_stream()[1], NODE, stream_id)
        await near.send(StreamReady())
        stream = await opening
        stream.close()
        with pytest.raises(ChannelClosedError):
            await near.receive()
        with pytest.raises(NotFoundError):
            broker.bring(memory_stream()[1], NODE, stream_id)

    play(swarm, story)


NONSENSE = [
    StreamReady(),
    StreamData(stream=0, data=b"x"),
    StreamData(stream=3, data=b"x"),
    StreamData(stream=1, data=b"x" * 40_000),
    StreamResize(rows=1, columns=1),
    StreamRefused(code="not-found", message="x"),
]


@pytest.mark.parametrize("frame", NONSENSE, ids=lambda frame: type(frame).__name__)
def test_node_that_sends_what_it_may_not_loses_the_stream(swarm: Swarm, frame: StreamFrame):
    async def story(swarm: Swarm):
        stream_id, opening, _ = await strange(swarm)
        near, far = memory_stream()
        swarm.manager.streams.bring(far, NODE, stream_id)
        await near.send(StreamReady())
        stream = await opening
        await near.send(frame)
        (last,) = await frames_of(stream)
        assert isinstance(last, StreamExit)
        assert "does not belong to a stream" in last.problem

    play(swarm, story)


def test_nodes_sentence_is_cut_where_it_is_too_long(swarm: Swarm):
    async def story(swarm: Swarm):
        stream_id, opening, _ = await strange(swarm)
        near, far = memory_stream()
        swarm.manager.streams.bring(far, NODE, stream_id)
        await near.send(StreamExit(problem="x" * 100_000))
        with pytest.raises(FailedPreconditionError) as refusal:
            await opening
        assert len(refusal.value.message) == 1_000

    play(swarm, story)


def test_nodes_sentence_does_nothing_to_a_terminal(swarm: Swarm):
    async def story(swarm: Swarm):
        stream_id, opening, _ = await strange(swarm)
        near, far = memory_stream()
        swarm.manager.streams.bring(far, NODE, stream_id)
        await near.send(StreamReady())
        stream = await opening
        await near.send(StreamExit(problem="gone\x1b]0;title\x07\nError: another"))
        (last,) = await frames_of(stream)
        assert isinstance(last, StreamExit)
        assert last.problem == "gone ]0;title  Error: another"

    play(swarm, story)


# For another manager's caller


class Asked:
    """The leader's end of what another manager passes on."""

    def __init__(self, end, wanted: TaskStreamAsk) -> None:
        self._wanted = encode(wanted)
        self.send, self.receive, self.left, self.close = end.send, end.receive, end.left, end.close

    async def ask(self) -> TaskStreamAsk:
        return decode_stream_ask(self._wanted)


def test_stream_for_another_manager_is_ready_or_refused_in_its_first_frame(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        broker = swarm.manager.streams
        near, far = memory_stream()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(broker.serve(Asked(far, ask("cat", has_stdin=True)), OTHER))
            await until_ready(near)
            for number in range(100):
                await near.send(StreamData(stream=0, data=b"%d" % number))
                assert await near.receive() == StreamData(stream=1, data=b"%d" % number)
            await near.send(StreamEnd())
            assert await frames_of(near) == [StreamExit()]
            assert not serving.done(), "it may be read slowly"
            near.close()
            await serving
            refused, end = memory_stream()
            await broker.serve(Asked(end, ask("true", task="nix")), OTHER)
            with pytest.raises(NotFoundError, match="task nix not found"):
                await until_ready(refused)

    play_with_agent(swarm, story)


def test_caller_of_another_manager_that_leaves_ends_the_program(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        near, far = memory_stream()
        async with asyncio.TaskGroup() as group:
            group.create_task(swarm.manager.streams.serve(Asked(far, ask("flood")), OTHER))
            await until_ready(near)
            await asyncio.sleep(1)  # it is held back: nobody reads
            (program,) = swarm.runtime.programs
            seen = program.flooded
            await asyncio.sleep(1)
            assert program.flooded == seen < 100
            near.close()
            await until(lambda: program.is_closed)

    play_with_agent(swarm, story)


@pytest.mark.parametrize(
    "frame", [StreamReady(), StreamExit(), StreamData(stream=1, data=b"x")], ids=repr
)
def test_caller_that_sends_what_it_may_not_loses_the_stream(swarm: Swarm, frame: StreamFrame):
    async def story(swarm: Swarm, _: Agent):
        await running_task(swarm)
        near, far = memory_stream()
        async with asyncio.TaskGroup() as group:
            group.create_task(swarm.manager.streams.serve(Asked(far, ask("sleep")), OTHER))
            await until_ready(near)
            await near.send(frame)
            await until(lambda: swarm.runtime.programs[0].is_closed)

    play_with_agent(swarm, story)


def test_task_stream_of_a_lost_connection_says_which_node_it_was():
    async def main():
        ended: list[TaskStream] = []
        stream = TaskStream("s", NODE, ended.append)
        near, far = memory_stream()
        assert stream.bring(far)
        await near.send(StreamReady())
        await stream.ready()
        near.close()
        await stream.send(StreamData(stream=0, data=b"x"))
        assert await stream.receive() == StreamExit(
            problem="The connection to node node-1 was lost."
        )
        assert ended == [stream]

    asyncio.run(main())
