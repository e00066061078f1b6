"""Who leads: votes, pre-votes, a leader that is gone, one that hands over."""

import pytest

from swarmlet.raft.core import TERM_JUMP_MAX
from swarmlet.raft.hardening import NOT_LEADER, SUCCESS, RaftTiming
from swarmlet.raft.messages import (
    Append,
    Appended,
    PreVote,
    PreVoteRequest,
    ReadRequest,
    Rejected,
    StaleTerm,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from tests.raft.cores import A, B, C, Cores, D, E, members


def test_member_that_comes_back_deposes_nobody():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.3)
    term = group[A].term
    for other in (A, B):
        group.cut(C, other)
    group.run(5)  # it asks itself whether it could win, many times
    assert group[C].term == term
    for other in (A, B):
        group.link(C, other)
    group.run(2)
    assert (group.leaders(), group[A].term) == ([A], term)


def test_member_that_lost_only_its_leader_deposes_nobody():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.3)
    term = group[A].term
    group.cut(A, C)  # B still hears the leader, and says no
    group.run(5)
    assert (group.leaders(), group[A].term) == ([A], term)


def test_pre_vote_is_denied_while_the_leaders_connection_is_open():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.1)
    ask = PreVoteRequest(group[B].term + 1, *group.end(B)[::1])
    for link_is_open in (True, False):
        if not link_is_open:
            group.cut(A, B)
        group.said(B, C)
        group.inject(C, B, ask)
        group.step(B)
        granted = [m for m in group.said(B, C) if isinstance(m, PreVote)]
        assert granted == ([] if link_is_open else [PreVote(ask.term)])


def test_pre_vote_is_given_to_nobody_whose_log_is_shorter_and_begins_no_term():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.3)
    group.crash(A)
    index, term = group.end(B)
    for last in ((index - 1, term), (index + 5, term - 1)):
        group.inject(C, B, PreVoteRequest(term + 1, *last))
    group[B]._postpone_election()
    group.step(B)
    assert group.said(B, C) == []
    assert (group[B].term, group.journal(B).vote) == (term, A)
    group.inject(C, B, PreVoteRequest(term, index, term))  # and who is behind is told
    group.step(B)
    assert group.said(B, C) == [StaleTerm(term)]


def test_leader_whose_connection_closes_is_replaced_at_once():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.3)
    group.crash(A)
    group.run(0.4)
    assert len(group.leaders()) == 1


def test_silent_leader_is_replaced_within_two_elections():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.3)
    group.run(2, only=[B, C])
    assert len([i for i in group.leaders() if i != A]) == 1


def test_leader_without_a_majority_leads_no_longer_than_an_election_lasts():
    group = Cores(A, B, C)
    group.elect(A)
    for other in (B, C):
        group.cut(A, other)
    group.run(RaftTiming().election_max_s + 0.1, only=[A])
    assert group.leaders() == []


def candidate():
    """A stands among five; nobody has voted."""
    group = Cores(A, B, C, D, E)
    group[A].campaign()
    group.step(A)
    for other in (B, C):
        group.inject(other, A, PreVote(1))
    group.step(A)
    assert group[A].term == 1
    return group


@pytest.mark.parametrize(
    "say",
    [
        lambda term: Append(term, 1, 0, 1, 0),
        lambda term: Appended(term, 1, 0),
        lambda term: Rejected(term, 1, 1, 0),
        lambda term: VoteRequest(term, 1, 0),
        StaleTerm,
        lambda term: ReadRequest(term, 1),
    ],
)
def test_term_that_no_election_leads_to_is_not_followed_into(say):
    """The numbers would end there, and with them all elections."""
    group = Cores(A, B, C)
    for term in (2**63 - 1, group[A].term + TERM_JUMP_MAX + 1):
        with pytest.raises(ValueError, match="here it is 0"):
            group.inject(B, A, say(term))
    assert group[A].term == 0
    group.inject(B, A, say(7))
    assert group[A].term == 7


