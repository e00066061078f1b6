"""Schedules that make stock PySyncObj lose, fork or stop: each must be harmless here."""

import pickle

import pytest

from swarmlet.raft.hardening import LEADER_CHANGED, SUCCESS
from swarmlet.raft.journal import REGULAR
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE
from swarmlet.raft.messages import (
    Append,
    Appended,
    Rejected,
    StaleTerm,
    encode_frame,
)
from tests.raft.cores import A, B, C, Cores, D, E

BIG = 600_000  # bytes: two such entries fill a batch


def regular(*terms):
    return tuple((REGULAR + b"x", term) for term in terms)


def test_resent_entries_cut_nothing_off():
    group = Cores(A, B, C)
    group.elect(A)
    answers = group.propose(A, *(b"%d" % n for n in range(9)))
    group.run(0.1, only=[A, B])
    assert [reason for _, reason in answers] == [SUCCESS] * 9
    end = group.end(B)
    entries = tuple((e[0], e[2]) for e in group.journal(A).entries[1:4])
    group.said(B, A)
    group.inject(A, B, Append(group[A].term, 1, 0, 4, 0, entries))  # the first three once more
    group.step(B)
    assert group.end(B) == end
    assert group.said(B, A) == [Appended(group[A].term, 4, 0)]
    group.crash(A)
    group.elect(B)
    group.run(0.2)
    assert group.log(B)[: end[0]][-1] == end
    assert [entry for _, entry in group.applied[B]] == [b"%d" % n for n in range(9)]


def test_batch_that_is_known_in_part_adds_only_the_rest():
    group = Cores(A, B)
    group.elect(A)
    entries = tuple((e[0], e[2]) for e in group.journal(A).entries[1:])
    more = (*entries, *regular(group[A].term, group[A].term))
    group.inject(A, B, Append(group[A].term, 1, 0, 1, 0, more))
    group.inject(A, B, Append(group[A].term, 1, 0, 1, 0, more[:2]))
    assert group.end(B)[0] == 1 + len(more)


def test_ack_of_an_older_term_counts_for_nothing():
    group = Cores(A, B, C, D, E)
    group.elect(A)
    group.propose(A, b"old")
    group.run(0.1)
    old = group[A].term
    group.elect(C)
    group.elect(A)
    answers = group.propose(A, b"new")
    group.step(A)
    group.silence()
    index = group.end(A)[0]
    for peer in (B, C):
        group.inject(peer, A, Appended(old, index, 0))
    group.step(A)
    assert answers == []
    for peer in (B, C):  # the same of this term: it is the term that made the difference
        group.inject(peer, A, Appended(group[A].term, index, 0))
    group.step(A)
    assert answers == [(index, SUCCESS)]


def test_ack_that_comes_late_takes_nothing_back():
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, b"1", b"2")
    group.run(0.2)
    proved = group[A].progress(B).match_index
    group.inject(B, A, Appended(group[A].term, 1, 0))
    group.inject(B, A, Rejected(group[A].term, 1, 1, 0))
    assert group[A].progress(B).match_index == proved
    group.said(A, B)
    group.propose(A, b"3")
    group.step(A)
    appends = [m for m in group.said(A, B) if m.entries]
    assert [m.prev_index for m in appends] == [proved]
    group.inject(B, A, Rejected(group[A].term, 1, 1, 0))
    group.step(A)
    assert [m for m in group.said(A, B) if m.entries] == []  # it is under way
    group.inject(B, A, Rejected(group[A].term, proved + 1, 1, 0))
    group.step(A)
    assert [m.prev_index for m in group.said(A, B)] == [proved]


def test_ack_of_entries_that_do_not_exist_is_refused():
    group = Cores(A, B, C)
    group.elect(A)
    with pytest.raises(ValueError, match="there is none yet"):
        group.inject(B, A, Appended(group[A].term, group.end(A)[0] + 1, 0))


