"""Snapshots of other members: verified whole, installed as one, refused where they do not fit."""

import asyncio
from contextlib import suppress
from random import Random

import msgspec
import pytest

from swarmlet.core.errors import DamagedError, ForbiddenError, SwarmError
from swarmlet.core.ids import NodeID
from swarmlet.raft.catch_up import CONTACTS_S
from swarmlet.raft.engine import Origin
from swarmlet.raft.hello import WRONG_MEMBER
from swarmlet.wire.node_api import SnapshotHead
from tests.raft.group import OFTEN, World
from tests.raft.member import DIRECTORY, JOURNAL, SNAPSHOT
from tests.sim.disk import WHERES, SimCrash

COUNT = 60


async def behind(world):
    """A learner that was enlisted and is down; what the leader would send it."""
    a = world.add("a", 10)
    await a.boot(Origin.FOUND)
    late = world.add("late", 3)
    await world.enlist(late)
    await late.kill()
    late.disk._names.clear()
    late.disk._kept_names.clear()
    for number in range(COUNT):
        await world.write(b"%d" % number)
    await asyncio.sleep(1)
    return a, late


def sent_by(host):
    facts, chunks = host.engine._files.snapshot.read()
    head = SnapshotHead(
        sender=host.me.raft_id,
        receiver=3,
        term=host.engine._driver.core.term,
        facts=msgspec.msgpack.encode(facts),
    )
    return facts, head, list(chunks)


async def each(chunks):
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


def test_snapshot_is_installed_and_survives_a_power_cut():
    async def story(world):
        a, late = await behind(world)
        facts, head, chunks = sent_by(a)
        world.wire.apart.add("a")
        await late.boot(Origin.JOIN)
        answer = await late.engine.take_snapshot(head, each(chunks), NodeID("a"))
        assert answer.index == facts.index == late.engine.applied_index
        assert late.engine.members() == a.engine.members()
        again = await late.engine.take_snapshot(head, each([]), NodeID("a"))
        assert again.index == facts.index
        await late.kill(power=True)
        await late.boot()
        assert late.engine.applied_index == facts.index
        assert late.entries == [chunk for _, chunk in a.memory.seen][: len(late.entries)]

    World(limits=OFTEN).run(story)


def test_snapshot_that_cannot_be_used_changes_nothing():
    async def story(world):
        a, late = await behind(world)
        _, head, chunks = sent_by(a)
        world.wire.apart.add("a")
        await late.boot(Origin.JOIN)
        before = dict(late.disk._names)
        broken = late.memory.restore

        def refuse(chunks):
            list(chunks)
            raise DamagedError("a chunk is missing")

        late.memory.restore = refuse
        with pytest.raises(DamagedError, match="a chunk is missing"):
            await late.engine.take_snapshot(head, each(chunks), NodeID("a"))
        assert late.entries == []
        assert late.engine.applied_index == 1
        assert not late.disk.exists(SNAPSHOT)
        assert late.is_up
        late.memory.restore = broken
        await late.engine.take_snapshot(head, each(chunks), NodeID("a"))
        assert len(late.entries) > 30
        assert JOURNAL in before

    World(limits=OFTEN).run(story)


def test_stream_that_ends_early_leaves_nothing_behind():
    async def story(world):
        a, late = await behind(world)
        _, head, chunks = sent_by(a)
        await late.boot(Origin.JOIN)
        world.wire.apart.add("a")

        async def cut():
            yield chunks[0]
            raise SwarmError("the connection ended")

        with pytest.raises(SwarmError, match="the connection ended"):
            await late.engine.take_snapshot(head, cut(), NodeID("a"))
        assert sorted(late.disk._names) == [JOURNAL]

    World(limits=OFTEN).run(story)


def test_sender_that_goes_away_leaves_the_next_one_to_wait_for_what_it_began():
    """Its snapshot is being put in place: another one gathered over it would be taken for it."""

    async def story(world):
        a, late = await behind(world)
        _, head, chunks = sent_by(a)
        await late.boot(Origin.JOIN)
        world.wire.apart.add("a")
        await late.engine._compaction.lock.acquire()  # a snapshot of its own is being written
        first = world.begin(late.engine.take_snapshot(head, each(chunks), NodeID("a")))
        await asyncio.sleep(1)
        first.cancel()
        for number in range(COUNT):
            await world.write(b"more %d" % number)
        await asyncio.sleep(1)
        facts, head, chunks = sent_by(a)
        second = world.begin(late.engine.take_snapshot(head, each(chunks), NodeID("a")))
        await asyncio.sleep(1)
        late.engine._compaction.lock.release()
        assert (await second).index == facts.index == late.engine.applied_index
        assert late.memory.seen == a.memory.seen[: len(late.memory.seen)]
        assert late.memory.seen[-1][0] == facts.index

    World(limits=OFTEN).run(story)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"receiver": 4}, ForbiddenError),
        ({"facts": b"\xc1"}, DamagedError),
        ({"facts": msgspec.msgpack.encode({"index": 3, "term": 1, "members": {}})}, DamagedError),
        ({"term": 0}, None),
    ],
)
def test_snapshot_that_is_not_for_us_is_refused_or_answered_with_our_index(change, error):
    async def story(world):
        a, late = await behind(world)
        _, head, chunks = sent_by(a)
        await late.boot(Origin.JOIN)
        await asyncio.sleep(2)
        reached = late.engine.applied_index
        changed = msgspec.structs.replace(head, **change)
        if error is not None:
            with pytest.raises(error):
                await late.engine.take_snapshot(changed, each(chunks), NodeID("a"))
        else:
            answer = await late.engine.take_snapshot(changed, each(chunks), NodeID("a"))
            assert answer.index >= reached
        with pytest.raises(ForbiddenError, match="is not member"):
            await late.engine.take_snapshot(head, each(chunks), NodeID("b"))

    World(limits=OFTEN).run(story)


