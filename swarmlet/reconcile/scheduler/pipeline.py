"""A group's turn to be placed, and the reason where its tasks fit nowhere.

Order of nodes for a task, best first: SwarmKit's comparator made total:

    (failures of the group there in five minutes if >= 5 else 0, tasks of the service, all, id)

A service knows the few nodes that host it or failed it. Every other node has the key
(0, 0, all, id), whichever the service: those come from the class's shared pool, one task each,
before the known ones, which are kept in a small heap by their full key. A turn costs
O((tasks + hosts) log nodes).
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.reconcile.scheduler.filters import Filter, explain, failing
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.ledger import Ledger
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.spread import Path, path_of, share_out

Placed: TypeAlias = tuple[TaskID, NodeID]

_Entry: TypeAlias = tuple[int, int, int, str]  # (failures, tasks of the service, all tasks, node)


def place(ledger: Ledger, group: Group, task_ids: Sequence[TaskID], now_ms: int) -> list[Placed]:
    """Nodes for the first of `task_ids`, held for them; what is left over fits nowhere."""
    return _Turn(ledger, group, task_ids, now_ms).run()


def fits(ledger: Ledger, group: Group, state: NodeState) -> Filter | None:
    """The first filter that one node fails for a task of this group; None: it fits."""
    failed = failing(state.node, group.needs.fixed)
    if failed is None:
        failed = _lacks(ledger, group, state)
    return failed


def why_not(ledger: Ledger, group: Group) -> str:
    """Why a group that does not fit anywhere does not.

    O(1) for most; O(passing nodes) where ports or max replicas may be the reason beside resources.
    """
    pool = ledger.pools.pool(group.pool_key)
    counts = dict(pool.passing.failed)
    if not group.max_replicas and not group.needs.ports:
        counts[Filter.RESOURCE] = len(pool.passing.leaf)
        return explain(counts, group.needs)
    for node_id in pool.passing.leaf:
        failed = _lacks(ledger, group, ledger.nodes[node_id])
        assert failed is not None, f"a task of {group.key} fits {node_id}, and it was not placed"
        counts[failed] = counts.get(failed, 0) + 1
    return explain(counts, group.needs)


def _lacks(ledger: Ledger, group: Group, state: NodeState) -> Filter | None:
    failed = state.lacks(group.needs)
    if failed is None and group.max_replicas:
        hosts = ledger.hosts_of(group.service_id)
        if hosts.get(state.id, 0) >= group.max_replicas:
            return Filter.MAX_REPLICAS
    return failed


class _Turn:
    """One group's turn. Nodes taken from the shared pool are offered back at its end."""

    def __init__(
        self, ledger: Ledger, group: Group, task_ids: Sequence[TaskID], now_ms: int
    ) -> None:
        self._ledger, self._group, self._ids = ledger, group, task_ids
        self._pool = ledger.pools.pool(group.pool_key)
        self._placed: list[Placed] = []
        self._aside: list[NodeState] = []
        self._known: dict[str, tuple[int, int]] = {}  # node -> (failures, tasks of the service)
        self._heaps: dict[Path, list[_Entry]] = {}  # of known nodes, by leaf
        self._order: dict[Path, list[Path]] = {}  # branch -> its children, emptiest first
        self._branch: dict[Path, int] = {}  # branch -> tasks of the service under it
        self._know(now_ms)

    def run(self) -> list[Placed]:
        self._fill((), len(self._ids))
        for state in self._aside:
            self._pool.offer(state)
        return self._placed

    def _know(self, now_ms: int) -> None:
        ledger, group = self._ledger, self._group
        for node_id, failures in group.faulty_nodes(now_ms):
            self._known[node_id] = (failures, 0)
        for node_id, tasks in ledger.hosts_of(group.service_id).items():
            self._known[node_id] = (self._known.get(node_id, (0, 0))[0], tasks)
        for node_id, (failures, tasks) in self._known.items():
            state = ledger.nodes.get(node_id)
            if state is None:
                continue
            leaf = self._pool.passing.leaf.get(node_id)
            if leaf is not None:
                self._heaps.setdefault(leaf, []).append((failures, tasks, state.total, node_id))
            elif group.spread:
                leaf = path_of(state.node, group.spread)
            for depth in range(len(leaf or ())):
                branch = (leaf or ())[: depth + 1]
                self._branch[branch] = self._branch.get(branch, 0) + tasks
        for heap in self._heaps.values():
            heapify(heap)

    def _fill(self, path: Path, k: int) -> int:
        """Place up to k tasks under a branch, equalising the service's tasks among its children."""
        if len(path) == len(self._group.spread):
            return self._fill_leaf(path, k)
        usable = self._children(path)
        placed = 0
        while placed < k and usable:
            shares = share_out([self._branch.get(c, 0) for c in usable], k - placed)
            full: set[Path] = set()
            for child, share in zip(usable, shares, strict=True):
                got = self._fill(child, share) if share else 0
                self._branch[child] = self._branch.get(child, 0) + got
                placed += got
                if got < share:
                    full.add(child)
            usable = [child for child in usable if child not in full]
        return placed

    def _children(self, path: Path) -> list[Path]:
        """The branches with room, the one with the emptiest node first.

        The order is fixed when first asked: nothing below has changed since the turn began. Were
        ties broken by label, every service of one replica would land under the lowest label.
        """
        if path not in self._order:
            below = (
                (entry, child)
                for child in self._pool.passing.children[path]
                if (entry := self._pool.emptiest(child)) is not None
            )
            self._order[path] = [child for _, child in sorted(below)]
        return self._order[path]

    def _fill_leaf(self, leaf: Path, k: int) -> int:
        before = len(self._placed)
        heap = self._heaps.setdefault(leaf, [])
        self._fill_unknown(leaf, heap, before + k)
        self._fill_known(heap, before + k)
        return len(self._placed) - before

    def _fill_unknown(self, leaf: Path, heap: list[_Entry], end: int) -> None:
        while len(self._placed) < end:
            state = self._pool.take(leaf)
            if state is None:
                return
            self._aside.append(state)
            if state.id in self._known:
                continue
            self._give(state.id)
            self._known[state.id] = (0, 1)
            heappush(heap, (0, 1, state.total, state.id))

    def _fill_known(self, heap: list[_Entry], end: int) -> None:
        nodes, needs, limit = self._ledger.nodes, self._group.needs, self._group.max_replicas
        while heap and len(self._placed) < end:
            failures, tasks, total, node_id = heap[0]
            if nodes[node_id].lacks(needs) is not None or (limit and tasks >= limit):
                heappop(heap)
                continue
            self._give(node_id)
            heapreplace(heap, (failures, tasks + 1, total + 1, node_id))

    def _give(self, node_id: str) -> None:
        task_id = self._ids[len(self._placed)]
        self._ledger.hold(task_id, node_id, self._group)
        self._placed.append((task_id, NodeID(node_id)))