def test_changes_of_members_do_not_overlap():
    group = Cores(A, B, C)
    group.elect(A)
    answers = [group.change(A, ADD_LEARNER, new) for new in (91, 92, 93, 94)]
    group.step(A)
    assert [bool(a) for a in answers] == [False, True, True, True]
    assert len(group.journal(A).newest_members.members) == 4
    group.run(0.2)
    assert answers[0][0][1] == SUCCESS


def test_restarted_member_knows_all_members_though_its_commit_hint_is_old():
    group = Cores(A)
    group.elect(A)
    for new in (B, C):
        group.join(A, new)
        group.run(0.3)
        assert group.change(A, PROMOTE, new) == []
        group.run(0.3)
    assert group.journal(A).newest_members.voters() == (A, B, C)
    group.propose(A, b"lone")
    group.step(A)
    group.crash(A)
    group.disks[A].journal.commit_index = 1
    group.boot(A)
    group.run(5, only=[A])
    assert group.leaders() == []
    group.run(3, only=[B, C])
    assert len(group.leaders()) == 1


def test_heartbeat_before_a_snapshot_commits_nothing_of_a_divergent_log():
    group = Cores(A, B, C)
    group.elect(B)
    answers = group.propose(B, b"lost", b"lost", b"lost")
    group.step(B)
    group.silence()
    commit = group[B].commit_index
    end = group.end(B)[0]
    group.inject(A, B, Append(9, 0, 0, 100, 0))
    group.step(B)
    assert group[B].commit_index == commit
    assert group.applied[B] == []
    assert answers == [(None, LEADER_CHANGED)] * 3
    assert group.said(B, A) == [Rejected(9, 0, end + 1, 0)]


def test_log_that_nobody_checked_is_never_acknowledged():
    group = Cores(A, B, C)
    group.elect(B)
    group.propose(B, b"own", b"own", b"own")
    group.step(B)
    group.silence()
    end, commit = group.end(B)[0], group[B].commit_index
    group.inject(A, B, Append(9, end, 9, 100, 0))  # ours has another term there
    group.step(B)
    assert group.said(B, A) == [Rejected(9, end, commit + 1, 0)]
    group.inject(A, B, Append(9, end + 5, 9, 100, 0))
    group.step(B)
    assert group.said(B, A) == [Rejected(9, end + 5, end + 1, 0)]
    assert group[B].commit_index == commit


def test_commit_index_reaches_as_far_as_the_log_is_checked():
    group = Cores(A, B, C)
    group.elect(B)
    group.propose(B, b"own", b"own")
    group.step(B)
    group.silence()
    commit = group[B].commit_index
    group.inject(A, B, Append(9, commit, group.log(B)[commit - 1][1], 100, 0))  # fits, and is short
    group.step(B)
    assert group[B].commit_index == commit


def test_divergent_member_catches_up_while_much_is_under_way():
    group = Cores(A, B, C)
    group.elect(B)
    group.propose(B, *(b"lost" for _ in range(30)))
    group.step(B)
    group.silence()
    for other in (A, C):
        group.cut(B, other)
    group.elect(A, only=[A, C])
    group.propose(A, *(b"x" * BIG for _ in range(8)))
    group.run(0.2, only=[A, C])
    group.link(A, B)
    for _ in range(6):  # more comes with every turn
        group.propose(A, b"y" * BIG, b"y" * BIG)
        group.run(0.1)
    group.run(0.3)
    assert group.log(B) == group.log(A)
    assert group.applied[B] == group.applied[A]


def test_answers_to_pipelined_appends_do_not_undo_a_step_back():
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, *(b"x" for _ in range(20)))
    group.run(0.2)
    term, match = group[A].term, group[A].progress(B).match_index
    group.propose(A, *(b"x" for _ in range(20)))
    group.step(A)
    group.said(A, B)
    group.inject(B, A, Rejected(term, match + 12, match + 5, 0))
    group.inject(B, A, Rejected(term, match + 16, match + 13, 0))  # behind the first one
    group.step(A)
    assert [m.prev_index for m in group.said(A, B)] == [match + 4]


