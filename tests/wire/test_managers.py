"""What managers say to each other over the node port: Raft channels, snapshots, members, the unlock
key; on both loops."""

import asyncio
import contextlib
import socket
import threading
import time

import aiohttp
import msgspec
import pytest

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    InvalidArgumentError,
    NotLeaderError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.wire import bodies, manager_link, server
from swarmlet.wire.bodies import PART_SIZE_MAX_B, TooLargeError
from swarmlet.wire.channel import RAFT_QUEUE_FRAMES_MAX, RAFT_QUEUE_MAX_B, ChannelClosedError
from swarmlet.wire.forward import PROTOCOL_HEADER
from swarmlet.wire.keepalive import SILENCE_TIMEOUT_S
from swarmlet.wire.node_api import (
    MemberGrant,
    MemberRequest,
    SnapshotAnswer,
    SnapshotHead,
    UnlockKeyAnswer,
)
from swarmlet.wire.routes import RAFT, SNAPSHOT
from swarmlet.wire.tls import MANAGER_NAME, client_context
from tests.wire.port_world import (
    MANAGER,
    OTHERS,
    OURS,
    STRANGER,
    WORKER,
    ask,
    code,
    connect,
    expired,
    head,
    on_both_loops,
    opened,
    trusting_us,
    until_closed,
)

PEER = OURS.credentials("m2", "manager")
HEAD = SnapshotHead(sender=2, receiver=1, term=7, facts=b"\x00facts")
ASKED = MemberRequest(addr="10.0.0.2:2377", raft_id=5)


@contextlib.asynccontextmanager
async def open_channel(world, credentials=PEER):
    """A Raft channel that is being written, as whoever serves one does."""
    channel = await world.link.open_raft(world.addr, credentials)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(channel.write())
        try:
            yield channel
        finally:
            channel.close()
            async with asyncio.timeout(3):
                await asyncio.wait({writing})


async def lost(channel):
    """Seconds until the other end is gone."""
    began = time.monotonic()
    with contextlib.suppress(ChannelClosedError):
        async with asyncio.timeout(5):
            while True:
                await channel.receive()
    return time.monotonic() - began


# Raft channels


@on_both_loops
async def test_raft_channel_carries_frames_of_every_size_both_ways():
    async with opened() as world, open_channel(world) as channel:
        assert channel.node_id == "m1"
        frames = [b"", b"\xc1", bytes(100_000), bytes(FRAME_SIZE_MAX_B)]
        assert all(channel.send(frame) for frame in frames)
        assert [await channel.receive() for _ in frames] == frames
        assert world.service.calls == [("raft", "m2", "m2")]


@on_both_loops
async def test_raft_channel_lets_both_sides_in_with_expired_certificates():
    async with opened(expired("m1", "manager")) as world:
        async with open_channel(world, expired("m2", "manager")) as channel:
            channel.send(b"frame")
            assert await channel.receive() == b"frame"
        answer = await world.link.send_snapshot(world.addr, HEAD, [], expired("m2", "manager"))
        assert answer.index == 0
        with pytest.raises(UnauthorizedError):
            await world.link.unlock_key(world.addr, PEER)


