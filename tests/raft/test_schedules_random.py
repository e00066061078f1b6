"""Chance at work: delay, loss, crashes that lose what was not synced, members that come and go.

What a seed does is the same in every process. Checked after every step: one leader a term, what is
committed is the same everywhere, what was answered is committed, a read is as new as what was
answered before it; and after the faults: all is there, and the group goes on.
"""

from itertools import pairwise
from random import Random

import pytest

from swarmlet.raft.hardening import SUCCESS
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, REMOVE
from tests.raft.cores import Cores, member_change

VOTERS = (1, 2, 3)
SPARE = tuple(range(4, 12))
FAULTY_STEPS, SETTLE_S = 500, 6


class Chaos(Cores):
    def __init__(self, seed):
        self.rng = Random(seed)
        self.down, self.leader_of, self.committed, self.acked = {}, {}, {}, {}
        self.checked, self.gone, self.counts = {}, set(), {}
        super().__init__(*VOTERS, seed=seed)

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def faulty(self):
        for step in range(FAULTY_STEPS):
            self.clock.now_s += 0.02
            self.turn()
            self.check()
            self.fault(step)
            self.work(step)

    def turn(self):
        for raft_id in sorted(self.cores):
            if self.rng.random() < 0.92:
                self.step(raft_id, is_synced=self.rng.random() < 0.9)
        for source, to in sorted(self.links):
            if self.rng.random() < 0.8 and source in self.cores and to in self.cores:
                waiting = len(self.links[source, to])
                self.deliver(source, to, self.rng.randint(0, waiting))
        for source in self.leaders():
            for to in self.cores[source].needs_snapshot():
                if to in self.cores and self.rng.random() < 0.3:
                    self.install(source, to)
                    self.count("snapshot")

    def fault(self, step):
        there, chance = sorted(self.cores), self.rng.random()
        if chance < 0.012 and len(there) > 1:
            whom = self.rng.choice([*there, *self.leaders()])
            self.crash(whom)
            self.down[whom] = step + self.rng.randint(5, 60)
            self.count("crash")
        elif chance < 0.04:
            one, other = self.rng.sample(there, 2) if len(there) > 1 else (0, 0)
            self.cut(one, other)
            self.count("cut")
        elif chance < 0.06:
            self.compact(self.rng.choice(there))
            self.count("compact")
        for whom in [i for i, until in sorted(self.down.items()) if until <= step]:
            self.back(whom)
        if self.rng.random() < 0.1 and len(self.cores) > 1:
            self.reach(*self.rng.sample(sorted(self.cores), 2))

    def back(self, whom):
        del self.down[whom]
        self.boot(whom)
        self.checked[whom] = 0
        for other in sorted(self.cores):
            if other != whom and self.rng.random() < 0.8:
                self.reach(whom, other)

    def reach(self, one, other):
        if frozenset((one, other)) not in self.epochs:
            self.link(one, other)

    def work(self, step):
        for leader in self.leaders():
            if self.rng.random() < 0.5:
                self.write(leader, b"%d" % step)
            chance = self.rng.random()
            if chance < 0.05:
                self.churn(leader)
            elif chance < 0.06:
                voters = self.journal(leader).newest_members.voters()
                if self.cores[leader].transfer_to(self.rng.choice(voters)):
                    self.count("transfer")
        if self.rng.random() < 0.3 and self.cores:
            floor = max(self.acked, default=0)
            whom = self.rng.choice(sorted(self.cores))
            self.cores[whom].begin_read(lambda index: self.was_read(index, floor))

    def write(self, leader, command):
        def answered(index, reason):
            if reason == SUCCESS:
                self.acked[index] = command
                self.count("acked")

        self.cores[leader].propose(command, answered)

    def was_read(self, index, floor):
        self.count("read" if index is not None else "no read")
        assert index is None or index >= floor, "a read is older than what was answered before it"

    def churn(self, leader):
        """One change; the raft id of who was removed is never used again."""
        members = self.journal(leader).newest_members
        learners = [m.raft_id for m in members.members if not m.is_voter]
        known = {m.raft_id for m in members.members} | self.gone | set(members.removed)
        new = [i for i in SPARE if i not in known]
        others = [i for i in members.voters() if i != leader]
        chance = self.rng.random()
        if learners and chance < 0.5:
            self.asked(leader, PROMOTE, self.rng.choice(learners))
        elif new and chance < 0.75 and len(members.members) < 6:
            if new[0] in self.disks:
                self.asked(leader, ADD_LEARNER, new[0])
            else:
                self.join(leader, new[0])
        elif len(others) > 2:
            self.asked(leader, REMOVE, self.rng.choice(others))

    def asked(self, leader, verb, whom):
        def answered(_, reason):
            if reason == SUCCESS:
                self.count(verb)
                if verb == REMOVE:
                    self.gone.add(whom)

        self.cores[leader].propose_change(member_change(verb, whom), answered)

    def check(self):
        for raft_id, core in sorted(self.cores.items()):
            if core.is_leader:
                assert self.leader_of.setdefault(core.term, raft_id) == raft_id, "two leaders"
            self.check_log(raft_id, core)
        for raft_id in self.cores:
            for index, entry in self.applied[raft_id][-3:]:
                assert self.committed[index][1][1:] == entry, "something else was applied"
        for index, command in self.acked.items():
            assert self.committed[index][1][1:] == command, "what was answered is not committed"

    def check_log(self, raft_id, core):
        journal = self.journal(raft_id)
        entries, first = journal.entries, journal.entries[0][1]
        assert all(b == a + 1 for (_, a, _), (_, b, _) in pairwise(entries[-5:]))
        for index in range(max(first, self.checked.get(raft_id, 0)), core.commit_index + 1):
            command, _, term = entries[index - first]
            known = self.committed.setdefault(index, (term, command))
            assert known == (term, command), f"two entries are committed at {index}"
        self.checked[raft_id] = core.commit_index

    def heal(self):
        for whom in sorted(self.down):
            self.back(whom)
        there = sorted(self.cores)
        for one in there:
            for other in there:
                if one < other:
                    self.reach(one, other)
        for _ in range(int(SETTLE_S / 0.02)):
            self.clock.now_s += 0.02
            self.round()
            self.check()

    def settled(self):
        """Those whom the newest leader has for members hold all the same."""
        leader = max(self.leaders(), key=lambda i: self.cores[i].term)
        answers = self.propose(leader, b"last")
        for _ in range(30):
            self.clock.now_s += 0.02
            self.round()
        assert [reason for _, reason in answers] == [SUCCESS], "the group does not go on"
        held = dict(self.applied[leader])
        assert all(held[index] == command for index, command in self.acked.items())
        for one in self.journal(leader).newest_members.members:
            assert self.applied[one.raft_id] == self.applied[leader]
        return self.counts, self.end(leader)


def run(seed):
    chaos = Chaos(seed)
    chaos.faulty()
    chaos.heal()
    return chaos.settled()


@pytest.mark.parametrize("seed", range(30))
def test_nothing_that_was_answered_is_lost(seed):
    counts, _ = run(seed)
    assert counts["acked"] > 20


def test_same_seed_does_the_same():
    assert run(77) == run(77)
