"""PySyncObj behind its seams: alone, among others, and what is shut off."""

from collections import deque
from random import Random

import pytest
from pysyncobj import syncobj
from pysyncobj.node import Node

from swarmlet.core.ids import RaftID
from swarmlet.raft.hardening import SUCCESS, Core, RaftTiming
from swarmlet.raft.journal import Journal
from swarmlet.raft.membership import Members
from swarmlet.raft.transport import NoPeers, Transport
from swarmlet.store.proposer import Member
from tests.sim.disk import SimDisk
from tests.sim.loop import SimClock, sim_env

IDS = [RaftID(n) for n in (11, 22, 33)]


def members(*ids, voters=None):
    return Members(
        members=tuple(
            Member(
                raft_id=i, node_id=f"n{i}", address="a:1", is_voter=voters is None or i in voters
            )
            for i in ids
        )
    )


class Group:
    """Cores with queues between them; journals count as durable at once."""

    def __init__(self, ids=IDS, voters=None):
        self.clock, self.queue, self.applied = SimClock(), deque(), {i: [] for i in ids}
        self.cores, self.transports = {}, {}
        for raft_id in ids:
            transport = self.transports[raft_id] = Transport(Sender(self, raft_id))
            self.cores[raft_id] = Core(
                sim_env(raft_id, SimDisk(), self.clock),
                Journal(members(*ids, voters=voters)),
                raft_id,
                transport=transport,
                apply=lambda index, entry, mine=self.applied[raft_id]: mine.append((index, entry)),
                timing=RaftTiming(),
            )
        for raft_id in ids:
            for other in ids:
                if other != raft_id:
                    self.transports[raft_id].on_connected(Node(other))

    def pass_time(self, seconds):
        for _ in range(int(seconds / 0.05)):
            self.clock.now_s += 0.05
            for core in self.cores.values():
                core.tick()
            while self.queue:
                sender, to, message = self.queue.popleft()
                self.transports[to].on_message(Node(sender), message)

    def leaders(self):
        return [i for i, core in self.cores.items() if core.is_leader]


class Sender:
    def __init__(self, group, me):
        self.group, self.me = group, me

    def send(self, to, message):
        self.group.queue.append((self.me, to, dict(message)))
        return True


def test_three_members_elect_one_leader_and_apply_the_same():
    group, answers = Group(), []
    group.pass_time(3)
    [leader] = group.leaders()
    for number in range(5):
        group.cores[leader].propose(b"%d" % number, lambda *answer: answers.append(answer))
    group.pass_time(1)
    assert [reason for _, reason in answers] == [SUCCESS] * 5
    assert [entry for _, entry in group.applied[leader]] == [b"%d" % n for n in range(5)]
    assert all(applied == group.applied[leader] for applied in group.applied.values())
    assert all(core.leader == leader for core in group.cores.values())
    assert group.cores[leader].is_caught_up()


def test_learner_follows_and_never_stands_for_election():
    group = Group(voters=IDS[:1])
    group.pass_time(3)
    assert group.leaders() == IDS[:1]
    lone = Group(ids=IDS[:1], voters=())
    lone.pass_time(5)
    assert lone.leaders() == []
    assert lone.cores[IDS[0]].raftCurrentTerm == 0


def test_member_that_is_alone_leads_at_its_first_tick():
    group = Group(ids=IDS[:1])
    group.cores[IDS[0]].campaign()
    group.cores[IDS[0]].tick()
    assert group.leaders() == IDS[:1]
    with pytest.raises(AssertionError, match="this member is alone"):
        NoPeers().send(IDS[1], {"type": "append_entries"})


def test_same_seed_elects_at_the_same_moment():
    def moment():
        group = Group()
        while not group.leaders():
            group.pass_time(0.05)
        return group.clock.now_s, group.leaders()

    assert moment() == moment()


def test_nothing_is_pickled():
    for name in ("loads", "dumps", "load", "dump"):
        with pytest.raises(AssertionError, match="pickle"):
            getattr(syncobj.pickle, name)(b"")


def test_nodes_are_ordered_alike_in_every_process():
    assert hash(Node(RaftID(Random(1).getrandbits(60)))) == hash(Random(1).getrandbits(60))
