"""Reading logs through the manager: to the end, following, from nodes that are not there,
slowly."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from swarmlet.agent.agent import Agent
from swarmlet.core.errors import ForbiddenError, InvalidArgumentError, NotFoundError
from swarmlet.core.ids import TaskID
from swarmlet.manager.log_progress import OWN
from swarmlet.manager.log_reading import BATCHES_MAX
from swarmlet.model.change import Remove, SetStatus
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskStatus
from swarmlet.model.task import TaskState as S
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
from swarmlet.wire.messages import LogBatch, LogLine, LogOptions, OpenLogs
from tests.agent.virtual_time import until
from tests.manager.swarm import (
    DESCRIPTION,
    NODE,
    OTHER,
    WEB,
    Swarm,
    play,
    play_with_agent,
    reading_of,
    task_row,
)
from tests.manager.test_dispatcher import assignments, registered

FOLLOW = LogOptions(follow=True)


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


async def all_of(swarm: Swarm, options: LogOptions, *names: str) -> list[bytes]:
    tasks = [swarm.task(name) for name in names]
    return [line.data async for line in reading_of(swarm.manager, swarm.env, tasks, options)]


def test_reading_ends_when_every_node_has_sent_everything(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"), task_row("b"), task_row("waiting", S.PENDING))
        for name in ("a", "b"):
            await swarm.reaches(name, S.RUNNING)
            for number in range(3):
                swarm.runtime.write(TaskID(name), f"{name}{number}".encode())
        lines = await all_of(swarm, LogOptions(), "a", "b", "waiting")
        assert sorted(lines) == [b"a0", b"a1", b"a2", b"b0", b"b1", b"b2"]
        assert await all_of(swarm, LogOptions(tail=1), "a") == [b"a2"]

    play_with_agent(swarm, story)


def test_task_that_was_rejected_has_no_log(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a", S.REJECTED))
        assert await all_of(swarm, LogOptions(), "a") == []
        assert await all_of(swarm, FOLLOW, "a") == []

    play_with_agent(swarm, story)


def test_reading_names_a_node_that_is_not_connected(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a", S.RUNNING, OTHER), task_row("b", S.RUNNING, OTHER))
        tasks = [swarm.task("a"), swarm.task("b")]
        lines = [line async for line in reading_of(swarm.manager, swarm.env, tasks, LogOptions())]
        assert [line.stream for line in lines] == [OWN]
        assert lines[0].data == (
            b"swarmlet: node node-2 is not connected: the logs of 2 tasks are out of reach\n"
        )

    play_with_agent(swarm, story)


def test_following_brings_new_lines_and_new_tasks_until_the_service_is_gone(swarm: Swarm):
    got: list[bytes] = []

    async def read(swarm: Swarm):
        async for line in reading_of(swarm.manager, swarm.env, [], FOLLOW, services=(WEB,)):
            got.append(line.data)  # noqa: PERF401 - each is looked at as it comes

    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        async with asyncio.TaskGroup() as group:
            group.create_task(read(swarm))
            await asyncio.sleep(1)
            swarm.runtime.write(TaskID("a"), b"a1")
            await until(lambda: got == [b"a1"], limit_s=1)
            await swarm.create(task_row("b"))
            await swarm.reaches("b", S.RUNNING)
            swarm.runtime.write(TaskID("b"), b"b1")
            await until(lambda: got == [b"a1", b"b1"], limit_s=1)
            swarm.runtime.kill(TaskID("a"))
            await asyncio.sleep(100)
            swarm.runtime.write(TaskID("b"), b"b2")
            await until(lambda: got[-1] == b"b2", limit_s=1)
            await swarm.store.commit([Remove(table=Service, id=WEB)])
            swarm.runtime.kill(TaskID("b"))
        assert swarm.manager.gauges()["swarmlet_log_readers"] == 0

    play_with_agent(swarm, story)


def test_following_tasks_alone_ends_with_them(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"), task_row("b"))
        await swarm.reaches("a", S.RUNNING)
        swarm.runtime.write(TaskID("a"), b"1")
        reading = reading_of(swarm.manager, swarm.env, [swarm.task("a")], FOLLOW)
        assert (await anext(reading)).data == b"1"
        swarm.runtime.kill(TaskID("a"))
        assert [line async for line in reading] == []

    play_with_agent(swarm, story)


def test_following_waits_for_the_first_task_of_a_service(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        reading = reading_of(swarm.manager, swarm.env, [], FOLLOW, services=(WEB,))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(anext(reading))
            await asyncio.sleep(100)
            await swarm.create(task_row("a"))
            await swarm.reaches("a", S.RUNNING)
            swarm.runtime.write(TaskID("a"), b"a1")
        assert first.result().data == b"a1"
        await reading.aclose()

    play_with_agent(swarm, story)


def test_following_a_task_waits_for_its_start_or_its_removal(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a", S.PENDING), task_row("b", S.PENDING))
        tasks = [swarm.task("a"), swarm.task("b")]
        got: list[bytes] = []

        async def read():
            async for line in reading_of(swarm.manager, swarm.env, tasks, FOLLOW):
                got.append(line.data)  # noqa: PERF401 - each is looked at as it comes

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            await asyncio.sleep(100)
            await swarm.store.commit([Remove(table=Task, id="b")])
            row = swarm.task("a")
            await swarm.store.commit([SetStatus(id=row.id, status=TaskStatus(state=S.ASSIGNED))])
            await swarm.reaches("a", S.RUNNING)
            swarm.runtime.write(TaskID("a"), b"a1")
            await until(lambda: got == [b"a1"], limit_s=1)
            swarm.runtime.kill(TaskID("a"))

    play_with_agent(swarm, story)


def test_following_a_service_that_is_gone_ends_at_once(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.store.commit([Remove(table=Service, id=WEB)])
        assert [
            line async for line in reading_of(swarm.manager, swarm.env, [], FOLLOW, (WEB,))
        ] == []

    play_with_agent(swarm, story)


def test_a_reader_that_leaves_closes_the_streams_of_its_agents(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        swarm.runtime.write(TaskID("a"), b"1")
        reading = reading_of(swarm.manager, swarm.env, [], FOLLOW, services=(WEB,))
        assert (await anext(reading)).data == b"1"
        await reading.aclose()
        assert swarm.manager.gauges()["swarmlet_log_readers"] == 0
        before = len(asyncio.all_tasks())
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) < before  # the agent stopped following
        assert len(await all_of(swarm, LogOptions(), "a")) == 1

    play_with_agent(swarm, story)


def test_reading_says_so_when_the_node_is_lost_meanwhile(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        swarm.runtime.write(TaskID("a"), b"1")
        reading = reading_of(swarm.manager, swarm.env, [swarm.task("a")], FOLLOW)
        assert (await anext(reading)).data == b"1"
        await agent.stop()
        said = (await anext(reading)).data
        assert said == (
            b"swarmlet: node host1 is connected no more: the logs of 1 task are out of reach\n"
        )
        await reading.aclose()

    play_with_agent(swarm, story)


@pytest.mark.parametrize("is_removed", [True, False])
def test_following_a_task_ends_with_a_node_that_cannot_bring_it_back(
    swarm: Swarm, is_removed: bool
):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        channel = await registered(swarm)
        reading = reading_of(swarm.manager, swarm.env, [swarm.task("a")], FOLLOW)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(anext(reading))
            await sent_line(swarm, await asked(swarm, channel))
        assert first.result().data == b"line\n"
        orphan = TaskStatus(state=S.ORPHANED)
        end = Remove(table=Task, id="a") if is_removed else SetStatus(id=TaskID("a"), status=orphan)
        await swarm.store.commit([end])
        channel.close()
        async with asyncio.timeout(60):
            rest = [line.data async for line in reading]
        assert len(rest) == 1
        assert b"the logs of 1 task are out of reach" in rest[0]

    play(swarm, story)


def test_a_slow_reader_holds_back_the_agent_with_bounded_memory(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        channel = await registered(swarm)
        await assignments(channel)
        reading = reading_of(swarm.manager, swarm.env, [swarm.task("a")], FOLLOW)
        sent = [0]

        async def send_all():
            wanted = await channel.receive()
            assert isinstance(wanted, OpenLogs)
            sink = await swarm.manager.connector().open_log_stream(wanted.subscription)
            for number in range(100):
                await sink.send(LogBatch(lines=(LogLine(TaskID("a"), number, 1, b"x"),)))
                sent[0] += 1
            await sink.send(LogBatch(is_last=True))
            sink.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(send_all())
            first = await anext(reading)
            await asyncio.sleep(10)
            assert sent[0] <= BATCHES_MAX + 2
            rest = [line.at_ns async for line in reading]
        assert [first.at_ns, *rest] == list(range(100))

    play(swarm, story)


def test_reading_gives_up_an_agent_that_never_opens_its_stream(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        await registered(swarm)
        lines = await all_of(swarm, LogOptions(), "a")
        assert len(lines) == 1
        assert b"node host1 does not send its logs: " in lines[0]

    play(swarm, story)


def test_nobody_may_send_logs_that_were_not_asked_of_it(swarm: Swarm):
    async def story(swarm: Swarm):
        with pytest.raises(NotFoundError):
            await swarm.manager.connector().open_log_stream("made-up")

    play(swarm, story)


class Source:
    """A node's log stream at the manager's end."""

    def __init__(self, *batches: LogBatch) -> None:
        self.batches, self.is_closed = list(batches), False

    async def receive(self) -> LogBatch:
        if not self.batches:
            raise ChannelClosedError
        return self.batches.pop(0)

    def close(self) -> None:
        self.is_closed = True


async def asked(swarm: Swarm, channel: AgentChannel) -> OpenLogs:
    while not isinstance(message := await channel.receive(), OpenLogs):
        pass
    return message


async def sent_line(swarm: Swarm, wanted: OpenLogs) -> None:
    sink = await swarm.manager.connector().open_log_stream(wanted.subscription)
    await sink.send(LogBatch(lines=(line_of("a"),)))


def line_of(name: str) -> LogLine:
    return LogLine(TaskID(name), 1, 1, b"line\n")


def test_stream_ends_at_a_line_that_no_client_understands(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        channel, logs = await registered(swarm), swarm.manager.logs
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(all_of(swarm, LogOptions(), "a"))
            subscription = (await asked(swarm, channel)).subscription
            line = LogLine(TaskID("a"), 1, 3, b"the manager says so")
            with pytest.raises(InvalidArgumentError):
                await logs.take(Source(LogBatch(lines=(line,))), NODE, subscription)
        (only,) = reading.result()
        assert b"broke off" in only

    play(swarm, story)


def test_node_feeds_only_what_it_was_asked_for_and_once(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING), task_row("b", S.RUNNING))
        channel, logs = await registered(swarm), swarm.manager.logs
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(all_of(swarm, LogOptions(), "a"))
            subscription = (await asked(swarm, channel)).subscription
            with pytest.raises(ForbiddenError):
                await logs.take(Source(), OTHER, subscription)
            foreign = Source(LogBatch(lines=(line_of("a"),)), LogBatch(lines=(line_of("b"),)))
            with pytest.raises(ForbiddenError, match="not asked for"):
                await logs.take(foreign, NODE, subscription)
            assert foreign.is_closed
            lines = await reading
        assert lines[0] == b"line\n"
        assert b"broke off" in lines[1]
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(all_of(swarm, LogOptions(), "a"))
            subscription = (await asked(swarm, channel)).subscription
            logs.open_stream(NODE, subscription)
            with pytest.raises(ForbiddenError):
                await logs.take(Source(), NODE, subscription)
            reading.cancel()

    play(swarm, story)


def test_node_feeds_a_reader_to_the_last_batch(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        channel = await registered(swarm)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(all_of(swarm, LogOptions(), "a"))
            subscription = (await asked(swarm, channel)).subscription
            batches = LogBatch(lines=(line_of("a"),)), LogBatch(is_last=True), LogBatch()
            source = Source(*batches)
            await swarm.manager.logs.take(source, NODE, subscription)
            assert await reading == [b"line\n"]
            assert (source.is_closed, len(source.batches)) == (True, 1)

    play(swarm, story)


def test_nodes_sentence_is_cut_and_does_nothing_to_a_terminal(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        channel = await registered(swarm)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(all_of(swarm, LogOptions(), "a"))
            subscription = (await asked(swarm, channel)).subscription
            source = Source(LogBatch(is_last=True, problem="\x1b[2J" + "x" * 100_000))
            await swarm.manager.logs.take(source, NODE, subscription)
            (line,) = await reading
        assert line.startswith(b"swarmlet:  [2Jxxx")
        assert len(line) < 1_100

    play(swarm, story)


def test_following_goes_on_with_the_nodes_next_session_and_repeats_nothing(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await swarm.create(task_row("a"))
        await swarm.reaches("a", S.RUNNING)
        got: list[bytes] = []

        async def follow() -> None:
            async for line in reading_of(swarm.manager, swarm.env, [swarm.task("a")], FOLLOW):
                got.append(line.data)  # noqa: PERF401 - each is looked at as it comes

        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            for number in range(4):
                swarm.runtime.write(TaskID("a"), f"{number}".encode())
                await until(lambda wanted=number: len(got) == wanted + 1)
                swarm.description = msgspec.structs.replace(DESCRIPTION, hostname=f"h{number}")
                await until(
                    lambda wanted=number: swarm.node().description.hostname[-1] == str(wanted)
                )
            await asyncio.sleep(60)
            assert got == [b"0", b"1", b"2", b"3"]
            await agent.stop()
            await until(lambda: len(got) == 5)
            assert b"is connected no more" in got[4]
            await asyncio.sleep(100)
            assert len(got) == 5
            following.cancel()

    play_with_agent(swarm, story)