REFUSED = {
    "a worker": (WORKER, ForbiddenError),
    "a stranger": (STRANGER, UnauthorizedError),
    "a demoted manager": (OURS.credentials("demoted", "manager"), ForbiddenError),
    "a removed manager": (OURS.credentials("removed", "manager"), ForbiddenError),
    "another swarm's manager": (
        trusting_us(OTHERS.credentials("m2", "manager")),
        (UnauthorizedError, UnavailableError),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@on_both_loops
async def test_port_takes_nothing_of_managers_from(case):
    credentials, kind = REFUSED[case]
    async with opened() as world:
        with pytest.raises(kind):
            await world.link.open_raft(world.addr, credentials)
        with pytest.raises(kind):
            await world.link.send_snapshot(world.addr, HEAD, [b"x"], credentials)
        with pytest.raises(kind):
            await world.link.join_members(world.addr, ASKED, credentials)
        with pytest.raises(kind):
            await world.link.leave_members(world.addr, ASKED, credentials)
        with pytest.raises(kind):
            await world.link.unlock_key(world.addr, credentials)
        assert world.service.calls == []


@on_both_loops
async def test_caller_takes_no_other_swarms_manager_for_its_own():
    async with opened(OTHERS.credentials("m1", "manager")) as world:
        with pytest.raises(UnauthorizedError):
            await world.link.open_raft(world.addr, PEER)
        with pytest.raises(UnauthorizedError):
            await world.link.send_snapshot(world.addr, HEAD, [b"x"], PEER)


@on_both_loops
async def test_raft_channel_that_is_refused_before_its_first_frame_says_why():
    async with opened() as world:

        async def serve_raft(_channel, _peer):
            raise UnavailableError("This manager is not ready.")

        world.service.serve_raft = serve_raft
        with pytest.raises(UnavailableError, match="not ready"):
            await world.link.open_raft(world.addr, PEER)


@on_both_loops
async def test_raft_channel_sends_what_was_sent_before_it_closed():
    async with opened() as world:

        async def serve_raft(channel, _peer):
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.write())
                await channel.receive()
                for number in range(50):
                    channel.send(bytes([number]) * 10_000)
                channel.close()
                assert not channel.send(b"more")

        world.service.serve_raft = serve_raft
        async with open_channel(world) as channel:
            channel.send(b"go")
            assert [(await channel.receive())[0] for _ in range(50)] == [*range(50)]
            with pytest.raises(ChannelClosedError):
                await channel.receive()
            assert not channel.send(b"nobody listens")


@on_both_loops
async def test_raft_channels_last_frame_is_read_though_nothing_can_be_sent_any_more():
    async with opened() as world:

        async def serve_raft(channel, _peer):
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.write())
                await asyncio.sleep(0.1)
                channel.send(b"refused")
                channel.close()

        world.service.serve_raft = serve_raft
        async with open_channel(world) as channel:
            async with asyncio.timeout(5):
                while channel.send(b"more"):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert await channel.receive() == b"refused"
            with pytest.raises(ChannelClosedError):
                await channel.receive()


@on_both_loops
async def test_raft_channel_that_is_not_read_is_closed_at_its_bound():
    async with opened() as world:
        frame = bytes(FRAME_SIZE_MAX_B)

        async def serve_raft(channel, _peer):
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.write())
                await asyncio.sleep(0.2)
                with contextlib.suppress(ChannelClosedError):
                    await channel.receive()
                await asyncio.sleep(0.5)

        world.service.serve_raft = serve_raft
        async with open_channel(world) as channel:
            taken = 0
            while channel.send(frame):
                taken += 1
                await asyncio.sleep(0.01)
                assert taken < 30
            # what is queued, in the transports and the kernel's buffers
            assert taken >= RAFT_QUEUE_MAX_B // FRAME_SIZE_MAX_B
            with pytest.raises(ChannelClosedError):
                await channel.receive()


@on_both_loops
async def test_raft_channel_is_closed_where_too_many_frames_wait():
    async with opened() as world:
        channel = await world.link.open_raft(world.addr, PEER)
        assert sum(channel.send(b"") for _ in range(RAFT_QUEUE_FRAMES_MAX + 9)) == (
            RAFT_QUEUE_FRAMES_MAX
        )
        with pytest.raises(ChannelClosedError):
            await channel.receive()
        await world.settled(connections=0)


@on_both_loops
async def test_raft_channel_whose_writer_is_cancelled_is_gone():
    async with opened() as world:
        channel = await world.link.open_raft(world.addr, PEER)
        writing = asyncio.ensure_future(channel.write())
        await asyncio.sleep(0.1)
        writing.cancel()
        with pytest.raises(ChannelClosedError):
            await channel.receive()
        await asyncio.wait({writing})
        await world.settled(connections=0)


