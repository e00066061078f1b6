"""What members say to each other, and the frames it travels in: docs/design/raft-protocol.md.

A frame is a msgpack list of messages, a message a list that begins with its number. Everything of a
peer passes `decode_frame`: what comes out has the right types and ranges, entries that follow each
other, commands that can be applied, and no more of it than a sender of ours would put together.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from swarmlet.core.ids import RaftID
from swarmlet.core.limits import ENTRY_SIZE_MAX_B, FRAME_SIZE_MAX_B, UINT63_MAX
from swarmlet.raft.journal import MEMBERSHIP, NO_OP, REGULAR
from swarmlet.raft.membership import VERBS, decode_change

COMMAND_SIZE_MAX_B: Final = ENTRY_SIZE_MAX_B + 16 * 1024  # one transaction and what wraps it
BATCH_SIZE_B: Final = 1024 * 1024  # of entries in one Append; the one that crosses it is the last
MESSAGES_MAX: Final = 4_096  # in a frame
MEMBERS_MAX: Final = 1_000  # in a progress map
_KIND_SIZE_B: Final = 1  # opens a command: REGULAR, NO_OP or MEMBERSHIP
_BATCH_SIZE_MAX_B: Final = BATCH_SIZE_B + COMMAND_SIZE_MAX_B + _KIND_SIZE_B
assert _BATCH_SIZE_MAX_B + 64 * 1024 < FRAME_SIZE_MAX_B

UInt: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=UINT63_MAX)]
Id: TypeAlias = Annotated[RaftID, msgspec.Meta(ge=1, le=UINT63_MAX)]
Age: TypeAlias = Annotated[int, msgspec.Meta(ge=-1, le=UINT63_MAX)]

SentEntry: TypeAlias = tuple[bytes, UInt]
"""Command and term. The index is its place behind `prev_index`: entries cannot have holes."""

Standing: TypeAlias = tuple[Id, UInt, Age]
"""Raft id, match index, milliseconds since the leader heard from it; -1: not yet."""


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`term` is the sender's when it was put together, if not said otherwise."""

    term: UInt


class Append(_Message, frozen=True, tag=1):
    """Leader: entries behind `prev_index`, or a heartbeat without any.

    `prev_index` 0: what the member needs next is no longer in the log, a snapshot will come.
    `read`: sequence of the newest read round. `standings`: once a second, how all others stand.
    """

    prev_index: UInt
    prev_term: UInt
    commit_index: UInt
    read: UInt
    entries: tuple[SentEntry, ...] = ()
    standings: Annotated[tuple[Standing, ...], msgspec.Meta(max_length=MEMBERS_MAX)] = ()


class Appended(_Message, frozen=True, tag=2):
    """Entries up to `index` are the leader's and durable here. `read`: as in the Append."""

    index: UInt
    read: UInt


class Rejected(_Message, frozen=True, tag=3):
    """An Append behind `prev_index` does not fit; one behind `next_index` - 1 may."""

    prev_index: UInt
    next_index: UInt
    read: UInt


class VoteRequest(_Message, frozen=True, tag=4):
    """Candidate, in the term it stands in."""

    last_index: UInt
    last_term: UInt


class Vote(_Message, frozen=True, tag=5):
    """Given, and durable here."""


class PreVoteRequest(_Message, frozen=True, tag=6):
    """Would I get your vote in `term`, which is not begun by this?"""

    last_index: UInt
    last_term: UInt


class PreVote(_Message, frozen=True, tag=7):
    """Yes, in that `term`."""


class StaleTerm(_Message, frozen=True, tag=8):
    """What you sent is of an older term than mine."""


class TimeoutNow(_Message, frozen=True, tag=9):
    """Leader, to the voter that shall lead: stand for election at once."""


class ReadRequest(_Message, frozen=True, tag=10):
    """A member to its leader: at which index may I read?"""

    number: UInt


class ReadReply(_Message, frozen=True, tag=11):
    """A majority confirmed the leader after the request came; 0: that cannot be said."""

    number: UInt
    index: UInt


Message: TypeAlias = (
    Append
    | Appended
    | Rejected
    | VoteRequest
    | Vote
    | PreVoteRequest
    | PreVote
    | StaleTerm
    | TimeoutNow
    | ReadRequest
    | ReadReply
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(
    Annotated[list[Message], msgspec.Meta(max_length=MESSAGES_MAX)]
).decode


def encode_frame(messages: Sequence[Message]) -> bytes:
    return _encode(messages)


def decode_frame(frame: bytes) -> list[Message]:
    """Raises ValueError on anything that no member sends."""
    if len(frame) > FRAME_SIZE_MAX_B:
        raise ValueError(f"a frame of {len(frame)} bytes")
    try:
        messages: list[Message] = _decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"a frame that cannot be read: {error}") from error
    for message in messages:
        if isinstance(message, Append):
            _check(message)
    return messages


def size_b(message: Message) -> int:
    """About what it takes in a frame."""
    if isinstance(message, Append):
        return 64 + sum(len(command) + 16 for command, _ in message.entries)
    return 64


def _check(append: Append) -> None:
    if append.prev_index == 0 and (append.entries or append.prev_term):
        raise ValueError("entries behind nothing")
    if append.prev_index + len(append.entries) > UINT63_MAX:
        raise ValueError("entries behind the end of all numbers")
    if sum(len(command) for command, _ in append.entries) > _BATCH_SIZE_MAX_B:
        raise ValueError("more entries than a batch has")
    newest = append.prev_term
    for command, term in append.entries:
        if term < newest:
            raise ValueError(f"an entry of term {term} behind one of term {newest}")
        newest = term
        _check_command(command)
    if newest > append.term:
        raise ValueError(f"entries of term {newest} in term {append.term}")


def _check_command(command: bytes) -> None:
    kind = command[:_KIND_SIZE_B]
    if len(command) > COMMAND_SIZE_MAX_B + _KIND_SIZE_B:
        raise ValueError(f"a command of {len(command)} bytes")
    if kind == MEMBERSHIP:
        _check_change(command[_KIND_SIZE_B:])
    elif kind not in (REGULAR, NO_OP):
        raise ValueError(f"a command that begins with {kind!r}")


def _check_change(change: bytes) -> None:
    try:
        decoded = decode_change(change)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"a change of members that cannot be read: {error}") from error
    if decoded.verb not in VERBS:
        raise ValueError(f"a change of members by {decoded.verb!r}")
