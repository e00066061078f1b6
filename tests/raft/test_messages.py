"""What members say to each other survives its encoding, and nothing else comes through."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.limits import FRAME_SIZE_MAX_B, UINT63_MAX
from swarmlet.raft.journal import MEMBERSHIP, NO_OP, REGULAR
from swarmlet.raft.membership import VERBS, encode_change
from swarmlet.raft.messages import (
    BATCH_SIZE_B,
    COMMAND_SIZE_MAX_B,
    MESSAGES_MAX,
    Append,
    Appended,
    PreVote,
    PreVoteRequest,
    ReadReply,
    ReadRequest,
    Rejected,
    StaleTerm,
    TimeoutNow,
    Vote,
    VoteRequest,
    decode_frame,
    encode_frame,
    size_b,
)
from tests.raft.cores import member_change

ENTRIES = (
    (NO_OP, 3),
    (REGULAR + b"x", 3),
    (MEMBERSHIP + encode_change(member_change("remove", 5)), 4),
)
MESSAGES = [
    Append(4, 7, 3, 6, 2, ENTRIES, ((5, 7, 12), (6, 0, -1))),
    Append(4, 0, 0, 6, 2),
    Appended(4, 7, 2),
    Rejected(4, 7, 3, 2),
    VoteRequest(5, 7, 4),
    Vote(5),
    PreVoteRequest(5, 7, 4),
    PreVote(5),
    StaleTerm(9),
    TimeoutNow(4),
    ReadRequest(4, 1),
    ReadReply(4, 1, 0),
]


def test_messages_survive_their_frame():
    assert decode_frame(encode_frame(MESSAGES)) == MESSAGES


def test_bytes_are_as_they_are_written_down():
    """docs/design/raft-protocol.md: an older member must read a newer one."""
    frame = encode_frame([Append(4, 7, 3, 6, 2, ((b"\x01", 3),), ((5, 7, 12),)), Vote(5)])
    assert msgspec.msgpack.decode(frame) == [
        [1, 4, 7, 3, 6, 2, [[b"\x01", 3]], [[5, 7, 12]]],
        [5, 5],
    ]
    longer = msgspec.msgpack.encode([[5, 5, "of a later version"]])
    assert decode_frame(longer) == [Vote(5)]


def append(entries=(), *, prev=(7, 3), term=4):
    return encode_frame([Append(term, *prev, 6, 2, tuple(entries))])


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (b"", "cannot be read"),
        (b"\xc1", "cannot be read"),
        (b"\x91" * 100_000, "cannot be read"),
        (msgspec.msgpack.encode([[99, 1]]), "cannot be read"),
        (msgspec.msgpack.encode([[5, -1]]), "cannot be read"),
        (msgspec.msgpack.encode([[5, UINT63_MAX + 1]]), "cannot be read"),
        (msgspec.msgpack.encode([[5, "5"]]), "cannot be read"),
        (msgspec.msgpack.encode([[5, 5.0]]), "cannot be read"),
        (msgspec.msgpack.encode([[3, 5]]), "cannot be read"),
        (msgspec.msgpack.encode({"type": "append_entries"}), "cannot be read"),
        (encode_frame([Vote(1)] * (MESSAGES_MAX + 1)), "cannot be read"),
        (bytes(FRAME_SIZE_MAX_B + 1), "a frame of"),
        (append([(b"", 3)]), "begins with"),
        (append([(b"\x03x", 3)]), "begins with"),
        (append([(REGULAR, 2)]), "behind one of term 3"),
        (append([(REGULAR, 4), (REGULAR, 3)]), "behind one of term 4"),
        (append([(REGULAR, 5)]), "in term 4"),
        (append(prev=(7, 9)), "in term 4"),
        (append([(REGULAR, 3)], prev=(0, 0)), "behind nothing"),
        (append(prev=(0, 1)), "behind nothing"),
        (append([(REGULAR, 4)], prev=(UINT63_MAX, 4)), "end of all numbers"),
        (append([(REGULAR + bytes(COMMAND_SIZE_MAX_B + 1), 4)]), "a command of"),
        (append([(REGULAR + bytes(BATCH_SIZE_B), 4)] * 3), "more entries"),
        (append([(MEMBERSHIP + b"\xc1", 4)]), "a change of members that"),
        (append([(MEMBERSHIP, 4)]), "a change of members that"),
        (append([(MEMBERSHIP + encode_change(member_change("explode", 5)), 4)]), "'explode'"),
    ],
)
def test_what_no_member_sends_is_refused(frame, problem):
    with pytest.raises(ValueError, match=problem):
        decode_frame(frame)


def test_largest_batch_that_is_sent_is_taken():
    full = [(REGULAR + bytes(BATCH_SIZE_B - 2), 4), (REGULAR + bytes(COMMAND_SIZE_MAX_B), 4)]
    assert len(append(full)) < FRAME_SIZE_MAX_B
    assert decode_frame(append(full))[0].entries == tuple(full)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_value_error(frame):
    try:
        decode_frame(frame)
    except ValueError:
        return


@given(st.integers(0, 400), st.integers(0, 255), st.data())
def test_damaged_frame_raises_nothing_but_value_error(at, byte, data):
    frame = bytearray(encode_frame(data.draw(st.lists(st.sampled_from(MESSAGES), min_size=1))))
    frame[at % len(frame)] = byte
    try:
        decode_frame(bytes(frame))
    except ValueError:
        return


@pytest.mark.parametrize("verb", VERBS)
def test_changes_of_members_come_through(verb):
    entry = (MEMBERSHIP + encode_change(member_change(verb, 5)), 4)
    assert decode_frame(append([entry]))[0].entries == (entry,)


def test_size_is_about_the_size_in_a_frame():
    for message in MESSAGES:
        assert len(encode_frame([message])) <= size_b(message) + 64
