"""Nodes as the scheduler counts them, and pools of them sorted for tasks with equal needs.

A pool's heaps are optimistic: an entry may promise too much (a lower total, room that is gone),
never too little. So a placement touches no heap but its own and a popped entry is put right on the
spot; only what loosens a node (a task gone, the node changed) is offered to every pool.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, TypeAlias

from swarmlet.model.node import Node
from swarmlet.reconcile.scheduler.filters import Filter, Fixed, Needs, counts_of, failing
from swarmlet.reconcile.scheduler.spread import Path, Spread, path_of

POOLS_MAX: Final = 64  # the last used; each has an entry a node

PoolKey: TypeAlias = tuple[Needs, Spread]


class NodeState:
    """A node's free resources and its active tasks. Free amounts may fall below zero: a node can
    shrink, and tasks bound to it hold what they hold."""

    __slots__ = ("cpu_nano", "generic", "id", "memory_b", "node", "ports", "total")

    def __init__(self, node: Node) -> None:
        self.id, self.node, self.total = node.id, node, 0
        resources = node.description.resources
        self.cpu_nano, self.memory_b = resources.nano_cpus, resources.memory_bytes
        self.generic = counts_of(resources.generic_resources)
        self.ports: dict[tuple[str, int], int] = {}  # how many tasks hold each

    def change(self, node: Node) -> None:
        """Take over the node's new row; what tasks hold stays held."""
        old, new = self.node.description.resources, node.description.resources
        self.node = node
        self.cpu_nano += new.nano_cpus - old.nano_cpus
        self.memory_b += new.memory_bytes - old.memory_bytes
        for kind, count in counts_of(old.generic_resources).items():
            self.generic[kind] = self.generic.get(kind, 0) - count
        for kind, count in counts_of(new.generic_resources).items():
            self.generic[kind] = self.generic.get(kind, 0) + count

    def hold(self, needs: Needs, sign: int = 1) -> None:
        """Take what a task needs; with `sign` -1, give it back."""
        self.cpu_nano -= sign * needs.cpu_nano
        self.memory_b -= sign * needs.memory_b
        for kind, count in needs.generic:
            self.generic[kind] = self.generic.get(kind, 0) - sign * count
        for port in needs.ports:
            self.ports[port] = self.ports.get(port, 0) + sign
            if not self.ports[port]:
                del self.ports[port]

    def lacks(self, needs: Needs) -> Filter | None:
        """The first filter the node fails for want of room; None: the task fits."""
        # What is not reserved is not asked for: 0 fits also where too much is reserved already.
        if needs.cpu_nano and self.cpu_nano < needs.cpu_nano:
            return Filter.RESOURCE
        if needs.memory_b and self.memory_b < needs.memory_b:
            return Filter.RESOURCE
        for kind, count in needs.generic:
            if self.generic.get(kind, 0) < count:
                return Filter.RESOURCE
        for port in needs.ports:
            if port in self.ports:
                return Filter.HOST_PORT
        return None


class Passing:
    """The nodes that pass the fixed filters, and the leaf of the spread tree each hangs on.

    Shared by all pools that differ only in what changes with placements: the fixed filters run once
    per class and node change. `failed` says how many nodes each filter keeps out.
    """

    def __init__(self, fixed: Fixed, spread: Spread, nodes: Mapping[str, NodeState]) -> None:
        self.fixed, self.spread, self.nodes = fixed, spread, nodes
        self.leaf: dict[str, Path] = {}
        self.children: dict[Path, dict[Path, None]] = {(): {}} if spread else {}
        self.failed: dict[Filter, int] = {}
        self._failing: dict[str, Filter] = {}
        for node_id in nodes:
            self.recheck(node_id)

    def recheck(self, node_id: str) -> None:
        """Look again at a node that came, changed or went."""
        self.leaf.pop(node_id, None)
        before = self._failing.pop(node_id, None)
        if before is not None:
            self.failed[before] -= 1
        state = self.nodes.get(node_id)
        if state is None:
            return
        failed = failing(state.node, self.fixed)
        if failed is not None:
            self._failing[node_id] = failed
            self.failed[failed] = self.failed.get(failed, 0) + 1
            return
        leaf = self.leaf[node_id] = path_of(state.node, self.spread)
        for depth in range(len(leaf)):
            self.children.setdefault(leaf[:depth], {})[leaf[: depth + 1]] = None


