"""Managers that ask to become members of the Raft group, or to be none any more (behaviour of
SwarmKit's raft membership service). Whoever asks to join is dialed back before it counts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
    node_removed,
)
from swarmlet.core.identity import Identity
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.core.limits import UINT63_MAX
from swarmlet.env.base import Env
from swarmlet.manager.group import Group, check_removable
from swarmlet.manager.member_requests import (
    address_of,
    demotion,
    displacement,
    is_lost,
    member_at,
    problem_of,
)
from swarmlet.raft.membership import ADD_LEARNER, REMOVE, SET_ADDRESS
from swarmlet.reconcile.roles import MANAGER
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from swarmlet.wire.node_api import MemberGrant, MemberInfo, MemberRequest, PortHello

log = logging.getLogger("swarmlet.manager")

DIAL_BACK_S: Final = 5.0  # for the port of a manager that joins; SwarmKit raft.go
RAFT_ID_TRIES: Final = 3  # against ids that were used before

DialBack: TypeAlias = Callable[[str], Awaitable[PortHello]]
"""Asks a port at host:port for its hello. Raises SwarmError."""


class Admission:
    """Works while this manager leads; `me` is its node."""

    def __init__(
        self, store: Store, group: Group, env: Env, me: NodeID, dial_back: DialBack
    ) -> None:
        self._store, self._group, self._env, self._me = store, group, env, me
        self._dial_back = dial_back

    async def join(self, request: MemberRequest, peer: Identity, source: str) -> MemberGrant:
        """Let the peer into the group as a learner, or tell it what it is there already; its
        address is dialed before it counts.

        Raises NotLeaderError, InvalidArgumentError, ForbiddenError, FailedPreconditionError,
        UnavailableError.
        """
        self._check_leads()
        self._check_manager(peer.node_id)
        addr = address_of(request.addr, source)
        await self._check_answers(addr, peer)
        async with self._group.turn:
            self._check_leads()
            self._check_manager(peer.node_id)
            raft_id = await self._seat(request, peer.node_id, addr)
        infos = (
            MemberInfo(raft_id=one.raft_id, node_id=one.node_id, addr=one.address)
            for one in self._group.members()
        )
        return MemberGrant(raft_id=raft_id, members=tuple(infos))

    async def leave(self, request: MemberRequest, peer: Identity) -> None:
        """Take the peer out of the group; from then on it is a worker. The leader itself hands over
        and is told whom to ask then (NotLeaderError).

        Raises FailedPreconditionError where the rest would have no quorum, UnavailableError.
        """
        self._check_leads()
        async with self._group.turn:
            self._check_leads()
            seats = self._group.seats()
            seat = next((one for one in seats if one.node_id == peer.node_id), None)
            if seat is None or request.raft_id not in (0, seat.raft_id):
                return
            check_removable(seats, seat.raft_id)
            if seat.node_id == self._me:
                await self._group.hand_over(None)
            await self._store.update(lambda view: demotion(view, peer.node_id))
            await self._group.change(REMOVE, member_at(seat))
            log.info("members.left", extra={"node_id": peer.node_id, "raft_id": seat.raft_id})

    def _check_leads(self) -> None:
        if not self._group.is_led:
            raise NotLeaderError("This manager does not lead, so it lets nobody into the group.")

    def _check_manager(self, node_id: NodeID) -> None:
        node = self._store.view().nodes.get(node_id)
        if node is None:
            raise node_removed(node_id)
        if node.role != MANAGER or node.spec.role != MANAGER:
            raise ForbiddenError(
                f"Node {node_id} is no manager of this swarm: it was demoted.",
                remedy="Promote it: `swarmlet node promote`.",
            )

    async def _check_answers(self, addr: str, peer: Identity) -> None:
        """Raises FailedPreconditionError unless the node itself answers there."""
        try:
            async with asyncio.timeout(DIAL_BACK_S):
                problem = problem_of(await self._dial_back(addr), peer)
        except TimeoutError:
            problem = f"nobody answered within {DIAL_BACK_S:g} s"
        except SwarmError as error:
            problem = error.message
        if problem:
            fields = {"node_id": peer.node_id, "addr": addr, "cause": problem}
            log.warning("members.not_reached", extra=fields)
            raise FailedPreconditionError(
                f"The manager that leads cannot reach node {peer.node_id} at {addr}: {problem}",
                remedy="Is its port open towards the other managers? --advertise-addr at `swarmlet "
                "join` names the address they use.",
            )

    async def _seat(self, request: MemberRequest, node_id: NodeID, addr: str) -> RaftID:
        """The raft id the node has from now on."""
        for member in [one for one in self._group.members() if one.node_id == node_id]:
            if not is_lost(request, member):
                if member.address != addr:
                    await self._group.change(SET_ADDRESS, replace(member, address=addr))
                return member.raft_id
            await self._drop(member)
        return await self._add(node_id, addr)

    async def _drop(self, member: Member) -> None:
        """Remove a member whose data are lost. Its row forgets its place first: if nothing comes
        after this, the node is one on its way in, not one that was lost."""
        if any(seat.answers for seat in self._group.seats() if seat.raft_id == member.raft_id):
            raise UnavailableError(
                f"Node {member.node_id} says its data are lost, but it answers as a manager still.",
                remedy="Does a second daemon use a copy of its data directory? Stop that one, then "
                "try again.",
            )
        await self._store.update(lambda view: displacement(view, NodeID(member.node_id)))
        await self._group.change(REMOVE, member)
        fields = {"node_id": member.node_id, "raft_id": member.raft_id}
        log.warning("members.replaced", extra=fields)

    async def _add(self, node_id: NodeID, addr: str) -> RaftID:
        taken = {member.raft_id for member in self._group.members()}
        for left in reversed(range(RAFT_ID_TRIES)):
            raft_id = RaftID(1 + int.from_bytes(self._env.entropy(8), "big") % UINT63_MAX)
            if raft_id in taken:
                continue
            member = Member(raft_id=raft_id, node_id=node_id, address=addr, is_voter=False)
            try:
                await self._group.change(ADD_LEARNER, member)
            except FailedPreconditionError:  # the id belonged to a member that was removed
                if not left:
                    raise
            else:
                fields = {"node_id": node_id, "raft_id": raft_id, "addr": addr}
                log.info("members.joined", extra=fields)
                return raft_id
        raise UnavailableError("No free raft id was found.", remedy="Try again in a moment.")