def test_snapshot_of_another_than_the_leader_is_not_taken():
    """Whatever term it claims: neither by who leads, nor by who follows."""

    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await world.write(b"kept")
        await world.agree()
        leader = next(host for host in (a, b, c) if host.engine._driver.core.is_leader)
        follower, other = (host for host in (a, b, c) if host is not leader)
        for host in (leader, follower):
            core = host.engine._driver.core
            ends = [(b"\x00x", 1_000, core.term), (b"\x00y", 1_001, core.term)]
            facts = {"index": 1_001, "term": core.term, "members": {}, "entries": ends}
            head = SnapshotHead(
                sender=other.me.raft_id,
                receiver=host.me.raft_id,
                term=core.term + 1,
                facts=msgspec.msgpack.encode(facts),
            )
            answer = await host.engine.take_snapshot(head, each([b"forged"]), NodeID(other.name))
            assert answer.index < 1_000
            assert host.entries == [b"kept"]
        await world.write(b"more")

    World().run(story)


def test_new_member_takes_its_first_state_of_those_who_let_it_in():
    """Of others only where none of them comes: one of them may have been replaced since."""

    async def story(world):
        a, late = await behind(world)
        facts, head, chunks = sent_by(a)
        contacts = a.engine.members()
        world.wire.apart.add("a")
        await late.boot(Origin.JOIN, contacts)
        unknown = msgspec.structs.replace(head, sender=77)
        for said, node_id in ((unknown, "x"), (head, "x"), (unknown, "a")):
            with pytest.raises(ForbiddenError):
                await late.engine.take_snapshot(said, each(chunks), NodeID(node_id))
        assert late.engine.applied_index < facts.index
        await asyncio.sleep(CONTACTS_S + 1)
        with pytest.raises(ForbiddenError):
            await late.engine.take_snapshot(head, each(chunks), NodeID("x"))
        answer = await late.engine.take_snapshot(unknown, each(chunks), NodeID("x"))
        assert answer.index == facts.index

    World(limits=OFTEN).run(story)


def test_new_member_lets_nobody_in_as_one_of_those_who_let_it_in():
    async def story(world):
        a, late = await behind(world)
        contacts = a.engine.members()
        world.wire.apart.add("a")
        await late.boot(Origin.JOIN, contacts)
        hello = a.engine._events.hello(late.me.raft_id)
        assert late.engine._events.judge(hello, "a") is None
        refusal = late.engine._events.judge(hello, "x")
        assert refusal is not None
        assert refusal.reason == WRONG_MEMBER

    World(limits=OFTEN).run(story)


def installing(world, operation, where, seed):
    async def story(world):
        a, late = await behind(world)
        _, head, chunks = sent_by(a)
        world.wire.apart.add("a")
        await late.boot(Origin.JOIN)
        before = late.disk.operations
        if operation is not None:
            late.disk.fail_at(operation, where)
        with suppress(SimCrash, SwarmError):
            await late.engine.take_snapshot(head, each(chunks), NodeID("a"))
        if operation is None:
            return late.disk.operations - before
        if late.is_up:
            await late.kill()
        late.disk.crash(Random(seed))
        await late.boot(Origin.JOIN)
        leftover = [path for path in late.disk._names if path not in (JOURNAL, SNAPSHOT)]
        assert leftover == []
        world.wire.apart.clear()
        await world.agree()
        assert len(late.entries) == COUNT
        await late.kill(power=True)
        await late.boot()
        await world.agree()
        return 0

    return world.run(story)


def install_operations():
    return installing(World(limits=OFTEN), None, "", 0)


@pytest.mark.parametrize("where", WHERES)
def test_crash_at_any_operation_of_an_install_is_recovered_from(where):
    for operation in range(install_operations()):
        installing(World(limits=OFTEN), operation, where, operation)


def test_folder_of_a_member_holds_two_files():
    async def story(world):
        a, _ = await behind(world)
        assert {path.rpartition("/")[0] for path in a.disk._names} == {DIRECTORY}
        assert set(a.disk._names) == {JOURNAL, SNAPSHOT}

    World(limits=OFTEN).run(story)
