"""How two members begin to talk: hello, hello, welcome; or a refusal, which is the last frame."""

from typing import NoReturn, Protocol

from swarmlet.core.ids import RaftID
from swarmlet.raft.hello import (
    WELCOME,
    WRONG_MEMBER,
    Hello,
    Refusal,
    Welcome,
    decode_own,
    encode_own,
)
from swarmlet.store.proposer import Member
from swarmlet.wire.channel import RaftChannel


class PeerEvents(Protocol):
    """What becomes of connections; all of it is called in the loop, and must not wait.

    Between `connected` and `disconnected` of an epoch lie its frames, in order; epochs of a peer
    grow. A connection that takes another's place is connected right after the other is gone.
    """

    def hello(self, to: RaftID) -> Hello:
        """What to say to this member."""
        ...

    def judge(self, hello: Hello, node_id: str) -> Refusal | None:
        """Whether to talk to the one who says `hello`; `node_id` is what its certificate says."""
        ...

    def connected(self, raft_id: RaftID, epoch: int) -> None: ...

    def disconnected(self, raft_id: RaftID, epoch: int) -> None: ...

    def received(self, raft_id: RaftID, epoch: int, frame: bytes) -> None:
        """A frame of the core's. Raises ValueError where it cannot be read: then the connection
        ends."""
        ...

    def refused(self, raft_id: RaftID, refusal: Refusal) -> None:
        """This peer does not talk to us; it is tried again."""
        ...


class RefusedError(Exception):
    """`by_us`: who refuses whom."""

    def __init__(self, raft_id: RaftID, refusal: Refusal, *, by_us: bool) -> None:
        super().__init__(refusal.sentence)
        self.raft_id, self.refusal, self.by_us = raft_id, refusal, by_us


async def greet(channel: RaftChannel, member: Member, events: PeerEvents) -> Hello:
    """As the one who dialled `member`. Raises RefusedError, ValueError, ChannelClosedError."""
    channel.send(encode_own(events.hello(member.raft_id)))
    theirs = await _hear(channel, member.raft_id)
    if theirs.sender != member.raft_id:
        sentence = f"Here is looked for member {member.raft_id:x}, not {theirs.sender:x}."
        _refuse(channel, theirs.sender, Refusal(reason=WRONG_MEMBER, sentence=sentence))
    judged(channel, theirs, events)
    channel.send(WELCOME)
    return theirs


async def answer(channel: RaftChannel, events: PeerEvents) -> Hello:
    """As the one who was dialled. Raises as `greet`."""
    theirs = await _hear(channel, RaftID(0))
    judged(channel, theirs, events)
    channel.send(encode_own(events.hello(theirs.sender)))
    said = decode_own(await channel.receive())
    if isinstance(said, Refusal):
        raise RefusedError(theirs.sender, said, by_us=False)
    if not isinstance(said, Welcome):
        raise ValueError("no welcome where one was due")  # noqa: TRY004 - a peer's
    judged(channel, theirs, events)  # another may have come meanwhile
    return theirs


def judged(channel: RaftChannel, theirs: Hello, events: PeerEvents) -> None:
    """Raises RefusedError, which the other side is told."""
    refusal = events.judge(theirs, channel.node_id)
    if refusal is not None:
        _refuse(channel, theirs.sender, refusal)


def _refuse(channel: RaftChannel, raft_id: RaftID, refusal: Refusal) -> NoReturn:
    channel.send(encode_own(refusal))
    raise RefusedError(raft_id, refusal, by_us=True)


async def _hear(channel: RaftChannel, expected: RaftID) -> Hello:
    said = decode_own(await channel.receive())
    if isinstance(said, Refusal):
        raise RefusedError(expected, said, by_us=False)
    if not isinstance(said, Hello):
        raise ValueError("no hello where one was due")  # noqa: TRY004 - a peer's
    return said
