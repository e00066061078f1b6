"""What belongs to one connection between members, and to keeping one."""

import asyncio
from typing import Final

from swarmlet.core.ids import NodeID, RaftID
from swarmlet.raft.handshake import RefusedError
from swarmlet.raft.hello import Hello, Ping, Refusal, decode_own
from swarmlet.store.proposer import Member
from swarmlet.wire.channel import RaftChannel

BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
NOTED_MAX: Final = 256


class Dial:
    """Of a member that is to be connected; `changed` is for its one task."""

    def __init__(self, member: Member) -> None:
        self.member, self.raft_id = member, member.raft_id
        self.changed = asyncio.Event()
        self.not_before_s, self.failures = 0.0, 0
        self.task: asyncio.Task[None] | None = None
        self.is_talking = False

    def backoff_s(self, chance: float) -> float:
        """For how long not to dial after one more failure; `chance` from 0 to 1."""
        bound_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        return bound_s * (1.0 + chance) / 2

    @property
    def node_id(self) -> NodeID:
        return NodeID(self.member.node_id)

    def begin_anew(self, member: Member) -> None:
        """It moved, it seems."""
        is_elsewhere, self.member = member.address != self.member.address, member
        if not is_elsewhere:
            return
        self.not_before_s, self.failures = 0.0, 0
        self.changed.set()


class Link:
    """A connection whose handshake is over. `began` and `made` are turns: what came before what;
    `is_by_lower`: the member with the lower raft id dialled it."""

    def __init__(
        self, channel: RaftChannel, hello: Hello, *, is_by_lower: bool, began: int
    ) -> None:
        self.channel, self.hello = channel, hello
        self.is_by_lower, self.began = is_by_lower, began
        self.epoch = self.made = 0
        self.made_s, self.heard_s, self.silent_periods, self.has_sent = 0.0, 0.0, 0, False

    @property
    def raft_id(self) -> RaftID:
        return self.hello.sender

    def make(self, epoch: int, turn: int, now_s: float) -> None:
        self.epoch, self.made = epoch, turn
        self.made_s = self.heard_s = now_s

    def replaces(self, old: "Link") -> bool:
        """The newest counts; of two that were made at the same time, the one that the lower id
        dialled: so both ends keep the same one."""
        overlaps = old.made > self.began
        return not overlaps or (self.is_by_lower, self.began) > (old.is_by_lower, old.began)

    @property
    def node_id(self) -> NodeID:
        return self.channel.node_id

    @property
    def hex_id(self) -> str:
        """For the log."""
        return f"{self.raft_id:x}"


class Noted:
    """What the log knows of nodes already: all is tried again and again."""

    def __init__(self) -> None:
        self._noted: dict[NodeID, str] = {}

    def is_news(self, node_id: NodeID, what: str) -> bool:
        if self._noted.get(node_id) == what:
            return False
        if len(self._noted) >= NOTED_MAX:
            self._noted.clear()
        self._noted[node_id] = what
        return True

    def forget(self, node_id: NodeID) -> None:
        self._noted.pop(node_id, None)


def hear_own(raft_id: RaftID, frame: bytes) -> None:
    """A frame after the handshake that is not the core's. Raises RefusedError, ValueError."""
    said = decode_own(frame)
    if isinstance(said, Refusal):
        raise RefusedError(raft_id, said, by_us=False)
    if not isinstance(said, Ping):
        raise ValueError(f"a {type(said).__name__} after the handshake")  # noqa: TRY004 - a peer's
