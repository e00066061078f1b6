"""PySyncObj behind its seams: alone, among others, and what is shut off."""

import pytest
from pysyncobj import syncobj
from pysyncobj.node import Node

from swarmlet.raft.hardening import SUCCESS, RaftTiming, _Nodes
from tests.raft.cores import A, B, C, Cores, members


def test_three_members_elect_one_leader_and_apply_the_same():
    group = Cores(A, B, C)
    group.run(3)
    [leader] = group.leaders()
    answers = group.propose(leader, *(b"%d" % n for n in range(5)))
    group.run(1)
    assert [reason for _, reason in answers] == [SUCCESS] * 5
    assert [entry for _, entry in group.applied[leader]] == [b"%d" % n for n in range(5)]
    assert all(applied == group.applied[leader] for applied in group.applied.values())
    assert all(core.leader == leader for core in group.cores.values())
    assert group[leader].is_caught_up()


def test_learner_follows_and_never_stands_for_election():
    group = Cores(A, B, C, base=members(A, learners=(B, C)))
    group.run(3)
    assert group.leaders() == [A]
    lone = Cores(B, base=members(learners=(B,)))
    lone.run(5)
    assert lone.leaders() == []
    assert lone[B].term == 0


def test_member_that_is_alone_leads_at_its_first_tick():
    group = Cores(A)
    group[A].campaign()
    group[A].tick()
    assert group.leaders() == [A]


def test_same_seed_elects_at_the_same_moment():
    def moment():
        group = Cores(A, B, C)
        while not group.leaders():
            group.run(0.02)
        return group.clock.now_s, group.leaders()

    assert moment() == moment()


def test_timing_that_is_set_counts_from_then_on():
    group = Cores(A, B, C)
    slow = RaftTiming(heartbeat_period_s=2, election_min_s=20, election_max_s=40)
    group.elect(A)
    for core in group.cores.values():
        core.set_timing(slow)
    group.run(3)
    group.crash(A)
    group.run(0.5)  # the connection closed: at once all the same
    assert len(group.leaders()) == 1
    assert group[B].conf.leaderFallbackTimeout == 40


def test_nothing_is_pickled():
    for name in ("loads", "dumps", "load", "dump"):
        with pytest.raises(AssertionError, match="pickle"):
            getattr(syncobj.pickle, name)(b"")


@pytest.mark.parametrize("message", ["append_entries", "apply_command", "timeout_now"])
def test_pysyncobj_never_sends_by_itself(message):
    group = Cores(A)
    with pytest.raises(AssertionError, match=message):
        group[A]._transport.send(Node(B), {"type": message})


def test_nodes_are_in_order_of_their_ids_however_they_came_in():
    ids = [2**62 + 7, 3, 2**40, 12]
    assert [node.id for node in _Nodes.of(ids)] == sorted(ids)
    assert [node.id for node in _Nodes.of(ids[:2]) | _Nodes.of(ids[1:])] == sorted(ids)
