"""Who answers, and the sentences that say who does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.core.errors import NotLeaderError, QuorumLostError
from swarmlet.core.ids import RaftID
from swarmlet.raft.health import Sign, judged, leaderless, newest_of_majority, quorum_of
from swarmlet.store.proposer import GroupHealth, Member, MemberHealth

NOW_MS = 1_000_000_000


def member(number, *, is_voter=True):
    return Member(
        raft_id=RaftID(number),
        node_id=f"m{number}",
        address=f"10.0.0.{number}:2377",
        is_voter=is_voter,
    )


def health(silent_s, *, learners=0):
    """Voters, silent for so many seconds each (0: they answer), and learners."""
    members = [
        MemberHealth(
            member=member(number), answers=not s, silent_since_ms=NOW_MS - s * 1000 if s else 0
        )
        for number, s in enumerate(silent_s, 1)
    ]
    members += [
        MemberHealth(member=member(90 + n, is_voter=False), answers=True) for n in range(learners)
    ]
    return GroupHealth(leader=None, members=tuple(members), quorum=quorum_of(len(silent_s)))


@pytest.mark.parametrize(
    ("voters", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_quorum_is_a_majority(voters, quorum):
    assert quorum_of(voters) == quorum


@pytest.mark.parametrize(
    ("silent_s", "learners", "sentence"),
    [
        (
            (0, 12, 12),
            0,
            "1 of 3 managers answers, and 2 are needed: m2 (10.0.0.2:2377) has been silent for "
            "12 s, m3 (10.0.0.3:2377) has been silent for 12 s.",
        ),
        (
            (0, 0, 300, 8_000, 300_000),
            2,
            "2 of 5 managers answer, and 3 are needed: m3 (10.0.0.3:2377) has been silent for "
            "5 min, m4 (10.0.0.4:2377) has been silent for 2 h, m5 (10.0.0.5:2377) has been "
            "silent for 3 d.",
        ),
    ],
)
def test_lost_quorum_says_how_many_are_needed_who_is_silent_and_what_to_do(
    silent_s, learners, sentence
):
    error = leaderless(health(silent_s, learners=learners), NOW_MS)
    assert isinstance(error, QuorumLostError)
    assert error.message == sentence
    assert "`swarmlet init --force-new-cluster`" in error.remedy
    assert "`swarmlet unlock`" in error.remedy


def test_silent_member_is_called_as_people_call_it():
    known = health((0, 12))
    answers, silent = known.members
    known = replace(known, members=(answers, replace(silent, hostname="db-2")))
    assert "needed: db-2 (10.0.0.2:2377) has been silent" in leaderless(known, NOW_MS).message


def test_long_list_of_silent_members_is_cut():
    message = leaderless(health((0, *([5] * 6))), NOW_MS).message
    assert message.endswith("m5 (10.0.0.5:2377) has been silent for 5 s, 2 more are silent.")


def test_majority_without_a_leader_is_no_lost_quorum():
    error = leaderless(health((0, 0, 9)), NOW_MS)
    assert isinstance(error, NotLeaderError)
    assert error.message.startswith("The managers have no leader at the moment: 2 of 3 answer")


@pytest.mark.parametrize(
    ("silent_s", "listened_s", "is_open", "answers", "is_known"),
    [
        (0.1, 9, True, True, True),
        (0.1, 9, False, False, True),
        (2.1, 9, True, False, True),
        (None, 1, True, False, False),
        (None, 3, True, False, True),
    ],
)
def test_member_answers_while_it_is_heard(silent_s, listened_s, is_open, answers, is_known):
    sign = Sign(member=member(1), silent_s=silent_s, listened_s=listened_s, is_open=is_open)
    found = judged(sign, NOW_MS, 2.0)
    assert (found.answers, found.is_known) == (answers, is_known)
    assert bool(found.silent_since_ms) is not answers


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_majority_was_heard_at_the_time_that_a_majority_is_not_older_than(heard_s):
    moment_s = newest_of_majority(heard_s, len(heard_s))
    assert sum(one >= moment_s for one in heard_s) >= quorum_of(len(heard_s))
    assert sum(one > moment_s for one in heard_s) < quorum_of(len(heard_s))
