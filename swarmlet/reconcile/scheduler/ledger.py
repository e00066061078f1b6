"""What every task holds, counted on its node.

Level-triggered: `count` makes what is counted for a task equal to what it should hold, and does
nothing where it is equal already. So the echo of the scheduler's own Assign is no special case, and
a refused one is put right by counting the row again.
"""

from typing import NamedTuple

from swarmlet.model.node import Node
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.nodeset import NodeState, Pools


class Claim(NamedTuple):
    """A task's hold on a node. `is_active`: still wanted; tasks that only have to stop hold their
    resources and ports but count neither for their service nor for the node."""

    node_id: str
    group: Group
    is_active: bool


def claim_of_row(task: Task, group: Group) -> Claim | None:
    """What a task's row says that it holds; None: nothing."""
    if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return None
    return Claim(task.node_id, group, task.desired <= TaskState.COMPLETE)


class Ledger:
    """Nodes, claims, and how many active tasks each service has on each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeState] = {}
        self.pools = Pools(self.nodes)
        self._claims: dict[str, Claim] = {}
        self._hosts: dict[str, dict[str, int]] = {}

    def hosts_of(self, service_id: str) -> dict[str, int]:
        """Node id -> active tasks of the service there."""
        return self._hosts.get(service_id, {})

    def claim_of(self, task_id: str) -> Claim | None:
        """What is counted for a task."""
        return self._claims.get(task_id)

    def set_node(self, node_id: str, node: Node | None) -> None:
        """A node came, changed or went (None). The caller counts the tasks of a node that came or
        went again."""
        state = self.nodes.get(node_id)
        if node is None:
            self.nodes.pop(node_id, None)
        elif state is None:
            self.nodes[node_id] = NodeState(node)
        else:
            state.change(node)
        self.pools.recheck(node_id)

    def count(self, task_id: str, claim: Claim | None) -> NodeState | None:
        """Make what is counted for a task equal to `claim`; the node that was loosened, if one was.

        A claim on a node that is not there counts nothing.
        """
        if claim is not None and claim.node_id not in self.nodes:
            claim = None
        before = self._claims.get(task_id)
        if before == claim:
            return None
        if claim is not None:
            self._claims[task_id] = claim
            self._add(claim, 1)
        else:
            del self._claims[task_id]
        if before is None:
            return None
        self._add(before, -1)
        loosened = self.nodes.get(before.node_id)
        if loosened is not None:
            self.pools.offer(loosened)
        return loosened

    def hold(self, task_id: str, node_id: str, group: Group) -> None:
        """Count a task that is being placed; `count` with its row confirms or undoes it."""
        claim = self._claims[task_id] = Claim(node_id, group, True)
        self._add(claim, 1)

    def _add(self, claim: Claim, sign: int) -> None:
        state = self.nodes.get(claim.node_id)
        if state is not None:
            state.hold(claim.group.needs, sign)
            state.total += sign * claim.is_active
        if claim.is_active:
            hosts = self._hosts.setdefault(claim.group.service_id, {})
            hosts[claim.node_id] = hosts.get(claim.node_id, 0) + sign
            if not hosts[claim.node_id]:
                del hosts[claim.node_id]
                if not hosts:
                    del self._hosts[claim.group.service_id]
