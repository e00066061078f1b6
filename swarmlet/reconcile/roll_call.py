"""The roll call: the liveness of all nodes together. Many that are lost at once, how fast they
count as down then, and whose turn is next.

Everything is decided from the statuses (which are in the store) and the time: a `RollCall` made
from the statuses that another one has written goes on as that one would have. All times are ms of
one clock that does not jump while it is used; a new leader `begin`s with its own, and `shift`
carries what waits over to a clock that was set.
"""

import heapq
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from swarmlet.core.ids import NodeID
from swarmlet.core.limits import MS_PER_S
from swarmlet.model.node import NodeState, NodeStatus
from swarmlet.reconcile.liveness import (
    LOST_DOWN_AFTER_MS,
    MANY_HELD_MS,
    Fact,
    Lost,
    after,
    alarm_ms,
    awaited,
    down,
    held,
    is_loss,
    losses,
    shifted,
    with_loss,
)

MANY_MIN: Final = 3  # nodes, and more than one in
MANY_SHARE: Final = 3  # of those that are not down, lost
MANY_WINDOW_MS: Final = 10_000  # in this time: their replacement is held
DOWN_PER_S_MIN: Final = 2  # of those that were held, each second, or
DOWN_SHARE: Final = 100  # one in so many of all, whichever is more
_STALE_MAX: Final = 1_000  # alarms that are none any more, before they are swept
_COUNTING: Final = (NodeState.UNKNOWN, NodeState.DISCONNECTED)
_GONE: Final = (NodeState.DISCONNECTED, NodeState.DOWN)