def test_vote_counts_once():
    group = candidate()
    group.inject(B, A, Vote(1))
    group.inject(B, A, Vote(1), Vote(1))
    assert group.leaders() == []
    group.inject(C, A, Vote(1))
    assert group.leaders() == [A]


def test_vote_of_another_term_or_of_a_stranger_counts_for_nothing():
    group = candidate()
    for stranger in (91, 92):
        group.boot(stranger)
        group.link(A, stranger)
        group.inject(stranger, A, Vote(1))
    group.inject(B, A, Vote(0))
    group.inject(C, A, Vote(0))
    assert group.leaders() == []
    group.inject(B, A, Vote(1))
    group.inject(C, A, Vote(1))
    assert group.leaders() == [A]


def test_pre_vote_of_an_older_round_counts_for_nothing():
    group = Cores(A, B, C)
    group[A].campaign()
    group.step(A)
    group.inject(B, A, PreVote(0), PreVote(2))
    group.step(A)
    assert group[A].term == 0
    group.inject(B, A, PreVote(1))
    group.step(A)
    assert group[A].term == 1


def test_pre_votes_from_before_a_leader_was_heard_count_for_nothing():
    group = Cores(A, B, C)
    group[A].campaign()
    group.step(A)
    group.inject(B, A, PreVote(1))
    group.inject(C, A, Append(0, 1, 0, 1, 0))
    group[A].campaign()
    group.step(A)
    assert group[A].term == 0


def test_answer_of_a_later_term_ends_leadership():
    for answer in (Appended(9, 1, 0), Rejected(9, 1, 1, 0), ReadRequest(9, 1)):
        group = Cores(A, B, C)
        group.elect(A)
        group.inject(B, A, answer)
        assert (group[A].is_leader, group[A].term) == (False, 9)


def test_leader_anew_begins_with_a_probe():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.1)
    group.propose(A, *(b"x" for _ in range(9)))
    group.link(A, B)
    group.step(A)  # probes B, and will not hear from it
    group.silence()
    group[A].step_down()
    group.elect(A, only=[A, C])
    first = group.said(A, B)
    appends = [m for m in first if isinstance(m, Append) and m.entries]
    assert [m.prev_index for m in appends] == [group.end(A)[0] - 1]


def test_vote_is_given_once_a_term_and_kept_over_a_crash():
    group = Cores(A, B, C)
    group.inject(A, C, VoteRequest(1, 1, 0))
    group.step(C)
    assert group.said(C, A) == [Vote(1)]
    group.crash(C)
    group.boot(C)
    group.link(B, C)
    group.inject(B, C, VoteRequest(1, 9, 1))
    group.step(C)
    assert group.said(C, B) == []


def test_vote_request_of_an_older_term_is_answered_with_the_newer_one():
    group = Cores(A, B, C)
    group.inject(A, C, VoteRequest(5, 1, 0))
    group.inject(B, C, VoteRequest(4, 1, 0))
    group.step(C)
    assert group.said(C, B) == [StaleTerm(5)]


def test_leader_elected_by_its_own_vote_sends_nothing_before_that_is_durable():
    """Else it could begin the same term twice, and fill it differently."""
    group = Cores(A, B, base=members(A, learners=(B,)))
    group[A].campaign()
    group.step(A, is_synced=False)
    group[A].replicate()
    assert group.leaders() == [A]
    assert group.said(A, B) == []
    group.step(A)
    group.step(A)
    assert [type(m) for m in group.said(A, B)] == [Append]


def test_leadership_is_handed_over_to_who_holds_everything():
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, b"x")
    group.step(A)
    assert not group[A].transfer_to(B)  # not yet
    group.run(0.1)
    assert not group[A].transfer_to(D)
    assert group[A].transfer_to(B)
    begin_s, term = group.clock.now_s, group[A].term
    while group.leaders() != [B]:
        group.run(0.02)
    assert group[B].term == term + 1
    assert group.clock.now_s - begin_s < 0.3
    group.run(0.1)
    answers = group.propose(A, b"y")
    group.run(0.1)
    assert answers == [(None, NOT_LEADER)]


