"""Streams into tasks over the node port: frames both ways, who may, slow readers, ends."""

import asyncio
import time

import pytest

from swarmlet.core.errors import ForbiddenError, NotFoundError, NotLeaderError, UnavailableError
from swarmlet.wire.answers import until_ready
from swarmlet.wire.channel import ChannelClosedError, memory_stream
from swarmlet.wire.messages import (
    EXEC_SIZE_MAX_B,
    STREAM_DATA_MAX_B,
    DialRequest,
    ExecRequest,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamReady,
    StreamResize,
    TaskStreamAsk,
)
from tests.wire.port_world import (
    MANAGER,
    OURS,
    WORKER,
    on_both_loops,
    opened,
)

OTHER_MANAGER = OURS.credentials("m2", "manager")
ASK = TaskStreamAsk(task_id="t1", request=ExecRequest(argv=("sh",)), who="alice at m2")
FRAMES = (
    StreamReady(),
    StreamData(stream=0, data=b"x" * STREAM_DATA_MAX_B),
    StreamResize(rows=40, columns=120),
    StreamEnd(),
    StreamExit(exit_code=7, problem="é" * 100),
)


def data(number: int) -> StreamData:
    return StreamData(stream=1, data=number.to_bytes(4, "big") * (STREAM_DATA_MAX_B // 4))


@on_both_loops
async def test_stream_carries_every_kind_of_frame_both_ways_and_ends():
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s/1", WORKER)
        for frame in FRAMES:
            await near.send(frame)
            assert await near.receive() == frame
        near.close()
        await world.settled(connections=0)
        assert world.service.calls == [("stream", "w1", "s/1")]


@on_both_loops
async def test_stream_nobody_waits_for_is_refused_before_it_is_opened():
    async with opened() as world:
        with pytest.raises(NotFoundError, match="stream unknown"):
            await world.link.open_stream(world.addr, "unknown", WORKER)


@on_both_loops
async def test_stream_holds_back_who_sends_while_nobody_reads_and_loses_nothing():
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s1", WORKER)
        await near.send(StreamReady())
        await near.receive()
        far, sent = world.service.streams[0], 0

        async def flood():
            nonlocal sent
            while sent < 1_000:  # 32 MiB
                await far.send(data(sent))
                sent += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(flood())
            await asyncio.sleep(0.5)
            held = sent
            await asyncio.sleep(0.3)
            assert sent == held < 20, "half a MiB: a stalled stream costs no more"
            for number in range(1_000):
                assert await near.receive() == data(number)
        near.close()


@on_both_loops
async def test_stream_that_is_not_read_for_longer_than_a_host_is_given_lives_on():
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s1", WORKER)
        await near.send(StreamReady())
        await near.receive()
        far = world.service.streams[0]
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send_all(far, 400))
            await asyncio.sleep(4.5)  # longer than keepalive.SILENCE_TIMEOUT_S
            assert not sending.done()
            for number in range(400):
                assert await near.receive() == data(number)
        near.close()


async def send_all(channel, count):
    for number in range(count):
        await channel.send(data(number))


@on_both_loops
async def test_side_that_left_is_noticed_though_nobody_reads_what_it_sent():
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s1", WORKER)
        await near.send(StreamReady())
        await near.receive()
        far = world.service.streams[0]
        async with asyncio.TaskGroup() as group:
            flooding = group.create_task(until_closed(far))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            watching = group.create_task(far.left())
            near.close()
            await watching
            assert time.monotonic() - began < 3
            await flooding


async def until_closed(channel):
    with pytest.raises(ChannelClosedError):
        await send_all(channel, 1_000_000)


@on_both_loops
async def test_what_was_sent_before_a_close_in_order_can_be_read():
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s1", WORKER)
        await near.send(StreamExit(exit_code=3))
        await asyncio.sleep(0.2)
        world.service.streams[0].close()
        await asyncio.sleep(0.2)
        assert await near.receive() == StreamExit(exit_code=3)
        with pytest.raises(ChannelClosedError):
            await near.receive()
        with pytest.raises(ChannelClosedError):
            await near.receive()


@pytest.mark.parametrize(
    "garbage", [b"", b"\xc1", b"\x93\xa1x\x01\x02", b"x" * (EXEC_SIZE_MAX_B + 8192)]
)
@on_both_loops
async def test_message_that_is_no_frame_ends_the_stream(garbage):
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s1", WORKER)
        await near.send(StreamReady())
        await near.receive()
        await near._ws.send_bytes(garbage)
        with pytest.raises(ChannelClosedError):
            await near.receive()
        await world.settled(connections=0)


@on_both_loops
async def test_removed_nodes_streams_end_at_once():
    async with opened() as world:
        near = await world.link.open_stream(world.addr, "s1", WORKER)
        other = await world.link.open_task_stream(world.addr, ASK, OTHER_MANAGER)
        await near.send(StreamReady())
        await near.receive()
        world.remove("w1")
        with pytest.raises(ChannelClosedError):
            async with asyncio.timeout(1):
                await near.receive()
        await other.send(StreamReady())
        assert await other.receive() == StreamReady()
        other.close()


# From a manager to the one that leads


@on_both_loops
async def test_stream_that_is_passed_on_is_ready_when_it_is_given():
    big = TaskStreamAsk(
        task_id="t1", request=ExecRequest(argv=("x" * (EXEC_SIZE_MAX_B - 100),)), who="alice"
    )
    async with opened() as world:
        for ask in (big, TaskStreamAsk(task_id="t2", request=DialRequest(port=80), who="bob")):
            near = await world.link.open_task_stream(world.addr, ask, OTHER_MANAGER)
            await near.send(FRAMES[1])
            assert await near.receive() == FRAMES[1]
            near.close()
            assert ("task-stream", "m2", ask) in world.service.calls


@on_both_loops
async def test_refusal_of_a_stream_that_is_passed_on_is_the_error_the_leader_raised():
    async with opened() as world:
        unknown = TaskStreamAsk(task_id="unknown", request=ASK.request, who="alice")
        with pytest.raises(NotFoundError, match="task unknown not found"):
            await world.link.open_task_stream(world.addr, unknown, OTHER_MANAGER)
        with pytest.raises(ForbiddenError):
            await world.link.open_task_stream(world.addr, ASK, WORKER)
        world.service.leader = "10.0.0.9:2377"
        with pytest.raises(NotLeaderError) as refusal:
            await world.link.open_task_stream(world.addr, ASK, OTHER_MANAGER)
        assert refusal.value.managers == ("10.0.0.9:2377",)


@on_both_loops
async def test_leader_that_dies_before_the_stream_begins_is_said_to_be_lost():
    async with opened() as world:

        async def die(channel, _peer):
            await channel.ask()
            world.port.close_node("m2")
            await asyncio.sleep(5)

        world.service.serve_task_stream = die
        with pytest.raises(UnavailableError, match="was lost before the stream began"):
            await world.link.open_task_stream(world.addr, ASK, OTHER_MANAGER)
    assert MANAGER.chain_pem


class Unacknowledged:
    """A stream to a host that was cut off as it was asked."""

    async def receive(self):
        await asyncio.Event().wait()

    async def left(self, *, or_closed=True):
        await asyncio.sleep(0.01)


async def test_leader_that_is_cut_off_before_the_stream_begins_is_said_to_be_lost():
    with pytest.raises(UnavailableError, match="was lost before the stream began"):
        async with asyncio.timeout(5):
            await until_ready(Unacknowledged())


# In a process


async def test_stream_in_a_process_holds_a_few_frames_and_ends_for_both():
    near, far = memory_stream()
    sent = 0

    async def flood():
        nonlocal sent
        while True:
            await near.send(data(sent))
            sent += 1

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(0.01)
    assert sent == 8
    assert await far.receive() == data(0)
    waiting = asyncio.ensure_future(far.left())
    still = asyncio.ensure_future(far.left(or_closed=False))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    near.close()
    await waiting
    with pytest.raises(ChannelClosedError):
        await flooding
    assert not still.done(), "there is something to read"
    while sent:
        try:
            await far.receive()
        except ChannelClosedError:
            break
        sent -= 1
    await asyncio.sleep(0.01)
    assert still.done()
