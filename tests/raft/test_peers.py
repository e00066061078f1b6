"""Connections between members: who dials, which one counts, who is let in."""

import asyncio
from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import UnavailableError
from swarmlet.raft.hello import (
    REMOVED,
)
from swarmlet.raft.links import Link
from swarmlet.raft.membership import Members
from swarmlet.raft.peers import (
    HIGHER_BEGINS_S,
    HIGHER_WAITS_S,
    PING_PERIOD_S,
    SILENT_PERIODS_MAX,
)
from swarmlet.wire.channel import RAFT_QUEUE_MAX_B
from swarmlet.wire.node_api import SnapshotHead
from tests.agent.virtual_time import until
from tests.raft.peer_world import Node, begin, now_s, play

SILENCE_S = PING_PERIOD_S * SILENT_PERIODS_MAX


# Who dials


def test_lower_id_dials_at_once_and_the_higher_one_not_at_all():
    async def story(world, group):
        await begin(world, group)
        assert now_s() < 0.1
        await asyncio.sleep(60)
        assert [(who, to) for _, who, to in world.net.dials] == [
            ("m1", "m2:2377"),
            ("m1", "m3:2377"),
            ("m2", "m3:2377"),
        ]
        assert all(event == "connected" for node in world.nodes for event, _, _ in node.told)

    play(3, story)


def test_higher_id_dials_where_the_lower_one_cannot():
    async def story(world, group):
        one, two = world.nodes
        one.want(one.member, msgspec.structs.replace(two.member, address="nowhere:1"))
        one.start(group)
        two.start(group)
        await until(lambda: one.epochs and two.epochs, 5)
        assert now_s() == pytest.approx(HIGHER_BEGINS_S, abs=0.1)
        await asyncio.sleep(60)
        assert len(one.told) == len(two.told) == 1
        world.net.live("m1", "m2")[0].abort()
        began_s = now_s()
        await until(lambda: len(one.told) == len(two.told) == 3, 5)
        assert now_s() - began_s == pytest.approx(HIGHER_WAITS_S, abs=0.1)

    play(2, story)


def test_member_that_cannot_be_reached_is_dialled_less_and_less_often():
    async def story(world, group):
        one, two = world.nodes
        one.start(group)
        await asyncio.sleep(100)
        times = [when for when, _, _ in world.net.dials]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[0] < 0.1
        assert all(0.9 < gap <= 2.1 for gap in gaps[8:])
        two.start(group)
        await until(world.is_whole, 2.1)

    play(2, story)


def test_member_that_comes_back_is_connected_at_once():
    async def story(world, group):
        await begin(world, group)
        await asyncio.sleep(10)
        world.nodes[1].kill()
        await until(lambda: world.nodes[0].told[-1][0] == "disconnected", 0.1)
        await asyncio.sleep(0.3)
        world.nodes[1].start(group)
        await until(world.is_whole, 0.5)

    play(2, story)


@pytest.mark.parametrize("moves_while_connected", [True, False])
def test_member_that_moved_is_dialled_at_its_new_address(moves_while_connected):
    async def story(world, group):
        one, two = world.nodes
        if moves_while_connected:
            await begin(world, group)
        else:
            one.start(group)
            await asyncio.sleep(30)
        moved = Node(world.net, "elsewhere", 2, node_id="m2")
        moved.boot, moved.group = two.boot, two.group
        two.kill()
        moved.start(group)
        began_s = now_s()
        one.want(one.member, moved.member)
        await until(lambda: 2 in one.epochs and 1 in moved.epochs, 5)
        assert now_s() - began_s < 0.2

        moved.kill()

    play(2, story)


def test_member_that_is_added_is_connected_and_one_that_is_removed_is_let_go():
    async def story(world, group):
        first = world.nodes[:2]
        for node in first:
            node.want(*(each.member for each in first))
        for node in world.nodes:
            node.start(group)
        await asyncio.sleep(3)
        assert [len(node.epochs) for node in first] == [2, 2]  # the third dialled, unknown
        for node in first:
            node.want(*(each.member for each in world.nodes))
        await asyncio.sleep(1)
        assert world.is_whole()
        for node in first:
            assert node.send(3, b"\x90last words")
            node.group = Members(members=(first[0].member, first[1].member), removed=(3,))
            node.peers.want(node.group.members)
        await asyncio.sleep(5)
        assert [sorted(node.epochs) for node in world.nodes] == [[2], [1], []]
        third = world.nodes[2]
        assert {frame for _, frame in third.frames} == {b"\x90last words"}
        assert {(1, REMOVED), (2, REMOVED)} == set(third.refusals)

    play(3, story)


# Which connection counts


def test_frames_arrive_in_order_and_those_of_an_older_epoch_do_not():
    async def story(world, group):
        await begin(world, group)
        one, two = world.nodes
        world.net.delay_s = Random(1).random
        for number in range(100):
            assert one.send(2, bytes([0x90, number]))
        await asyncio.sleep(1)
        assert two.frames == [(1, bytes([0x90, number])) for number in range(100)]
        old = one.epochs[2]
        world.net.delay_s = lambda: 0.001
        world.net.live("m1", "m2")[0].abort()
        await until(world.is_whole, 5)
        assert one.epochs[2] > old
        assert not one.peers.send(2, old, b"\x90late")
        assert not one.peers.send(3, 1, b"\x90to nobody")
        await asyncio.sleep(1)
        assert len(two.frames) == 100

    play(2, story)


