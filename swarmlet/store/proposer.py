"""All the store knows of consensus."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Protocol

import msgspec

from swarmlet.core.ids import RaftID


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the Raft group. `address` is host:port; an id is random and never used twice."""

    raft_id: RaftID
    node_id: str
    address: str
    is_voter: bool = True


class Leadership(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, as this member knows it.

    `is_ready`: it is us, our log is applied to its end and a no-op of our term is committed; only
    then do the leader's components start and proposals are accepted.
    """

    term: int
    leader: RaftID | None
    is_ready: bool


class MemberChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the group: add a learner, promote it, remove a member, or set its address."""

    verb: str  # add-learner, promote, remove, set-address
    member: Member


class StateMachine(Protocol):
    """What the log drives. Deterministic: same entries, same state, on every member."""

    def apply(self, index: int, entry: bytes) -> None:
        """Apply one committed entry. Refusals are outcomes, not exceptions: raising stops the
        member."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """The whole state as of the last applied index, in chunks that a loop may take one by
        one."""
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state."""
        ...


class RaftLog(Protocol):
    """A replicated, durable log with one leader at a time."""

    async def propose(self, entry: bytes, proposal_id: int) -> int:
        """The entry's index, once it is committed and applied here.

        Raises NotLeaderError, DiskFullError or UnavailableError (nothing was proposed),
        OutcomeUnknownError (leadership lost, or PROPOSAL_TIMEOUT_S over, after proposing: repeat
        with the same `proposal_id`, it is applied once).
        """
        ...

    async def read_barrier(self) -> int:
        """The applied index, once a read at it is linearizable. Raises NotLeaderError,
        UnavailableError."""
        ...

    def leadership(self) -> AsyncIterator[Leadership]:
        """The present leadership, then every change of it; ends when the member stops."""
        ...

    def members(self) -> tuple[Member, ...]:
        """The newest configuration."""
        ...

    async def change_members(self, change: MemberChange) -> None:
        """Change the group by one member, committed. Raises UnsupportedError until managers are
        plural."""
        ...

    async def transfer(self, to: RaftID) -> None:
        """Hand leadership over. Raises UnsupportedError until managers are plural."""
        ...
