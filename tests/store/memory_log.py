"""A RaftLog in memory: real async semantics, and faults on demand.

Proposals queue up, and what is queued is applied in order a turn of the loop (or `delay_s`) later,
as a group. `hold()` keeps everything back until `release()`. A fault is armed for the next
proposals:

    fail_next("lost")       not applied; answered OutcomeUnknownError
    fail_next("unknown")    applied; answered OutcomeUnknownError
    fail_next("late")       answered OutcomeUnknownError now; applied with the next group
    fail_next("duplicate")  applied twice, at two indexes
    fail_next("silent")     never applied; answered OutcomeUnknownError when the time is over
    fail_next("full")       DiskFullError; not proposed
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from swarmlet.core.errors import (
    DiskFullError,
    NotLeaderError,
    OutcomeUnknownError,
    UnsupportedError,
)
from swarmlet.core.ids import RaftID
from swarmlet.core.limits import PROPOSAL_TIMEOUT_S
from swarmlet.store.proposer import (
    GroupHealth,
    Leadership,
    Member,
    MemberChange,
    MemberHealth,
    StateMachine,
)

ME = Member(raft_id=RaftID(1), node_id="node-1", address="127.0.0.1:2377")


class MemoryLog:
    """One member that leads from the start. `entries` is all that was ever committed, from index
    1."""

    def __init__(self, state_machine: StateMachine, *, delay_s: float = 0.0) -> None:
        self.entries: list[bytes] = []
        self.delay_s = delay_s
        self.is_leader, self.leader = True, ME.raft_id
        self.proposals = 0
        self._state_machine = state_machine
        self._queue: deque[tuple[bytes, str, asyncio.Future[int]]] = deque()
        self._faults: deque[str] = deque()
        self._is_held = self._is_scheduled = False
        self._term = 1
        self._changed = asyncio.Event()

    # RaftLog --------------------------------------------------------------------------------------
    async def propose(self, entry: bytes, proposal_id: int) -> int:
        if not self.is_leader:
            raise NotLeaderError("This member does not lead.")
        fault = self._faults.popleft() if self._faults else ""
        if fault == "full":
            raise DiskFullError("There is no room left on the disk; nothing was changed.")
        self.proposals += 1
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if fault == "lost":
            raise OutcomeUnknownError("The proposal got lost.")
        if fault == "silent":
            await asyncio.sleep(PROPOSAL_TIMEOUT_S)
            raise OutcomeUnknownError("Nobody answered.")
        self._queue.append((entry, fault, done))
        self._schedule()
        if fault == "late":
            raise OutcomeUnknownError("Leadership was lost.")
        return await done

    async def read_barrier(self) -> int:
        if not self.is_leader:
            raise NotLeaderError("This member does not lead.")
        await asyncio.sleep(0)
        return len(self.entries)

    async def leadership(self) -> AsyncIterator[Leadership]:
        while True:
            self._changed.clear()
            yield self.leadership_now()
            await self._changed.wait()

    def leadership_now(self) -> Leadership:
        return Leadership(term=self._term, leader=self.leader, is_ready=self.is_leader)

    def members(self) -> tuple[Member, ...]:
        return (ME,)

    def health(self) -> GroupHealth:
        me = MemberHealth(member=ME, answers=True)
        return GroupHealth(leader=self.leader, members=(me,), quorum=1)

    async def change_members(self, change: MemberChange) -> None:
        raise UnsupportedError("This log has one member.")

    async def transfer(self, to: RaftID | None = None) -> None:
        raise UnsupportedError("This log has one member.")

    # For tests ------------------------------------------------------------------------------------
    def hold(self) -> None:
        """Keep proposals in flight until `release`."""
        self._is_held = True

    def release(self, count: int | None = None) -> None:
        """Commit what is held, or only the first `count` of it (the rest stays held)."""
        self._is_held = count is not None
        self._apply(len(self._queue) if count is None else count)

    def fail_next(self, *faults: str) -> None:
        """Arm faults for the next proposals, in order; "" lets one pass."""
        self._faults.extend(faults)

    def lose(self) -> None:
        """Lose leadership: what is in flight is never applied, and nobody knows."""
        self.is_leader, self.leader = False, None
        queue, self._queue = self._queue, deque()
        for _, _, done in queue:
            if not done.done():
                done.set_exception(OutcomeUnknownError("Leadership was lost."))
        self._changed.set()

    def lead(self) -> None:
        """Lead again, in a new term."""
        self.is_leader, self.leader, self._term = True, ME.raft_id, self._term + 1
        self._changed.set()

    def replay(self, into: StateMachine, after: int = 0) -> None:
        """Apply everything committed behind index `after` to another state machine."""
        for index, entry in enumerate(self.entries[after:], after + 1):
            into.apply(index, entry)

    def _schedule(self) -> None:
        if self._is_held or self._is_scheduled:
            return
        self._is_scheduled = True
        asyncio.get_running_loop().call_later(self.delay_s, self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if not self._is_held:
            self._apply(len(self._queue))

    def _apply(self, count: int) -> None:
        answers = []
        for _ in range(min(count, len(self._queue))):
            entry, fault, done = self._queue.popleft()
            index = self.append(entry)
            if fault == "duplicate":
                self.append(entry)
            answers.append((index, fault, done))
        for index, fault, done in answers:  # as a real log: a group is applied, then answered
            if done.done():
                continue
            if fault == "unknown":
                done.set_exception(OutcomeUnknownError("Leadership was lost."))
            else:
                done.set_result(index)

    def append(self, entry: bytes) -> int:
        """Commit and apply an entry, whoever proposed it."""
        self.entries.append(entry)
        self._state_machine.apply(len(self.entries), entry)
        return len(self.entries)
