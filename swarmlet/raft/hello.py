"""The first frames of a connection between members, and the few that are not the core's.

Whoever dialled says `Hello` first. The other answers with its own, or with a `Refusal`; the first
then says `Welcome`, or refuses. A `Ping` says no more than that its sender lives.
"""

from typing import Annotated, Final, TypeAlias

import msgspec

from swarmlet.raft.messages import Id, UInt

RAFT_PROTOCOL: Final = 1
MARK: Final = b"\xc1"
"""Opens each of these frames: no msgpack begins so, and the core's frames are msgpack."""

REMOVED: Final = "removed"
ROLLED_BACK: Final = "rolled-back"
CLONED: Final = "cloned"
WRONG_MEMBER: Final = "wrong-member"
STRANGER: Final = "stranger"


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """`boot` is drawn at each start of a member. `term` and `last_index` as they are on its disk:
    what a crash takes away was never said. `receiver` is whom it takes the other side for.
    `commit_term` is that of the entry at `commit_index`; 0 where that is not said."""

    protocol: UInt = RAFT_PROTOCOL
    sender: Id
    receiver: Id
    boot: UInt
    term: UInt
    last_index: UInt
    commit_index: UInt = 0
    commit_term: int = 0


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The dialler takes the other side's hello."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """Why a member is not talked to; the last frame. `reason` is one of the above. `term`, `index`:
    what one that is rolled back is known to have reached; it may have said its hello before that,
    and knows better then."""

    reason: Annotated[str, msgspec.Meta(max_length=100)]
    sentence: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    term: UInt = 0
    index: UInt = 0


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping"):
    """Still here."""


OwnFrame: TypeAlias = Hello | Welcome | Refusal | Ping

_decode = msgspec.msgpack.Decoder(OwnFrame).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_own(value: OwnFrame) -> bytes:
    return MARK + _encode(value)


def is_own(frame: bytes) -> bool:
    """Whether the frame is one of these; else it is the core's."""
    return frame[:1] == MARK


def decode_own(frame: bytes) -> OwnFrame:
    """Raises ValueError."""
    if not is_own(frame):
        raise ValueError("not a frame of this kind")
    try:
        value: OwnFrame = _decode(frame[1:])
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


PING: Final = encode_own(Ping())
WELCOME: Final = encode_own(Welcome())
