"""Another key for everything on disk: at every crash in between, a restart with both finds all."""

import asyncio
from contextlib import suppress
from random import Random

import pytest

from swarmlet.core.errors import DamagedError, DiskFullError, SwarmError, UnavailableError
from swarmlet.env.sealed import SealKeys, seal_key
from swarmlet.raft.engine import RaftLimits
from tests.raft.group import OFTEN as GROUP_OFTEN
from tests.raft.group import World, ring
from tests.raft.member import JOURNAL, KEY, SNAPSHOT, Node, nothing, outcome, settle
from tests.sim.disk import WHERES, SimCrash, SimDisk
from tests.sim.loop import run_sim

NEW, NEWER = seal_key(b"n" * 32), seal_key(b"o" * 32)
LIMITS = RaftLimits(snapshot_entries=6, slow_follower_entries=3)
ENTRIES = [b"entry %d" % number for number in range(15)]
MORE = [b"more %d" % number for number in range(3)]


def key_ids(disk):
    return {path: disk.read(path)[10:18] for path in (JOURNAL, SNAPSHOT) if disk.exists(path)}


def prepared():
    disk = SimDisk()
    Node(disk, limits=LIMITS).run(slowly(*ENTRIES))
    assert disk.exists(SNAPSHOT)
    return disk


def slowly(*entries):
    async def work(engine):
        for number, entry in enumerate(entries):
            await engine.propose(entry, number)
            await settle(40)

    return work


async def rotating(engine):
    """Work: another key, then a few more writes."""
    await engine.rotate_key(NEW)
    for number, entry in enumerate(MORE):
        await engine.propose(entry, number)


def node(disk, keys, seed=1):
    return Node(disk, seed=seed, key=keys, limits=LIMITS)


def rotation_operations():
    disk = prepared()
    before = disk.operations
    node(disk, SealKeys(current=KEY)).run(rotating)
    return disk.operations - before


def test_rotation_leaves_nothing_under_the_old_key_and_loses_nothing():
    disk = prepared()
    node(disk, SealKeys(current=KEY)).run(rotating)
    assert set(key_ids(disk).values()) == {NEW.key_id}
    again = node(disk, SealKeys(current=NEW), seed=2)
    again.run(nothing, must_exist=True)
    assert again.memory.entries == ENTRIES + MORE
    with pytest.raises(DamagedError, match="is sealed with key"):
        node(disk, SealKeys(current=KEY), seed=3).run(nothing, must_exist=True)


def test_rotation_to_the_key_in_use_writes_nothing():
    disk = prepared()
    node(disk, SealKeys(current=KEY)).run(rotating)

    async def work(engine):
        before = disk.operations
        await engine.rotate_key(NEW)
        assert disk.operations == before

    node(disk, SealKeys(current=NEW), seed=2).run(work)


def test_member_without_a_snapshot_changes_its_key_too():
    disk = SimDisk()

    async def work(engine):
        await engine.propose(b"one", 1)
        await engine.rotate_key(NEW)
        await engine.propose(b"two", 2)

    Node(disk).run(work)
    again = Node(disk, seed=1, key=NEW)
    again.run(nothing, must_exist=True)
    assert again.memory.entries == [b"one", b"two"]


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("operation", range(rotation_operations()))
def test_crash_at_any_operation_of_a_rotation_loses_nothing(operation, where):
    for seed in range(2):
        disk = prepared()
        disk.fail_at(operation, where)
        with suppress(SimCrash, SwarmError):  # whatever is told first
            node(disk, SealKeys(current=KEY), seed=seed).run(rotating)
        disk.crash(Random(f"{operation}{where}{seed}"))
        keys = ring(NEW, KEY) if seed else ring(KEY, NEW)
        again = node(disk, keys, seed=f"{seed}-again")
        again.run(rotating, must_exist=True)
        assert again.memory.entries[: len(ENTRIES)] == ENTRIES
        assert set(key_ids(disk).values()) == {NEW.key_id}
        last = node(disk, SealKeys(current=NEW), seed=f"{seed}-last")
        last.run(nothing, must_exist=True)
        assert last.memory.seen == again.memory.seen


def test_rotation_on_a_full_disk_says_so_and_succeeds_once_there_is_room():
    disk = prepared()

    async def work(engine):
        disk.capacity_b = disk.used_b
        assert isinstance(await outcome(engine.rotate_key(NEW)), DiskFullError)
        await engine.propose(b"goes on", 1)
        disk.capacity_b *= 10
        await engine.rotate_key(NEW)

    node(disk, SealKeys(current=KEY)).run(work)
    assert set(key_ids(disk).values()) == {NEW.key_id}


def test_two_rotations_in_a_row_end_with_the_last_key():
    disk = prepared()

    async def work(engine):
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.rotate_key(NEW))
            group.create_task(engine.rotate_key(NEWER))

    node(disk, SealKeys(current=KEY)).run(work)
    assert set(key_ids(disk).values()) == {NEWER.key_id}


def test_keys_of_a_group_change_while_it_writes_and_members_join():
    async def story(world):
        hosts = await world.found("a", "b")
        late = world.add("late", 3)

        async def write_on():
            for number in range(200):
                await world.write(b"%d" % number)

        writing = world.begin(write_on())
        joining = world.begin(world.join(late))
        for host in hosts:
            await host.engine.rotate_key(NEW)
        await joining
        await late.engine.rotate_key(NEW)
        await writing
        await world.agree()
        for host in (*hosts, late):
            assert set(key_ids(host.disk).values()) == {NEW.key_id}
            await host.kill(power=True)
            host.keys = SealKeys(current=NEW)
        for host in (*hosts, late):
            await host.boot()
        await world.agree()
        assert late.entries == [b"%d" % number for number in range(200)]

    World(limits=GROUP_OFTEN).run(story)


def test_rotation_of_a_member_that_ended_is_refused():
    disk = prepared()
    stopped = node(disk, SealKeys(current=KEY))
    stopped.run(nothing)

    async def late():
        assert isinstance(await outcome(stopped.engine.rotate_key(NEW)), UnavailableError)

    run_sim(stopped.clock, late())
