"""Why a global service runs where it does: which nodes are meant for it, and what keeps the others
out."""

from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import ServiceSpec
from swarmlet.model.task import Task
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.eligibility import Standing, standing_of
from swarmlet.reconcile.instances import is_bound
from swarmlet.reconcile.restart import ended_ms
from swarmlet.reconcile.why.answers import Reason, Verdict
from swarmlet.reconcile.why.words import counted, listed, name_of, span

SLICE_NODES: Final = 1_000

_KEPT_OUT: Final = {
    "down": "down",
    "drained": "drained",
    "paused": "paused",
    "unfit": "not within the constraints",
}


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """`open_ids`: nodes that are meant for the service; `kept_out`: how many others by the reason
    (a key of _KEPT_OUT)."""

    open_ids: tuple[str, ...]
    kept_out: dict[str, int]


def reach_of(view: View, spec: ServiceSpec) -> Steps[Reach]:
    """In time linear in the nodes."""
    open_ids: list[str] = []
    kept_out: dict[str, int] = {}
    for number, node in enumerate(view.nodes.all(), 1):
        if number % SLICE_NODES == 0:
            yield
        word = _what_keeps_out(node, spec)
        if word:
            kept_out[word] = kept_out.get(word, 0) + 1
        else:
            open_ids.append(node.id)
    return Reach(open_ids=tuple(sorted(open_ids)), kept_out=kept_out)


def _what_keeps_out(node: Node | None, spec: ServiceSpec) -> str:
    """A key of _KEPT_OUT; "" of a node that is meant for the service. None: it is gone."""
    standing = standing_of(node, spec)
    if standing is Standing.OUT:
        assert node is not None
        return "down" if node.status.state == NodeState.DOWN else "drained"
    return {Standing.UNFIT: "unfit", Standing.PAUSED: "paused", Standing.GONE: "gone"}.get(
        standing, ""
    )


def reach_reasons(reach: Reach, wanted: int) -> Iterator[Reason]:
    """What is said of the nodes that are kept out, if any are. `wanted`: tasks that should run."""
    out = [f"{reach.kept_out[key]} {_KEPT_OUT[key]}" for key in _KEPT_OUT if key in reach.kept_out]
    if not wanted:
        total = len(reach.open_ids) + sum(reach.kept_out.values())
        counts = f": {listed(out)}" if out else ""
        yield Reason(
            code="no-node",
            sentence=f"It is global, and none of {counted(total, 'node')} is meant for it{counts}.",
            remedy="`swarmlet node ls`, and the constraints of the service",
            verdict=Verdict.UNPLACED,
        )
    elif out:
        yield Reason(
            code="kept-out",
            sentence=f"It is global, and has no task on nodes that are kept out: {listed(out)}.",
            verdict=Verdict.WELL,
        )


def why_not_there(view: View, task: Task, now_ms: int) -> Reason | None:
    """Of the last task of a global service or job on a node where nothing is wanted: what keeps
    the node out; None where nothing does, or the service is of another mode."""
    service = view.services.get(task.service_id)
    if service is None or not is_bound(spec_of(view, service).mode):
        return None
    node = view.nodes.get(task.node_id)
    word = _what_keeps_out(node, spec_of(view, service))
    if node is None or not word:
        return None
    age = span(now_ms - (ended_ms(task) or task.created_ms))
    return Reason(
        code=f"node-{word}",
        sentence=f"Ended {age} ago; {name_of(node)} is {_KEPT_OUT[word]} and gets no other.",
        since_ms=ended_ms(task),
        node_id=node.id,
        verdict=Verdict.WELL,
    )
