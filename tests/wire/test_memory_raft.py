"""Raft channels and snapshots over the network in memory behave as over sockets."""

import asyncio

import pytest

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    InvalidArgumentError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.wire.channel import RAFT_QUEUE_MAX_B, ChannelClosedError
from swarmlet.wire.node_api import MemberGrant, MemberRequest, SnapshotAnswer, SnapshotHead
from tests.wire.memory_link import CUT_NOTICED_S
from tests.wire.test_memory_link import ADDR, DAY_MS, START_MS, World, lost_after_s, now_s

HEAD = SnapshotHead(sender=2, receiver=1, term=7, facts=b"\x00facts")
ASKED = MemberRequest(addr=ADDR)


class Managers(World):
    """`m` serves; `manager` are the credentials of another."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = self.ca.credentials("m2", "manager")
        self.chunks, self.ended, self.seen = [], [], []
        self.service.serve_raft, self.service.take_snapshot = self.serve_raft, self.take_snapshot
        self.service.join_members = self.join_members

    async def serve_raft(self, channel, peer):
        self.seen.append((peer.node_id, channel.node_id))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.write())
                try:
                    while True:
                        channel.send(await channel.receive())
                finally:
                    channel.close()
        except* ChannelClosedError:
            self.ended.append(now_s())

    async def take_snapshot(self, head, chunks, peer):
        self.seen.append((peer.node_id, head))
        try:
            async for chunk in chunks:
                self.chunks.append(chunk)
        except InvalidArgumentError:
            self.ended.append(now_s())
            raise
        return SnapshotAnswer(index=len(self.chunks))

    async def join_members(self, request, peer, source):
        self.seen.append((peer.node_id, request, source))
        return MemberGrant(raft_id=9)

    def play(self, story):
        async def with_writers(world):
            async with asyncio.TaskGroup() as self.group:
                await story(world)
                for connection in list(world.net.connections):
                    connection.abort()

        super().play(with_writers)

    async def channel(self):
        channel = await self.link.open_raft(ADDR, self.manager)
        self.group.create_task(channel.write())
        return channel


def test_channel_brings_frames_in_order_after_the_nets_delay():
    async def story(world):
        channel = await world.channel()
        assert channel.node_id == "m"
        delays = iter([0.5, 0.1, 0.3] + [0.0] * 10)
        world.net.frame_delay_s = lambda _from, _to: next(delays)
        began_s = now_s()
        for frame in (b"a", b"b", b"c"):
            assert channel.send(frame)
        assert [await channel.receive() for _ in "abc"] == [b"a", b"b", b"c"]
        assert now_s() - began_s == pytest.approx(0.5)
        assert world.seen == [("m2", "m2")]

    Managers().play(story)


def test_channel_is_held_up_by_a_short_cut_and_ended_by_a_longer_one():
    async def story(world):
        channel = await world.channel()
        world.net.cut("m", "h", both_ways=False)
        channel.send(b"a")
        await asyncio.sleep(CUT_NOTICED_S - 1)
        world.net.mend("m", "h")
        assert await channel.receive() == b"a"
        world.net.cut("m", "h")
        channel.send(b"b")
        assert await lost_after_s(channel) == pytest.approx(CUT_NOTICED_S)
        await asyncio.sleep(0.1)
        assert len(world.ended) == 1
        assert not channel.send(b"c")

    Managers().play(story)


def test_channel_sends_what_was_sent_before_it_closed_unless_the_process_ends():
    async def story(world):
        for is_killed in (False, True):
            got = []

            async def serve_raft(far, _peer, got=got):
                group = asyncio.ensure_future(far.write())
                try:
                    while True:
                        got.append(await far.receive())
                except ChannelClosedError:
                    group.cancel()

            world.service.serve_raft = serve_raft
            channel = await world.channel()
            await asyncio.sleep(0)
            for frame in (b"a", b"b"):
                channel.send(frame)
            if is_killed:
                world.net.end_process("h")
            else:
                channel.close()
            assert not channel.send(b"c")
            with pytest.raises(ChannelClosedError):
                await channel.receive()
            await asyncio.sleep(1)
            assert got == ([] if is_killed else [b"a", b"b"])

    Managers().play(story)


def test_channel_that_is_not_read_is_closed_at_its_bound():
    async def story(world):
        world.net.frame_delay_s = lambda _from, _to: 10.0
        channel = await world.channel()
        frame = bytes(8 * 1024 * 1024)
        taken = [channel.send(frame) for _ in range(10)]
        assert taken.count(True) == RAFT_QUEUE_MAX_B // len(frame)
        assert await lost_after_s(channel) == 0

    Managers().play(story)


def test_channel_is_for_managers_alone_expired_or_not():
    async def story(world):
        with pytest.raises(ForbiddenError):
            await world.link.open_raft(ADDR, world.worker)
        with pytest.raises(ForbiddenError):
            await world.link.send_snapshot(ADDR, HEAD, [b"x"], world.worker)
        old_ms = START_MS - 95 * DAY_MS
        world.ports[0].own = world.ca.own("m", "manager", now_ms=old_ms)
        world.manager = world.ca.credentials("m2", "manager", now_ms=old_ms)
        channel = await world.channel()
        channel.send(b"a")
        await asyncio.sleep(DAY_MS / 1000)
        assert await channel.receive() == b"a"
        assert (await world.link.send_snapshot(ADDR, HEAD, [], world.manager)).index == 0
        with pytest.raises(UnauthorizedError):
            await world.link.join_members(ADDR, ASKED, world.manager)

    Managers().play(story)


def test_channel_that_is_refused_says_why():
    async def story(world):
        async def serve_raft(_channel, _peer):
            raise UnavailableError("This manager is not ready.")

        world.service.serve_raft = serve_raft
        with pytest.raises(UnavailableError, match="not ready"):
            await world.link.open_raft(ADDR, world.manager)
        assert not world.net.connections

    Managers().play(story)


def test_snapshot_arrives_whole_or_is_told_to_have_broken_off():
    async def story(world):
        chunks = [bytes([number]) * 1000 for number in range(20)]
        answer = await world.link.send_snapshot(ADDR, HEAD, iter(chunks), world.manager)
        assert answer == SnapshotAnswer(index=20)
        assert world.chunks == chunks
        assert world.seen == [("m2", HEAD)]

        for end in (world.net.end_process, world.net.cut):
            world.chunks.clear()
            asyncio.get_running_loop().call_later(0.005, end, "h")
            with pytest.raises(UnavailableError):
                await world.link.send_snapshot(ADDR, HEAD, iter(chunks), world.manager)
            assert 0 < len(world.chunks) < 20
            await asyncio.sleep(0.1)
        assert len(world.ended) == 2
        assert not world.net.connections

    Managers().play(story)


def test_snapshot_waits_for_a_slow_receiver_and_hears_its_refusal():
    async def story(world):
        made = []

        async def take_snapshot(_head, chunks, _peer):
            async for chunk in chunks:
                await asyncio.sleep(1)
                if chunk == b"5":
                    raise FailedPreconditionError("older than the log")

        def chunks():
            for number in range(100):
                made.append(number)
                yield str(number).encode()

        world.service.take_snapshot = take_snapshot
        with pytest.raises(FailedPreconditionError):
            await world.link.send_snapshot(ADDR, HEAD, chunks(), world.manager)
        assert now_s() == pytest.approx(6, abs=0.1)

    Managers().play(story)


def test_members_request_arrives_with_who_asks_and_from_where():
    async def story(world):
        answer = await world.link.join_members(ADDR, ASKED, world.manager)
        assert answer == MemberGrant(raft_id=9)
        assert world.seen == [("m2", ASKED, "h")]

    Managers().play(story)
