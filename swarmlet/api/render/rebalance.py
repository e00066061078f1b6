"""Rebalancing: which tasks go where, and which do not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarmlet.model.base import ApiStruct, always
from swarmlet.model.view import View

if TYPE_CHECKING:
    from swarmlet.reconcile.balance_plan import PlannedMove


class PlannedMoveJson(ApiStruct, frozen=True, kw_only=True):
    """`way` is start-first or stop-first; `hindrance` says why the move is not made, "" where it
    is."""

    task_id: str
    service_id: str
    service_name: str
    slot: int
    node_id: str
    hostname: str = always("")
    to_node_id: str
    to_hostname: str = always("")
    way: str
    reason: str
    hindrance: str = always("")


class RebalanceJson(ApiStruct, frozen=True, kw_only=True):
    moves: list[PlannedMoveJson] = always([])


def render_rebalance(view: View, moves: Sequence["PlannedMove"]) -> RebalanceJson:
    return RebalanceJson(moves=[_move(view, move) for move in moves])


def _move(view: View, move: "PlannedMove") -> PlannedMoveJson:
    return PlannedMoveJson(
        task_id=move.task_id,
        service_id=move.service_id,
        service_name=move.service_name,
        slot=move.slot,
        node_id=move.source,
        hostname=_hostname(view, move.source),
        to_node_id=move.target,
        to_hostname=_hostname(view, move.target),
        way=move.way,
        reason=move.reason,
        hindrance=move.hindrance,
    )


def _hostname(view: View, node_id: str) -> str:
    node = view.nodes.get(node_id)
    return "" if node is None else node.description.hostname
