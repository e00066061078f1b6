"""Placement preferences: a service's tasks spread evenly over the values of a label, then the next.

Water filling: each level raises the branches with the fewest tasks of the service until all stand
equal. What is there already is never moved. SwarmKit's result (manager/scheduler/scheduler.go,
scheduleNTasksOnSubtree) in one pass.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from swarmlet.model.constraint import value_of
from swarmlet.model.node import Node
from swarmlet.model.service import PlacementPreference

Spread: TypeAlias = tuple[str, ...]
"""The labels to spread over, first level first, such as ("node.labels.zone",)."""

Path: TypeAlias = tuple[str, ...]
"""A branch of the tree: the values of the first labels. () is the root."""

_LABELS: Final = ("node.labels.", "engine.labels.")


def spread_of(preferences: Sequence[PlacementPreference]) -> Spread:
    """The labels of the preferences that name one; others are ignored, as SwarmKit does."""
    keys = [p.spread.spread_descriptor.strip() for p in preferences if p.spread is not None]
    return tuple(key for key in keys if key.lower().startswith(_LABELS))


def path_of(node: Node, spread: Spread) -> Path:
    """The leaf a node hangs on; a label it lacks is the value ""."""
    return tuple(value_of(key, node) or "" for key in spread)


def share_out(counts: Sequence[int], k: int) -> list[int]:
    """How many of k to add to each so that the lowest are raised evenly; ties in list order."""
    order = sorted(range(len(counts)), key=counts.__getitem__)
    level, raised = 0, 0
    for i in order:
        if raised and level + k <= counts[i] * raised:
            break
        level += counts[i]
        raised += 1
    base, extra = divmod(level + k, raised)
    shares = [0] * len(counts)
    for rank, i in enumerate(sorted(order[:raised])):
        shares[i] = base - counts[i] + (rank < extra)
    return shares
