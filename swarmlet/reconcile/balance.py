"""Which move of a task makes a service more even, if one does: what the scheduler would choose for
one more task, compared with where the service's tasks are.

What counts is what placement counts, in the same order: how many of the service's tasks each branch
of its spread preferences has, then each node, then how many tasks of all services a node runs. A
move is worth it where the first of these in which the two nodes differ by more than one becomes
more even, and none before it less. So each move lowers the sums of squares of the counts, compared
in that order, and rebalancing comes to an end.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop
from typing import Final, NamedTuple

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import FAULTY_NODE_FAILURES, FAULTY_NODE_WINDOW_MS
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import Node, NodeState
from swarmlet.model.on_disconnect import NEVER_REPLACE
from swarmlet.model.rebalance import OFF, Rebalance, rebalance_of
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.balance_books import Books
from swarmlet.reconcile.disconnect import rule_of
from swarmlet.reconcile.moving import why_stop_first
from swarmlet.reconcile.restart import policy_of
from swarmlet.reconcile.rollout import end_of
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.pipeline import place
from swarmlet.reconcile.scheduler.spread import Path, path_of
from swarmlet.reconcile.slots import Dirt, is_wanted, replicas_of

STEADY_MS: Final = 30_000
"""How long a node has been ready before a task is moved to it."""
REST_MS: Final = 600_000
"""How long a task that was moved stays where it is."""

START_FIRST: Final = "start-first"
STOP_FIRST: Final = "stop-first"

_STAND_IN: Final = TaskID("one more")
_OVER: Final = ("", "completed", "rollback_completed")


class Move(NamedTuple):
    """A task that is to go to another node. `reason` is what becomes more even; `way`: whether
    another of its slot runs before it stops, or after, for `why_stopped`."""

    task: Task
    source: Node
    target: Node
    reason: str
    way: str = START_FIRST
    why_stopped: str = ""


class Verdict(NamedTuple):
    """`move`: what would make the service more even; `hindrance`: why it is not done, "" where it
    is. `is_passing`: the hindrance ends by itself, at `wake_at_ms` if that is known (0: a change
    will tell)."""

    move: Move | None = None
    hindrance: str = ""
    is_passing: bool = False
    wake_at_ms: int = 0


_EVEN: Final = Verdict()


class _Side(NamedTuple):
    """A node as a move sees it: the spread branches it hangs on, with how many of the service's
    tasks each has; the service's tasks on it, and all tasks."""

    node_id: str
    path: Path
    branches: tuple[int, ...]
    own: int
    total: int


def verdict_on(view: View, books: Books, service: Service, rule: Rebalance, now_ms: int) -> Verdict:
    """The move that makes the service most even, if there is one. Costs one placement, and
    O(nodes that host the service)."""
    spec = spec_of(view, service)
    replicas = replicas_of(spec)
    group = books.group_of(service, spec)
    if not replicas or group.is_packed:
        return _EVEN
    target_id = _target(books, group, now_ms)
    if target_id is None:
        return _faults_pass(group, now_ms)
    crowd = _Crowd(books, group)
    target, nodes = crowd.side(target_id), books.ledger.nodes
    for source in crowd.sources(target):
        tasks = _tasks_on(view, books, service, nodes[source.node_id].node)
        if not tasks:
            continue
        task = max(tasks, key=lambda one: (not _rests(one, now_ms), one.created_ms, one.id))
        why = why_stop_first(view, service, task)
        move = Move(
            task,
            nodes[source.node_id].node,
            nodes[target_id].node,
            crowd.reason(source, target),
            STOP_FIRST if why else START_FIRST,
            why,
        )
        return _judged(view, books, service, rule, (move, spec, replicas), now_ms)
    return _faults_pass(group, now_ms)


def cost_of(books: Books, group: Group) -> int:
    """Of a verdict, in nodes looked at."""
    is_known = books.ledger.pools.peek(group.pool_key) is not None
    return (
        1 + len(books.ledger.hosts_of(group.service_id)) + len(books.ledger.nodes) * (not is_known)
    )


