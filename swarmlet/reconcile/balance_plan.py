"""What rebalancing would do if it were asked for now: for people who want to know before. The doing
is the decider's, by the same judgement."""

from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.rebalance import OFF, Rebalance
from swarmlet.model.service import Service
from swarmlet.model.view import View, cluster_of, spec_of
from swarmlet.reconcile.balance import Move, Verdict, cost_of, rule_for, verdict_on
from swarmlet.reconcile.balance_books import Books
from swarmlet.reconcile.base import Steps

MOVES_MAX: Final = 1_000  # that are worked out
SLICE_TASKS: Final = 1_000
SLICE_NODES: Final = 5_000
_FORBIDDEN: Final = Rebalance(mode=OFF)


class PlannedMove(msgspec.Struct, frozen=True, kw_only=True):
    """`way`: start-first or stop-first; `reason`: what becomes more even; `hindrance`: why it is
    not made, or not yet, "" where it is."""

    task_id: TaskID
    service_id: ServiceID
    service_name: str
    slot: int
    source: NodeID
    target: NodeID
    way: str
    reason: str
    hindrance: str = ""


def planned_moves(view: View, now_ms: int) -> Steps[tuple[PlannedMove, ...]]:
    """Every move, in the order in which they would be made, then the first of each service that is
    hindered. O(nodes and tasks of the swarm), then a placement a move."""
    books = Books(view)
    while not books.fill(view, SLICE_TASKS):
        yield
    services = sorted(
        view.services.all(), key=lambda one: books.group_of(one, spec_of(view, one)).sort_key
    )
    made: list[PlannedMove] = []
    hindered: dict[str, PlannedMove] = {}
    goes_on = True
    while goes_on:
        before = len(made)
        looked_at = 0
        for service in services:
            looked_at += cost_of(books, books.group_of(service, spec_of(view, service)))
            if looked_at >= SLICE_NODES:
                looked_at = 0
                yield
            found = _verdict(view, books, service, now_ms)
            if found.move is None:
                hindered.pop(service.id, None)
            elif found.hindrance:
                hindered[service.id] = _planned(service, found.move, found.hindrance)
            elif len(made) < MOVES_MAX:
                made.append(_planned(service, found.move))
                books.plan(found.move.task, found.move.target.id)
                hindered.pop(service.id, None)
        goes_on = before < len(made) < MOVES_MAX
        yield
    return (*made, *_in_order(hindered))


def _in_order(hindered: dict[str, PlannedMove]) -> Iterator[PlannedMove]:
    yield from sorted(hindered.values(), key=lambda one: (one.service_name, one.service_id))


def _verdict(view: View, books: Books, service: Service, now_ms: int) -> Verdict:
    spec = spec_of(view, service)
    rule = rule_for(spec, cluster_of(view), is_asked=True)
    found = verdict_on(view, books, service, rule or _FORBIDDEN, now_ms)
    if rule is None and found.move is not None:
        return Verdict(found.move, "the service is not to be rebalanced (off)")
    return found


def _planned(service: Service, move: Move, hindrance: str = "") -> PlannedMove:
    return PlannedMove(
        task_id=move.task.id,
        service_id=service.id,
        service_name=service.name,
        slot=move.task.slot,
        source=move.source.id,
        target=move.target.id,
        way=move.way,
        reason=move.reason,
        hindrance=hindrance,
    )
