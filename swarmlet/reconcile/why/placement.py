"""Which filters keep a task off the nodes, and the node that lacks least.

`pipeline.fits` decides, as it does for the scheduler; `shortages` says in detail what it found.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from swarmlet.model.node import Node
from swarmlet.model.view import View
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.scheduler.filters import Filter, Needs, explain
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.pipeline import fits
from swarmlet.reconcile.scheduler.room import Room
from swarmlet.reconcile.scheduler.shortages import Shortage, fixed_shortages, shortages
from swarmlet.reconcile.why.answers import (
    FilterCount,
    Lack,
    Nearest,
    Placement,
    Reason,
    Verdict,
)
from swarmlet.reconcile.why.lacks import AS_ASKED, count_words, lack_words, remedy_for
from swarmlet.reconcile.why.words import name_of

SLICE_NODES: Final = 250
"""Nodes asked before others have a turn."""

LOOKED_AT_MAX: Final = 20
"""Of the nodes that only their own rows keep out, so many are counted to find the nearest."""

_EASE: Final = (
    Filter.RESOURCE,
    Filter.HOST_PORT,
    Filter.MAX_REPLICAS,
    Filter.AFFINITY,
    Filter.CONSTRAINT,
    Filter.READY,
    Filter.PLUGIN,
    Filter.PLATFORM,
    Filter.LIMIT,
    Filter.RUNTIME,
)
"""From what is helped most easily to what is hardest: the nearest node lacks the easy things."""

_Rank = tuple[int, int, Fraction, str]
_Found = tuple[NodeState, list[Shortage]]


def placement(view: View, room: Room, group: Group) -> Steps[Placement]:
    """Every node asked about a task of this group."""
    nodes = sorted(view.nodes.all(), key=lambda node: node.id)
    for node in nodes:
        room.know(node)
    if group.max_replicas:
        yield from room.count_service(group.service_id)
    for term in group.affinity.must:
        for service in view.services.scan("name", term.service):
            yield from room.count_service(service.id)
    counts: dict[tuple[Filter, str], int] = {}
    near: list[_Found] = []  # those with a shortage that the node's own row does not explain
    far: list[_Found] = []
    fitting = 0
    for number, node in enumerate(nodes, 1):
        if number % SLICE_NODES == 0:
            yield
        fixed = list(fixed_shortages(node, group.needs.fixed))
        state = room.know(node)
        if not fixed and _asks_for_room(group.needs):
            yield from room.count_node(node)
        failed = fits(room.ledger, group, state)
        if failed is None:
            fitting += 1
            continue
        found = fixed or shortages(room.ledger, group, state)
        (far if fixed else near).append((state, found))
        key = failed, found[0].what
        counts[key] = counts.get(key, 0) + 1
    nearest = None if fitting else (yield from _nearest(room, group, near, far))
    return Placement(
        nodes=len(nodes),
        fitting=fitting,
        counts=_sorted_counts(counts),
        nearest=nearest,
        scheduler=explain(_by_filter(counts), group.needs),
    )


def _asks_for_room(needs: Needs) -> bool:
    return bool(needs.cpu_nano or needs.memory_b or needs.generic or needs.ports)


def _by_filter(counts: dict[tuple[Filter, str], int]) -> dict[Filter, int]:
    found: dict[Filter, int] = {}
    for (failed, _), nodes in counts.items():
        found[failed] = found.get(failed, 0) + nodes
    return found


def _sorted_counts(counts: dict[tuple[Filter, str], int]) -> tuple[FilterCount, ...]:
    order = sorted(counts, key=lambda key: (-counts[key], key))
    return tuple(
        FilterCount(filter=word(failed), what=what, nodes=counts[failed, what])
        for failed, what in order
    )


def word(failed: Filter) -> str:
    """host-port of HOST_PORT."""
    return failed.name.lower().replace("_", "-")


def _nearest(
    room: Room, group: Group, near: list[_Found], far: list[_Found]
) -> Steps[Nearest | None]:
    """Of the nodes that lack nothing but room the one that lacks least, else of the others."""
    if not near:
        for state, _ in sorted(far, key=_rank)[:LOOKED_AT_MAX]:
            yield from room.count_node(state.node)
            near.append((state, shortages(room.ledger, group, state)))
    if not near:
        return None
    state, found = min(near, key=_rank)
    return nearest_of(state.node, found)


def _rank(found: _Found) -> _Rank:
    """Few shortages, easy ones, small ones, then the id."""
    state, lacks = found
    hardest = max(_EASE.index(one.filter) for one in lacks)
    return len(lacks), hardest, sum((_share(one) for one in lacks), Fraction(0)), state.id


def _share(lack: Shortage) -> Fraction:
    """How much is short, of what is wanted; of what is no amount, what people did is less."""
    if lack.wanted:
        return Fraction(lack.missing, lack.wanted)
    return Fraction(lack.filter is Filter.READY and lack.what not in AS_ASKED)


def nearest_of(node: Node, found: Sequence[Shortage]) -> Nearest:
    lacks = tuple(
        Lack(filter=word(one.filter), what=one.what, missing=one.missing, wanted=one.wanted)
        for one in found
    )
    return Nearest(node_id=node.id, hostname=name_of(node), lacks=lacks)


def why_unplaced(found: Placement, service_name: str, since_ms: int) -> Reason:
    """The reason of a task that no node takes."""
    sentence = "No node can take it"
    if not found.nodes:
        sentence = "The swarm has no node"
    elif found.counts:
        sentence += ": " + ", ".join(count_words(count) for count in found.counts)
    if found.nearest is not None and found.nodes > 1:
        sentence += f"; nearest: {found.nearest.hostname}, which {lack_words(found.nearest)}"
    elif found.nearest is not None:
        sentence = f"The only node, {found.nearest.hostname}, {lack_words(found.nearest)}"
    return Reason(
        code="no-suitable-node",
        sentence=sentence + ".",
        remedy="" if found.nearest is None else remedy_for(found.nearest, service_name),
        since_ms=since_ms,
        error=found.scheduler,
        verdict=Verdict.UNPLACED,
        placement=found,
    )


def why_not_on(node: Node, found: Sequence[Shortage], group: Group, service_name: str) -> Reason:
    """The reason of a task that came with its node and does not fit there."""
    nearest = nearest_of(node, found)
    first = found[0]
    counts = {(first.filter, first.what): 1}
    only = Placement(
        nodes=1,
        fitting=0,
        counts=_sorted_counts(counts),
        nearest=nearest,
        scheduler=explain(_by_filter(counts), group.needs),
    )
    return Reason(
        code="no-suitable-node",
        sentence=f"It belongs on {nearest.hostname}, which {lack_words(nearest)}.",
        remedy=remedy_for(nearest, service_name),
        node_id=node.id,
        error=only.scheduler,
        verdict=Verdict.UNPLACED,
        placement=only,
    )