Changes: TypeAlias = dict[NodeID, NodeStatus]


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What time alone brings: new statuses, and nodes down for so long that their tasks are
    orphans."""

    changes: Changes
    orphaned: tuple[NodeID, ...] = ()


class RollCall:
    """All nodes' statuses as they should be, and when to look at which of them again.

    A fact costs O(log nodes), but for the one that makes them many: that holds each that was lost
    just before. Nothing looks at all nodes but `begin` and `shift`.
    """

    def __init__(self, statuses: Mapping[NodeID, NodeStatus], now_ms: int) -> None:
        self._fill(statuses, now_ms)

    def _fill(self, statuses: Mapping[NodeID, NodeStatus], now_ms: int) -> None:
        self._statuses: Changes = {}
        self._alarms: list[tuple[int, NodeID]] = []  # one that is none any more is skipped
        self._alarm_of: dict[NodeID, int] = {}
        self._lost: dict[NodeID, int] = {}  # in the last ten seconds, oldest first
        self._let_go: dict[NodeID, int] = {}
        self._lost_and_down = self._alive = 0
        for node_id, status in sorted(statuses.items()):
            self.put(node_id, status)
        lost = [
            (status.lost_ms[-1], node_id)
            for node_id, status in statuses.items()
            if status.lost_ms and status.state in _GONE
        ]
        for at_ms, node_id in sorted(lost):
            if now_ms - MANY_WINDOW_MS < at_ms <= now_ms:
                self._note_loss(node_id, at_ms)
        self._fill_held([one for one in statuses.items() if one[1].held_until_ms], now_ms)

    def _fill_held(self, held_ones: list[tuple[NodeID, NodeStatus]], now_ms: int) -> None:
        self._waiting: list[tuple[int, NodeID]] = []  # held ones whose time is over
        went = [
            (one.since_ms, node_id) for node_id, one in held_ones if one.state == NodeState.DOWN
        ]
        recent = sorted(one for one in went if now_ms - MS_PER_S < one[0] <= now_ms)
        # the last of them that came to count as down, and are: when, oldest first
        self._let_go = {node_id: at_ms for at_ms, node_id in recent}
        until_ms = [one.held_until_ms for _, one in held_ones if one.state in _COUNTING]
        self._hold_until_ms = max(until_ms, default=0)

    def __len__(self) -> int:
        return len(self._statuses)

    def get(self, node_id: NodeID) -> NodeStatus | None:
        """Its status as it should be; None for a node that is none."""
        return self._statuses.get(node_id)

    def put(self, node_id: NodeID, status: NodeStatus) -> None:
        """The node is there, and this is its status."""
        self._leave(node_id)
        self._statuses[node_id] = status
        self._alive += status.state != NodeState.DOWN
        if status.state != NodeState.DOWN:
            self._let_go.pop(node_id, None)
        if node_id in self._lost:
            self._lost_and_down += status.state == NodeState.DOWN
            if status.state not in _GONE:
                self._forget_loss(node_id)
        at_ms = alarm_ms(status)
        if at_ms is not None:
            self._set_alarm(node_id, at_ms)

    def share(self, node_id: NodeID, status: NodeStatus) -> None:
        """Where this is the node's status, keep this very object: thousands are kept twice else."""
        if self._statuses.get(node_id) == status:
            self._statuses[node_id] = status

    def drop(self, node_id: NodeID) -> None:
        """The node was removed."""
        self._leave(node_id)
        self._lost.pop(node_id, None)
        self._let_go.pop(node_id, None)
        self._statuses.pop(node_id, None)

    def begin(self, now_ms: int) -> Changes:
        """A new leader: what it makes of what it found. Whoever was READY is UNKNOWN until it
        registers here."""
        nodes = len(self._statuses)
        changes = {
            node_id: turned
            for node_id, status in self._statuses.items()
            if (turned := awaited(status, now_ms, nodes)) != status
        }
        return self._start_over(changes, now_ms)

    def shift(self, by_ms: int, now_ms: int) -> Changes:
        """The clock was set by that much, to `now_ms`: what waits waits as long as it would
        have."""
        waiting = {node_id for _, node_id in self._waiting if node_id in self._statuses}
        moved = {
            node_id: shifted(self._statuses[node_id], by_ms)
            for node_id in sorted(waiting | self._alarm_of.keys())
        }
        return self._start_over(moved, now_ms)

    def put_off(self, now_ms: int) -> Changes:
        """Nobody could be heard for a while, because this process stood still: who would count as
        down now has a moment to be heard."""
        until_ms = now_ms + LOST_DOWN_AFTER_MS
        soon = [*self._ripe(until_ms - 1), *(node_id for _, node_id in self._waiting)]
        changes: Changes = {}
        for node_id in soon:
            status = self._statuses.get(node_id)
            if status is not None and status.state in _COUNTING:
                status = changes[node_id] = replace(status, down_at_ms=until_ms)
            if status is not None:
                self.put(node_id, status)
        return changes

    def take(self, node_id: NodeID, fact: Fact, now_ms: int) -> Changes:
        """What a fact changes: the node, and where many are lost now those lost just before."""
        status = self._statuses.get(node_id)
        if status is None:
            return {}
        changes = {node_id: after(status, fact, now_ms)}
        if isinstance(fact, Lost) and status.state != NodeState.DOWN:
            self._put_all(changes)
            self._note_loss(node_id, now_ms)
            if now_ms < self._hold_until_ms:
                return self._put_all({node_id: self._held(changes[node_id], now_ms)})
            return changes | self._hold_all(now_ms)
        return self._put_all({one: new for one, new in changes.items() if new != status})

    def due(self, now_ms: int) -> Due:
        """What time alone has brought by now."""
        ripe = self._ripe(now_ms)
        silent = [one for one in ripe if self._statuses[one].state == NodeState.UNKNOWN]
        for node_id in silent:
            self.put(node_id, with_loss(self._statuses[node_id], now_ms))
            self._note_loss(node_id, now_ms)
        changes = self._hold_all(now_ms) if silent else {}
        for node_id in ripe:
            status = self._statuses[node_id]
            if status.state in _COUNTING and node_id not in changes:
                changes |= self._give_up(node_id, status, now_ms)
            elif status.state == NodeState.READY:
                changes[node_id] = replace(status, message="", lost_ms=losses(status, now_ms))
        changes |= self._let_some_go(now_ms)
        orphaned = tuple(one for one in ripe if self._statuses[one].state == NodeState.DOWN)
        return Due(changes=self._put_all(changes), orphaned=orphaned)

    def next_ms(self) -> int | None:
        """When to ask what is due again; None: not before something is heard."""
        while self._alarms and self._alarm_of.get(self._alarms[0][1]) != self._alarms[0][0]:
            heapq.heappop(self._alarms)
        next_ms = self._alarms[0][0] if self._alarms else None
        self._drop_stale()
        if self._waiting:
            first_ms = next(iter(self._let_go.values()), None)
            turn_ms = self._waiting[0][0] if first_ms is None else first_ms + MS_PER_S
            next_ms = turn_ms if next_ms is None else min(next_ms, turn_ms)
        return next_ms

    @property
    def hold_until_ms(self) -> int:
        """Until when replacement is, or was last, held."""
        return self._hold_until_ms

    def count_lost(self) -> int:
        """How many were lost in the last seconds."""
        return len(self._lost)

    # Inside

    def _start_over(self, changes: Changes, now_ms: int) -> Changes:
        self._fill(self._statuses | changes, now_ms)
        return changes

    def _put_all(self, changes: Changes) -> Changes:
        for node_id, status in changes.items():
            self.put(node_id, status)
        return changes

    def _leave(self, node_id: NodeID) -> None:
        status = self._statuses.get(node_id)
        if status is not None:
            is_down = status.state == NodeState.DOWN
            self._alive -= not is_down
            self._lost_and_down -= is_down and node_id in self._lost
        self._alarm_of.pop(node_id, None)

    def _set_alarm(self, node_id: NodeID, at_ms: int) -> None:
        self._alarm_of[node_id] = at_ms
        heapq.heappush(self._alarms, (at_ms, node_id))
        if len(self._alarms) > 2 * len(self._alarm_of) + _STALE_MAX:
            self._alarms = [(at_ms, node_id) for node_id, at_ms in self._alarm_of.items()]
            heapq.heapify(self._alarms)

    def _ripe(self, now_ms: int) -> list[NodeID]:
        """Whose time is over, in the order of that; they have no alarm until they are put."""
        ripe: list[NodeID] = []
        while self._alarms and self._alarms[0][0] <= now_ms:
            at_ms, node_id = heapq.heappop(self._alarms)
            if self._alarm_of.get(node_id) == at_ms:
                del self._alarm_of[node_id]
                ripe.append(node_id)
        return ripe

    def _note_loss(self, node_id: NodeID, now_ms: int) -> None:
        self._forget_loss(node_id)
        self._lost[node_id] = now_ms
        self._lost_and_down += self._statuses[node_id].state == NodeState.DOWN
        while self._lost:
            first = next(iter(self._lost))
            if self._lost[first] > now_ms - MANY_WINDOW_MS:
                return
            self._forget_loss(first)

    def _forget_loss(self, node_id: NodeID) -> None:
        if self._lost.pop(node_id, None) is not None:
            status = self._statuses.get(node_id)
            self._lost_and_down -= status is not None and status.state == NodeState.DOWN

    def _give_up(self, node_id: NodeID, status: NodeStatus, now_ms: int) -> Changes:
        """Nobody waits for it any more; if it was held, its turn comes."""
        if status.held_until_ms:
            heapq.heappush(self._waiting, (status.down_at_ms, node_id))
            return {}
        if now_ms < self._hold_until_ms and is_loss(status):
            return {node_id: self._held(status, now_ms)}
        return {node_id: down(status, now_ms)}

    def _hold_all(self, now_ms: int) -> Changes:
        """Where many are lost now: all of them that are not held yet, until then."""
        total = self._alive + self._lost_and_down
        if now_ms >= self._hold_until_ms:
            if len(self._lost) < MANY_MIN or MANY_SHARE * len(self._lost) <= total:
                return {}
            self._hold_until_ms = now_ms + MANY_HELD_MS
        free = [(one, self._statuses[one]) for one in self._lost]
        return self._put_all(
            {
                node_id: self._held(status, now_ms)
                for node_id, status in free
                if status.state in _COUNTING and not status.held_until_ms
            }
        )

    def _held(self, status: NodeStatus, now_ms: int) -> NodeStatus:
        lost, total = len(self._lost), self._alive + self._lost_and_down
        return held(status, self._hold_until_ms, lost, total, now_ms)

    def _let_some_go(self, now_ms: int) -> Changes:
        """Held ones whose time is over, as many as may count as down now."""
        for node_id, at_ms in list(self._let_go.items()):
            if at_ms <= now_ms - MS_PER_S:
                del self._let_go[node_id]
        per_s = max(DOWN_PER_S_MIN, len(self._statuses) // DOWN_SHARE)
        changes: Changes = {}
        self._drop_stale()
        while self._waiting and len(self._let_go) < per_s:
            _, node_id = heapq.heappop(self._waiting)
            changes[node_id] = down(self._statuses[node_id], now_ms)
            self._let_go[node_id] = now_ms
            self._drop_stale(changes)
        return changes

    def _drop_stale(self, changes: Iterable[NodeID] = ()) -> None:
        """Those in front of the held ones that came back, or wait for something else now."""
        while self._waiting:
            at_ms, node_id = self._waiting[0]
            status = self._statuses.get(node_id)
            if (
                status is not None
                and node_id not in changes
                and status.state == NodeState.DISCONNECTED
                and status.held_until_ms
                and status.down_at_ms == at_ms
            ):
                return
            heapq.heappop(self._waiting)
