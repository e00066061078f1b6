"""The power goes at every write, sync and rename of a busy member; nothing acknowledged is lost."""

import asyncio
from contextlib import suppress
from random import Random

import pytest

from swarmlet.core.errors import SwarmError
from swarmlet.raft.engine import RaftLimits
from tests.raft.member import Node, nothing, propose_all
from tests.sim.disk import WHERES, SimCrash, SimDisk

LIMITS = RaftLimits(snapshot_entries=6, slow_follower_entries=0)
CLIENTS, WRITES = 3, 8


def busy(acked):
    """Work: clients that write at the same time and note what was acknowledged, with its index."""

    async def client(engine, name):
        for number in range(WRITES):
            entry = b"%d/%d " % (name, number) + bytes(name * 300)
            for _ in range((name * 7 + number * 3) % 5):
                await asyncio.sleep(0)  # so that no two walk in step
            acked.append((await engine.propose(entry, number), entry))

    async def work(engine):
        async with asyncio.TaskGroup() as group:
            for name in range(CLIENTS):
                group.create_task(client(engine, name))

    return work


def busy_operations() -> int:
    disk = SimDisk()
    Node(disk, limits=LIMITS).run(busy([]))
    return disk.operations


def check(seen, acked):
    """What was acknowledged is in its place; nothing is there twice or comes from nowhere."""
    assert set(acked) <= set(seen)
    entries = [entry for _, entry in seen]
    assert len(entries) == len(set(entries))
    for name in range(CLIENTS):
        numbers = [int(e.split(b"/")[1].split()[0]) for e in entries if e.startswith(b"%d/" % name)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) <= sum(e.startswith(b"%d/" % name) for _, e in acked) + 1


def crashed(disk, operation, where, seed):
    """What was acknowledged before the power went at this operation."""
    acked = []
    disk.fail_at(operation, where)
    with suppress(SimCrash):  # a member that is stopping at that moment may not look
        Node(disk, seed=seed, limits=LIMITS).run(busy(acked))
    assert disk.is_dead
    disk.crash(Random(seed))
    return acked


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("operation", range(busy_operations()))
def test_crash_at_any_operation_loses_nothing_acknowledged(operation, where):
    for seed in range(3):
        disk = SimDisk()
        acked = crashed(disk, operation, where, seed)
        node = Node(disk, seed=f"{seed}-again", limits=LIMITS)
        index = node.run(propose_all(b"9/0"))[0]
        check(node.memory.seen[:-1], acked)
        assert node.memory.seen[-1] == (index, b"9/0")
        last = Node(disk, seed=f"{seed}-last")
        last.run(nothing, must_exist=True)
        assert last.memory.seen == node.memory.seen


@pytest.mark.parametrize("where", WHERES)
def test_crash_while_recovering_from_a_crash_loses_nothing(where):
    operations = busy_operations()
    for seed in range(25):
        rng, disk = Random(f"{where}{seed}"), SimDisk()
        acked = crashed(disk, rng.randrange(operations), where, seed)
        for boot in range(3):
            disk.fail_at(rng.randrange(6), rng.choice(WHERES))
            with pytest.raises(SimCrash):
                Node(disk, seed=f"{seed}/{boot}", limits=LIMITS).run(busy([]))
            disk.crash(rng)
        node = Node(disk, seed=f"{seed}/end", limits=LIMITS)
        node.run(nothing)
        assert set(acked) <= set(node.memory.seen)


def test_member_full_of_faults_and_restarts_keeps_every_acknowledged_write():
    for seed in range(10):
        rng, disk, acked, number = Random(f"long{seed}"), SimDisk(), [], 0
        for boot in range(12):
            node = Node(disk, seed=f"{seed}/{boot}", limits=LIMITS)
            number += 1000
            entries = [b"%d " % (number + n) + bytes(rng.randrange(2000)) for n in range(20)]

            async def work(engine, entries=entries):
                for entry in entries:
                    acked.append((await engine.propose(entry, 0), entry))  # noqa: PERF401, B023

            fault = rng.randrange(4)
            if fault == 0:
                disk.fail_at(rng.randrange(40), rng.choice(WHERES))
            elif fault == 1:
                disk.error_at(rng.randrange(40))
            elif fault == 2:
                disk.capacity_b = sum(i.size_b for i in disk._names.values()) + rng.randrange(9000)
            try:
                node.run(work)
            except (SimCrash, SwarmError, OSError):
                disk.crash(rng)
            disk.capacity_b = 1 << 40
        node = Node(disk, seed=f"{seed}/end")
        node.run(nothing)
        assert set(acked) <= set(node.memory.seen)
        assert len(node.memory.seen) == len(set(node.memory.entries))


def test_same_seed_replays_the_same_run():
    def trace(seed):
        disk = SimDisk()
        crashed(disk, 17, "half", seed)
        node = Node(disk, seed=seed, limits=LIMITS)
        node.run(busy([]))
        return disk.log, node.memory.seen, {n: i.seen for n, i in disk._names.items()}

    assert trace(1) == trace(1)
    assert trace(1)[2] != trace(2)[2]
