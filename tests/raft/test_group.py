"""Several members: elections, replication, reads, joins, removals, transfer, lost majorities."""

import asyncio

import pytest

from swarmlet.core.errors import (
    FailedPreconditionError,
    MemberRefusedError,
    NotLeaderError,
    OutcomeUnknownError,
    QuorumLostError,
    SwarmError,
    UnavailableError,
)
from swarmlet.raft.engine import Origin
from swarmlet.store.proposer import MemberChange
from tests.raft.group import OFTEN, World
from tests.raft.member import outcome

ENTRIES = [b"entry %d" % number for number in range(30)]


def test_joined_members_have_all_that_was_written_before_and_after():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await world.agree()
        assert a.entries == b.entries == c.entries == ENTRIES
        assert [one.is_voter for one in b.engine.members()] == [True] * 3

    World().run(story)


def test_read_at_any_member_sees_every_write_acknowledged_before():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        for number in range(20):
            await world.write(b"%d" % number)
            for host in hosts:
                index = await host.engine.read_barrier()
                assert index == host.engine.applied_index
                assert host.entries[-1] == b"%d" % number

    World().run(story)


def test_write_at_a_follower_says_who_leads():
    async def story(world):
        a, b, _ = await world.found("a", "b", "c")
        assert await world.leader() is a
        with pytest.raises(NotLeaderError) as caught:
            await b.engine.propose(b"x", 1)
        assert caught.value.managers == ("a:2377",)

    World().run(story)


@pytest.mark.parametrize("seed", range(5))
def test_writes_go_on_when_the_leader_is_killed(seed):
    async def story(world):
        hosts = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        lost_s = world.now_s
        await hosts[0].kill()
        await world.write(b"after")
        assert world.now_s - lost_s < 1.5
        await hosts[0].boot()
        await world.agree()
        assert hosts[0].entries == [*ENTRIES, b"after"]

    World(seed).run(story)


def test_leader_that_falls_silent_is_replaced_within_two_seconds():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        world.wire.apart.add("a")
        lost_s = world.now_s
        waiting = world.begin(outcome(hosts[0].engine.propose(b"lost", 1)))
        await world.other_leader(hosts[0])
        await world.write(b"after")
        assert world.now_s - lost_s < 2.0
        assert isinstance(await waiting, OutcomeUnknownError)
        assert world.now_s - lost_s < 3.0
        world.wire.mend()
        await world.agree()
        assert b"lost" not in hosts[0].entries

    World().run(story)


def test_all_of_a_group_restart_and_find_everything():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        for host in hosts:
            await host.kill(power=True)
        for host in hosts:
            await host.boot()
        await world.write(b"again")
        await world.agree()
        assert all(host.entries == [*ENTRIES, b"again"] for host in hosts)

    World(limits=OFTEN).run(story)


def test_member_that_joins_late_is_sent_a_snapshot():
    async def story(world):
        await world.found("a")
        for number in range(100):
            await world.write(b"%d" % number)
        late = world.add("late", 5)
        await world.join(late)
        assert [(to, chunks > 50) for _, to, chunks in world.wire.snapshots] == [("late", True)]
        await world.write(b"last")
        await world.agree()
        await late.kill(power=True)
        await late.boot()
        await world.agree()
        assert late.entries[-1] == b"last"
        assert len(late.entries) == 101

    World(limits=OFTEN).run(story)


def test_follower_that_was_down_for_long_catches_up_by_snapshot():
    async def story(world):
        _, _, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await c.kill()
        await asyncio.sleep(5)
        for number in range(200):
            await world.write(b"%d" % number)
        sent = len(world.wire.snapshots)
        await c.boot()
        await world.agree()
        assert len(c.entries) == 230
        assert len(world.wire.snapshots) == sent + 1

    World(limits=OFTEN).run(story)


def test_follower_slightly_behind_needs_no_snapshot():
    async def story(world):
        _, _, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await c.kill()
        await world.write(*ENTRIES)
        sent = len(world.wire.snapshots)
        await c.boot()
        await world.agree()
        assert len(world.wire.snapshots) == sent

    World().run(story)


def test_leader_that_leaves_hands_over_first_and_no_write_waits_for_an_election():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        began_s = world.now_s
        await hosts[0].stop()
        await world.write(b"after")
        assert world.now_s - began_s < 0.2

    World().run(story)


