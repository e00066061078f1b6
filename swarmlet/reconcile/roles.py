"""Which nodes are managers, and which of them are members of the Raft group: what a leader does
next so that both agree with what users want (behaviour of SwarmKit's role manager). Pure.

| a node wants to be | its row says | it is a member | then |
|---|---|---|---|
| manager | worker | - | its row says manager: it renews its certificate, then asks to join |
| manager | manager | no, and never was | it is on its way in |
| manager | manager | no more | it is lost: its row says worker, and that it wants to be one |
| manager | manager | as a learner | it is promoted once it has caught up |
| worker | manager | yes | it is removed where the rest keeps a quorum; a leader hands over first |
| worker | manager | no | its row says worker |

A member whose node has no row is removed. A leader on a drained node hands over to one that is not.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.ids import RaftID
from swarmlet.model.change import Update
from swarmlet.model.node import ManagerStatus, Node
from swarmlet.model.view import View

MANAGER: Final = "manager"
WORKER: Final = "worker"
DRAIN: Final = "drain"


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the Raft group as its leader sees it. `answers`: it was heard just now."""

    raft_id: RaftID
    node_id: str
    addr: str
    is_voter: bool
    answers: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the group: `seat` is removed; or, where it is the leader's own, leadership goes
    to one of `heirs`, the best first. `reason` is for the log."""

    seat: Seat
    reason: str
    heirs: tuple[RaftID, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now. Rows first, whatever else there is; then one step; learners are promoted
    beside that. `waits`: what is wanted and cannot be now, in words."""

    rows: tuple[Update, ...] = ()
    step: Step | None = None
    learners: tuple[Seat, ...] = ()
    waits: tuple[str, ...] = ()

    def is_rest(self) -> bool:
        return not (self.rows or self.step or self.learners or self.waits)


def plan(view: View, seats: Sequence[Seat], me: str) -> Plan:
    """For the leader, whose node is `me`. Nothing is removed while the store has no cluster yet."""
    if not len(view.clusters):
        return Plan()
    unwanted = _unwanted(view, seats)
    step, waits = _next_step(view, seats, me, unwanted)
    if step is None:
        step = _relief(view, seats, me)
    return Plan(
        rows=_rows(view, seats),
        step=step,
        learners=tuple(seat for seat in seats if not seat.is_voter and seat not in unwanted),
        waits=waits,
    )


def can_remove(seats: Sequence[Seat], raft_id: RaftID) -> bool:
    """Whether the others keep a quorum that answers. A learner never counts."""
    voters = [seat for seat in seats if seat.is_voter]
    rest = [seat for seat in voters if seat.raft_id != raft_id]
    if len(rest) == len(voters):
        return True
    return sum(seat.answers for seat in rest) >= len(rest) // 2 + 1


def _rows(view: View, seats: Sequence[Seat]) -> tuple[Update, ...]:
    """Every row that says something else than it should."""
    seat_of = {seat.node_id: seat for seat in seats}
    settled = [
        (node, _settled(node, seat_of.get(node.id)))
        for node in sorted(view.nodes.all(), key=lambda node: node.id)
    ]
    return tuple(Update(obj=new, seen=old.version) for old, new in settled if new != old)


def _settled(node: Node, seat: Seat | None) -> Node:
    place = None if seat is None else ManagerStatus(raft_id=seat.raft_id, addr=seat.addr)
    if node.spec.role == MANAGER:
        is_lost = seat is None and node.role == MANAGER and node.manager is not None
        if not is_lost:
            return replace(node, role=MANAGER, manager=place)
        return replace(node, spec=replace(node.spec, role=WORKER), role=WORKER, manager=None)
    return replace(node, role=WORKER if seat is None else node.role, manager=place)


def _unwanted(view: View, seats: Sequence[Seat]) -> tuple[Seat, ...]:
    """Members that shall be none; those that do not answer first, for the rest is better off
    without them."""
    found = []
    for seat in seats:
        node = view.nodes.get(seat.node_id)
        if node is None or node.spec.role != MANAGER:
            found.append(seat)
    return tuple(sorted(found, key=lambda seat: (seat.answers, seat.raft_id)))


def _next_step(
    view: View, seats: Sequence[Seat], me: str, unwanted: Sequence[Seat]
) -> tuple[Step | None, tuple[str, ...]]:
    """Others before the leader, who cannot go before another leads."""
    waits = []
    for seat in sorted(unwanted, key=lambda seat: seat.node_id == me):
        if not can_remove(seats, seat.raft_id):
            waits.append(f"without {seat.node_id} the managers would have no quorum")
            continue
        reason = "demoted" if view.nodes.get(seat.node_id) is not None else "no such node"
        if seat.node_id != me:
            return Step(seat=seat, reason=reason), ()
        heirs = _heirs(view, seats, me)
        if heirs:
            return Step(seat=seat, reason=reason, heirs=heirs), ()
        waits.append("no other manager could lead")
    return None, tuple(waits)


def _relief(view: View, seats: Sequence[Seat], me: str) -> Step | None:
    """The leader's node is drained: somebody else leads, where there is one who is not."""
    own = view.nodes.get(me)
    if own is None or own.spec.availability != DRAIN:
        return None
    fit = tuple(one for one in _heirs(view, seats, me) if _is_fit(view, seats, one))
    seat = next((seat for seat in seats if seat.node_id == me), None)
    return Step(seat=seat, reason="drained", heirs=fit) if seat is not None and fit else None


def _heirs(view: View, seats: Sequence[Seat], me: str) -> tuple[RaftID, ...]:
    """Who may lead instead: voters that answer, those first that shall stay and are not
    drained."""
    others = (seat for seat in seats if seat.is_voter and seat.answers and seat.node_id != me)
    ids = [seat.raft_id for seat in others]
    return tuple(sorted(ids, key=lambda raft_id: (not _is_fit(view, seats, raft_id), raft_id)))


def _is_fit(view: View, seats: Sequence[Seat], raft_id: RaftID) -> bool:
    seat = next(seat for seat in seats if seat.raft_id == raft_id)
    node = view.nodes.get(seat.node_id)
    return node is not None and node.spec.role == MANAGER and node.spec.availability != DRAIN
