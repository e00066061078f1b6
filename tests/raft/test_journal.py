"""The journal: its memory side, its records, and what must never happen."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swarmlet.core.errors import DamagedError
from swarmlet.core.ids import RaftID
from swarmlet.env.sealed import SealedLog
from swarmlet.raft.journal import MEMBERSHIP, PURPOSE, REGULAR, Journal, JournalFile
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, Members, encode_change
from swarmlet.store.proposer import Member, MemberChange
from tests.raft.member import KEY, ME
from tests.sim.disk import SimDisk

MEMBERS = Members(members=(ME,))
PATH = "/data/raft/journal"


def log_on(disk, seed=0):
    entropy = Random(seed).randbytes
    return SealedLog(disk, PATH, KEY, purpose=PURPOSE, entropy=entropy, reserve_step_b=4096)


def file_on(disk, seed=0, raft_id=ME.raft_id):
    return JournalFile(log_on(disk, seed), raft_id)


def state(journal):
    return (
        journal.entries,
        journal.term,
        journal.vote,
        journal.newest_members,
        journal.size_b,
        journal.heard,
    )


class Restarts(RuleBasedStateMachine):
    """Whatever Raft does to the journal, what was written is what a restart reads."""

    @initialize()
    def create(self):
        self.disk, self.seed = SimDisk(), 0
        self.file = file_on(self.disk)
        self.journal = self.file.create(MEMBERS)

    @rule(size_b=st.integers(0, 300), new_term=st.booleans())
    def add(self, size_b, new_term):
        journal = self.journal
        index = journal.entries[-1][1] + 1 if journal.entries else 1
        term = max(journal.term, journal.entries[-1][2] if journal.entries else 0)
        if new_term:
            term += 1
            journal.setCurrentTerm(term, 7)
        journal.add(REGULAR + bytes(size_b), index, term)

    @rule(verb=st.sampled_from([ADD_LEARNER, PROMOTE]), raft_id=st.integers(1, 9))
    def change_members(self, verb, raft_id):
        change = MemberChange(
            verb=verb, member=Member(raft_id=RaftID(raft_id), node_id="n", address="a:1")
        )
        index = self.journal.entries[-1][1] + 1 if self.journal.entries else 1
        self.journal.add(MEMBERSHIP + encode_change(change), index, self.journal.term)

    @rule(term=st.integers(1, 50), vote=st.one_of(st.none(), st.integers(1, 9)))
    def vote(self, term, vote):
        self.journal.setCurrentTerm(self.journal.term + term, vote)

    @precondition(lambda self: len(self.journal.entries) > 1)
    @rule(data=st.data())
    def commit(self, data):
        first, last = self.journal.entries[0][1], self.journal.entries[-1][1]
        low = max(first, self.journal.getRaftCommitIndex())
        self.journal.setRaftCommitIndex(data.draw(st.integers(low, last)))

    @precondition(lambda self: self.journal.entries)
    @rule(data=st.data())
    def cut(self, data):
        position = data.draw(st.integers(1, len(self.journal.entries)))
        first = self.journal.entries[0][1]
        if first + position > self.journal.commit_index:
            self.journal.deleteEntriesFrom(position)

    @precondition(lambda self: len(self.journal.entries) > 2)
    @rule(data=st.data(), keep=st.integers(0, 3), keep_size_b=st.integers(0, 500))
    def compact(self, data, keep, keep_size_b):
        first = self.journal.entries[0][1]
        if self.journal.commit_index > first:
            before = self.journal.newest_members
            index = data.draw(st.integers(first + 1, self.journal.commit_index))
            self.journal.compact(index, keep=keep, keep_size_b=keep_size_b)
            assert self.journal.newest_members == before
            assert self.journal.last_two(index)[-1][1] == index

    @precondition(lambda self: len(self.journal.entries) > 1)
    @rule(ahead=st.integers(1, 5))
    def install(self, ahead):
        """What another member holds that is `ahead` of this one."""
        index, term = self.journal.entries[-1][1] + ahead, self.journal.term + 1
        members = self.journal.newest_members
        self.journal.setCurrentTerm(term, None)
        entries = ((REGULAR + b"a", index - 1, term), (REGULAR + b"b", index, term))
        self.journal.install(members, entries)
        assert self.journal.newest_members == members
        assert self.journal.last_two(index) == entries

    @rule(heard=st.binary(max_size=20))
    def remember(self, heard):
        is_dirty = self.journal.is_dirty
        self.journal.remember(heard)
        assert self.journal.is_dirty == is_dirty
        self.journal.rewrite()

    @rule()
    def write(self):
        batch = self.journal.take()
        if batch is not None:
            self.file.write(batch)
        assert self.journal.take() is None

    @rule()
    def restart(self):
        self.write()
        self.file.close()
        self.seed += 1
        self.file = file_on(self.disk, self.seed)
        again = self.file.load()
        assert state(again) == state(self.journal)
        assert again.getRaftCommitIndex() <= max(1, self.journal.getRaftCommitIndex())
        self.journal = again

    @invariant()
    def indexes_are_without_holes(self):
        indexes = [index for _, index, _ in self.journal.entries]
        assert indexes == list(range(indexes[0], indexes[0] + len(indexes))) if indexes else True


Restarts.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRestarts = Restarts.TestCase


def filled(count=6):
    journal = Journal(MEMBERS)
    for index in range(1, count + 1):
        journal.add(REGULAR + b"%d" % index, index, 1)
    return journal


def test_committed_entry_is_never_taken_back():
    journal = filled()
    journal.setRaftCommitIndex(4)
    with pytest.raises(AssertionError, match="never taken back"):
        journal.deleteEntriesFrom(3)
    journal.deleteEntriesFrom(4)
    assert len(journal) == 4


def test_entry_out_of_order_is_refused():
    with pytest.raises(AssertionError, match="no holes"):
        filled().add(b"", 9, 1)


def test_commit_hint_beyond_the_end_is_not_believed():
    journal = filled(3)
    journal.commit_index = 99
    assert journal.getRaftCommitIndex() == 3
    assert Journal(MEMBERS).getRaftCommitIndex() == 1


def test_commit_hint_alone_is_not_worth_a_write():
    journal = filled()
    journal.take()
    journal.setRaftCommitIndex(3)
    assert journal.take() is None
    journal.add(b"", 7, 1)
    batch = journal.take()
    assert batch is not None
    assert len(batch.ops) == 2


def test_same_vote_again_is_not_written():
    journal = filled()
    journal.setCurrentTerm(4, 7)
    journal.take()
    journal.setCurrentTerm(4, 7)
    assert not journal.is_dirty


@pytest.mark.parametrize(
    ("keep", "keep_size_b", "first"), [(0, 99, 6), (3, 99, 3), (3, 5, 4), (99, 99, 1), (2, 0, 6)]
)
def test_compaction_keeps_some_more_for_those_behind(keep, keep_size_b, first):
    journal = filled(9)
    journal.compact(7, keep=keep, keep_size_b=keep_size_b)
    assert journal.entries[0][1] == first


def test_install_replaces_a_log_that_went_another_way_and_a_restart_reads_it():
    disk = SimDisk()
    file = file_on(disk)
    journal = file.create(MEMBERS)
    for index in range(1, 9):
        journal.add(REGULAR + b"old", index, 1)
    journal.setCurrentTerm(3, 7)
    file.write(journal.take())
    change = MemberChange(
        verb=ADD_LEARNER, member=Member(raft_id=RaftID(9), node_id="n9", address="a:1")
    )
    entries = ((MEMBERSHIP + encode_change(change), 6, 2), (REGULAR + b"new", 7, 2))
    members = MEMBERS.after(change)
    journal.install(members, entries)
    file.write(journal.take())
    for seen in (journal, file_on(disk, seed=1).load()):
        assert seen.entries == list(entries)
        assert seen.newest_members == members
        assert (seen.term, seen.vote, seen.getRaftCommitIndex()) == (3, 7, 7)


def test_compaction_keeps_the_snapshots_entry_and_the_one_before():
    journal = filled(9)
    journal.compact(7)
    assert [index for _, index, _ in journal.entries] == [6, 7, 8, 9]
    assert (journal.term_at(5), journal.term_at(6), journal.term_at(9)) == (None, 1, 1)
    assert journal.term_at(10) is None


def encoded(*ops):
    import msgspec

    return msgspec.msgpack.encode(list(ops))


BASE = ["base", 7, {"members": [], "removed": []}]


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], "it has no first record"),
        ([encoded(["vote", 1, None])], "it does not begin with its first record"),
        ([encoded(BASE, BASE)], "it begins twice"),
        ([encoded(["base", 8, BASE[2]])], "it is of member 8, and this is 7"),
        ([encoded(BASE, ["add", b"", 1, 1], ["add", b"", 3, 1])], "entry 3 follows entry 1"),
        ([encoded(BASE, ["cut", 1])], "cuts at entry 1, which it does not hold"),
        ([encoded(BASE), b"\xc1"], "a record cannot be read"),
        ([encoded(BASE, ["later-verb", 1])], "a record cannot be read"),
    ],
)
def test_records_that_make_no_sense_are_refused(records, problem):
    disk = SimDisk()
    log_on(disk).rewrite(records)
    with pytest.raises(DamagedError, match=problem) as caught:
        file_on(disk, seed=1).load()
    assert PATH in caught.value.message
