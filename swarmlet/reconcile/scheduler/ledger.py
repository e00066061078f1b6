"""What every task holds, counted on its node.

Level-triggered: `count` makes what is counted for a task equal to what it should hold, and does
nothing where it is equal already. So the echo of the scheduler's own Assign is no special case, and
a refused one is put right by counting the row again.
"""

from collections.abc import Collection, Iterable
from typing import TypeAlias

import msgspec

from swarmlet.model.node import Node
from swarmlet.model.service import GenericResource
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.pool import Pools

Gain: TypeAlias = tuple[str, str]
"""(service's name in lower case, node id): a service came to a node."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A task's hold on a node. `is_active`: still wanted; tasks that only have to stop hold their
    resources and ports but count neither for their service nor for the node. `given`: the generic
    resources that are its own."""

    node_id: str
    group: Group
    is_active: bool
    given: tuple[GenericResource, ...] = ()


def claim_of_row(task: Task, group: Group) -> Claim | None:
    """What a task's row says that it holds; None: nothing."""
    if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return None
    is_active = task.desired <= TaskState.COMPLETE
    return Claim(task.node_id, group, is_active, task.generic_resources)


class Ledger:
    """Nodes, claims, and how many active tasks each service has on each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeState] = {}
        self.pools = Pools(self.nodes)
        self._claims: dict[str, Claim] = {}
        self._hosts: dict[str, dict[str, int]] = {}
        self._named: dict[str, dict[str, None]] = {}  # name -> ids of services with active tasks
        self._gained: dict[Gain, None] = {}

    def hosts_of(self, service_id: str) -> dict[str, int]:
        """Node id -> active tasks of the service there."""
        return self._hosts.get(service_id, {})

    def hosts_named(self, name: str) -> list[dict[str, int]]:
        """`hosts_of` by the service's name in lower case; two while one's tasks still end whose
        service was removed and made anew."""
        return [self._hosts[service_id] for service_id in self._named.get(name, ())]

    def gained(self) -> Collection[Gain]:
        """The services that came to a node they were not on, since this was last asked."""
        if not self._gained:
            return ()
        gains, self._gained = self._gained, {}
        return gains

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
            self.offer_fuller((claim.node_id,))
        else:
            del self._claims[task_id]
        if before is None:
            return None
        self._add(before, -1)
        loosened = self.nodes.get(before.node_id)
        if loosened is not None:
            self.pools.offer(loosened)
        return loosened

    def hold(self, task_id: str, state: NodeState, group: Group) -> None:
        """Count a task that is being placed; `count` with its row confirms or undoes it."""
        given = state.claim(group.needs)
        claim = self._claims[task_id] = Claim(state.id, group, True, given)
        self._add(claim, 1)

    def offer_fuller(self, node_ids: Iterable[str]) -> None:
        """Tasks came to these nodes."""
        if self.pools.has_packed:
            for node_id in dict.fromkeys(node_ids):
                self.pools.offer_fuller(self.nodes[node_id])

    def _add(self, claim: Claim, sign: int) -> None:
        state = self.nodes.get(claim.node_id)
        if state is not None:
            state.hold(claim.group.needs, sign)
            state.total += sign * claim.is_active
            if claim.given:
                state.hold_names(claim.given, sign)
        if not claim.is_active:
            return
        group, node_id = claim.group, claim.node_id
        hosts = self._hosts.get(group.service_id)
        if hosts is None:
            hosts = self._hosts[group.service_id] = {}
            self._named.setdefault(group.service_name, {})[group.service_id] = None
        if node_id not in hosts:
            self._gained[group.service_name, node_id] = None
        hosts[node_id] = hosts.get(node_id, 0) + sign
        if not hosts[node_id]:
            del hosts[node_id]
            if not hosts:
                self._forget(group)

    def _forget(self, group: Group) -> None:
        del self._hosts[group.service_id]
        named = self._named[group.service_name]
        del named[group.service_id]
        if not named:
            del self._named[group.service_name]
