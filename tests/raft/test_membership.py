"""The configuration as a fold over changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.ids import RaftID
from swarmlet.raft.membership import (
    ADD_LEARNER,
    PROMOTE,
    REMOVE,
    SET_ADDRESS,
    Members,
    decode_change,
    encode_change,
)
from swarmlet.store.proposer import Member, MemberChange

VERBS = [ADD_LEARNER, PROMOTE, REMOVE, SET_ADDRESS]


def change(verb, raft_id, address="a:1"):
    member = Member(raft_id=RaftID(raft_id), node_id=f"n{raft_id}", address=address)
    return MemberChange(verb=verb, member=member)


def after(*changes):
    return Members().after_all(changes)


def test_joiner_votes_only_once_promoted():
    learner = after(change(ADD_LEARNER, 1))
    assert learner.voters() == ()
    assert learner.after(change(PROMOTE, 1)).voters() == (1,)


def test_removed_id_never_comes_back():
    gone = after(change(ADD_LEARNER, 1), change(REMOVE, 1))
    assert gone == Members(removed=(RaftID(1),))
    assert gone.after(change(ADD_LEARNER, 1)) == gone


def test_address_of_a_member_can_change():
    moved = after(change(ADD_LEARNER, 1), change(SET_ADDRESS, 1, "b:2"))
    assert moved.members[0].address == "b:2"
    assert not moved.members[0].is_voter


@pytest.mark.parametrize("verb", [PROMOTE, REMOVE, SET_ADDRESS])
def test_change_of_a_stranger_changes_nothing(verb):
    assert after(change(verb, 1)) == Members()


def test_change_survives_its_encoding():
    for verb in VERBS:
        assert decode_change(encode_change(change(verb, 5))) == change(verb, 5)


@given(st.lists(st.builds(change, st.sampled_from(VERBS), st.integers(1, 4))))
def test_every_configuration_is_sorted_and_a_replayed_change_is_harmless(changes):
    members = Members()
    for one in changes:
        members = members.after(one)
        ids = [m.raft_id for m in members.members]
        assert ids == sorted(set(ids))
        assert not set(ids) & set(members.removed)
        assert len(members.removed) == len(set(members.removed))
        assert members.after(one) == members
