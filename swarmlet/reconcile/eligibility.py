"""Which nodes a service of one task a node wants a task on, and what becomes of one that is there.

Only the node's own row is asked, and of the spec the constraints: whether there is room, a runtime
or a free port is the scheduler's question, and the task waits for its answer (SwarmKit's
manager/orchestrator/global).
"""

from collections.abc import Sequence
from enum import Enum, auto

from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import Placement, ServiceSpec
from swarmlet.reconcile.restart import is_node_lost
from swarmlet.reconcile.slots import satisfies


class Standing(Enum):
    """How a node stands to a global service."""

    GONE = auto()  # removed: nothing of it is kept
    OUT = auto()  # drained or down: what is there is to stop
    UNFIT = auto()  # does not satisfy the constraints: the same
    PAUSED = auto()  # what runs stays; nothing is made, updated or restarted
    OPEN = auto()  # has a task


def constraints_of(spec: ServiceSpec) -> Sequence[str]:
    return (spec.task_template.placement or Placement()).constraints


def standing_of(node: Node | None, spec: ServiceSpec) -> Standing:
    """A node that was not heard of, or is disconnected, counts as it did before."""
    if node is None:
        return Standing.GONE
    if is_node_lost(node):
        return Standing.OUT
    if not satisfies(node, constraints_of(spec)):
        return Standing.UNFIT
    return Standing.PAUSED if node.spec.availability == "pause" else Standing.OPEN


def takes_jobs(node: Node, spec: ServiceSpec) -> bool:
    """Whether a global job runs on the node: only where it can begin at once (SwarmKit's
    manager/orchestrator/jobs/global)."""
    is_ready = node.status.state == NodeState.READY
    return is_ready and standing_of(node, spec) is Standing.OPEN


def standing_parts(node: Node | None) -> tuple[object, ...] | None:
    """All of a node's row that its standing hangs on; None: no node."""
    if node is None:
        return None
    return (
        node.status.state == NodeState.DOWN,
        node.spec.availability,
        node.spec.labels,
        node.role,
        node.status.addr,
        node.description.hostname,
        node.description.platform,
        node.description.engine.labels,
    )
