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


class MemberHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A member as others hear it. `silent_since_ms`: wall time of the last sign of life of one that
    does not answer, 0 where it answers. `is_known`: false while nobody could say yet (a learner, a
    member just added, a leader just elected). `hostname`: as people call it, "" where this member's
    state does not say."""

    member: Member
    answers: bool
    silent_since_ms: int = 0
    is_known: bool = True
    hostname: str = ""


class GroupHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The group as this member sees it: what it hears itself, or what its leader told it.

    `quorum`: voters that must answer, of `members` in order of their raft ids. Wall times:
    `lost_since_ms`, since when no leader with a majority is known, 0 while there is one;
    `as_of_ms`, when the state held here was last known to be the group's newest.
    """

    leader: RaftID | None
    members: tuple[MemberHealth, ...]
    quorum: int
    lost_since_ms: int = 0
    as_of_ms: int = 0

    def answering(self) -> int:
        """How many voters answer."""
        return sum(one.answers for one in self.members if one.member.is_voter)


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
        """Replace the whole state, or nothing where the chunks end in an error. At the start of a
        member, and while it runs where it fell too far behind."""
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
        """The applied index, once a read at it is linearizable, at any member: the leader proved
        after this call that it still leads, and all it had committed then is applied here (read
        index, Raft §6.4). Raises QuorumLostError, NotLeaderError (no leader yet: try again)."""
        ...

    def leadership(self) -> AsyncIterator[Leadership]:
        """The present leadership, then every change of it; ends when the member stops."""
        ...

    def leadership_now(self) -> Leadership:
        """The present leadership, at this moment."""
        ...

    def members(self) -> tuple[Member, ...]:
        """The newest configuration."""
        ...

    def health(self) -> GroupHealth:
        """Who answers, at this moment."""
        ...

    async def change_members(self, change: MemberChange) -> None:
        """Change the group by one member; returns once that is committed and applied here.

        `add-learner`: known already with this raft id: nothing to do. `promote`: waits until the
        learner has caught up. `remove`: a member that is not there: nothing to do; not the leader
        itself (transfer first). One at a time: callers wait for their turn. Raises NotLeaderError,
        FailedPreconditionError where the rest would have no quorum or the raft id was removed
        before, UnavailableError where it could not be done in time, OutcomeUnknownError.
        """
        ...

    async def transfer(self, to: RaftID | None = None) -> None:
        """Hand leadership over, to the voter that is furthest where none is named; returns once
        another member leads. Proposals wait meanwhile. Raises NotLeaderError, UnavailableError
        where nobody took over in time (this member leads on then)."""
        ...
