"""A drain: what becomes of each task, and what is left."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarmlet.api.render.common import rfc3339
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.node import Node
from swarmlet.model.task import STATE_NAMES
from swarmlet.model.view import View

if TYPE_CHECKING:
    from swarmlet.reconcile.drain import Left, Move


class DrainSpec(ApiStruct, frozen=True, kw_only=True):
    """What is asked for. `deadline_ns`: from now; 0 for none."""

    deadline_ns: int = 0


class MoveJson(ApiStruct, frozen=True, kw_only=True):
    """`way` is start-first, stop-first, stop or finish; `to` null where there is no place for a
    replacement now, which `problem` says, or none is made."""

    task_id: str
    service_id: str
    service_name: str
    slot: int
    way: str
    reason: str = always("")
    node_id: str | None = always(None)
    hostname: str = always("")
    problem: str = always("")


class LeftJson(ApiStruct, frozen=True, kw_only=True):
    task_id: str
    service_id: str
    service_name: str
    slot: int
    state: str
    waits_for: str
    is_stuck: bool = always(False)


class MovesJson(ApiStruct, frozen=True, kw_only=True):
    node_id: str
    moves: list[MoveJson] = always([])


class DrainJson(ApiStruct, frozen=True, kw_only=True):
    """`began_at` is null where no drain with a plan is under way, `deadline` where it has none."""

    node_id: str
    hostname: str = always("")
    availability: str
    is_empty: bool = always(False)
    began_at: str | None = always(None)
    deadline: str | None = always(None)
    left: list[LeftJson] = always([])


def render_moves(view: View, node: Node, moves: Sequence["Move"]) -> MovesJson:
    return MovesJson(node_id=node.id, moves=[_move(view, move) for move in moves])


def _move(view: View, move: "Move") -> MoveJson:
    to = view.nodes.get(move.to) if move.to else None
    return MoveJson(
        task_id=move.task_id,
        service_id=move.service_id,
        service_name=move.service_name,
        slot=move.slot,
        way=move.way,
        reason=move.reason,
        node_id=move.to or None,
        hostname="" if to is None else to.description.hostname,
        problem=move.problem,
    )


def render_drain(node: Node, left: Sequence["Left"]) -> DrainJson:
    plan = node.drain
    return DrainJson(
        node_id=node.id,
        hostname=node.description.hostname,
        availability=node.spec.availability,
        is_empty=not left,
        began_at=None if plan is None else rfc3339(plan.began_ms),
        deadline=None if plan is None or not plan.deadline_ms else rfc3339(plan.deadline_ms),
        left=[
            LeftJson(
                task_id=one.task_id,
                service_id=one.service_id,
                service_name=one.service_name,
                slot=one.slot,
                state=STATE_NAMES[one.state],
                waits_for=one.waits_for,
                is_stuck=one.is_stuck,
            )
            for one in left
        ],
    )
