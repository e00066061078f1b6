"""Who belongs to the Raft group: managers that come and go, and roles that change (behaviour of
SwarmKit's role manager and raft membership service).

`reconcile.roles` decides; here it is done, one change of the group at a time, and tried again,
every 5 s in the end, while something is left to do. Whoever asks to join is dialed back before it
counts.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from msgspec.structs import replace

from swarmlet.core.errors import (
    DiskFullError,
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
from swarmlet.manager.member_requests import (
    address_of,
    demotion,
    displacement,
    is_lost,
    member_at,
    problem_of,
)
from swarmlet.model.change import Event, Update
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import Node
from swarmlet.model.view import View
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, REMOVE, SET_ADDRESS
from swarmlet.reconcile.roles import MANAGER, Plan, Seat, Step, can_remove, plan
from swarmlet.store.proposer import Member, MemberChange, RaftLog
from swarmlet.store.store import Store
from swarmlet.wire.node_api import MemberGrant, MemberInfo, MemberRequest, PortHello

log = logging.getLogger("swarmlet.manager")

RETRY_MIN_S: Final = 0.25  # while something is left to do: a new leader has to hear the others,
RETRY_S: Final = 5.0  # doubling up to this; SwarmKit manager/role_manager.go
DIAL_BACK_S: Final = 5.0  # for the port of a manager that joins; SwarmKit raft.go
RAFT_ID_TRIES: Final = 3  # against ids that were used before

DialBack: TypeAlias = Callable[[str], Awaitable[PortHello]]
"""Asks a port at host:port for its hello. Raises SwarmError."""


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


class Members:
    """Component of the leader. `on_change` is called when the group has changed."""

    name: Final = "members"

    def __init__(
        self,
        store: Store,
        raft: RaftLog,
        env: Env,
        node_id: NodeID,
        *,
        dial_back: DialBack,
        on_change: Callable[[], None],
    ) -> None:
        self._store, self._raft, self._env, self._me = store, raft, env, node_id
        self._dial_back, self._on_change = dial_back, on_change
        self._turn = asyncio.Lock()  # one change at a time, and no decision in its middle
        self._changed = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self._promoting: dict[RaftID, None] = {}
        self._tardy: dict[RaftID, None] = {}  # learners whose first promotion has failed
        self._problem = ""  # of the last round
        self._plan = Plan()
        self._group: tuple[Member, ...] = ()  # when it was last decided
        self._retry_s = RETRY_MIN_S
        self._told: tuple[str, ...] = ()
        self._heir = 0  # which of a step's heirs is tried next
        self._is_running = False

    async def run(self) -> None:
        """Until cancelled."""
        self._clear()
        unsubscribe = self._store.subscribe(self._on_events)
        try:
            async with asyncio.TaskGroup() as group:
                self._is_running = True
                self._changed.set()
                while True:
                    await self._wait()
                    async with self._turn:
                        await self._round(group)
        finally:
            self._is_running = False
            unsubscribe()

    def is_at_rest(self) -> bool:
        """Whether rows and members agree with what is wanted."""
        return self._plan.is_rest() and not self._changed.is_set()

    # Managers ask ---------------------------------------------------------------------------------
    async def join(self, request: MemberRequest, peer: Identity, source: str) -> MemberGrant:
        """Let the peer into the group as a learner, or tell it what it is there already; its
        address is dialed before it counts.

        Raises NotLeaderError, InvalidArgumentError, ForbiddenError, FailedPreconditionError,
        UnavailableError.
        """
        self._check_running()
        self._check_manager(peer.node_id)
        addr = address_of(request.addr, source)
        await self._check_answers(addr, peer)
        async with self._turn:
            self._check_running()
            self._check_manager(peer.node_id)
            raft_id = await self._seat(request, peer.node_id, addr)
        infos = (
            MemberInfo(raft_id=one.raft_id, node_id=one.node_id, addr=one.address)
            for one in self._raft.members()
        )
        return MemberGrant(raft_id=raft_id, members=tuple(infos))

    async def leave(self, request: MemberRequest, peer: Identity) -> None:
        """Take the peer out of the group; from then on it is a worker. The leader itself hands over
        and is told whom to ask then (NotLeaderError).

        Raises FailedPreconditionError where the rest would have no quorum, UnavailableError.
        """
        self._check_running()
        async with self._turn:
            self._check_running()
            seats = seats_of(self._raft)
            seat = next((one for one in seats if one.node_id == peer.node_id), None)
            if seat is None or request.raft_id not in (0, seat.raft_id):
                return
            if not can_remove(seats, seat.raft_id):
                raise FailedPreconditionError(
                    "can't remove member from the raft: this would result in a loss of quorum",
                    remedy="Bring the other managers back first, or add one.",
                )
            if seat.node_id == self._me:
                await self._hand_over(None)
            await self._store.update(lambda view: demotion(view, peer.node_id))
            await self._change(REMOVE, member_at(seat))
            log.info("members.left", extra={"node_id": peer.node_id, "raft_id": seat.raft_id})

    def _check_running(self) -> None:
        if not self._is_running:
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
        for member in [one for one in self._raft.members() if one.node_id == node_id]:
            if not is_lost(request, member):
                if member.address != addr:
                    await self._change(SET_ADDRESS, replace(member, address=addr))
                return member.raft_id
            await self._drop(member)
        return await self._add(node_id, addr)

    async def _drop(self, member: Member) -> None:
        """Remove a member whose data are lost. Its row forgets its place first: if nothing comes
        after this, the node is one on its way in, not one that was lost."""
        if any(seat.answers for seat in seats_of(self._raft) if seat.raft_id == member.raft_id):
            raise UnavailableError(
                f"Node {member.node_id} says its data are lost, but it answers as a manager still.",
                remedy="Does a second daemon use a copy of its data directory? Stop that one, then "
                "try again.",
            )
        await self._store.update(lambda view: displacement(view, NodeID(member.node_id)))
        await self._change(REMOVE, member)
        fields = {"node_id": member.node_id, "raft_id": member.raft_id}
        log.warning("members.replaced", extra=fields)

    async def _add(self, node_id: NodeID, addr: str) -> RaftID:
        taken = {member.raft_id for member in self._raft.members()}
        for left in reversed(range(RAFT_ID_TRIES)):
            raft_id = RaftID(1 + int.from_bytes(self._env.entropy(8), "big") % UINT63_MAX)
            if raft_id in taken:
                continue
            member = Member(raft_id=raft_id, node_id=node_id, address=addr, is_voter=False)
            try:
                await self._change(ADD_LEARNER, member)
            except FailedPreconditionError:  # the id belonged to a member that was removed
                if not left:
                    raise
            else:
                fields = {"node_id": node_id, "raft_id": raft_id, "addr": addr}
                log.info("members.joined", extra=fields)
                return raft_id
        raise UnavailableError("No free raft id was found.", remedy="Try again in a moment.")

    # Deciding and doing ---------------------------------------------------------------------------
    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            is_new = event.table is Cluster and event.old is None
            if is_new or (event.table is Node and _facts(event.old) != _facts(event.new)):
                self._changed.set()

    async def _wait(self) -> None:
        """For something new, for the next try, or for a change of the group that others made."""
        while not self._changed.is_set():
            wait_s = RETRY_S if self._plan.is_rest() else self._retry_s
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            if not self._plan.is_rest() or self._raft.members() != self._group:
                break
        self._retry_s = RETRY_MIN_S if self._changed.is_set() else min(2 * self._retry_s, RETRY_S)
        self._changed.clear()

    async def _round(self, group: asyncio.TaskGroup) -> None:
        """Do what can be done now; what it changes leads to the next round at once."""
        self._group = self._raft.members()
        todo = self._plan = plan(self._store.view(), seats_of(self._raft), self._me)
        self._tell(todo.waits)
        try:
            if todo.rows:
                await self._store.batch(todo.rows)
                for row in todo.rows:
                    _tell_of(row, self._store.view())
                self._changed.set()
            elif todo.step is not None:
                await self._take(todo.step)
                self._changed.set()
        except NotLeaderError:
            return  # the end of leadership is on its way; the next leader goes on
        except (DiskFullError, UnavailableError, FailedPreconditionError) as problem:
            self._heir += 1
            if problem.message != self._problem:  # once: it is tried again and again
                log.warning("members.not_changed", extra={"cause": problem.message})
            self._problem = problem.message
        else:
            self._problem = ""
        self._tardy = {one.raft_id: None for one in todo.learners if one.raft_id in self._tardy}
        for seat in todo.learners:
            if seat.raft_id not in self._promoting:
                self._promoting[seat.raft_id] = None
                group.create_task(self._promote(seat), name=f"promotion of {seat.node_id}")

    async def _take(self, step: Step) -> None:
        seat = step.seat
        fields = {"node_id": seat.node_id, "raft_id": seat.raft_id, "reason": step.reason}
        if not step.heirs:
            await self._change(REMOVE, member_at(seat))
            log.info("members.removed", extra=fields)
            return
        heir = step.heirs[self._heir % len(step.heirs)]
        log.info("members.handing_over", extra={**fields, "heir": heir})
        await self._hand_over(heir)

    async def _hand_over(self, heir: RaftID | None) -> None:
        """Always raises: NotLeaderError once another member leads, UnavailableError where none
        does."""
        await self._raft.transfer(heir)
        leader = self._raft.health().leader
        managers = tuple(
            member.address for member in self._raft.members() if member.raft_id == leader
        )
        raise NotLeaderError(
            "This manager has handed leadership over.",
            remedy="Ask the manager that leads.",
            managers=managers,
        )

    async def _promote(self, seat: Seat) -> None:
        """Until the learner is a voter, or this try has failed."""
        fields = {"node_id": seat.node_id, "raft_id": seat.raft_id}
        try:
            await self._change(PROMOTE, member_at(seat))
        except SwarmError as problem:
            if seat.raft_id not in self._tardy:
                log.info("members.not_promoted", extra={**fields, "cause": problem.message})
            self._tardy[seat.raft_id] = None
        else:
            log.info("members.promoted", extra=fields)
            self._tardy.pop(seat.raft_id, None)
        finally:
            self._promoting.pop(seat.raft_id, None)

    async def _change(self, verb: str, member: Member) -> None:
        await self._raft.change_members(MemberChange(verb=verb, member=member))
        self._changed.set()
        self._on_change()

    def _tell(self, waits: tuple[str, ...]) -> None:
        if waits and waits != self._told:
            log.warning("members.waiting", extra={"reasons": waits})
        self._told = waits


def _facts(row: object) -> object:
    """What of a node's row this component goes by."""
    if not isinstance(row, Node):
        return None
    return row.spec.role, row.spec.availability, row.role, row.manager


def _tell_of(row: Update, view: View) -> None:
    """Leave a trace of a role that changed."""
    node = row.obj
    assert isinstance(node, Node)
    written = view.nodes.get(node.id)
    if written is not None and written.role == node.role and written.manager == node.manager:
        log.info("members.role", extra={"node_id": node.id, "role": node.role})
