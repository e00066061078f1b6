"""The Raft group as the leader's components see and change it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from swarmlet.core.errors import FailedPreconditionError, NotLeaderError
from swarmlet.core.ids import RaftID
from swarmlet.raft.health import leader_address
from swarmlet.reconcile.roles import Seat, can_remove
from swarmlet.store.proposer import Member, MemberChange, RaftLog


def seats_of(raft: RaftLog) -> tuple[Seat, ...]:
    """The group as its leader sees it, in order of raft ids."""
    hears = {one.member.raft_id for one in raft.health().members if one.answers}
    return tuple(
        Seat(
            raft_id=member.raft_id,
            node_id=member.node_id,
            addr=member.address,
            is_voter=member.is_voter,
            answers=member.raft_id in hears,
        )
        for member in sorted(raft.members(), key=lambda member: member.raft_id)
    )


def check_removable(seats: Sequence[Seat], raft_id: RaftID) -> None:
    """Raises FailedPreconditionError in SwarmKit's words where the rest would have no quorum."""
    if not can_remove(seats, raft_id):
        raise FailedPreconditionError(
            "can't remove member from the raft: this would result in a loss of quorum",
            remedy="Bring the other managers back first, or promote another node.",
        )


class Group:
    """One a manager. `turn` is held over everything that looks before it changes; `changed` is set
    when there may be something new to decide; `is_led` while this manager decides. `on_change` is
    called when the group has changed."""

    def __init__(self, raft: RaftLog, on_change: Callable[[], None]) -> None:
        self._raft, self._on_change = raft, on_change
        self.turn: Final = asyncio.Lock()
        self.changed: Final = asyncio.Event()
        self.is_led = False

    def members(self) -> tuple[Member, ...]:
        return self._raft.members()

    def seats(self) -> tuple[Seat, ...]:
        return seats_of(self._raft)

    async def change(self, verb: str, member: Member) -> None:
        """Raises as `RaftLog.change_members` does."""
        await self._raft.change_members(MemberChange(verb=verb, member=member))
        self.changed.set()
        self._on_change()

    async def hand_over(self, heir: RaftID | None) -> None:
        """Always raises: NotLeaderError once another member leads, UnavailableError where none
        does."""
        await self._raft.transfer(heir)
        leader = self._raft.leadership_now().leader
        raise NotLeaderError(
            "This manager has handed leadership over.",
            remedy="Ask the manager that leads.",
            managers=leader_address(self._raft.members(), leader),
        )