def test_transfer_to_a_named_member_holds_proposals_and_ends_with_it_leading():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")

        async def write_on():
            for number in range(200):
                while True:
                    leader = await world.leader()
                    try:
                        await leader.engine.propose(b"%d" % number, number)
                        break
                    except NotLeaderError:
                        await asyncio.sleep(0.001)

        writing = world.begin(write_on())
        for host in (b, c, a, c):
            await asyncio.sleep(0.05)
            await (await world.leader()).engine.transfer(host.me.raft_id)
            assert await world.leader() is host
        await writing
        await world.agree()
        assert a.entries == [b"%d" % number for number in range(200)]
        with pytest.raises(FailedPreconditionError):
            await c.engine.transfer(c.me.raft_id)
        with pytest.raises(NotLeaderError):
            await a.engine.transfer(b.me.raft_id)

    World().run(story)


def test_transfer_to_a_member_that_is_away_fails_and_this_one_leads_on():
    async def story(world):
        a, b, _ = await world.found("a", "b", "c")
        await b.kill()
        await world.write(b"b does not have this")
        with pytest.raises(UnavailableError, match="leads on"):
            await a.engine.transfer(b.me.raft_id)
        await a.engine.propose(b"after", 1)

    World().run(story)


def ids(host):
    return [one.raft_id for one in host.engine.members()]


def test_change_that_is_asked_for_again_is_not_done_before_it_is_committed():
    """Its first caller went away while nobody acknowledged it; it may still be taken back."""

    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        extra = world.add("d", 99)
        change = MemberChange(verb="add-learner", member=extra.me)
        world.wire.apart.update(("b", "c"))
        first = world.begin(a.engine.change_members(change))
        await asyncio.sleep(0.1)
        assert 99 in ids(a)
        first.cancel()
        again = world.begin(outcome(a.engine.change_members(change)))
        other = MemberChange(verb="remove", member=c.me)
        another = world.begin(outcome(a.engine.change_members(other)))
        await asyncio.sleep(0.3)
        assert not again.done()
        assert not another.done()
        assert c.me.raft_id in ids(a)  # one at a time
        world.wire.mend()
        await asyncio.wait((again, another))
        await world.agree()
        leader = await world.leader()
        for work in (again, another):
            assert isinstance(work.result(), UnavailableError | None)
        if again.result() is None:
            assert 99 in ids(leader)
        assert b.is_up

    World().run(story)


def test_members_change_once_a_transfer_is_over():
    async def story(world):
        a, b, _ = await world.found("a", "b", "c")
        extra = world.add("d", 99)
        world.wire.apart.add("b")
        moving = world.begin(outcome(a.engine.transfer(b.me.raft_id)))
        await asyncio.sleep(0.1)
        change = MemberChange(verb="add-learner", member=extra.me)
        adding = world.begin(a.engine.change_members(change))
        await asyncio.sleep(0.5)
        assert 99 not in ids(a)
        await asyncio.wait((moving, adding))
        assert isinstance(moving.result(), UnavailableError)
        assert adding.result() is None
        assert 99 in ids(a)

    World().run(story)


def test_removed_member_ends_and_is_told_so_after_a_restart_too():
    async def story(world):
        _, _, c = await world.found("a", "b", "c")
        await world.change("remove", c)
        for _ in range(100):
            await asyncio.sleep(0.1)
            if not c.is_up:
                break
        assert isinstance(c.failure, MemberRefusedError)
        assert c.failure.reason == "removed"
        c.disk.reopen()
        await c.boot()
        for _ in range(100):
            await asyncio.sleep(0.1)
            if not c.is_up:
                break
        assert c.failure.reason == "removed"
        with pytest.raises(FailedPreconditionError, match="never comes back"):
            await world.change("add-learner", c)

    World().run(story)


def test_member_is_not_removed_where_the_rest_would_have_no_quorum():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await c.kill()
        await asyncio.sleep(3)
        with pytest.raises(FailedPreconditionError, match="2 must answer, and 1 do"):
            await world.change("remove", b)
        await world.change("remove", c)
        await world.change("remove", b)
        assert [one.node_id for one in a.engine.members()] == ["a"]
        with pytest.raises(FailedPreconditionError, match="another one must lead"):
            await world.change("remove", a)

    World().run(story)


def test_learner_does_not_count_and_is_promoted_once_it_has_caught_up():
    async def story(world):
        await world.found("a", "b", "c")
        learner = world.add("d", 99)
        await world.enlist(learner)
        await world.write(*ENTRIES)
        assert (await world.leader()).engine.health().quorum == 2
        await learner.kill()
        with pytest.raises(UnavailableError, match="has not caught up yet"):
            await world.change("promote", learner)
        await learner.boot()
        await world.change("promote", learner)
        await world.agree()
        assert learner.engine.health().quorum == 3
        assert [one.is_voter for one in learner.engine.members()] == [True] * 4

    World().run(story)


def test_address_of_a_member_changes():
    async def story(world):
        a, b, _ = await world.found("a", "b", "c")
        world.wire.hosts["b2"] = b
        moved = world.add("b2", b.me.raft_id)
        await world.change("set-address", moved)
        assert [one.address for one in a.engine.members()] == ["a:2377", "b2:2377", "c:2377"]

    World().run(story)


