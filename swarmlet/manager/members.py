"""Who belongs to the Raft group, and which nodes are managers (behaviour of SwarmKit's role
manager).

`reconcile.roles` decides; here it is done, one change of the group at a time, and tried again,
every 5 s in the end, while something is left to do.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from swarmlet.core.errors import (
    DiskFullError,
    FailedPreconditionError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.manager.group import Group
from swarmlet.manager.member_requests import member_at
from swarmlet.model.change import Event, Update
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import Node
from swarmlet.model.view import View
from swarmlet.raft.membership import PROMOTE, REMOVE
from swarmlet.reconcile.roles import Plan, Seat, Step, plan
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

RETRY_MIN_S: Final = 0.25  # while something is left to do: a new leader has to hear the others,
RETRY_S: Final = 5.0  # doubling up to this; SwarmKit manager/role_manager.go


class Members:
    """Component of the leader; `me` is its node."""

    name: Final = "members"

    def __init__(self, store: Store, group: Group, me: NodeID) -> None:
        self._store, self._group, self._me = store, group, me
        self._clear()

    def _clear(self) -> None:
        self._promoting: dict[RaftID, None] = {}
        self._tardy: dict[RaftID, None] = {}  # learners whose first promotion has failed
        self._problem = ""  # of the last round
        self._plan = Plan()
        self._seen: tuple[Member, ...] = ()  # when it was last decided
        self._retry_s = RETRY_MIN_S
        self._told: tuple[str, ...] = ()
        self._heir = 0  # which of a step's heirs is tried next

    async def run(self) -> None:
        """Until cancelled."""
        self._clear()
        unsubscribe = self._store.subscribe(self._on_events)
        try:
            async with asyncio.TaskGroup() as group:
                self._group.is_led = True
                self._group.changed.set()
                while True:
                    await self._wait()
                    async with self._group.turn:
                        await self._round(group)
        finally:
            self._group.is_led = False
            unsubscribe()

    def is_at_rest(self) -> bool:
        """Whether rows and members agree with what is wanted."""
        return self._plan.is_rest() and not self._group.changed.is_set()

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            is_new = event.table is Cluster and event.old is None
            if is_new or (event.table is Node and _facts(event.old) != _facts(event.new)):
                self._group.changed.set()

    async def _wait(self) -> None:
        """For something new, for the next try, or for a change of the group that others made."""
        while not self._group.changed.is_set():
            wait_s = RETRY_S if self._plan.is_rest() else self._retry_s
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._group.changed.wait()
            if not self._plan.is_rest() or self._group.members() != self._seen:
                break
        self._retry_s = (
            RETRY_MIN_S if self._group.changed.is_set() else min(2 * self._retry_s, RETRY_S)
        )
        self._group.changed.clear()

    async def _round(self, group: asyncio.TaskGroup) -> None:
        """Do what can be done now; what it changes leads to the next round at once."""
        self._seen = self._group.members()
        todo = self._plan = plan(self._store.view(), self._group.seats(), self._me)
        self._tell(todo.waits)
        try:
            if todo.rows:
                await self._store.batch(todo.rows)
                for row in todo.rows:
                    _tell_of(row, self._store.view())
                self._group.changed.set()
            elif todo.step is not None:
                await self._take(todo.step)
                self._group.changed.set()
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
            await self._group.change(REMOVE, member_at(seat))
            log.info("members.removed", extra=fields)
            return
        heir = step.heirs[self._heir % len(step.heirs)]
        log.info("members.handing_over", extra={**fields, "heir": heir})
        await self._group.hand_over(heir)

    async def _promote(self, seat: Seat) -> None:
        """Until the learner is a voter, or this try has failed."""
        fields = {"node_id": seat.node_id, "raft_id": seat.raft_id}
        try:
            await self._group.change(PROMOTE, member_at(seat))
        except SwarmError as problem:
            if seat.raft_id not in self._tardy:
                log.info("members.not_promoted", extra={**fields, "cause": problem.message})
            self._tardy[seat.raft_id] = None
        else:
            log.info("members.promoted", extra=fields)
            self._tardy.pop(seat.raft_id, None)
        finally:
            self._promoting.pop(seat.raft_id, None)

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