def test_entry_that_cannot_be_applied_stops_the_member_and_is_not_repeated():
    group, tried = Cores(A), []

    def poison(index, entry):
        tried.append(index)
        raise ArithmeticError("boom")

    group.elect(A)
    group[A]._apply = poison
    group.propose(A, b"poison")
    group.step(A)
    with pytest.raises(ArithmeticError):
        group.step(A)
    assert len(tried) == 1


class Bomb:
    def __reduce__(self):
        return (print, ("it went off",))


def test_pickle_is_data_like_any_other(capsys):
    group = Cores(A, B, C)
    group.elect(A)
    bomb = pickle.dumps(Bomb())
    group.propose(A, bomb)
    group.run(0.3)
    assert [entry for _, entry in group.applied[B]] == [bomb]
    epoch = group.epochs[frozenset((A, B))]
    for frame in (bomb, pickle.dumps({"type": "append_entries"})):
        with pytest.raises(ValueError, match="cannot be read"):
            group[B].receive(A, epoch, frame)
    assert capsys.readouterr().out == ""


def test_commit_hint_beyond_the_log_commits_nothing():
    group = Cores(A, B, C)
    group.crash(B)
    group.disks[B].journal.commit_index = 50
    group.boot(B)
    group.link(A, B)
    group.inject(A, B, Append(2, 1, 0, 1, 0, regular(2, 2, 2, 2)))
    group.step(B)
    assert group.applied[B] == []
    assert group[B].commit_index == 1
    group.inject(A, B, Append(3, 1, 0, 1, 0, regular(3)))  # and they can be replaced
    assert group.log(B) == [(1, 0), (2, 3)]


def test_crash_while_the_log_is_shortened_loses_nothing():
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, *(b"%d" % n for n in range(30)))
    group.run(0.3)
    log = group.log(A)
    group.journal(A).compact(20)
    group.crash(A)  # before it was written
    group.boot(A)
    assert group.log(A) == log
    group.journal(A).compact(20)
    group.sync(A)
    group.crash(A)
    group.boot(A)
    assert group.log(A) == log[18:]


def test_snapshot_newer_than_the_logs_begin_leaves_its_tail():
    group = Cores(A)
    group.elect(A)
    group.propose(A, *(b"%d" % n for n in range(30)))
    group.run(0.3)
    log = group.log(A)
    group.crash(A)
    group.boot(A).skip_to(12)
    group.elect(A)
    assert group.log(A)[: len(log)] == log
    assert [index for index, _ in group.applied[A]] == list(range(13, log[-1][0] + 1))


def test_append_of_an_older_term_is_answered_and_its_sender_steps_down():
    group = Cores(A, B, C)
    group.elect(A)
    group.inject(C, B, StaleTerm(7))
    group.silence()
    group.clock.now_s += 0.2
    group.step(A)
    group.deliver(A, B)
    group.step(B)
    assert group.said(B, A)[-1] == StaleTerm(7)
    group.inject(B, A, StaleTerm(7))
    assert (group[A].is_leader, group[A].term) == (False, 7)


def test_second_leader_of_a_term_is_refused():
    group = Cores(A, B, C)
    group.elect(A)
    with pytest.raises(ValueError, match="a second leader"):
        group.inject(B, A, Append(group[A].term, 1, 0, 1, 0))
    with pytest.raises(ValueError, match="a second leader"):
        group.inject(C, B, Append(group[A].term, 1, 0, 1, 0))


