"""A log of a group of managers, as its own member sees it: who leads, and what is lost, at will."""

from swarmlet.core.errors import QuorumLostError
from swarmlet.store.proposer import GroupHealth, Member, MemberHealth, StateMachine
from tests.store.memory_log import ME, MemoryLog

OTHER = Member(raft_id=2, node_id="node-2", address="10.0.0.2:2377")
LOST = QuorumLostError(
    "1 of 3 managers answers, and 2 are needed: node-2 (10.0.0.2:2377) has been silent for 12 s.",
    remedy="Start one of them again; `swarmlet init --force-new-cluster` goes on without them.",
)


class GroupLog(MemoryLog):
    """`barriers` counts the reads that asked the group."""

    def __init__(self, state_machine: StateMachine) -> None:
        super().__init__(state_machine)
        self.lost_since_ms = self.as_of_ms = self.barriers = 0

    def lost(self, since_ms: int) -> None:
        """Since that wall time there is no majority."""
        self.lost_since_ms = self.as_of_ms = since_ms

    def health(self) -> GroupHealth:
        members = (MemberHealth(member=ME, answers=True), MemberHealth(member=OTHER, answers=False))
        return GroupHealth(
            leader=ME.raft_id if self.is_leader else OTHER.raft_id,
            members=members,
            quorum=2,
            lost_since_ms=self.lost_since_ms,
            as_of_ms=self.as_of_ms,
        )

    async def read_barrier(self) -> int:
        self.barriers += 1
        if self.lost_since_ms:
            raise LOST
        return len(self.entries)

    async def propose(self, entry: bytes, proposal_id: int) -> int:
        if self.lost_since_ms:
            raise LOST
        return await super().propose(entry, proposal_id)
