"""The group changes: learners, promotion, removal, and who must answer whom."""

from swarmlet.raft.hardening import CAUGHT_UP_ENTRIES, REQUEST_DENIED, SUCCESS
from swarmlet.raft.journal import MEMBERSHIP
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, REMOVE, encode_change
from swarmlet.raft.messages import (
    Append,
    Appended,
    PreVote,
    PreVoteRequest,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from tests.raft.cores import A, B, C, Cores, D, E, member_change, members


def with_learner():
    """A leads A and B; C is a learner that has all."""
    group = Cores(A, B, C, base=members(A, B, learners=(C,)))
    group.elect(A)
    group.run(0.3)
    return group


def reasons(*answers):
    return [answer[0][1] if answer else None for answer in answers]


def test_joiner_begins_with_a_snapshot_though_the_log_is_whole():
    """The founder stands in no entry: a log from its first entry on makes another group."""
    group = Cores(A)
    group.elect(A)
    group.has_snapshots = False
    group.join(A, B)
    group.run(0.5)
    assert group.log(B) == [(1, 0)]
    assert group[A].needs_snapshot() == (B,)
    group.install(A, B)
    group.run(0.3)
    assert group.log(B)[-1] == group.log(A)[-1]
    assert group.journal(B).newest_members.voters() == (A,)


def test_joiner_follows_and_is_promoted():
    group = Cores(A)
    group.elect(A)
    group.propose(A, *(b"%d" % n for n in range(5)))
    added = group.join(A, B)
    group.run(0.3)
    assert group.applied[B] == group.applied[A]
    promoted = group.change(A, PROMOTE, B)
    group.run(0.3)
    assert reasons(added, promoted) == [SUCCESS, SUCCESS]
    assert group.journal(B).newest_members.voters() == (A, B)
    group.cut(A, B)
    group.run(2)
    assert group.leaders() == []  # one of two is no majority


def test_learner_counts_neither_for_a_commit_nor_for_an_election():
    group = with_learner()
    group.cut(A, B)
    answers = group.propose(A, b"x")
    group.run(0.3)
    assert group.end(C) == group.end(A)  # the learner has it
    assert answers == []
    group.run(2)
    assert not group[A].is_leader  # and does not keep its leader in office
    group.campaign = group[A].campaign()
    group.step(A)
    term = group[A].term
    group.inject(C, A, PreVote(term + 1))
    group.step(A)
    assert group[A].term == term
    group.inject(C, A, Vote(term))
    assert group.leaders() == []


def test_learner_does_not_confirm_a_read():
    group = with_learner()
    group.cut(A, B)
    answers = group.read(A)
    group.run(0.3)
    assert answers == []


def test_learner_asked_to_stand_does_not():
    group = with_learner()
    assert not group[A].transfer_to(C)
    group[C].campaign()
    for _ in range(5):
        group.step(C)
    assert group[C].term == group[A].term
    assert group.said(C, A) == []
    group.inject(A, C, TimeoutNow(group[A].term))
    group.change(A, PROMOTE, C)
    group.run(0.5)  # nor does it remember that once it votes
    assert group.leaders() == [A]
    assert group[C].term == group[A].term


def test_promotion_keeps_what_the_learner_proved():
    group = with_learner()
    match = group[A].progress(C).match_index
    assert match > 0
    answers = group.change(A, PROMOTE, C)
    group.step(A)
    assert group[A].progress(C).match_index == match
    group.said(A, B)  # C alone makes the majority of A and C
    group.deliver(A, C)
    group.step(C)
    group.deliver(C, A)
    group.step(A)
    assert reasons(answers) == [SUCCESS]


def test_promoted_member_that_leaves_and_comes_back_breaks_no_tick():
    group = with_learner()
    group.change(A, PROMOTE, C)
    group.run(0.2)
    assert C not in [node.id for node in group[A]._SyncObj__readonlyNodes]
    group.cut(A, C)
    group.run(0.3)
    group.link(A, C)
    group.propose(A, b"x")
    group.run(0.3)
    assert group.applied[C] == group.applied[A]


def test_learner_is_promoted_only_where_it_is_connected_and_close_to_the_end():
    group = with_learner()
    group.cut(A, C)
    gone = group.change(A, PROMOTE, C)
    group.step(A)
    group.propose(A, *(b"" for _ in range(CAUGHT_UP_ENTRIES + 1)))
    group.run(0.2)
    group.link(A, C)
    far = group.change(A, PROMOTE, C)
    group.step(A)
    group.run(0.3)
    close = group.change(A, PROMOTE, C)
    group.run(0.3)
    assert reasons(gone, far, close) == [REQUEST_DENIED, REQUEST_DENIED, SUCCESS]


def test_learner_that_proved_nothing_is_not_promoted_however_short_the_log():
    group = Cores(A)
    group.elect(A)
    added = group.join(A, B)
    group.run(0.1, only=[A])
    never = group.change(A, PROMOTE, B)
    group.run(0.1, only=[A])
    assert reasons(added, never) == [SUCCESS, REQUEST_DENIED]


def test_nothing_changes_before_the_leader_has_committed_in_its_term():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    group.crash(A)
    group[B].campaign()
    while not group[B].is_leader:
        for source, to in ((B, C), (C, B)):
            group.step(source)
            group.deliver(source, to)
    assert not group[B].is_caught_up()
    early = group.change(B, ADD_LEARNER, D)
    group.step(B)
    assert reasons(early) == [REQUEST_DENIED]


def test_leader_is_not_removed_and_what_changes_nothing_is_refused():
    group = Cores(A, B, C)
    group.elect(A)
    own, again, stranger = (
        group.change(A, REMOVE, A),
        group.change(A, ADD_LEARNER, B),
        group.change(A, REMOVE, D),
    )
    group.run(0.1)
    assert reasons(own, again, stranger) == [REQUEST_DENIED] * 3


def test_removed_member_is_gone_and_the_rest_goes_on():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    removed = group.change(A, REMOVE, C)
    group.run(0.3)
    assert reasons(removed) == [SUCCESS]
    assert group.journal(A).newest_members.voters() == (A, B)
    assert group[A].progress(C).match_index == 0
    group.cut(A, C)
    group.cut(B, C)
    group.propose(A, b"x")
    group.run(2)
    assert group.leaders() == [A]
    assert group.applied[B] == group.applied[A]


def test_removed_member_that_was_told_knows_and_stands_no_more():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    group.change(A, REMOVE, C)
    group.step(A)
    group[A]._replication.follow([B, C])  # the entry still reaches it
    group.run(0.1)
    append = Append(group[A].term, *group.end(C), group.end(C)[0], 0)
    if not group.journal(C).newest_members.removed:
        entry = MEMBERSHIP + encode_change(member_change(REMOVE, C))
        append = Append(group[A].term, *group.end(C), 0, 0, ((entry, group[A].term),))
        group.inject(A, C, append)
        assert not group[C].is_removed  # not committed
        append = Append(group[A].term, *group.end(C), group.end(C)[0], 0)
    group.inject(A, C, append)
    assert group[C].is_removed
    term = group[C].term
    group.crash(A)
    group.run(3)
    assert group[C].term == term


def test_removed_member_that_was_not_told_deposes_nobody():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    for other in (A, B):
        group.cut(C, other)
    group.change(A, REMOVE, C)
    group.run(0.3)
    term = group[A].term
    for other in (A, B):
        group.link(C, other)
    group.run(5)
    assert (group.leaders(), group[A].term) == ([A], term)
    assert not group[C].is_removed


def test_change_that_is_taken_back_leaves_the_configuration_before_it():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    before = group.journal(A).newest_members
    group.change(A, REMOVE, C)
    group.step(A)
    assert group[A]._SyncObj__otherNodes == group[A]._SyncObj__otherNodes.of([B])
    for other in (B, C):
        group.cut(A, other)
    group.elect(B, only=[B, C])
    for other in (B, C):
        group.link(A, other)
    group.run(0.5)
    assert group.log(A) == group.log(B)
    assert group.journal(A).newest_members == before
    assert group[A]._SyncObj__otherNodes == group[A]._SyncObj__otherNodes.of([B, C])


def test_add_that_changed_nothing_is_taken_back_without_removing_anybody():
    """Its reverse would have removed a member."""
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    entry = MEMBERSHIP + encode_change(member_change(ADD_LEARNER, C))
    term, end = group[A].term, group.end(B)
    group.inject(A, B, Append(term, *end, 0, 0, ((entry, term),)))
    group.inject(C, B, Append(term + 1, *end, 0, 0, ((b"\x01", term + 1),)))
    assert group.journal(B).newest_members.voters() == (A, B, C)
    assert [node.id for node in group[B]._SyncObj__otherNodes] == [A, C]


def test_voter_that_does_not_know_yet_answers_members_that_it_does_not_know():
    """A promoted learner, or a voter behind, whose vote is needed: dropping the request left a
    group without a leader for ever (Raft §4.1)."""
    for base in (members(A, B, learners=(C,)), members(A, B, C)):
        group = Cores(A, B, C, base=base)
        group.boot(D)
        for other in (A, B, C):
            group.link(other, D)
        index, term = group.end(C)
        group.inject(D, C, PreVoteRequest(1, index, term))
        group.inject(D, C, VoteRequest(1, index, term))
        group.step(C)
        assert group.said(C, D) == [PreVote(1), Vote(1)]
        group.inject(D, C, Append(1, index, term, 1, 0, ((b"\x01", 1),)))
        group.step(C)
        assert group.said(C, D) == [Appended(1, index + 1, 0)]


def test_group_lives_whose_newest_voter_is_needed_and_does_not_know():
    group = Cores(A, B, C, base=members(A, B, learners=(C,)))
    group.elect(A)
    group.run(0.3)
    group.change(A, PROMOTE, C)
    group.step(A)
    group.cut(A, C)  # C will not hear of it
    group.cut(B, C)
    group.run(0.3)
    assert group.journal(B).newest_members.voters() == (A, B, C)
    assert group.journal(C).newest_members.voters() == (A, B)
    group.crash(A)
    group.link(B, C)
    group.run(3)
    assert group.leaders() == [B]
    assert group.journal(C).newest_members.voters() == (A, B, C)


def test_five_members_grow_out_of_one_and_shrink_again():
    group = Cores(A)
    group.elect(A)
    for new in (B, C, D, E):
        group.join(A, new)
        group.run(0.3)
        group.change(A, PROMOTE, new)
        group.run(0.3)
    assert group.journal(E).newest_members.voters() == (A, B, C, D, E)
    for gone in (E, D):
        group.change(A, REMOVE, gone)
        group.run(0.3)
        group.crash(gone)
    group.propose(A, b"x")
    group.run(0.3)
    assert group.journal(C).newest_members.voters() == (A, B, C)
    assert group.applied[C][-1][1] == b"x"