def test_append_of_another_history_than_what_is_committed_is_refused_and_changes_nothing():
    """No leader of the same group has other entries there: it must not count as acknowledged."""
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, b"x", b"y")
    group.run(0.5)
    index, term = group.end(B)
    assert group[B].commit_index == index
    before = group.log(B)
    for append in (
        Append(term + 5, index - 1, term - 1, index, 0),
        Append(term + 5, index - 1, term, index, 0, ((b"\x00z", term + 1),)),
    ):
        with pytest.raises(ValueError, match="is committed here, and is another one there"):
            group.inject(C, B, append)
    assert group[B].term == term
    assert group.log(B) == before
    group.step(B)
    assert group.said(B, C) == []


def test_frames_of_an_older_connection_are_dropped():
    group = Cores(A, B, C)
    group.elect(A)
    epoch = group.epochs[frozenset((A, B))]
    group.link(A, B)
    group[B].receive(A, epoch, encode_frame([Append(9, 1, 0, 1, 0)]))
    assert group[B].term == group[A].term
    group[B].disconnected(A, epoch)  # the old one's end says nothing of the new
    assert group[B].progress(A).is_connected


def test_nothing_but_appends_leaves_before_the_journal_is_durable():
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, b"x")
    group.step(A, is_synced=False)
    assert [type(m) for m in group.said(A, B)] == [Append]
    group.inject(A, B, Append(group[A].term, group.end(B)[0], group.end(B)[1], 1, 0, regular(1)))
    group[B].replicate()
    group[B].release()  # the journal was not written yet
    assert group.said(B, A) == []
    group.sync(B)
    group[B].release()
    assert [type(m) for m in group.said(B, A)] == [Appended]


def test_commit_waits_for_the_majority_and_crashes_lose_only_what_was_not_answered():
    group = Cores(A, B, C)
    group.elect(A)
    group.cut(A, C)
    group.cut(B, C)
    answers = group.propose(A, b"kept")
    group.step(A)
    group.deliver(A, B)
    group[B].replicate()
    group.crash(B)  # before it was durable: no ack left
    group.run(0.1, only=[A])
    assert answers == []
    group.boot(B)
    group.link(A, B)
    group.run(0.3, only=[A, B])
    assert [reason for _, reason in answers] == [SUCCESS]


def test_proposals_of_a_deposed_leader_are_answered():
    group = Cores(A, B, C)
    group.elect(A)
    for other in (B, C):
        group.cut(A, other)
    answers = group.propose(A, b"open")
    group.run(3)
    assert answers == [(None, LEADER_CHANGED)]
    assert not group[A].is_leader
    assert len(group.leaders()) == 1
    late = group.propose(A, b"late")
    group.run(0.1)
    assert late[0][0] is None


def test_leader_sends_one_batch_at_a_time_until_one_fits_and_then_a_window():
    group = Cores(A, B, C)
    group.elect(A)
    group.cut(A, B)
    group.propose(A, *(b"x" * BIG for _ in range(20)))
    group.run(0.2, only=[A, C])
    group.link(A, B)
    group.step(A)
    probe = group.said(A, B)
    assert [len(m.entries) for m in probe] == [2]
    group.step(A)
    assert group.said(A, B) == []
    group.inject(B, A, Appended(group[A].term, probe[0].prev_index + 2, 0))
    group.step(A)
    assert [len(m.entries) for m in group.said(A, B)] == [2, 2, 2, 2]


def test_member_that_fell_behind_needs_a_snapshot_and_goes_on_behind_it():
    group = Cores(A, B, C)
    group.elect(A)
    group.cut(A, B)
    group.propose(A, *(b"%d" % n for n in range(30)))
    group.run(0.2, only=[A, C])
    group.journal(A).compact(group.end(A)[0])
    assert group[A].needs_snapshot() == ()  # nobody waits for one
    group.has_snapshots = False
    group.link(A, B)
    group.run(0.5)
    assert group[A].needs_snapshot() == (B,)
    group.install(A, B)
    group.propose(A, b"behind")
    group.run(0.5)
    assert group[A].needs_snapshot() == ()
    assert group.log(B)[-2:] == group.log(A)[-2:]
    assert group.applied[B][-1] == group.applied[A][-1]
