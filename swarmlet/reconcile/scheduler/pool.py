"""Pools: nodes sorted for tasks with equal needs.

A pool's heaps are optimistic: an entry may promise too much (a lower rank, room that is gone),
never too little. So a placement touches no heap but its own and a popped entry is put right on the
spot; only what makes a node better (a task gone, the node changed; for packing, a task come) is
offered to the pools it is better for.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, NamedTuple, TypeAlias, TypeVar

from swarmlet.reconcile.scheduler.filters import Filter, Fixed, Needs, failing
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.spread import Path, Spread, path_of

POOLS_MAX: Final = 64  # the last used; each has an entry a node

OUTDATED_MAX: Final = 64
"""Entries a heap may have beyond twice its nodes before the outdated ones are cleared out."""

_T = TypeVar("_T", bound=tuple[object, ...])
_Entry: TypeAlias = tuple[int, str]  # (rank, node), best first


class PoolKey(NamedTuple):
    """All that makes two groups sort the nodes alike. `is_packed`: fullest node first."""

    needs: Needs
    spread: Spread
    is_packed: bool


class Passing:
    """The nodes that pass the fixed filters, and the leaf of the spread tree each hangs on.

    Shared by all pools that differ only in what changes with placements: the fixed filters run once
    per class and node change. `failed` says how many nodes each filter keeps out.
    """

    def __init__(self, fixed: Fixed, spread: Spread, nodes: Mapping[str, NodeState]) -> None:
        self.fixed, self.spread, self.nodes = fixed, spread, nodes
        self.leaf: dict[str, Path] = {}
        self.sizes: dict[Path, int] = {}  # nodes on each leaf
        self.failed: dict[Filter, int] = {}
        self._failing: dict[str, Filter] = {}
        for node_id in nodes:
            self.recheck(node_id)

    def recheck(self, node_id: str) -> None:
        """Look again at a node that came, changed or went."""
        leaf = self.leaf.pop(node_id, None)
        if leaf is not None:
            self.sizes[leaf] -= 1
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
        self.sizes[leaf] = self.sizes.get(leaf, 0) + 1


class Pool:
    """The passing nodes that had room when last looked at: per leaf a heap by (rank, id), per
    branch a heap of its children by the best node under each."""

    def __init__(self, passing: Passing, needs: Needs, *, is_packed: bool = False) -> None:
        self.passing, self.needs = passing, needs
        self._is_packed = is_packed
        self._listed: dict[str, int] = {}  # node -> the one rank at which its entry counts
        self._heaps: dict[Path, list[_Entry]] = {}
        self._best: dict[Path, _Entry] = {}  # branch -> the one entry at which it counts
        self._branches: dict[Path, list[tuple[_Entry, Path]]] = {}
        for node_id, leaf in passing.leaf.items():
            rank = self._listed[node_id] = self.rank(passing.nodes[node_id])
            self._heaps.setdefault(leaf, []).append((rank, node_id))
        for leaf, heap in self._heaps.items():
            heapify(heap)
            self._lift(leaf, heap[0])

    def __len__(self) -> int:
        """Entries of all heaps, outdated ones too."""
        nodes = sum(len(heap) for heap in self._heaps.values())
        return nodes + sum(len(heap) for heap in self._branches.values())

    def rank(self, state: NodeState) -> int:
        """The lower the better: the emptiest node, or the fullest where tasks are packed."""
        return state.rank_packed() if self._is_packed else state.total

    def recheck(self, node_id: str) -> None:
        """The node came, changed or went; `passing` knows already."""
        self._listed.pop(node_id, None)
        if node_id in self.passing.leaf:
            self.offer(self.passing.nodes[node_id])

    def offer(self, state: NodeState) -> None:
        """The node may be better than its entry says."""
        leaf = self.passing.leaf.get(state.id)
        if leaf is None:
            return
        rank = self.rank(state)
        if self._listed.get(state.id, rank + 1) > rank:
            self._listed[state.id] = rank
            heap = self._heaps.setdefault(leaf, [])
            heappush(heap, (rank, state.id))
            if len(heap) > 2 * self.passing.sizes[leaf] + OUTDATED_MAX:
                leaves = self.passing.leaf
                _clear(heap, lambda e: self._listed.get(e[1]) == e[0] and leaves[e[1]] == leaf)
            if leaf:
                self._lift(leaf, (rank, state.id))

    def has_room(self, state: NodeState) -> bool:
        """Whether a task of this class could go there now."""
        return state.id in self.passing.leaf and state.lacks(self.needs) is None

    def head(self, leaf: Path) -> NodeState | None:
        """The first node of a leaf with room; what stands before it by mistake is put right."""
        heap, listed, leaves = self._heaps.get(leaf, []), self._listed, self.passing.leaf
        while heap:
            entry = heap[0]
            listed_rank, node_id = entry
            if listed.get(node_id) != listed_rank or leaves[node_id] != leaf:
                heappop(heap)  # an outdated entry: the node is listed elsewhere, or not at all
                continue
            state = self.passing.nodes[node_id]
            rank = self.rank(state) if self._is_packed else state.total
            if state.lacks(self.needs) is not None:
                heappop(heap)  # no room: out until something is freed there
                del listed[node_id]
            elif rank > listed_rank:
                heapreplace(heap, (rank, node_id))  # promised too much
                listed[node_id] = rank
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

    def best(self, path: Path) -> _Entry | None:
        """(rank, id) of the best node with room under a branch; None: there is none."""
        if len(path) == len(self.passing.spread):
            state = self.head(path)
            return None if state is None else (self._listed[state.id], state.id)
        heap = self._branches.get(path, [])
        while heap:
            entry, child = heap[0]
            if self._best.get(child) != entry:
                heappop(heap)  # outdated
                continue
            now = self.best(child)
            if now == entry:
                return entry
            if now is None:
                heappop(heap)  # no room: out until a node below is offered
                del self._best[child]
            else:
                heapreplace(heap, (now, child))  # promised too much
                self._best[child] = now
        return None

    def take_branch(self, path: Path) -> Path | None:
        """The child with the best node, out of the pool until it is given back."""
        if self.best(path) is None:
            return None
        _, child = heappop(self._branches[path])
        del self._best[child]
        return child

    def give_back(self, branch: Path) -> None:
        """A branch that was taken; those below it first."""
        best = self.best(branch)
        if best is not None:
            self._lift(branch, best)

    def _lift(self, path: Path, entry: _Entry) -> None:
        """There is a node this good under `path`: so there is under all branches above."""
        while path:
            known = self._best.get(path)
            if known is not None and known <= entry:
                return
            self._best[path] = entry
            parent = path[:-1]
            heap = self._branches.setdefault(parent, [])
            heappush(heap, (entry, path))
            if len(heap) > 2 * len(self.passing.sizes) + OUTDATED_MAX:
                _clear(heap, lambda e: self._best.get(e[1]) == e[0])
            path = parent


def _clear(heap: list[_T], is_in_force: Callable[[_T], bool]) -> None:
    """Outdated entries leave when they come to the top; those that never do, leave here."""
    heap[:] = dict.fromkeys(filter(is_in_force, heap))
    heapify(heap)


class Pools:
    """The last POOLS_MAX pools used, and what they share."""

    def __init__(self, nodes: Mapping[str, NodeState]) -> None:
        self._nodes = nodes
        self._pools: OrderedDict[PoolKey, Pool] = OrderedDict()
        self._passing: dict[tuple[Fixed, Spread], Passing] = {}
        self._packed: dict[PoolKey, Pool] = {}

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def __len__(self) -> int:
        return len(self._pools)

    @property
    def has_packed(self) -> bool:
        """Whether tasks are packed anywhere."""
        return bool(self._packed)

    def peek(self, key: PoolKey) -> Pool | None:
        """A pool if it is there, without counting as a use."""
        return self._pools.get(key)

    def pool(self, key: PoolKey) -> Pool:
        """The pool of a class, built if need be in O(nodes)."""
        pool = self._pools.get(key)
        if pool is None:
            shared = (key.needs.fixed, key.spread)
            passing = self._passing.get(shared)
            if passing is None:
                passing = self._passing[shared] = Passing(*shared, self._nodes)
            pool = self._pools[key] = Pool(passing, key.needs, is_packed=key.is_packed)
            if key.is_packed:
                self._packed[key] = pool
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

    def offer_fuller(self, state: NodeState) -> None:
        """Something was placed on a node: where tasks are packed, that makes it better."""
        for pool in self._packed.values():
            pool.offer(state)

    def _evict(self) -> None:
        if len(self._pools) <= POOLS_MAX:
            return
        key, _ = self._pools.popitem(last=False)
        self._packed.pop(key, None)
        shared = (key.needs.fixed, key.spread)
        if all((other.needs.fixed, other.spread) != shared for other in self._pools):
            del self._passing[shared]
