"""A group of several members in memory, as its leader's log sees it; the others are names."""

import asyncio
from collections import deque

from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import RaftID
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, REMOVE, Members
from swarmlet.store.proposer import (
    GroupHealth,
    Member,
    MemberChange,
    MemberHealth,
    StateMachine,
)
from tests.store.memory_log import ME, MemoryLog

CHANGE_S = 0.01
PROMOTE_WAIT_S = 2.0  # for a learner that has not caught up


def member(number: int, *, is_voter: bool = True) -> Member:
    """node-1 is this one."""
    return Member(
        raft_id=RaftID(number),
        node_id=f"node-{number}",
        address=f"10.0.0.{number}:2377" if number > 1 else ME.address,
        is_voter=is_voter,
    )


class GroupLog(MemoryLog):
    """`silent` members do not answer, `lagging` learners have not caught up; `refusals` answer the
    next changes; `changes` and `heirs` are what was done. A removal that would leave fewer voters
    than a quorum of them answering is refused."""

    def __init__(self, state_machine: StateMachine, *others: Member) -> None:
        super().__init__(state_machine)
        ordered = tuple(sorted((ME, *others), key=lambda one: one.raft_id))
        self.group = Members(members=ordered)
        self.silent: set[int] = set()
        self.lagging: set[int] = set()
        self.refusals: deque[SwarmError] = deque()
        self.changes: list[tuple[str, int]] = []
        self.heirs: list[int | None] = []

    def members(self) -> tuple[Member, ...]:
        return self.group.members

    def health(self) -> GroupHealth:
        return GroupHealth(
            leader=self.leader,
            members=tuple(
                MemberHealth(member=one, answers=one.raft_id not in self.silent)
                for one in self.group.members
            ),
            quorum=len(self.group.voters()) // 2 + 1,
        )

    async def change_members(self, change: MemberChange) -> None:
        await asyncio.sleep(CHANGE_S)
        if not self.is_leader:
            raise NotLeaderError("This member does not lead.")
        if self.refusals:
            raise self.refusals.popleft()
        raft_id = change.member.raft_id
        if change.verb == ADD_LEARNER and raft_id in self.group.removed:
            raise FailedPreconditionError("This raft id was removed.")
        if change.verb == PROMOTE and raft_id in self.lagging | self.silent:
            await asyncio.sleep(PROMOTE_WAIT_S)
            raise UnavailableError("The learner has not caught up.")
        after = self.group.after(change)
        if change.verb == REMOVE:
            assert raft_id != ME.raft_id, "a leader does not remove itself"
            voters = after.voters()
            answering = [one for one in voters if one not in self.silent]
            if len(answering) <= len(voters) // 2:
                raise FailedPreconditionError("The rest would have no quorum.")
        self.group = after
        self.changes.append((change.verb, raft_id))

    async def transfer(self, to: RaftID | None = None) -> None:
        await asyncio.sleep(CHANGE_S)
        if self.refusals:
            raise self.refusals.popleft()
        self.heirs.append(to)
        others = (one for one in self.group.voters() if one != ME.raft_id)
        self.follow(to or next(one for one in others if one not in self.silent))

    def follow(self, leader: RaftID | None) -> None:
        """Another member leads from now on, or none."""
        self.lose()
        self.leader = leader

    def move(self, number: int, address: str) -> None:
        """A member has another address, whoever decided that."""
        ordered = tuple(
            replace(one, address=address) if one.raft_id == number else one
            for one in self.group.members
        )
        self.group = replace(self.group, members=ordered)
