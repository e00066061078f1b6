"""A group's turn to be placed, and the reason where its tasks fit nowhere.

Order of nodes for a task, best first: SwarmKit's comparator made total:

    (failures of the group there in five minutes if >= 5 else 0, tasks of the service, all, id)

A service knows the few nodes that host it or failed it. Every other node has the key
(0, 0, all, id), whichever the service: those come from the class's shared pool, one task each,
before the known ones, which are kept in a small heap by their full key. A turn costs
O((tasks + hosts) log nodes).

With affinities or packing the order is

    (failures as above, preferences that do not hold, tasks of the service, all, id)
    (failures as above, preferences that do not hold, 0, fullness, id)   packed

and the nodes that host a service that is named are known too; known and unknown are merged.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, TypeAlias

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.reconcile.scheduler.affinity import Term
from swarmlet.reconcile.scheduler.filters import Filter, explain, failing
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.ledger import Ledger
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.spread import Path, path_of, share_out

Placed: TypeAlias = tuple[TaskID, NodeID]

_Entry: TypeAlias = tuple[int, int, int, int, str]
"""(failures, preferences unmet, tasks of the service or 0, rank, node)."""

_NOBODY: Final[dict[str, int]] = {}


def place(ledger: Ledger, group: Group, task_ids: Sequence[TaskID], now_ms: int) -> list[Placed]:
    """Nodes for the first of `task_ids`, held for them; what is left over fits nowhere."""
    turn = _RankedTurn if group.is_packed or any(group.affinity) else _Turn
    return turn(ledger, group, task_ids, now_ms).run()


def fits(ledger: Ledger, group: Group, state: NodeState) -> Filter | None:
    """The first filter that one node fails for a task of this group; None: it fits."""
    failed = failing(state.node, group.needs.fixed)
    if failed is None:
        failed = _lacks(ledger, group, state)
    return failed


def why_not(ledger: Ledger, group: Group) -> str:
    """Why a group that does not fit anywhere does not.

    O(1) for most; O(passing nodes) where more than resources may be the reason.
    """
    pool = ledger.pools.pool(group.pool_key)
    counts = dict(pool.passing.failed)
    if not group.max_replicas and not group.needs.ports and not group.affinity.must:
        counts[Filter.RESOURCE] = len(pool.passing.leaf)
        return explain(counts, group.needs)
    for node_id in pool.passing.leaf:
        failed = _lacks(ledger, group, ledger.nodes[node_id])
        assert failed is not None, f"a task of {group.key} fits {node_id}, and it was not placed"
        counts[failed] = counts.get(failed, 0) + 1
    return explain(counts, group.needs)


def unmet(ledger: Ledger, terms: Sequence[Term], node_id: str) -> list[Term]:
    """The terms that do not hold on a node."""
    return [
        term
        for term in terms
        if any(node_id in hosts for hosts in ledger.hosts_named(term.service)) != term.is_near
    ]


def _lacks(ledger: Ledger, group: Group, state: NodeState) -> Filter | None:
    failed = state.lacks(group.needs)
    if failed is None and group.affinity.must and unmet(ledger, group.affinity.must, state.id):
        return Filter.AFFINITY
    if failed is None and group.max_replicas:
        hosts = ledger.hosts_of(group.service_id)
        if hosts.get(state.id, 0) >= group.max_replicas:
            return Filter.MAX_REPLICAS
    return failed


class _Turn:
    """One group's turn. What was taken from the shared pool is given back at its end."""

    def __init__(
        self, ledger: Ledger, group: Group, task_ids: Sequence[TaskID], now_ms: int
    ) -> None:
        self._ledger, self._group, self._ids = ledger, group, task_ids
        self._pool = ledger.pools.pool(group.pool_key)
        self._placed: list[Placed] = []
        self._aside: list[NodeState] = []
        self._known: dict[str, int] = {}  # node -> tasks of the service
        self._failures = dict(group.faulty_nodes(now_ms))
        self._on: dict[Path, list[str]] = {}  # leaf -> known nodes
        self._heaps: dict[Path, list[_Entry]] = {}  # of known nodes, by leaf
        self._unseen: dict[Path, int] = {}  # leaf -> nodes there that are not known
        self._order: dict[Path, list[Path]] = {}  # branch -> its children, the best node's first
        self._taken: list[Path] = []  # branches, those above first
        self._branch: dict[Path, int] = {}  # branch -> tasks of the service under it
        self._know()

    def run(self) -> list[Placed]:
        self._fill((), len(self._ids))
        for state in self._aside:
            self._pool.offer(state)
        for branch in reversed(self._taken):
            self._pool.give_back(branch)
        self._ledger.offer_fuller(node_id for _, node_id in self._placed)
        return self._placed

    def _know(self) -> None:
        hosts = self._ledger.hosts_of(self._group.service_id)
        if not self._failures and not self._group.spread:
            self._know_hosts(hosts)
            return
        self._know_of(dict.fromkeys(self._failures, 0) | hosts)

    def _know_hosts(self, hosts: dict[str, int]) -> None:
        """The same where nothing matters but how many tasks there are: for the many."""
        self._known = dict(hosts)
        nodes, leaves = self._ledger.nodes, self._pool.passing.leaf
        heap = [(0, 0, n, nodes[host].total, host) for host, n in hosts.items() if host in leaves]
        heapify(heap)
        self._heaps[()] = heap

    def _know_of(self, known: dict[str, int]) -> None:
        """Their tasks count for their branches wherever they stand; a leaf's heap is made when the
        leaf is filled."""
        self._known = known
        spread, leaves = self._group.spread, self._pool.passing.leaf
        counts: dict[Path, int] = {}
        for node_id, tasks in known.items():
            leaf = leaves.get(node_id)
            if leaf is not None:
                self._on.setdefault(leaf, []).append(node_id)
            else:
                state = self._ledger.nodes.get(node_id)
                if state is None or not spread:
                    continue
                leaf = path_of(state.node, spread)
            counts[leaf] = counts.get(leaf, 0) + tasks
        for leaf, tasks in counts.items():
            for depth in range(len(leaf)):
                branch = leaf[: depth + 1]
                self._branch[branch] = self._branch.get(branch, 0) + tasks

    def _heap_of(self, leaf: Path) -> list[_Entry]:
        heap = self._heaps.get(leaf)
        if heap is None:
            nodes, failures, known = self._ledger.nodes, self._failures, self._known
            entries = (
                self._entry(nodes[node_id], failures.get(node_id, 0), known[node_id])
                for node_id in self._on.get(leaf, ())
            )
            heap = self._heaps[leaf] = [entry for entry in entries if entry is not None]
            heapify(heap)
        return heap

    def _entry(self, state: NodeState, failures: int, tasks: int) -> _Entry | None:
        """A known node's place in the order; None where it may have no task of the group."""
        return (failures, 0, tasks, state.total, state.id)

    def _fill(self, path: Path, k: int) -> int:
        """Place up to k tasks under a branch, equalising the service's tasks among its children."""
        if len(path) == len(self._group.spread):
            return self._fill_leaf(path, k)
        full: set[Path] = set()  # never iterated
        placed = 0
        fresh = self._fresh(path, k)
        if len(fresh) == k:  # then each gets one: the rest need not be looked at
            placed = sum(self._fill_child(child, 1, full) for child in fresh)
        if placed == k:
            return placed
        usable = [child for child in self._children(path) if child not in full]
        while placed < k and usable:
            shares = share_out([self._branch.get(c, 0) for c in usable], k - placed)
            for child, share in zip(usable, shares, strict=True):
                placed += self._fill_child(child, share, full) if share else 0
            usable = [child for child in usable if child not in full]
        return placed

    def _fill_child(self, child: Path, share: int, full: set[Path]) -> int:
        got = self._fill(child, share)
        self._branch[child] = self._branch.get(child, 0) + got
        if got < share:
            full.add(child)
        return got

    def _fresh(self, path: Path, k: int) -> list[Path]:
        """The first branches with room and no task of the service, k at most."""
        fresh: list[Path] = []
        order = self._order.setdefault(path, [])
        at = 0
        while len(fresh) < k and (at < len(order) or self._take_branch(path)):
            if not self._branch.get(order[at], 0):
                fresh.append(order[at])
            at += 1
        return fresh

    def _children(self, path: Path) -> list[Path]:
        """The branches with room, the one with the best node first.

        The order is fixed when first asked: nothing below has changed since the turn began. Were
        ties broken by label, every service of one replica would land under the lowest label.
        """
        while self._take_branch(path):
            pass
        return self._order[path]

    def _take_branch(self, path: Path) -> bool:
        child = self._pool.take_branch(path)
        if child is None:
            return False
        self._order[path].append(child)
        self._taken.append(child)
        return True

    def _fill_leaf(self, leaf: Path, k: int) -> int:
        before = len(self._placed)
        heap = self._heap_of(leaf)
        self._fill_unknown(leaf, heap, before + k)
        self._fill_known(heap, before + k)
        return len(self._placed) - before

    def _fill_unknown(self, leaf: Path, heap: list[_Entry], end: int) -> None:
        unseen = self._unseen.get(leaf)
        if unseen is None:  # the leaf's first turn: its known nodes are all in the heap
            unseen = self._pool.passing.sizes.get(leaf, 0) - len(heap)
        while unseen and len(self._placed) < end:
            state = self._pool.take(leaf)
            if state is None:
                break
            self._aside.append(state)
            if state.id in self._known:
                continue
            unseen -= 1
            self._give(state)
            self._known[state.id] = 1
            heappush(heap, (0, 0, 1, state.total, state.id))
        self._unseen[leaf] = unseen

    def _fill_known(self, heap: list[_Entry], end: int) -> None:
        nodes, needs, limit = self._ledger.nodes, self._group.needs, self._group.max_replicas
        while heap and len(self._placed) < end:
            failures, _, tasks, total, node_id = heap[0]
            state = nodes[node_id]
            if state.lacks(needs) is not None or (limit and tasks >= limit):
                heappop(heap)
                continue
            self._give(state)
            heapreplace(heap, (failures, 0, tasks + 1, total + 1, node_id))

    def _give(self, state: NodeState) -> None:
        task_id = self._ids[len(self._placed)]
        self._ledger.hold(task_id, state, self._group)
        self._placed.append((task_id, NodeID(state.id)))