def test_heartbeat_does_not_stop_a_handover():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    group.inject(A, B, TimeoutNow(group[A].term))
    group.inject(A, B, Append(group[A].term, *group.end(A), group.end(A)[0], 0))
    term = group[B].term
    group.step(B)
    assert group[B].term == term + 1


def test_only_the_leader_hands_over():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.2)
    group.inject(C, B, TimeoutNow(group[A].term))
    term = group[B].term
    group.step(B)
    assert group[B].term == term
    assert not group[C].transfer_to(B)


def test_leader_that_steps_down_lets_others_stand_first():
    group = Cores(A, B, C)
    group.elect(A)
    group.run(1.2)
    answers = group.read(A)
    group[A].step_down()
    assert answers == [None]
    group.silence()
    group.step(A)
    assert group.said(A, B) == []
    group.run(1.5)
    assert len(group.leaders()) == 1
    assert group.leaders() != [A]


def test_followers_know_from_their_leader_how_the_others_stand():
    group = Cores(A, B, C)
    group.elect(A)
    group.propose(A, b"x")
    group.run(2.5)
    known = group[B].progress(C)
    assert known.match_index == group.end(C)[0]
    assert group.clock.now_s - known.heard_s < 1.5
    assert group[B].progress(A).match_index == group[B].commit_index
    group.cut(A, C)
    group.cut(B, C)
    lost_s = group.clock.now_s
    group.run(4)
    known = group[B].progress(C)
    assert abs(known.heard_s - lost_s) < 0.2
    assert not known.is_connected
    group.crash(A)
    assert group[B].progress(C).heard_s == known.heard_s  # without a leader too
    assert group[B].progress(D).heard_s is None


def test_what_an_older_leader_told_of_a_match_is_not_paired_with_a_newer_commit_index():
    """C had acknowledged entries to A that were replaced since: with less it is not to blame."""
    group = Cores(A, B, C, D, E)
    group.elect(A)
    group.run(0.3)
    index, term = group.end(B)
    told = ((C, index + 3, 5),)
    group.inject(A, B, Append(group[A].term, index, term, index, 0, (), told))
    assert group[B].progress(C).match_index == index + 3
    heard_s = group[B].progress(C).heard_s
    group.crash(A)
    group.cut(B, D)
    group.elect(D)
    group.link(B, D)
    for number in range(6):  # no time passes: D tells B nothing yet
        group.propose(D, b"%d" % number)
        group.round((B, D, E))
        group.round((B, D, E))
    assert group[B].commit_index > index + 3
    assert group[B].progress(C).match_index == 0
    assert group[B].progress(C).heard_s >= heard_s  # when it was heard is true for ever


def test_leader_that_asks_for_pre_votes_is_followed_no_longer():
    """It is heard, by one way of the two; but no majority answers it any more."""
    group = Cores(A, B, C)
    group.elect(A)
    group.run(0.5)
    term, heard_s = group[B].term, group[B].leader_heard_s
    group.inject(A, B, PreVoteRequest(term, *group.end(B)))  # late, of an earlier election
    assert (group[B].leader, group[B].leader_heard_s) == (A, heard_s)
    group.inject(C, B, PreVoteRequest(term + 1, *group.end(B)))
    assert group[B].leader == A
    group.inject(A, B, PreVoteRequest(term + 1, *group.end(B)))
    assert group[B].leader is None
    assert group[B].leader_heard_s <= heard_s - RaftTiming().election_max_s


def test_larger_groups_elect_and_commit():
    group = Cores(*range(1, 8))
    group.run(3)
    [leader] = group.leaders()
    answers = group.propose(leader, b"x")
    group.run(0.3)
    assert [reason for _, reason in answers] == [SUCCESS]


@pytest.mark.parametrize("seed", range(5))
def test_three_that_start_together_agree_soon(seed):
    group = Cores(A, B, C, seed=seed)
    while not group.leaders():
        group.run(0.02)
    assert group.clock.now_s < 3