class Pool:
    """The passing nodes that had room when last looked at; per leaf a heap by (total, id)."""

    def __init__(self, passing: Passing, needs: Needs) -> None:
        self.passing, self.needs = passing, needs
        self._listed: dict[str, int] = {}  # node -> the one total at which its entry counts
        self._heaps: dict[Path, list[tuple[int, str]]] = {}
        for node_id, leaf in passing.leaf.items():
            total = self._listed[node_id] = passing.nodes[node_id].total
            self._heaps.setdefault(leaf, []).append((total, node_id))
        for heap in self._heaps.values():
            heapify(heap)

    def recheck(self, node_id: str) -> None:
        """The node came, changed or went; `passing` knows already."""
        self._listed.pop(node_id, None)
        if node_id in self.passing.leaf:
            self.offer(self.passing.nodes[node_id])

    def offer(self, state: NodeState) -> None:
        """The node may be better than its entry says."""
        leaf = self.passing.leaf.get(state.id)
        if leaf is not None and self._listed.get(state.id, state.total + 1) > state.total:
            self._listed[state.id] = state.total
            heappush(self._heaps.setdefault(leaf, []), (state.total, state.id))

    def has_room(self, state: NodeState) -> bool:
        """Whether a task of this class could go there now."""
        return state.id in self.passing.leaf and state.lacks(self.needs) is None

    def head(self, leaf: Path) -> NodeState | None:
        """The first node of a leaf with room; what stands before it by mistake is put right."""
        heap, listed, leaves = self._heaps.get(leaf, []), self._listed, self.passing.leaf
        while heap:
            total, node_id = heap[0]
            if listed.get(node_id) != total or leaves[node_id] != leaf:
                heappop(heap)  # an outdated entry: the node is listed elsewhere, or not at all
                continue
            state = self.passing.nodes[node_id]
            if state.lacks(self.needs) is not None:
                heappop(heap)  # no room: out until something is freed there
                del listed[node_id]
            elif state.total > total:
                heapreplace(heap, (state.total, node_id))  # promised too much
                listed[node_id] = state.total
            else:
                return state
        return None

    def take(self, leaf: Path) -> NodeState | None:
        """The first node of a leaf with room, out of the pool until it is offered again."""
        state = self.head(leaf)
        if state is not None:
            heappop(self._heaps[leaf])
            del self._listed[state.id]
        return state

    def emptiest(self, path: Path) -> tuple[int, str] | None:
        """(total, id) of the emptiest node with room under a branch; None: there is none."""
        if path in self.passing.children:
            below = (self.emptiest(child) for child in self.passing.children[path])
            return min((entry for entry in below if entry is not None), default=None)
        state = self.head(path)
        return None if state is None else (state.total, state.id)


class Pools:
    """The last POOLS_MAX pools used, and what they share."""

    def __init__(self, nodes: Mapping[str, NodeState]) -> None:
        self._nodes = nodes
        self._pools: OrderedDict[PoolKey, Pool] = OrderedDict()
        self._passing: dict[tuple[Fixed, Spread], Passing] = {}

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def __len__(self) -> int:
        return len(self._pools)

    def peek(self, key: PoolKey) -> Pool | None:
        """A pool if it is there, without counting as a use."""
        return self._pools.get(key)

    def pool(self, key: PoolKey) -> Pool:
        """The pool of a class, built if need be in O(nodes)."""
        pool = self._pools.get(key)
        if pool is None:
            needs, spread = key
            passing = self._passing.get((needs.fixed, spread))
            if passing is None:
                passing = Passing(needs.fixed, spread, self._nodes)
                self._passing[needs.fixed, spread] = passing
            pool = self._pools[key] = Pool(passing, needs)
            self._evict()
        self._pools.move_to_end(key)
        return pool

    def recheck(self, node_id: str) -> None:
        """A node came, changed or went."""
        for passing in self._passing.values():
            passing.recheck(node_id)
        for pool in self._pools.values():
            pool.recheck(node_id)

    def offer(self, state: NodeState) -> None:
        """Something was freed on a node."""
        for pool in self._pools.values():
            pool.offer(state)

    def _evict(self) -> None:
        if len(self._pools) <= POOLS_MAX:
            return
        (needs, spread), _ = self._pools.popitem(last=False)
        shared = (needs.fixed, spread)
        if all((key[0].fixed, key[1]) != shared for key in self._pools):
            del self._passing[shared]