class _RankedTurn(_Turn):
    """A turn in which a known node may be better than an unknown one: affinities, packing."""

    def _know(self) -> None:
        affinity, name = self._group.affinity, self._group.service_name
        self._must = tuple(term for term in affinity.must if term.service != name)
        self._rather = tuple(term for term in affinity.rather if term.service != name)
        self._own_must = tuple(term for term in affinity.must if term.service == name)
        self._own_rather = tuple(term for term in affinity.rather if term.service == name)
        self._base = sum(term.is_near for term in affinity.rather)  # unmet where nothing runs
        known = dict.fromkeys(self._failures, 0)
        for term in (*self._must, *self._rather):
            for hosts in self._ledger.hosts_named(term.service):
                known.update(dict.fromkeys(hosts, 0))
        self._know_of(known | self._ledger.hosts_of(self._group.service_id))

    def _entry(self, state: NodeState, failures: int, tasks: int) -> _Entry | None:
        limit = self._group.max_replicas
        if (limit and tasks >= limit) or any(t.is_near != (tasks > 0) for t in self._own_must):
            return None
        if unmet(self._ledger, self._must, state.id):
            return None
        unmet_count = len(unmet(self._ledger, self._rather, state.id))
        unmet_count += sum(term.is_near != (tasks > 0) for term in self._own_rather)
        shown = 0 if self._group.is_packed else tasks
        return (failures, unmet_count, shown, self._pool.rank(state), state.id)

    def _fill_leaf(self, leaf: Path, k: int) -> int:
        before = len(self._placed)
        heap = self._heap_of(leaf)
        while len(self._placed) < before + k and self._place_one(leaf, heap):
            pass
        return len(self._placed) - before

    def _place_one(self, leaf: Path, heap: list[_Entry]) -> bool:
        """Place one task on the best node of a leaf; whether there was one."""
        while heap and self._ledger.nodes[heap[0][-1]].lacks(self._group.needs) is not None:
            heappop(heap)
        unknown = self._unknown(leaf)
        if unknown is not None:
            entry = (0, self._base, 0, self._pool.rank(unknown), unknown.id)
            if not heap or entry < heap[0]:
                self._aside.append(unknown)
                self._pool.take(leaf)
                self._give_ranked(unknown, heap)
                return True
        if not heap:
            return False
        self._give_ranked(self._ledger.nodes[heappop(heap)[-1]], heap)
        return True

    def _unknown(self, leaf: Path) -> NodeState | None:
        """The best node nothing is known of; None: none, or such nodes will not do."""
        if any(term.is_near for term in self._group.affinity.must):
            return None
        while (state := self._pool.head(leaf)) is not None and state.id in self._known:
            self._pool.take(leaf)
            self._aside.append(state)
        return state

    def _give_ranked(self, state: NodeState, heap: list[_Entry]) -> None:
        self._give(state)
        tasks = self._known[state.id] = self._known.get(state.id, 0) + 1
        entry = self._entry(state, self._failures.get(state.id, 0), tasks)
        if entry is not None:
            heappush(heap, entry)