@pytest.mark.parametrize("frame", ["text", b"x" * (FRAME_SIZE_MAX_B + 2)], ids=["text", "large"])
@on_both_loops
async def test_port_closes_a_raft_channel_that_brings_no_frame(frame):
    async with opened() as world, aiohttp.ClientSession() as client:
        ws = await client.ws_connect(
            f"https://{world.addr}{RAFT.path}",
            ssl=client_context(PEER),
            server_hostname=MANAGER_NAME,
            headers={PROTOCOL_HEADER: "1"},
        )
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await (ws.send_str(frame) if isinstance(frame, str) else ws.send_bytes(frame))
        async with asyncio.timeout(3):
            while (await ws.receive()).type not in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            ):
                pass
        await ws.close()
        await world.settled(connections=0)


@on_both_loops
async def test_raft_channel_ends_in_the_moment_its_node_is_removed():
    async with opened() as world, open_channel(world) as channel:
        channel.send(b"x")
        await channel.receive()
        world.remove("m2")
        assert await lost(channel) < 0.5
        with pytest.raises(ForbiddenError):
            await world.link.open_raft(world.addr, PEER)


@on_both_loops
async def test_raft_channel_ends_soon_where_its_node_would_not_be_let_in_any_more(monkeypatch):
    monkeypatch.setattr(server, "CERTIFICATE_PERIOD_S", 0.05)
    other = OURS.credentials("m1", "manager")
    async with (
        opened() as world,
        open_channel(world) as channel,
        open_channel(world, other) as stays,
    ):
        for each in (channel, stays):
            each.send(b"x")
            await each.receive()
        world.nodes["m2"].role = "worker"  # as a snapshot may say: no event tells of it
        assert await lost(channel) < 0.5
        stays.send(b"y")
        assert await stays.receive() == b"y"


@on_both_loops
async def test_raft_channel_outlives_the_certificate_it_was_opened_with(monkeypatch):
    monkeypatch.setattr(server, "CERTIFICATE_PERIOD_S", 0.02)
    async with opened() as world, open_channel(world) as channel:
        channel.send(b"x")
        await channel.receive()
        world.clock.ahead_ms = 400 * 24 * 3_600_000
        await asyncio.sleep(0.2)
        channel.send(b"y")
        assert await channel.receive() == b"y"


@on_both_loops
async def test_port_that_closes_ends_raft_channels_at_once():
    async with opened() as world:
        channel = await world.link.open_raft(world.addr, PEER)
        writing = asyncio.ensure_future(channel.write())
        channel.send(b"x")
        await channel.receive()
    assert await lost(channel) < 0.5
    await asyncio.wait({writing}, timeout=3)
    assert writing.done()


@on_both_loops
async def test_kernel_watches_both_ends_of_a_raft_channel():
    async with opened() as world, open_channel(world) as channel:
        channel.send(b"x")
        await channel.receive()
        (served,) = world.port._gate.connections
        for end in (
            channel._ws.get_extra_info("socket"),
            served.transport.get_extra_info("socket"),
        ):
            timeout_ms = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert timeout_ms == SILENCE_TIMEOUT_S * 1000


# Snapshots


@on_both_loops
async def test_snapshot_arrives_whole_and_part_by_part():
    parts = [b"a", b"", bytes(PART_SIZE_MAX_B), b"z" * 70_000]
    threads = set()

    def chunks():
        for part in parts:
            threads.add(threading.current_thread())
            yield part

    async with opened() as world:
        answer = await world.link.send_snapshot(world.addr, HEAD, chunks(), PEER)
        assert answer == SnapshotAnswer(index=3)
        assert world.service.calls == [("snapshot", "m2", HEAD)]
        assert world.service.chunks == [part for part in parts if part]
        assert threading.current_thread() not in threads


@on_both_loops
async def test_snapshot_is_sent_to_the_node_it_is_for_and_to_no_other_manager():
    async with opened() as world:
        ours, others = (msgspec.structs.replace(HEAD, node_id=name) for name in ("m1", "m3"))
        with pytest.raises(UnauthorizedError):
            await world.link.send_snapshot(world.addr, others, [b"all secrets"], PEER)
        assert world.service.calls == []
        assert await world.link.send_snapshot(world.addr, ours, [b"x"], PEER)
        assert world.service.chunks == [b"x"]


