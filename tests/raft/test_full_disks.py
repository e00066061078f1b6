"""Several members, and a disk that fills up: no ack, nothing lost, and it goes on by itself."""

import asyncio

from swarmlet.core.errors import DiskFullError, SwarmError
from swarmlet.raft.engine import RaftLimits
from tests.raft.group import OFTEN, World
from tests.raft.member import outcome

BIG = bytes(400_000)


def fill(host):
    host.disk.capacity_b = host.disk.used_b


def empty(host):
    host.disk.capacity_b = 1 << 40


async def write_until(world, number, entries):
    """Write at whoever leads, again where that was refused."""
    acked = []
    for at in range(number):
        while True:
            leader = await world.leader()
            if not isinstance(await outcome(leader.engine.propose(entries(at), at)), SwarmError):
                acked.append(entries(at))
                break
            await asyncio.sleep(0.05)
    return acked


def test_follower_with_a_full_disk_is_waited_for_by_nobody_and_catches_up():
    async def story(world):
        _, _, c = await world.found("a", "b", "c")
        fill(c)
        acked = await write_until(world, 40, lambda at: b"%d " % at + BIG)
        assert c.is_up
        assert len(c.entries) < 40
        await asyncio.sleep(20)
        assert c.is_up
        empty(c)
        await world.agree()
        assert c.entries == acked

    World(limits=RaftLimits(snapshot_log_size_b=4_000_000)).run(story)


def test_leader_with_a_full_disk_hands_over_and_writes_go_on():
    async def story(world):
        a, _, _ = await world.found("a", "b", "c")
        await world.write(b"before")
        fill(a)
        began_s = world.now_s
        acked = await write_until(world, 40, lambda at: b"%d " % at + BIG)
        assert world.now_s - began_s < 5
        assert await world.leader() is not a
        assert a.is_up
        empty(a)
        await world.agree()
        assert a.entries == [b"before", *acked]

    World().run(story)


def test_leader_whose_disk_and_everybody_elses_is_full_says_so_and_leads_on_with_room():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        for host in hosts:
            fill(host)
        refused = None
        for at in range(60):
            leader = await world.leader(limit_s=60)
            refused = await outcome(leader.engine.propose(b"%d " % at + BIG, at))
            if isinstance(refused, DiskFullError):
                break
        assert isinstance(refused, SwarmError)
        for host in hosts:
            empty(host)
        await write_until(world, 3, lambda at: b"after %d" % at)
        await world.agree()
        assert all(host.is_up for host in hosts)

    World().run(story)


def test_member_that_joins_on_a_full_disk_is_sent_the_snapshot_again_once_there_is_room():
    async def story(world):
        await world.found("a")
        for number in range(60):
            await world.write(b"%d" % number + bytes(5_000))
        late = world.add("late", 3)
        await world.enlist(late)
        fill(late)
        await asyncio.sleep(20)
        assert late.entries == []
        assert late.is_up
        empty(late)
        await world.agree()
        assert len(late.entries) == 60
        await world.change("promote", late)

    World(limits=OFTEN).run(story)
