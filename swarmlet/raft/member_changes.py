"""Members come and go, one at a time, and a quorum of the rest is there."""

import asyncio
from typing import Final

from swarmlet.core.errors import FailedPreconditionError, UnavailableError
from swarmlet.core.ids import RaftID
from swarmlet.core.limits import PROPOSAL_TIMEOUT_S
from swarmlet.raft.driver import Driver
from swarmlet.raft.group_view import GroupView
from swarmlet.raft.health import quorum_of
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, REMOVE, SET_ADDRESS, encode_change
from swarmlet.raft.proposals import DeniedError
from swarmlet.raft.transfer import Transfer
from swarmlet.store.proposer import Member, MemberChange

LOOK_S: Final = 0.05


class MemberChanges:
    """Changes of the group, proposed at the leader."""

    def __init__(self, driver: Driver, view: GroupView, transfer: Transfer) -> None:
        self._driver, self._view, self._transfer = driver, view, transfer
        self._turn = asyncio.Lock()

    async def make(self, change: MemberChange) -> None:
        """See RaftLog.change_members."""
        clock = self._driver.env.clock
        until_s = clock.mono_s() + PROPOSAL_TIMEOUT_S
        while clock.mono_s() < until_s:
            await self._view.ready()
            if not self._check(change):
                if self._is_committed():
                    return None
            elif change.verb != PROMOTE or self._has_caught_up(change.member.raft_id):
                try:
                    return await self._in_turn(change)
                except DeniedError:
                    pass  # another is not committed yet, or our term's first entry
            await asyncio.sleep(LOOK_S)
        raise UnavailableError(
            f"The managers could not be changed within {PROPOSAL_TIMEOUT_S:g} s: "
            f"{self._obstacle(change)}.",
            remedy="Try again in a moment.",
        )

    async def _in_turn(self, change: MemberChange) -> None:
        async with self._turn:
            await self._transfer.released()
            await self._view.ready()
            if self._transfer.is_held or not self._check(change):
                raise DeniedError  # look again: what is asked for may have been done meanwhile
            driver = self._driver
            size_b = driver.proposals.check(encode_change(change))
            future, answer = driver.proposals.open(size_b)
            driver.core.propose_change(change, answer)
            driver.wake()
            await future

    def _is_committed(self) -> bool:
        """Whether the newest configuration is: else what it says may be taken back."""
        journal = self._driver.journal
        return journal.members(as_of=self._driver.core.commit_index) == journal.newest_members

    def _check(self, change: MemberChange) -> bool:
        """Whether there is anything to do. Raises FailedPreconditionError."""
        members = self._driver.members()
        known = members.member(change.member.raft_id)
        if change.verb == ADD_LEARNER:
            if change.member.raft_id in members.removed:
                raise FailedPreconditionError(
                    f"The Raft id {change.member.raft_id:x} was removed and never comes back.",
                    remedy="Let the manager leave and join again.",
                )
            return known is None
        if change.verb == REMOVE:
            return known is not None and self._check_removal(known)
        if known is None:
            raise FailedPreconditionError(
                f"Node {change.member.node_id} is no manager of this swarm.",
                remedy="`swarmlet node ls` shows the managers.",
            )
        if change.verb == SET_ADDRESS:
            return known.address != change.member.address
        return not known.is_voter

    def _check_removal(self, member: Member) -> bool:
        driver, raft_id = self._driver, member.raft_id
        if raft_id == driver.me.raft_id:
            raise FailedPreconditionError(
                "The manager that leads is not removed; another one must lead first.",
                remedy="Try again in a moment.",
            )
        if not member.is_voter:
            return True
        health = self._view.health()
        rest = [h for h in health.members if h.member.is_voter and h.member.raft_id != raft_id]
        answering = sum(one.answers for one in rest)
        needed = quorum_of(len(rest))
        if answering < needed:
            raise FailedPreconditionError(
                f"Manager {member.node_id} cannot be removed: of the {len(rest)} others {needed} "
                f"must answer, and {answering} do.",
                remedy="Start the silent managers again first.",
            )
        return True

    def _has_caught_up(self, raft_id: RaftID) -> bool:
        driver = self._driver
        return driver.core.progress(raft_id).has_caught_up(driver.journal.last_index)

    def _obstacle(self, change: MemberChange) -> str:
        if change.verb == PROMOTE and not self._has_caught_up(change.member.raft_id):
            return f"{change.member.node_id} ({change.member.address}) has not caught up yet"
        return "another change was not stored"