def test_lost_majority_is_said_within_three_seconds_everywhere_and_not_before():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        lost_s = world.now_s
        await b.kill()
        await c.kill()
        found = []

        async def ask(work):
            found.append((await outcome(work), world.now_s - lost_s))

        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(ask(a.engine.read_barrier()))
                group.create_task(ask(a.engine.propose(b"x", 1)))
                await asyncio.sleep(0.1)
        assert all(isinstance(what, SwarmError) for what, _ in found)
        kinds = {type(what) for what, _ in found}
        assert kinds <= {QuorumLostError, OutcomeUnknownError, NotLeaderError}
        assert QuorumLostError in kinds
        assert max(when_s for what, when_s in found) < 3.1
        error = next(what for what, _ in found if isinstance(what, QuorumLostError))
        assert error.message.startswith("1 of 3 managers answers, and 2 are needed: b (b:2377)")
        assert "has been silent for 2 s" in error.message
        assert "--force-new-cluster" in error.remedy
        began_s = world.now_s
        with pytest.raises(QuorumLostError):
            await a.engine.read_barrier()
        assert world.now_s == began_s
        health = a.engine.health()
        assert (health.leader, health.quorum, health.answering()) == (None, 2, 1)
        assert health.lost_since_ms <= world.clock.wall_ms() - 2000
        await b.boot()
        await world.write(b"again")
        assert a.engine.health().lost_since_ms == 0

    World().run(story)


def test_member_left_with_a_leader_that_steps_down_says_within_three_seconds_that_most_are_lost():
    """It hears the other one still, but of no leader any more."""

    async def story(world):
        await world.found("a", "b", "c", "d", "e")
        deposed = await world.leader()
        left, *gone = [host for host in world.up() if host is not deposed]
        for host in gone:
            await host.kill()
        lost_s = world.now_s
        for host in (left, deposed):
            with pytest.raises(QuorumLostError, match="2 of 5 managers answer"):
                await host.engine.read_barrier()
        assert world.now_s - lost_s < 3.1
        await asyncio.sleep(60)
        began_s = world.now_s
        for host in (left, deposed):
            with pytest.raises(QuorumLostError):
                await host.engine.read_barrier()
            assert host.engine.health().lost_since_ms <= world.clock.wall_ms() - 60_000
        assert world.now_s == began_s

    World().run(story)


def test_member_that_starts_alone_says_after_a_moment_that_the_others_are_missing():
    async def story(world):
        hosts = await world.found("a", "b", "c")
        for host in hosts:
            await host.kill()
        await hosts[1].boot()
        began_s = world.now_s
        with pytest.raises(QuorumLostError, match="1 of 3 managers answers"):
            await hosts[1].engine.read_barrier()
        assert 2 < world.now_s - began_s < 3
        await asyncio.sleep(7)
        health = hosts[1].engine.health()  # counted from its start, not from the first question
        lost = [one for one in health.members if not one.answers]
        assert [one.is_known for one in lost] == [True, True]
        silent_ms = [world.clock.wall_ms() - one.silent_since_ms for one in lost]
        assert all(9_000 < each < 11_000 for each in silent_ms)

    World().run(story)


def test_forced_new_group_keeps_all_and_the_others_may_not_come_back():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await world.agree()
        for host in (a, b, c):
            await host.kill(power=True)
        await c.boot(Origin.FORCE_NEW)
        assert c.engine.health().quorum == 1
        await world.write(b"alone")
        assert c.entries == [*ENTRIES, b"alone"]
        await c.kill(power=True)
        await c.boot()
        await world.write(b"still alone")
        assert [one.node_id for one in c.engine.members()] == ["c"]
        await a.boot()
        await b.boot()
        await asyncio.sleep(5)
        assert c.is_up
        assert (await world.leader()) in (c, a, b)
        d = world.add("d", 77)
        leader = c.engine
        assert leader._driver.leadership.is_ready
        assert d.boots == 0

    World(limits=OFTEN).run(story)


def test_health_names_a_silent_member_at_every_member():
    async def story(world):
        a, b, c = await world.found("a", "b", "c")
        await world.write(*ENTRIES)
        await c.kill()
        await asyncio.sleep(4)
        for host in (a, b):
            health = host.engine.health()
            assert [one.answers for one in health.members] == [True, True, False]
            silent_ms = world.clock.wall_ms() - health.members[2].silent_since_ms
            assert 3_000 < silent_ms < 6_000
            assert health.lost_since_ms == 0
            assert world.clock.wall_ms() - health.as_of_ms < 1_000

    World().run(story)
