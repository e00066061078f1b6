"""Linearizable reads: what a majority confirmed after they were asked, or nothing."""

import pytest

from swarmlet.raft.messages import Appended, ReadReply, ReadRequest
from swarmlet.raft.read_index import READS_MAX, REQUESTS_MAX
from tests.raft.cores import A, B, C, Cores, members


def led(**more):
    group = Cores(A, B, C, **more)
    group.elect(A)
    group.propose(A, b"x")
    group.run(0.3)
    return group


def test_read_at_the_leader_waits_for_a_majority_asked_after_it():
    group = led()
    group.said(B, A)
    answers = group.read(A)
    group.step(A)
    assert answers == []
    group.inject(B, A, Appended(group[A].term, group.end(B)[0], 0))  # of before
    assert answers == []
    group.deliver(A, B)
    group.step(B)
    group.deliver(B, A)
    assert answers == [group[A].commit_index]


def test_reads_that_wait_share_a_round():
    group = led()
    answers = [group.read(A) for _ in range(50)]
    group.said(A, B)
    group.step(A)
    assert len(group.said(A, B)) == 1
    group.run(0.1)
    group.run(0.3)
    assert answers == [[group[A].commit_index]] * 50


def test_read_at_a_member_alone_is_answered_at_once():
    group = Cores(A)
    group.elect(A)
    assert group.read(A) == [group[A].commit_index]


def test_read_waits_until_the_leader_has_committed_in_its_term():
    group = led()
    group.crash(A)
    group[B].campaign()
    group.round()
    while not group.leaders():
        group.round()
    [leader] = group.leaders()
    answers = group.read(leader)
    group.step(leader)
    assert answers == []
    group.run(0.3)
    assert answers[0] >= group.log(leader)[-1][0]


def test_read_at_a_follower_sees_what_was_answered_before():
    group = led()
    written = group.propose(A, b"new")
    while not written:
        group.round()
    answers = group.read(B)
    group.run(0.1)
    assert answers[0] >= written[0][0]
    assert group[B].applied_index >= answers[0]


def test_deposed_leader_answers_no_read():
    group = led()
    for other in (B, C):
        group.cut(A, other)
    group.elect(B, only=[B, C])
    assert group[A].is_leader  # it does not know yet
    answers = group.read(A)
    group.run(0.5, only=[A])
    assert answers == []
    group.run(1, only=[A])
    assert answers == [None]
    assert group.read(A) == [None]


def test_reads_of_a_follower_end_with_its_leader():
    group = led()
    answers = group.read(B)
    group[B].replicate()
    later = group.read(B)
    group.cut(A, B)
    assert (answers, later) == ([None], [None])
    assert group.read(B) == [None]


def test_reads_of_a_follower_end_with_the_term():
    group = led()
    answers = group.read(B)
    group[B].replicate()
    group.said(B, A)
    group.elect(C)
    assert answers == [None]


def test_request_to_who_does_not_lead_is_declined():
    group = led()
    group.inject(C, B, ReadRequest(group[B].term, 4))
    group.step(B)
    assert ReadReply(group[B].term, 4, 0) in group.said(B, C)


def test_request_of_a_former_boot_answers_no_later_one():
    """Its round began before the later request: the index may be too old."""
    group = led()
    group.inject(B, A, ReadRequest(group[A].term, 1))
    group.step(A)
    late = group.said(A, C)
    assert late
    group.crash(B)
    group.boot(B)
    group.link(A, B)
    group.inject(C, A, Appended(group[A].term, group.end(C)[0], late[-1].read))
    group.step(A)
    assert [m for m in group.said(A, B) if isinstance(m, ReadReply)] == []


def test_reply_of_another_than_the_leader_is_not_believed():
    group = led()
    answers = group.read(B)
    group[B].replicate()
    group.inject(C, B, ReadReply(group[B].term, 1, 1))
    assert answers == []


def test_echo_of_a_round_that_never_was_is_refused():
    group = led()
    with pytest.raises(ValueError, match="read round"):
        group.inject(B, A, Appended(group[A].term, 1, 99))


def test_learner_reads_too():
    group = led(base=members(A, B, learners=(C,)))
    answers = group.read(C)
    group.run(0.1)
    assert answers == [group[A].commit_index]


def test_reads_that_wait_are_bounded():
    group = led()
    for other in (B, C):
        group.cut(A, other)
    answers = [group.read(A) for _ in range(READS_MAX + 1)]
    assert answers[-1] == [None]
    assert answers[-2] == []
    group.link(A, B)
    numbers = range(1, REQUESTS_MAX + 2)
    group.inject(B, A, *(ReadRequest(group[A].term, n) for n in numbers))
    group[A].release()
    declined = [m.number for m in group.said(A, B) if isinstance(m, ReadReply)]
    assert REQUESTS_MAX + 1 in declined