@on_both_loops
async def test_snapshot_is_made_no_faster_than_it_is_taken():
    made, taken, size_b = [], [], 1024 * 1024

    def chunks():
        for number in range(60):
            made.append(number)
            yield bytes(size_b)

    async with opened() as world:
        may_go_on = asyncio.Event()

        async def take_snapshot(_head, chunks, _peer):
            async for chunk in chunks:
                await may_go_on.wait()
                taken.append(len(chunk))
            return SnapshotAnswer(index=9)

        world.service.take_snapshot = take_snapshot
        sending = asyncio.ensure_future(world.link.send_snapshot(world.addr, HEAD, chunks(), PEER))
        await asyncio.sleep(0.5)
        assert len(made) < 30  # the kernel's buffers are full
        may_go_on.set()
        assert (await sending).index == 9
        assert taken == [size_b] * 60


@on_both_loops
async def test_snapshot_whose_receiver_has_enough_is_answered_at_once():
    async with opened() as world:

        async def take_snapshot(_head, chunks, _peer):
            await anext(chunks)
            return SnapshotAnswer(index=500)

        world.service.take_snapshot = take_snapshot
        parts = (bytes(100_000) for _ in range(1_000))
        began = time.monotonic()
        assert (await world.link.send_snapshot(world.addr, HEAD, parts, PEER)).index == 500
        assert time.monotonic() - began < 2


@on_both_loops
async def test_snapshot_that_is_refused_midway_says_why():
    async with opened() as world:

        async def take_snapshot(_head, chunks, _peer):
            async for _ in chunks:
                raise FailedPreconditionError("The snapshot is older than the log.")

        world.service.take_snapshot = take_snapshot
        parts = (bytes(100_000) for _ in range(1_000))
        with pytest.raises(FailedPreconditionError, match="older"):
            await world.link.send_snapshot(world.addr, HEAD, parts, PEER)


@pytest.mark.parametrize("after", [0, 1, 3])
@on_both_loops
async def test_snapshot_that_breaks_off_is_no_whole_one(after):
    def chunks():
        for _ in range(after):
            yield bytes(1000)
        raise OSError("the disk is gone")

    problems = []
    async with opened() as world:

        async def take_snapshot(_head, chunks, _peer):
            try:
                async for _ in chunks:
                    pass
            except InvalidArgumentError as error:
                problems.append(error)
                raise
            return SnapshotAnswer(index=1)

        world.service.take_snapshot = take_snapshot
        with pytest.raises((UnavailableError, InvalidArgumentError)):
            await world.link.send_snapshot(world.addr, HEAD, chunks(), PEER)
        await world.settled(connections=0)
        assert len(problems) == 1


def part(content, size_b=None):
    return (len(content) if size_b is None else size_b).to_bytes(4, "little") + content


GOOD_HEAD = part(msgspec.msgpack.encode(HEAD))
BROKEN = {
    "no head": (b"", 400),
    "a head cut off": (GOOD_HEAD[:-1], 400),
    "a head that is garbage": (part(b"\xc1\xff") + part(b""), 400),
    "a head nested without end": (part(b"\x91" * 100_000) + part(b""), 400),
    "a head too large": (part(b"x", PART_SIZE_MAX_B + 1), 413),
    "no end": (GOOD_HEAD + part(b"chunk"), 400),
    "half a chunk": (GOOD_HEAD + part(b"chunk", 900), 400),
    "half a length": (GOOD_HEAD + b"\x05\x00", 400),
    "a chunk too large": (GOOD_HEAD + part(b"x", 2**32 - 1), 413),
}


@pytest.mark.parametrize("case", BROKEN)
@on_both_loops
async def test_port_refuses_a_snapshot_with(case, caplog):
    body, status = BROKEN[case]
    async with opened() as world:
        answered, said = await ask(world.addr, PEER, "POST", SNAPSHOT.path, body)
        assert answered == status
        assert code(said) == ("too-large" if status == 413 else "invalid-argument")
    assert not [record for record in caplog.records if record.exc_info]


