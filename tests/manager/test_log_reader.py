"""Logs through a manager that does not lead: asked of the leader, and on with the next one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from swarmlet.agent.agent import Agent
from swarmlet.core.errors import NotLeaderError, SwarmError, UnavailableError
from swarmlet.core.ids import TaskID
from swarmlet.manager.log_broker import READERS_MAX, LogBroker, TooManyReadersError
from swarmlet.manager.log_reader import LogReader
from swarmlet.model.task import TaskState as S
from swarmlet.wire.answers import until_ready
from swarmlet.wire.channel import StreamChannel, memory_stream
from swarmlet.wire.messages import (
    STREAM_MESSAGE_MAX_B,
    LogLine,
    LogMark,
    LogOptions,
    ReadLogs,
    StreamData,
    StreamExit,
    StreamFrame,
    TaskStreamAsk,
    encode,
)
from tests.agent.virtual_time import run_virtual, until, virtual_env
from tests.manager.swarm import WEB, Swarm, play_with_agent, reading_of, task_row

FOLLOW = LogOptions(follow=True)


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


class Follower(LogBroker):
    """Of a manager that does not lead."""

    def __init__(self) -> None:
        pass

    async def batches(self, wanted: ReadLogs) -> AsyncGenerator[Sequence[LogLine], None]:
        raise NotLeaderError("This manager does not lead.")
        yield ()


class Asked:
    """The leader's end of a stream that was asked for."""

    def __init__(self, channel: StreamChannel, ask: TaskStreamAsk) -> None:
        self._channel, self._ask = channel, ask
        self.send, self.receive = channel.send, channel.receive
        self.left, self.close = channel.left, channel.close

    async def ask(self) -> TaskStreamAsk:
        return self._ask


class Way:
    """From another manager to the one of `swarm`, which may be cut."""

    def __init__(self, swarm: Swarm, group: asyncio.TaskGroup) -> None:
        self._swarm, self._group = swarm, group
        self.asks: list[ReadLogs] = []
        self.open_ends: list[StreamChannel] = []
        self.is_cut = False

    async def open(self, ask: TaskStreamAsk) -> StreamChannel:
        if self.is_cut:
            raise UnavailableError("Nobody answers.")
        assert ask.logs is not None
        self.asks.append(ask.logs)
        near, far = memory_stream()
        self._group.create_task(self._swarm.manager.streams.serve(Asked(far, ask), "m2"))
        await until_ready(near)
        self.open_ends.append(near)
        return near

    def cut(self) -> None:
        self.is_cut = True
        for end in self.open_ends:
            end.close()


def test_every_line_comes_once_through_another_manager_whose_leader_goes_and_comes(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        got: list[str] = []

        def write(*texts: str) -> None:
            for text in texts:
                swarm.runtime.write(TaskID("a"), text.encode())

        async def read(reader: LogReader) -> None:
            async for line in reader.read([swarm.task("a")], FOLLOW, (WEB,)):
                got.append(line.data.decode())  # noqa: PERF401 - each is looked at as it comes

        async with asyncio.TaskGroup() as group:
            way = Way(swarm, group)
            reading = group.create_task(read(LogReader(Follower(), way, swarm.env)))
            write("1", "2")
            await until(lambda: got == ["1", "2"])
            way.cut()
            await asyncio.sleep(2)
            write("3")
            way.is_cut = False
            await until(lambda: got == ["1", "2", "3"])
            await asyncio.sleep(1)
            write("4")
            await until(lambda: got == ["1", "2", "3", "4"])
            first, again = way.asks
            assert (first.is_resumed, first.task_ids, first.services) == (False, (), (WEB,))
            assert again.is_resumed
            assert [mark.task_id for mark in again.marks] == ["a"]
            reading.cancel()
        assert swarm.manager.gauges()["swarmlet_log_readers"] == 0

    play_with_agent(swarm, story)


def test_log_that_is_not_followed_ends_in_a_sentence_with_its_leader(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        swarm.runtime.write(TaskID("a"), b"1")
        async with asyncio.TaskGroup() as group:
            way = Way(swarm, group)
            reading = LogReader(Follower(), way, swarm.env).read([swarm.task("a")], LogOptions())
            assert [line.data async for line in reading] == [b"1"]
            way.is_cut = True
            began_s = swarm.env.clock.mono_s()
            with pytest.raises(UnavailableError, match="Nobody answers"):
                await anext(LogReader(Follower(), way, swarm.env).read([], LogOptions(), (WEB,)))
            assert 2.0 < swarm.env.clock.mono_s() - began_s < 6.0

    play_with_agent(swarm, story)


def test_long_lines_cross_whole(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        texts = [bytes([65 + number]) * 16_384 for number in range(20)]
        for text in texts:
            swarm.runtime.write(TaskID("a"), text)
        async with asyncio.TaskGroup() as group:
            reader = LogReader(Follower(), Way(swarm, group), swarm.env)
            found = [line.data async for line in reader.read([swarm.task("a")], LogOptions())]
        assert found == texts

    play_with_agent(swarm, story)


def test_one_reader_too_many_is_refused_here_and_through_another_manager(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        def reading():
            return reading_of(swarm.manager, swarm.env, [], FOLLOW, (WEB,))

        async with asyncio.TaskGroup() as group:
            others = [group.create_task(anext(reading())) for _ in range(READERS_MAX)]
            await asyncio.sleep(1)
            with pytest.raises(TooManyReadersError, match="128 readers"):
                await anext(reading())
            reader = LogReader(Follower(), Way(swarm, group), swarm.env)
            with pytest.raises(TooManyReadersError, match="128 readers"):
                await anext(reader.read([], FOLLOW, (WEB,)))
            for one in others:
                one.cancel()

    play_with_agent(swarm, story)


class Scripted:
    """A leader that says what it is told to, then is lost."""

    def __init__(self, *lives: Sequence[StreamFrame]) -> None:
        self._lives, self.asks = list(lives), 0

    async def open(self, ask: TaskStreamAsk) -> StreamChannel:
        self.asks += 1
        if not self._lives:
            raise UnavailableError("Nobody leads.")
        near, far = memory_stream()
        for frame in self._lives.pop(0):
            await far.send(frame)
        far.close()
        return near


def outcome_of(streams: Scripted, options: LogOptions = FOLLOW) -> tuple[list[bytes], str]:
    """What is read, and what is said at its end."""
    env, got = virtual_env(None), []

    async def read() -> str:
        try:
            async for line in LogReader(Follower(), streams, env).read([], options, (WEB,)):
                got.append(line.data)  # noqa: PERF401 - each is looked at as it comes
        except SwarmError as problem:
            return problem.message
        return ""

    return got, run_virtual(read())


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", b"\0\0\0\x02\x91\x01"])
def test_leader_that_sends_what_is_no_log_is_given_up(data: bytes):
    streams = Scripted([StreamData(stream=1, data=data)])
    assert outcome_of(streams) == ([], "Nobody leads.")
    assert streams.asks > 10


def test_what_the_leader_says_is_in_the_way_is_said_and_not_asked_for_again():
    streams = Scripted([StreamExit(problem="There is no room.")])
    assert outcome_of(streams) == ([], "There is no room.")
    assert streams.asks == 1


def test_marks_of_very_many_tasks_fit_a_message():
    marks = tuple(LogMark(TaskID(f"{number:025}"), 2**62, 2**31) for number in range(2_000))
    wanted = ReadLogs(task_ids=(), services=(WEB,), options=FOLLOW, began_ns=2**62, marks=marks)
    assert len(encode(wanted)) < STREAM_MESSAGE_MAX_B - 1_000