def rule_for(spec: ServiceSpec, cluster: Cluster, *, is_asked: bool) -> Rebalance | None:
    """What a replicated service says of rebalancing; None where it is left alone. `is_asked`: a
    user wants tasks to be moved once, of every service that does not forbid it."""
    if replicas_of(spec) is None:
        return None
    rule = rebalance_of(spec, cluster)
    return rule if rule.is_on or (is_asked and rule.mode != OFF) else None


def _target(books: Books, group: Group, now_ms: int) -> str | None:
    """Where the scheduler would put one more task, unless the group's tasks keep failing there."""
    placed = place(books.ledger, group, [_STAND_IN], now_ms)
    books.ledger.count(_STAND_IN, None)
    if not placed or any(node_id == placed[0][1] for node_id, _ in group.faulty_nodes(now_ms)):
        return None
    return placed[0][1]


def _faults_pass(group: Group, now_ms: int) -> Verdict:
    """Nothing is to be moved, as long as nothing goes where tasks failed lately."""
    ends = [
        sorted(group.failures[node_id])[-FAULTY_NODE_FAILURES] + FAULTY_NODE_WINDOW_MS
        for node_id, _ in group.faulty_nodes(now_ms)
    ]
    return Verdict(wake_at_ms=max(min(ends), now_ms + 1)) if ends else _EVEN


class _Crowd:
    """Where a service's tasks are."""

    def __init__(self, books: Books, group: Group) -> None:
        self._nodes, self._spread = books.ledger.nodes, group.spread
        self._hosts = books.ledger.hosts_of(group.service_id)
        self._counts: dict[Path, int] = {}
        for node_id, tasks in self._hosts.items() if group.spread else ():
            path = self._path(node_id)
            for depth in range(1, len(path) + 1):
                self._counts[path[:depth]] = self._counts.get(path[:depth], 0) + tasks

    def side(self, node_id: str) -> _Side:
        path = self._path(node_id)
        branches = tuple(self._counts.get(path[:depth], 0) for depth in range(1, len(path) + 1))
        own, total = self._hosts.get(node_id, 0), self._nodes[node_id].total
        return _Side(node_id, path, branches, own, total)

    def sources(self, target: _Side) -> Iterator[_Side]:
        """The nodes a move from which to the target is worth it, the most crowded first."""
        found = list(self._crowded(target) if not self._spread else self._astray(target))
        heapify(found)
        while found:
            _, node_id = heappop(found)
            if _may_be_left(self._nodes[node_id].node):
                yield self.side(node_id)

    def _crowded(self, target: _Side) -> Iterator[tuple[tuple[int, ...], str]]:
        """By the least loss; without branches, which is quick."""
        nodes, own_min, total_min = self._nodes, target.own + 1, target.total + 1
        for node_id, own in self._hosts.items():
            if own < own_min:
                continue
            total = nodes[node_id].total
            if (own > own_min or total > total_min) and node_id != target.node_id:
                yield (own_min - own, total_min - total), node_id

    def _astray(self, target: _Side) -> Iterator[tuple[tuple[int, ...], str]]:
        for node_id in self._hosts:
            gains = _gains(self.side(node_id), target)
            if next(filter(None, gains), 0) > 0 and node_id != target.node_id:
                yield tuple(-gain for gain in gains), node_id

    def reason(self, source: _Side, target: _Side) -> str:
        """What becomes more even."""
        gains = _gains(source, target)
        level = next(number for number, gain in enumerate(gains) if gain)
        if level < len(self._spread):
            here, there = source.path[level] or "(none)", target.path[level] or "(none)"
            tasks, fewer = source.branches[level], target.branches[level]
            return f"{tasks} of its tasks have {self._spread[level]} {here}, {fewer} {there}"
        here, there = (name_of(self._nodes[one.node_id].node) for one in (source, target))
        if level == len(self._spread):
            return f"{source.own} of its tasks run on {here}, {target.own} on {there}"
        return f"{here} runs {source.total} tasks of all services, {there} {target.total}"

    def _path(self, node_id: str) -> Path:
        return path_of(self._nodes[node_id].node, self._spread) if self._spread else ()


