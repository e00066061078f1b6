"""Members that must not go on: their disk was put back, or another has their identity."""

import asyncio
import copy

import pytest

from swarmlet.core.errors import MemberRefusedError
from swarmlet.core.ids import RaftID
from swarmlet.raft.engine import Origin
from tests.raft.group import OFTEN, Host, World

ENTRIES = [b"entry %d" % number for number in range(30)]


async def ended(host, limit_s=30.0):
    until_s = host.world.now_s + limit_s
    while host.is_up and host.world.now_s < until_s:  # noqa: ASYNC110 - a state is no event
        await asyncio.sleep(0.1)
    return host.failure


@pytest.mark.parametrize("limits", [None, OFTEN])
def test_disk_put_back_to_an_older_state_is_refused_and_joins_anew(limits):
    async def story(world):
        _, _, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await world.agree()
        await c.kill(power=True)
        old = c.disk.image()
        await c.boot()
        await world.write(*ENTRIES)
        await world.agree()
        await asyncio.sleep(3)
        await world.write(b"so that the hint is known")
        await c.kill()
        c.disk.put_back(old)
        await c.boot()
        failure = await ended(c)
        assert isinstance(failure, MemberRefusedError)
        assert failure.reason == "rolled-back"
        assert "put back to an older state" in failure.message
        again = world.add("c2", 99)
        await world.join(again)
        await world.change("remove", c)
        await world.agree()

    World(limits=limits).run(story)


def test_disk_put_back_to_when_it_was_alone_counts_for_nothing_whatever_it_wrote_since():
    """It leads itself, and has more entries in the end than the others remember of it."""

    async def story(world):
        a = world.add("a", 10)
        await a.boot(Origin.FOUND)
        await world.write(*ENTRIES)
        await a.kill(power=True)
        old = a.disk.image()
        await a.boot()
        b, c = (world.add(name, number) for name, number in (("b", 11), ("c", 12)))
        await world.join(b)
        await world.join(c)
        await world.write(*ENTRIES)
        await world.agree()
        await asyncio.sleep(3)
        await a.kill(power=True)
        await world.write(b"without it")
        leader = await world.leader()
        term = leader.engine._driver.core.term
        a.disk.put_back(old)
        world.wire.apart.add("a")
        await a.boot()
        for number in range(100):
            await a.engine.propose(b"alone %d" % number, 0)
        assert a.engine.applied_index > leader.engine.applied_index
        world.wire.mend()
        await asyncio.sleep(5)
        for number in range(200):
            await leader.engine.propose(b"together %d" % number, 0)
        await asyncio.sleep(5)
        assert leader.engine._driver.core.term == term  # nor does it disturb
        for host in (b, c):
            progress = host.engine._driver.core.progress(a.me.raft_id)
            assert not progress.is_connected
            assert progress.match_index == 0
            assert host.entries[-1] == b"together 199"
        assert a.entries[-1] == b"alone 99"
        assert a.engine._driver.core.is_leader

    World().run(story)


def test_hints_survive_a_restart_of_those_who_remember():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await c.kill(power=True)
        old = c.disk.image()
        await c.boot()
        await world.write(*ENTRIES)
        await world.agree()
        await asyncio.sleep(3)
        await world.write(b"so that the hint is written")
        await asyncio.sleep(2)
        for host in (a, b, c):
            await host.kill(power=True)
        c.disk.put_back(old)
        for host in (a, b, c):
            await host.boot()
        failure = await ended(c)
        assert isinstance(failure, MemberRefusedError)
        assert failure.reason == "rolled-back"
        await world.write(b"goes on")

    World().run(story)


def test_crash_that_loses_only_what_was_never_synced_is_no_rollback():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        for turn in range(12):
            await world.write(*(b"%d/%d" % (turn, number) for number in range(5)))
            victim = hosts[turn % 3]
            await victim.kill(power=True)
            await asyncio.sleep(0.2)
            await victim.boot()
            await world.agree()
            assert victim.failure is None

    World(limits=OFTEN).run(story)


def test_second_boot_of_one_identity_is_refused_and_ends():
    async def story(world):
        _, _, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        clone = Host(world, "c", c.me.raft_id)
        clone.disk, clone.boots = copy.deepcopy(c.disk), 7
        clone.disk.reopen()
        await clone.boot(Origin.RESUME)
        failure = await ended(clone, limit_s=40)
        assert isinstance(failure, MemberRefusedError)
        assert failure.reason == "cloned"
        assert c.is_up
        await world.write(b"goes on")
        assert RaftID(c.me.raft_id) in [m.raft_id for m in c.engine.members()]

    World().run(story)
