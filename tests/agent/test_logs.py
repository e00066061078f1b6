"""Log streams: what a reader gets, and that a slow one holds back the reading and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from swarmlet.agent.logs import BUFFER_LINES_MAX, SUBSCRIPTIONS_MAX, LogPublisher
from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.wire.messages import LogLine, LogOptions, OpenLogs
from tests.agent.fake_runtime import FakeRuntime
from tests.agent.fakes import FakeManager, FakeSink, assigned
from tests.agent.virtual_time import VirtualClock, run_virtual, until


class EndlessRuntime(FakeRuntime):
    """Writes as fast as somebody reads; counts."""

    read = 0

    async def logs(self, task_id: TaskID, options: LogOptions) -> AsyncIterator[LogLine]:
        while True:
            self.read += 1
            if self.read % 100 == 0:
                await asyncio.sleep(0.001)
            yield LogLine(task_id, self.read, 1, b"x" * 100)


class SilentRuntime(FakeRuntime):
    async def logs(self, task_id: TaskID, options: LogOptions) -> AsyncIterator[LogLine]:
        if task_id == "broken":
            raise AssertionError("a bug")
        raise RuntimeProblemError("its log file is gone")
        yield


def publish(runtime: FakeRuntime, story: Callable[[LogPublisher, FakeSink], Awaitable[None]]):
    async def main():
        manager = FakeManager()
        sink = await manager.open_log_stream("s")
        async with asyncio.TaskGroup() as group:
            await story(LogPublisher(runtime, manager, group), sink)

    run_virtual(main())


def wanted(*task_ids: str, follow: bool = False) -> OpenLogs:
    ids = tuple(map(TaskID, task_ids))
    return OpenLogs(subscription="s", task_ids=ids, options=LogOptions(follow=follow))


def test_publisher_sends_all_lines_then_the_end():
    runtime = FakeRuntime(VirtualClock())

    async def story(publisher: LogPublisher, sink: FakeSink):
        for name in ("a", "b"):
            await runtime.prepare(assigned(name))
            await runtime.start(assigned(name))
            runtime.write(TaskID(name), name.encode())
        publisher.open(wanted("a", "b"))
        await until(lambda: sink.is_closed)
        assert sorted(sink.lines()) == [b"a", b"b"]
        assert [batch.is_last for batch in sink.batches][-1]

    publish(runtime, story)


def test_publisher_follows_until_the_task_ends():
    runtime = FakeRuntime(VirtualClock())

    async def story(publisher: LogPublisher, sink: FakeSink):
        await runtime.prepare(assigned("a"))
        await runtime.start(assigned("a"))
        publisher.open(wanted("a", follow=True))
        for line in (b"1", b"2"):
            await asyncio.sleep(10)
            runtime.write(TaskID("a"), line)
            await asyncio.sleep(1)
            assert sink.lines()[-1] == line
        runtime.kill(TaskID("a"))
        await until(lambda: sink.is_closed)

    publish(runtime, story)


def test_publisher_reads_no_further_than_its_buffer_when_the_reader_is_slow():
    runtime = EndlessRuntime(VirtualClock())

    async def story(publisher: LogPublisher, sink: FakeSink):
        sink.may_read.clear()
        publisher.open(wanted("a"))
        await asyncio.sleep(100)
        assert runtime.read <= 2 * BUFFER_LINES_MAX + 2
        publisher.close("s")
        await until(lambda: sink.is_closed)

    publish(runtime, story)


def test_publisher_stops_reading_when_the_reader_went_away():
    runtime = EndlessRuntime(VirtualClock())

    async def story(publisher: LogPublisher, sink: FakeSink):
        publisher.open(wanted("a"))
        await asyncio.sleep(0.1)
        sink.close()

    publish(runtime, story)  # the publisher's task group ends


def test_publisher_says_what_could_not_be_read():
    async def story(publisher: LogPublisher, sink: FakeSink):
        publisher.open(wanted("a"))
        await until(lambda: sink.is_closed)
        assert [batch.problem for batch in sink.batches] == ["task a: its log file is gone", ""]

    publish(SilentRuntime(VirtualClock()), story)


def test_publisher_outlives_a_broken_reader():
    async def story(publisher: LogPublisher, sink: FakeSink):
        publisher.open(wanted("broken"))
        await until(lambda: sink.is_closed)

    publish(SilentRuntime(VirtualClock()), story)


def test_streams_closed_before_they_began_count_for_none():
    async def story(publisher: LogPublisher, sink: FakeSink):
        for number in range(SUBSCRIPTIONS_MAX + 1):
            name = f"s{number}"
            publisher.open(msgspec.structs.replace(wanted("a"), subscription=name))
            publisher.close(name)
        await runtime.prepare(assigned("a"))
        await runtime.start(assigned("a"))
        publisher.open(wanted("a"))
        await until(lambda: sink.is_closed)
        assert {batch.problem for batch in sink.batches} == {""}

    runtime = FakeRuntime(VirtualClock())
    publish(runtime, story)
