"""Connections between members: who is let in, who is refused, and whose refusal counts."""

import asyncio
from random import Random

import msgspec
import pytest

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
from swarmlet.raft.membership import Members
from swarmlet.raft.peers import (
    HELLO_TIMEOUT_S,
    PENDING_MAX,
    PENDING_PER_NODE_MAX,
)
from swarmlet.wire.channel import ChannelClosedError
from tests.agent.virtual_time import until
from tests.raft.peer_world import Node, Wire, begin, now_s, play


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
