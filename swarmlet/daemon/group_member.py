"""This node in the Raft group: who leads, who else is in it, how it leaves."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import SwarmError, UnavailableError
from swarmlet.raft.membership import SET_ADDRESS
from swarmlet.store.proposer import MemberChange
from swarmlet.wire.channel import NodeLink
from swarmlet.wire.node_api import MemberRequest

if TYPE_CHECKING:
    from swarmlet.store.proposer import Leadership, Member, RaftLog

log = logging.getLogger("swarmlet.daemon")

WITHDRAW_RETRY_S: Final = 0.2  # between tries to leave the group
ADDRESS_RETRY_S: Final = 5.0  # between tries to tell the group of another address
LEADER_WAIT_S: Final = 3.0  # for a leader to tell it to: longer than an election


class GroupMember:
    """`follow` has to run."""

    def __init__(self, me: "Member", group: "RaftLog", link: NodeLink, own: OwnIdentity) -> None:
        self.me, self._group, self._link, self._own = me, group, link, own
        self._changed = asyncio.Event()
        self._asked = 0  # which of the others passes this one's address on

    async def follow(self, on_lead: Callable[[], None]) -> None:
        """Until the log ends. `on_lead` is called whenever this member begins to lead."""
        was_ready = False
        async for leadership in self._group.leadership():
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            if leadership.is_ready and not was_ready:
                on_lead()
            was_ready = leadership.is_ready

    @property
    def leadership(self) -> "Leadership":
        return self._group.leadership_now()

    def leads(self) -> bool:
        return self.leadership.is_ready

    async def leading(self) -> None:
        """Return once this member leads."""
        while not self.leads():
            await self._changed.wait()

    def other_leader(self) -> str:
        """The address of the member that leads, "" where it is this one or nobody."""
        leader = self.leadership.leader
        return next((one.address for one in self.others() if one.raft_id == leader), "")

    async def _leader_elsewhere(self) -> str:
        """The address of another member that leads, once there is one."""
        while not (addr := self.other_leader()):
            await self._changed.wait()
        return addr

    def others(self) -> tuple["Member", ...]:
        return tuple(one for one in self._group.members() if one.raft_id != self.me.raft_id)

    def is_alone(self) -> bool:
        return [one.raft_id for one in self._group.members()] == [self.me.raft_id]

    async def hand_over(self) -> None:
        """Where this member leads others: another one leads from now on. Raises UnavailableError
        where none could take over."""
        if self.leads() and any(one.is_voter for one in self.others()):
            await self._group.transfer()

    async def withdraw(self) -> None:
        """Leave the group, which goes on without this member; as long as it takes. Raises
        SwarmError: also where the others would have no quorum. A member that has just started, or
        lost its leader, first hears who leads now."""
        await self._group.read_barrier()
        await self.hand_over()
        request = MemberRequest(addr=self.me.address, raft_id=self.me.raft_id)
        while True:
            addr = await self._leader_elsewhere()
            try:
                await self._link.leave_members(addr, request, self._own.credentials)
            except UnavailableError as problem:  # a new leader takes a moment
                log.info("member.not_withdrawn_yet", extra={"cause": problem.message})
                await asyncio.sleep(WITHDRAW_RETRY_S)
            else:
                return

    def is_voter(self) -> bool:
        return any(one.raft_id == self.me.raft_id and one.is_voter for one in self._group.members())

    async def keep_address(self) -> None:
        """Tell the group where this member is, until it knows."""
        while self._known_addr() not in ("", self.me.address):
            try:
                await self._set_address()
            except SwarmError as problem:
                log.info("member.address_not_told", extra={"cause": problem.message})
            await asyncio.sleep(ADDRESS_RETRY_S)

    async def _set_address(self) -> None:
        """Where the leader has moved too, neither finds the other: whoever is left passes it on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEADER_WAIT_S):
                while not self.leads() and not self.other_leader():
                    await self._changed.wait()
        others = self.others()
        if self.leads() or not others:
            await self._group.change_members(MemberChange(verb=SET_ADDRESS, member=self.me))
            return
        self._asked += 1
        addr = self.other_leader() or others[self._asked % len(others)].address
        request = MemberRequest(addr=self.me.address, raft_id=self.me.raft_id)
        await self._link.join_members(addr, request, self._own.credentials)

    def _known_addr(self) -> str:
        mine = (one for one in self._group.members() if one.raft_id == self.me.raft_id)
        return next((one.address for one in mine), "")