def _gains(source: _Side, target: _Side) -> tuple[int, ...]:
    """By how much a move narrows each difference, less the one by which it turns around; 0 for
    branches that both hang on."""
    apart = next(
        (
            n
            for n, ends in enumerate(zip(source.path, target.path, strict=True))
            if ends[0] != ends[1]
        ),
        len(source.path),
    )
    pairs = zip(source.branches, target.branches, strict=True)
    levels = (more - fewer - 1 if n >= apart else 0 for n, (more, fewer) in enumerate(pairs))
    return (*levels, source.own - target.own - 1, source.total - target.total - 1)


def _may_be_left(node: Node) -> bool:
    """A drained node gets rid of its tasks in any case; of one that is not there nobody knows; on
    one that is paused they are to stay."""
    return node.status.state == NodeState.READY and node.spec.availability in ("", "active")


def name_of(node: Node) -> str:
    return node.description.hostname or node.id


def _tasks_on(view: View, books: Books, service: Service, node: Node) -> Sequence[Task]:
    return [
        task
        for task in view.tasks.scan("node", node.id)
        if task.service_id == service.id
        and is_wanted(task)
        and task.desired == TaskState.RUNNING == task.status.state
        and not task.move_ms
        and task.id not in books.planned
    ]


def _rests(task: Task, now_ms: int) -> int:
    """Until when a task that was moved stays; 0: it may go."""
    return end_of(task.moved_ms, REST_MS, now_ms)


def _judged(
    view: View,
    books: Books,
    service: Service,
    rule: Rebalance,
    found: tuple[Move, ServiceSpec, int],
    now_ms: int,
) -> Verdict:
    """A move that would be worth it, and what stands against it."""
    move, spec, replicas = found
    never = _never(view, spec, rule, move, replicas)
    if never:
        return Verdict(move, never)
    busy = _busy(view, books, service, move.task, replicas)
    if busy:
        return Verdict(move, busy, is_passing=True)
    steady_ms = end_of(move.target.status.since_ms, STEADY_MS, now_ms)
    if steady_ms:
        name = name_of(move.target)
        return Verdict(move, f"{name} has been ready for a moment only", True, steady_ms)
    rests_ms = _rests(move.task, now_ms)
    if rests_ms:
        return Verdict(move, "its tasks there were moved not long ago", True, rests_ms)
    return Verdict(move)


def _never(view: View, spec: ServiceSpec, rule: Rebalance, move: Move, replicas: int) -> str:
    """Why the service's tasks are not moved for balance, as its spec stands."""
    if rule_of(view, move.task) == NEVER_REPLACE:
        return "its tasks stay on their node (on-disconnect never-replace, or a volume of the node)"
    policy = policy_of(spec.task_template)
    if policy.condition == "none" or policy.max_attempts:
        return "its restart policy says how often a task may be replaced"
    if move.way == STOP_FIRST and replicas == 1 and not rule.even_single:
        return f"its only task would stop before another runs: {move.why_stopped}"
    return ""


def _busy(view: View, books: Books, service: Service, task: Task, replicas: int) -> str:
    """Why it is not the moment."""
    status = service.update_status
    if status is not None and status.state not in _OVER:
        is_paused = status.state.endswith("paused")
        return "its update is paused" if is_paused else "it is being updated"
    tally = books.tally(service.id)
    if any(one.service_id == service.id for one in books.moving.values()):
        return "a task of it is on the move"
    if not tally.wanted == tally.running == replicas or Dirt(view, service).is_on(view, task):
        return f"it is not at rest: {tally.running} of {replicas} tasks run"
    return ""