def test_frames_of_a_replaced_connection_are_dropped():
    async def story(world, group):
        await begin(world, group)
        one, two = world.nodes
        await asyncio.sleep(5)
        old = world.net.live("m1", "m2")[0]
        near = await two.open("m1:2377")  # it lost the old one, as it thinks, and dials
        dialling = group.create_task(two.peers._talk(near, one.member))
        await asyncio.sleep(20)
        assert [event for event, _, _ in one.told] == ["connected", "disconnected", "connected"]
        assert [event for event, _, _ in two.told] == ["connected", "disconnected", "connected"]
        assert old.is_closed
        assert one.told[2][2] > one.told[0][2]
        assert one.send(2, b"\x90new")
        await asyncio.sleep(20)
        assert two.frames == [(1, b"\x90new")]
        assert world.is_whole()
        dialling.cancel()

    play(2, story)


def test_frames_that_still_come_on_a_replaced_connection_are_dropped():
    async def story(world, group):
        await begin(world, group)
        one, two = world.nodes
        await asyncio.sleep(5)
        old = world.net.live("m1", "m2")[0]
        old.near.close = old.far.close = lambda: None  # what is in the kernel comes all the same
        near = await two.open("m1:2377")
        dialling = group.create_task(two.peers._talk(near, one.member))
        await until(lambda: [one.epochs, two.epochs] == [{2: 2}, {1: 2}], 1)
        old.near._arrive(b"\x90late")
        old.far._arrive(b"\x90late")
        await asyncio.sleep(1)
        assert one.frames == two.frames == []
        old.abort()
        dialling.cancel()

    play(2, story)


def link(*, is_by_lower, began, made=0):
    made_link = Link(None, None, is_by_lower=is_by_lower, began=began)
    made_link.made = made
    return made_link


@pytest.mark.parametrize("is_by_lower", [True, False])
@pytest.mark.parametrize("was_by_lower", [True, False])
def test_connection_that_began_after_another_was_made_takes_its_place(is_by_lower, was_by_lower):
    old = link(is_by_lower=was_by_lower, began=1, made=2)
    assert link(is_by_lower=is_by_lower, began=3).replaces(old)


def test_of_connections_made_at_the_same_time_the_lower_ids_counts_then_the_later_one():
    by_lower, by_higher = (link(is_by_lower=each, began=3, made=9) for each in (True, False))
    assert link(is_by_lower=True, began=1).replaces(by_higher)
    assert not link(is_by_lower=False, began=4).replaces(by_lower)
    for old in (by_lower, by_higher):
        assert link(is_by_lower=old.is_by_lower, began=4).replaces(old)
        assert not link(is_by_lower=old.is_by_lower, began=2).replaces(old)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 2.2))
def test_both_ends_keep_the_same_one_of_two_that_are_made_at_once(seed, late_s):
    async def story(world, group):
        one, two = world.nodes
        rng = Random(seed)
        two.start(group)
        await asyncio.sleep(late_s)
        one.start(group)
        world.net.delay_s = lambda: rng.choice((0.01, 0.1, 0.5))
        one.peers.want(())  # dial again when the other does
        await asyncio.sleep(0)
        one.peers.want(one.group.members)
        await asyncio.sleep(12)
        assert world.is_whole()
        told = len(one.told)
        assert told <= 5
        await asyncio.sleep(60)
        assert len(one.told) == told

    play(2, story)


def test_peer_that_is_silent_is_left_and_one_that_has_nothing_to_say_is_not():
    async def story(world, group):
        await begin(world, group)
        one, _ = world.nodes
        await asyncio.sleep(600)
        assert len(one.told) == 1
        wire = world.net.live("m1", "m2")[0]
        wire.is_hung = True  # a process, not its kernel
        began_s = now_s()
        await until(lambda: len(one.told) > 1, 10)
        assert now_s() - began_s == pytest.approx(SILENCE_S, abs=2 * PING_PERIOD_S)
        await until(world.is_whole, 5)

    play(2, story)


def test_peer_that_reads_too_slowly_loses_its_connection_and_no_frame_in_between():
    async def story(world, group):
        await begin(world, group)
        one, two = world.nodes
        await asyncio.sleep(5)
        frame = b"\x90" + bytes(4 * 1024 * 1024)
        taken = [one.send(2, frame) for _ in range(RAFT_QUEUE_MAX_B // len(frame) + 2)]
        assert taken.count(True) == RAFT_QUEUE_MAX_B // len(frame)
        assert not taken[-1]
        assert one.epochs  # the core hears of it in the loop, not within its call
        await until(lambda: one.told[-1][0] == "connected" and len(one.told) == 3, 5)
        assert two.frames == []

    play(2, story)


def test_snapshot_goes_to_the_members_address():
    async def story(world, group):
        one, _ = world.nodes
        one.start(group)
        await asyncio.sleep(0)
        head = SnapshotHead(sender=1, receiver=2, term=3, facts=b"")
        theirs = msgspec.structs.replace(head, node_id="m2")
        assert await one.peers.send_snapshot(2, head, [b"a"]) == ("m2:2377", theirs, [b"a"])
        with pytest.raises(UnavailableError):
            await one.peers.send_snapshot(9, head, [])

    play(2, story)