@on_both_loops
async def test_port_gives_a_snapshot_up_whose_next_part_does_not_come(monkeypatch):
    monkeypatch.setattr(bodies, "PART_TIMEOUT_S", 0.3)
    monkeypatch.setattr(server, "SHUTDOWN_TIMEOUT_S", 0.2)
    async with opened() as world:
        reader, writer = await connect(world.addr, PEER)
        writer.write(head("POST", SNAPSHOT.path, b"x" * 10_000) + GOOD_HEAD)
        for _ in range(4):  # longer in all than one part may take
            await asyncio.sleep(0.15)
            writer.write(part(b"chunk"))
        async with asyncio.timeout(2):
            assert b" 408 " in await reader.readline()
        assert await until_closed(reader) < 1.5
        writer.transport.abort()


@on_both_loops
async def test_snapshot_is_given_up_where_the_receiver_takes_nothing(monkeypatch):
    monkeypatch.setattr(manager_link, "PART_TIMEOUT_S", 0.5)
    monkeypatch.setattr(server, "SHUTDOWN_TIMEOUT_S", 0.2)
    async with opened() as world:

        async def take_snapshot(_head, _chunks, _peer):
            await asyncio.sleep(3)

        world.service.take_snapshot = take_snapshot
        parts = (bytes(1024 * 1024) for _ in range(100))
        with pytest.raises(UnavailableError, match="in time"):
            await world.link.send_snapshot(world.addr, HEAD, parts, PEER)


@on_both_loops
async def test_snapshot_may_take_longer_in_all_than_any_of_its_parts(monkeypatch):
    monkeypatch.setattr(manager_link, "PART_TIMEOUT_S", 0.5)

    def chunks():
        for _ in range(5):
            time.sleep(0.2)
            yield b"chunk"

    async with opened() as world:
        assert (await world.link.send_snapshot(world.addr, HEAD, chunks(), PEER)).index == 5


# Members, and the unlock key


@on_both_loops
async def test_manager_joins_and_leaves_the_group_and_asks_for_the_key():
    async with opened() as world:
        assert await world.link.join_members(world.addr, ASKED, PEER) == MemberGrant(raft_id=7)
        await world.link.leave_members(world.addr, ASKED, PEER)
        answer = await world.link.unlock_key(world.addr, PEER)
        assert answer == UnlockKeyAnswer(key="c2VjcmV0", version=3)
        assert "c2VjcmV0" not in repr(answer)
        assert world.service.calls == [
            ("join-members", "m2", "127.0.0.1", ASKED.addr),
            ("leave-members", "m2", 5),
            ("unlock-key", "m2"),
        ]


@on_both_loops
async def test_manager_that_follows_passes_members_on_once_with_the_callers_identity():
    async with opened() as leader, opened(PEER) as follower:
        follower.service.leader = leader.addr
        caller = OURS.credentials("m1", "manager")
        assert (await follower.link.join_members(follower.addr, ASKED, caller)).raft_id == 7
        await follower.link.leave_members(follower.addr, ASKED, caller)
        assert (await follower.link.unlock_key(follower.addr, caller)).version == 3
        assert [call[:2] for call in leader.service.calls] == [
            ("join-members", "m1"),
            ("leave-members", "m1"),
            ("unlock-key", "m1"),
        ]
        assert follower.service.calls == []
        leader.service.leader = "10.0.0.9:2377"
        with pytest.raises(NotLeaderError):
            await follower.link.join_members(follower.addr, ASKED, caller)


@on_both_loops
async def test_refusal_of_the_group_arrives_as_what_it_is():
    async with opened() as world:

        async def leave_members(_request, _peer):
            raise FailedPreconditionError("The rest would have no quorum.", remedy="Add one.")

        world.service.leave_members = leave_members
        with pytest.raises(FailedPreconditionError, match="no quorum") as refused:
            await world.link.leave_members(world.addr, ASKED, MANAGER)
        assert refused.value.remedy == "Add one."


@on_both_loops
async def test_members_request_that_is_too_large_is_refused():
    async with opened() as world:
        asked = msgspec.structs.replace(ASKED, addr="x" * bodies.BODY_SIZE_MAX_B)
        with pytest.raises(TooLargeError):
            await world.link.join_members(world.addr, asked, PEER)
