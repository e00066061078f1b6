"""What leaves when, over which connection, in which order."""

import pytest
from pysyncobj.node import Node

from swarmlet.raft.messages import (
    Append,
    Appended,
    ReadRequest,
    Rejected,
    StaleTerm,
    Vote,
    VoteRequest,
    decode_frame,
)
from swarmlet.raft.transport import FRAME_GOAL_B, FRAME_MESSAGES, HELD_MAX, Transport


class Wire:
    def __init__(self):
        self.sent = []
        self.transport = Transport(lambda *frame: self.sent.append(frame))

    def open(self, *peers):
        for peer in peers:
            self.transport.open(peer, 1)
        return self.transport

    def messages(self):
        return [(to, decode_frame(frame)) for to, _, frame in self.sent]


def test_what_is_free_leaves_before_what_is_held():
    wire = Wire()
    transport = wire.open(5)
    transport.hold(5, Vote(1))
    transport.put(5, ReadRequest(1, 1))
    transport.flush()
    assert wire.messages() == [(5, [ReadRequest(1, 1)])]
    transport.release()
    assert wire.messages()[1:] == [(5, [Vote(1)])]
    transport.release()
    assert len(wire.sent) == 2


def test_one_frame_a_peer_in_order_of_their_ids():
    wire = Wire()
    transport = wire.open(9, 2**62, 3)
    for peer in (2**62, 9, 3, 9):
        transport.put(peer, StaleTerm(1))
    transport.flush()
    assert [(to, len(messages)) for to, messages in wire.messages()] == [(3, 1), (9, 2), (2**62, 1)]


def test_nothing_is_kept_for_who_is_not_connected():
    wire = Wire()
    wire.transport.put(5, StaleTerm(1))
    wire.transport.hold(5, StaleTerm(1))
    wire.open(5)
    wire.transport.release()
    assert wire.sent == []


def test_messages_end_with_their_connection():
    wire = Wire()
    transport = wire.open(5)
    transport.put(5, StaleTerm(1))
    transport.hold(5, StaleTerm(1))
    assert transport.open(5, 2)
    transport.release()
    assert wire.sent == []
    transport.put(5, StaleTerm(1))
    transport.flush()
    assert [epoch for _, epoch, _ in wire.sent] == [2]


def test_newest_connection_is_the_one_in_use():
    transport = Wire().open(5)
    assert transport.open(5, 3)
    assert not transport.open(5, 2)
    assert not transport.open(5, 3)
    assert not transport.close(5, 2)
    assert transport.is_open(5)
    assert transport.is_open(5, 3)
    assert not transport.is_open(5, 2)
    assert transport.close(5, 3)
    assert not transport.is_open(5)
    assert transport.epoch(5) is None


def test_connection_that_closes_while_frames_leave_breaks_nothing():
    sent = []

    def send(to, epoch, frame):
        sent.append(to)
        transport.close(7, 1)

    transport = Transport(send)
    for peer in (3, 7):
        transport.open(peer, 1)
        transport.put(peer, StaleTerm(1))
    transport.flush()
    assert sent == [3]


def test_answers_that_follow_each_other_are_one():
    wire = Wire()
    transport = wire.open(5)
    for answer in (Appended(2, 7, 1), Appended(2, 9, 0), Appended(3, 4, 0), Rejected(3, 8, 5, 0)):
        transport.hold(5, answer)
    transport.hold(5, Appended(3, 5, 0))
    transport.release()
    expected = [Appended(3, 4, 0), Rejected(3, 8, 5, 0), Appended(3, 5, 0)]
    assert wire.messages() == [(5, expected)]
    transport.hold(5, Appended(2, 7, 1))
    transport.hold(5, Appended(2, 9, 0))
    transport.release()
    assert wire.messages()[1:] == [(5, [Appended(2, 9, 1)])]


def test_what_waits_for_the_disk_is_bounded():
    wire = Wire()
    transport = wire.open(5)
    for term in range(HELD_MAX + 10):
        transport.hold(5, StaleTerm(term))
    transport.release()
    held = [message for _, messages in wire.messages() for message in messages]
    assert held == [StaleTerm(term) for term in range(10, HELD_MAX + 10)]


def test_much_is_split_into_frames():
    wire = Wire()
    transport = wire.open(5)
    half = Append(1, 1, 0, 0, 0, ((b"\x00" * (FRAME_GOAL_B // 2), 1),))
    for _ in range(5):
        transport.put(5, half)
    transport.flush()
    assert [len(messages) for _, messages in wire.messages()] == [2, 2, 1]
    for _ in range(FRAME_MESSAGES + 1):
        transport.put(5, StaleTerm(1))
    transport.flush()
    assert [len(messages) for _, messages in wire.messages()[3:]] == [FRAME_MESSAGES, 1]


def test_votes_of_pysyncobj_wait_for_the_disk():
    wire = Wire()
    transport = wire.open(5)
    request = {"type": "request_vote", "term": 3, "last_log_index": 7, "last_log_term": 2}
    assert transport.send(Node(5), request)
    transport.send(Node(5), {"type": "response_vote", "term": 3})
    transport.send(Node(5), {"type": "next_node_idx"})
    transport.flush()
    assert wire.sent == []
    transport.release()
    assert wire.messages() == [(5, [VoteRequest(3, 7, 2), Vote(3)])]


@pytest.mark.parametrize("kind", ["append_entries", "apply_command", "apply_command_response"])
def test_whatever_else_pysyncobj_would_send_stops_the_member(kind):
    with pytest.raises(AssertionError, match=kind):
        Wire().open(5).send(Node(5), {"type": kind})
