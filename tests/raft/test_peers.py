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
    CLONED,
    PING,
    REMOVED,
    ROLLED_BACK,
    STRANGER,
    WELCOME,
    WRONG_MEMBER,
    Refusal,
    decode_own,
    encode_own,
)
from swarmlet.raft.links import Link
from swarmlet.raft.membership import Members
from swarmlet.raft.peers import (
    HELLO_TIMEOUT_S,
    HIGHER_BEGINS_S,
    HIGHER_WAITS_S,
    PENDING_MAX,
    PENDING_PER_NODE_MAX,
    PING_PERIOD_S,
    SILENT_PERIODS_MAX,
)
from swarmlet.wire.channel import RAFT_QUEUE_MAX_B, ChannelClosedError
from swarmlet.wire.node_api import SnapshotHead
from tests.agent.virtual_time import until
from tests.raft.peer_world import Node, Wire, play

SILENCE_S = PING_PERIOD_S * SILENT_PERIODS_MAX


def now_s():
    return asyncio.get_running_loop().time()


async def begin(world, group):
    for node in world.nodes:
        node.start(group)
    await until(world.is_whole, 5)


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


# Who is let in


def refuse_story(spoil, reason):
    """`spoil(world)` once all are connected; the second is started again then, and refused."""

    async def story(world, group):
        await begin(world, group)
        one, two = world.nodes
        two.kill()
        await asyncio.sleep(0.1)
        spoil(one, two)
        two.start(group)
        await asyncio.sleep(10)
        assert not one.epochs
        assert set(two.refusals) == {(1, reason)}
        assert 5 <= len(two.refusals) <= 30  # it tries again, not at once

    play(2, story)


def test_member_that_was_removed_is_told_so():
    def spoil(one, _two):
        one.group = Members(members=one.group.members, removed=(2,))

    refuse_story(spoil, REMOVED)


def test_member_with_less_than_it_acknowledged_is_told_so():
    def spoil(one, two):
        one.acquaintances.acknowledged(2, 80, 100)
        two.last_index = 79

    refuse_story(spoil, ROLLED_BACK)


def test_member_of_another_release_is_told_so():
    def spoil(_one, two):
        said = two.hello
        two.hello = lambda to: msgspec.structs.replace(said(to), protocol=9)

    refuse_story(spoil, STRANGER)


def test_address_that_is_another_members_now_is_not_talked_to():
    async def story(world, group):
        one = world.nodes[0]
        other = Node(world.net, "m2", 5, node_id="m5")
        other.group = Members(members=(other.member,))
        one.start(group)
        other.start(group)
        await asyncio.sleep(5)
        assert not one.epochs
        assert not other.epochs
        assert one.refusals == []  # what another node says is not that member's word
        other.kill()

    play(2, story)


def test_certificate_of_another_node_is_not_let_in_as_a_member():
    async def story(world, group):
        one = world.nodes[0]
        thief = Node(world.net, "m2", 2, node_id="m9")
        thief.group = one.group
        one.start(group)
        thief.start(group)
        await asyncio.sleep(5)
        assert not one.epochs
        assert not thief.epochs
        assert set(thief.refusals) == {(1, WRONG_MEMBER)}
        thief.kill()

    play(2, story)


def test_second_boot_of_a_member_is_refused_while_the_first_lives_and_disturbs_nobody():
    async def story(world, group):
        await begin(world, group)
        clone = Node(world.net, "copy", 3, node_id="m3")
        clone.group, clone.boot = world.nodes[2].group, 100
        clone.start(group)
        await asyncio.sleep(30)
        assert all(len(node.told) == 2 for node in world.nodes)
        assert clone.told == []
        assert set(clone.refusals) == {(1, CLONED), (2, CLONED)}
        clone.kill()
        world.nodes[2].kill()
        clone.start(group)
        await until(lambda: len(clone.epochs) == 2, 3)
        clone.kill()

    play(3, story)


def test_of_two_boots_that_come_at_once_one_is_let_in():
    async def story(world, group):
        one, two = world.nodes
        one.start(group)
        ends = []
        for boot in (1, 2):
            wire = Wire(world.net, two, one)
            group.create_task(one.peers.serve(wire.far))
            group.create_task(wire.near.write())
            two.boot = boot
            wire.near.send(encode_own(two.hello(1)))
            ends.append(wire.near)
        for end in ends:
            assert decode_own(await end.receive()).sender == 1
        for end in ends:
            end.send(WELCOME)
            await asyncio.sleep(0.1)
        assert one.told == [("connected", 2, 1)]
        said = [decode_own(await end.receive()) for end in ends]
        assert [getattr(each, "reason", "") for each in said] == ["", CLONED]
        ends[0].connection.abort()

    play(2, story)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_host_lost", [False, True])
def test_member_that_is_killed_and_started_again_is_no_clone(is_host_lost, seed):
    async def story(world, group):
        await begin(world, group)
        rng, two = Random(seed), world.nodes[1]
        await asyncio.sleep(rng.uniform(1, 3))
        two.kill(is_host_lost=is_host_lost)
        await asyncio.sleep(rng.choice((0.0, 0.2, 1.0, 5.0)))
        world.net.mend()
        two.start(group)
        began_s = now_s()
        await until(world.is_whole, 10)
        assert now_s() - began_s < (6.5 if is_host_lost else 0.5)
        refused = [reason for _, reason in two.refusals]
        assert set(refused) <= ({CLONED} if is_host_lost else set())

    play(3, story)


