"""Which move of a task makes a service more even, if one does: what the scheduler would choose for
one more task, compared with where the service's tasks are.

What counts is what placement counts, in the same order: how many of the service's tasks each branch
of its spread preferences has, then each node, then how many tasks of all services a node runs. A
move is worth it where the first of these in which the two nodes differ by more than one becomes
more even, and none before it less. So each move lowers the sums of squares of the counts, compared
in that order, and rebalancing comes to an end.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from swarmlet.core.ids import TaskID
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
from swarmlet.reconcile.scheduler.spread import path_of
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
    """A node as a move sees it: the spread branches it hangs on, each with the service's tasks
    there, the service's tasks on it, and all tasks."""

    node: Node
    branches: tuple[tuple[str, int], ...]
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
    target = _target(books, group, now_ms)
    if target is None:
        return _EVEN
    for source, reason in _sources(books, group, target):
        tasks = _tasks_on(view, books, service, source.node)
        if not tasks:
            continue
        task = max(tasks, key=lambda one: (not _rests(one, now_ms), one.created_ms, one.id))
        why = why_stop_first(view, service, task)
        way = STOP_FIRST if why else START_FIRST
        move = Move(task, source.node, target.node, reason, way, why)
        return _judged(view, books, service, rule, (move, spec, replicas), now_ms)
    return _EVEN


def rule_for(spec: ServiceSpec, cluster: Cluster, *, is_asked: bool) -> Rebalance | None:
    """What the service says of rebalancing; None where it is left alone. `is_asked`: a user wants
    tasks to be moved once, of every service that does not forbid it."""
    rule = rebalance_of(spec, cluster)
    return rule if rule.is_on or (is_asked and rule.mode != OFF) else None


def _target(books: Books, group: Group, now_ms: int) -> _Side | None:
    """Where the scheduler would put one more task, unless the group's tasks keep failing there."""
    placed = place(books.ledger, group, [_STAND_IN], now_ms)
    books.ledger.count(_STAND_IN, None)
    if not placed:
        return None
    node_id = placed[0][1]
    if any(failed_on == node_id for failed_on, _ in group.faulty_nodes(now_ms)):
        return None
    return _side(books, group, node_id, _branch_counts(books, group))


def _branch_counts(books: Books, group: Group) -> dict[tuple[str, ...], int]:
    counts: dict[tuple[str, ...], int] = {}
    if group.spread:
        for node_id, tasks in books.ledger.hosts_of(group.service_id).items():
            path = path_of(books.ledger.nodes[node_id].node, group.spread)
            for depth in range(1, len(path) + 1):
                counts[path[:depth]] = counts.get(path[:depth], 0) + tasks
    return counts


def _side(books: Books, group: Group, node_id: str, counts: dict[tuple[str, ...], int]) -> _Side:
    state = books.ledger.nodes[node_id]
    path = path_of(state.node, group.spread)
    branches = tuple((path[depth], counts.get(path[: depth + 1], 0)) for depth in range(len(path)))
    own = books.ledger.hosts_of(group.service_id).get(node_id, 0)
    return _Side(state.node, branches, own, state.total)


def _sources(books: Books, group: Group, target: _Side) -> Iterator[tuple[_Side, str]]:
    """The nodes a move from which to the target is worth it, the most crowded first, and why."""
    counts = _branch_counts(books, group)
    found: list[tuple[tuple[int, ...], str, _Side, str]] = []
    for node_id in books.ledger.hosts_of(group.service_id):
        source = _side(books, group, node_id, counts)
        if node_id == target.node.id or not _may_be_left(source.node):
            continue
        gains = tuple(_gains(group, source, target))
        first = next((number for number, (gain, _) in enumerate(gains) if gain), None)
        if first is not None and gains[first][0] > 0:
            ranks = tuple(-gain for gain, _ in gains)
            found.append((ranks, node_id, source, gains[first][1]))
    for _, _, source, reason in sorted(found, key=lambda one: one[:2]):
        yield source, reason


def _may_be_left(node: Node) -> bool:
    """A drained node gets rid of its tasks in any case; of one that is not there nobody knows; on
    one that is paused they are to stay."""
    return node.status.state == NodeState.READY and node.spec.availability in ("", "active")


def _gains(group: Group, source: _Side, target: _Side) -> Iterator[tuple[int, str]]:
    """By how much a move narrows each difference, less the one by which it turns around."""
    is_apart = False
    for label, (here, tasks), (there, fewer) in zip(
        group.spread, source.branches, target.branches, strict=True
    ):
        is_apart = is_apart or here != there
        words = f"{tasks} of its tasks have {label} {here or '(none)'}, "
        yield (tasks - fewer - 1 if is_apart else 0), f"{words}{fewer} {there or '(none)'}"
    here, there = name_of(source.node), name_of(target.node)
    own = f"{source.own} of its tasks run on {here}, {target.own} on {there}"
    yield source.own - target.own - 1, own
    total = f"{here} runs {source.total} tasks of all services, {there} {target.total}"
    yield source.total - target.total - 1, total


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