async def refused_by(world, one, sender, *frames):
    """`one`, after somebody with the certificate of `sender` dialled it and said `frames`."""
    wire = Wire(world.net, sender, one)
    serving = one._group.create_task(one.peers.serve(wire.far))
    writing = one._group.create_task(wire.near.write())
    for frame in frames:
        wire.near.send(frame)
    await asyncio.sleep(1)
    wire.near.close()
    await asyncio.wait((serving, writing))
    return one.refusals


@pytest.mark.parametrize("reason", [REMOVED, ROLLED_BACK, CLONED])
def test_refusal_counts_from_members_of_the_group_alone(reason):
    """Whoever is believed ends this member, and its data with it."""
    refusal = encode_own(Refusal(reason=reason, term=9, index=99))

    async def story(world, group):
        one, two = world.nodes
        one.start(group)
        unknown = Node(world.net, "m9", 9)
        thief = Node(world.net, "m9", 2, node_id="m9")
        assert await refused_by(world, one, unknown, refusal) == []
        assert await refused_by(world, one, unknown, encode_own(unknown.hello(1)), refusal) == []
        assert await refused_by(world, one, thief, encode_own(thief.hello(1)), refusal) == []
        said = await refused_by(world, one, two, encode_own(two.hello(1)), refusal)
        assert said == [(2, reason)]

    play(2, story)


def test_refusal_counts_from_a_member_that_has_joined_anew_since():
    """Whose disk is old knows the others by ids that they have no more."""

    async def story(world, group):
        one, _ = world.nodes
        one.start(group)
        anew = Node(world.net, "m2", 9)
        refusal = encode_own(Refusal(reason=ROLLED_BACK, term=9, index=99))
        said = await refused_by(world, one, anew, encode_own(anew.hello(1)), refusal)
        assert said == [(9, ROLLED_BACK)]

    play(2, story)


@pytest.mark.parametrize("reason", [REMOVED, ROLLED_BACK, CLONED])
def test_whoever_answers_at_a_members_address_ends_nobody(reason):
    async def story(world, group):
        one = world.nodes[0]
        thief = Node(world.net, "m2", 2, node_id="m9")
        thief.judge = lambda *_: Refusal(reason=reason, term=9, index=99)
        one.start(group)
        thief.start(group)
        await asyncio.sleep(20)
        assert len(world.net.dials) > 5
        assert one.refusals == []
        thief.kill()

    play(2, story)


# Strangers and garbage


def test_peer_that_sends_garbage_is_left_for_a_while():
    async def story(world, group):
        await begin(world, group)
        one, two = world.nodes
        await asyncio.sleep(5)
        two.send(1, b"garbage")
        await until(lambda: len(one.told) == 2, 1)
        began_s = now_s()
        await until(world.is_whole, 5)
        assert now_s() - began_s >= 1.5

    play(2, story)


GARBAGE = {
    "nothing": b"",
    "a frame of the core's": msgspec.msgpack.encode([1, 2]),
    "half a hello": b"\xc1\x85\xa4",
    "a ping": PING,
    "a welcome": WELCOME,
}


@pytest.mark.parametrize("first", GARBAGE)
def test_connection_that_begins_with_no_hello_is_closed(first):
    async def story(world, group):
        one, two = world.nodes
        one.start(group)
        wire = Wire(world.net, two, one)
        serving = group.create_task(one.peers.serve(wire.far))
        writing = group.create_task(wire.near.write())
        wire.near.send(GARBAGE[first])
        with pytest.raises(ChannelClosedError):
            await wire.near.receive()
        await asyncio.sleep(0.1)
        assert serving.done()
        assert writing.done()
        with pytest.raises(UnavailableError):
            await one.peers.serve(Wire(world.net, two, one).far)
        assert one.told == []

    play(2, story)


def test_connections_that_say_nothing_are_bounded_and_closed():
    async def story(world, group):
        one = world.nodes[0]
        one.start(group)
        one.want(one.member)

        def knock(name):
            stranger = Node(world.net, name, 99)
            return one.peers.serve(Wire(world.net, stranger, one).far)

        serving = [group.create_task(knock("x")) for _ in range(PENDING_PER_NODE_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await knock("x")
        serving += [
            group.create_task(knock(f"n{n}")) for n in range(PENDING_MAX - PENDING_PER_NODE_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await knock("y")
        await asyncio.sleep(HELLO_TIMEOUT_S + 0.1)
        assert all(task.done() for task in serving)
        assert not one.peers._pending

    play(2, story)


def test_nobody_is_served_before_or_after_the_member_runs():
    async def story(world, group):
        one, two = world.nodes
        for node in world.nodes:
            node.start(group)
        early = Wire(world.net, two, one)
        with pytest.raises(UnavailableError):
            await one.peers.serve(early.far)
        early.close()
        await until(world.is_whole, 5)
        one.kill()
        await asyncio.sleep(0.1)
        assert not one.epochs
        with pytest.raises(UnavailableError):
            await one.peers.serve(Wire(world.net, two, one).far)

    play(2, story)


def test_snapshot_goes_to_the_members_address():
    async def story(world, group):
        one, _ = world.nodes
        one.start(group)
        await asyncio.sleep(0)
        head = SnapshotHead(sender=1, receiver=2, term=3, facts=b"")
        assert await one.peers.send_snapshot(2, head, [b"a"]) == ("m2:2377", head, [b"a"])
        with pytest.raises(UnavailableError):
            await one.peers.send_snapshot(9, head, [])

    play(2, story)
