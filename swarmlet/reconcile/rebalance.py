"""Rebalancing: moves tasks that run well, where the swarm would not be even otherwise.

Nobody's tasks are moved who did not ask for it (`model.rebalance`). `continuous` services are
looked at whenever something changed. `on-join` services are while some node has joined or come back
and not been settled: until nothing that could be moved would make a service more even. A user may
ask for the same once, of all services that do not forbid it (`Cluster.rebalance_asked_ms`).

A move of a service that may run one more for a moment is only a mark on the task: the replicated
decider then starts another of its slot and stops the marked one once that runs, as in a gentle
drain (`moving`). A task that gets no replacement for five minutes stays. The others are stopped and
replaced at once. There are no more than ten moves a minute, of which five at a time, one of each
service; and none is decided upon before the replacements of those before it have their nodes.

One key. All that must outlast the leader is in rows: who is on the move, how many were lately, and
which nodes are settled.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from swarmlet.core.ids import ServiceID
from swarmlet.model.change import Change, Create, Event, Note, Update
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import Node, NodeState
from swarmlet.model.rebalance import CONTINUOUS, ON_JOIN, Rebalance
from swarmlet.model.service import Service, SpecVersion
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, cluster_of, spec_of, task_spec_of
from swarmlet.reconcile.balance import START_FIRST, Move, cost_of, name_of, rule_for, verdict_on
from swarmlet.reconcile.balance_books import PATIENCE_MS, Books
from swarmlet.reconcile.base import REST, START_ROWS, Decision, Key, Moment
from swarmlet.reconcile.moves import hand_over, needs_of_new
from swarmlet.reconcile.restart import due_ms, policy_of, released, successor
from swarmlet.reconcile.rollout import end_of
from swarmlet.reconcile.scheduler.group import SortKey
from swarmlet.reconcile.slots import is_wanted

MOVES_PER_MINUTE: Final = 10
MOVING_MAX: Final = 5
SLICE_TASKS: Final = 1_000  # counted in one turn, until all are
SLICE_NODES: Final = 5_000  # looked at in one turn, for as many services as that takes
SETTLED_MAX: Final = 200  # nodes in one entry, which is refused where one of them changes
CHECK_PERIOD_MS: Final = 2_000  # between two looks at all services
ASKED_FOR_MS: Final = 3_600_000  # a user's wish is given up: some service never came to rest

_KEY: Final[Key] = ("rebalance",)
_replace = msgspec.structs.replace


class RebalanceDecider:
    """Writes `move_ms` and `moved_ms` of tasks, `settled_ms` of nodes, takes back what a user asked
    for, and hands the slots of tasks over that must stop first."""

    name: Final = "rebalance"
    tables: Final = frozenset({Cluster, Service, SpecVersion, Node, Task})

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._books: Books | None = None  # none while nobody wants rebalancing
        self._rules: dict[ServiceID, Rebalance] = {}
        self._came: dict[str, None] = {}  # nodes that take tasks and are not settled
        self._left: dict[str, None] = {}  # settled ones that take none any more
        self._sweep: list[ServiceID] = []  # still to be looked at
        self._is_stirred, self._is_held = True, False  # since the sweep began
        self._swept_ms = 0
        self._look_again_ms: int | None = None

    def start(self, view: View) -> Iterator[Key | None]:
        self._reset()
        for number, service in enumerate(view.services.all()):
            self._learn_rule(view, service.id)
            if number % START_ROWS == 0:
                yield None
        for number, node in enumerate(view.nodes.all()):
            self._note_node(node.id, node)
            if number % START_ROWS == 0:
                yield None
        yield _KEY

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """The one key, where the event can matter to what is even."""
        is_work = False
        if event.table is Task:
            is_work = self._task_changed(event, view)
        elif event.table is Node:
            is_work = self._node_changed(event, view)
        elif event.table is Service:
            self._learn_rule(view, ServiceID(event.id))
            is_work = True
        elif event.table is Cluster:
            is_work = self._cluster_changed(event, view)
        elif isinstance(event.old, SpecVersion) and event.new is None and self._books is not None:
            self._books.forget_spec(event.old.service_id, event.old.number)
        self._is_stirred = self._is_stirred or is_work
        return [_KEY] if is_work else ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        assert key == _KEY, key
        if not self._rules:
            self._books = None
            return _forget_wish(view)
        if self._books is None:
            self._books = Books(view)
            self._sweep, self._is_stirred, self._swept_ms = [], True, 0
        if not self._books.fill(view, SLICE_TASKS):
            return Decision(wake_at_ms=moment.now_ms + 1)
        decision = self._keep_up(view, self._books, moment.now_ms)
        return decision if decision.changes else self._look_on(view, self._books, moment, decision)

    # What happened --------------------------------------------------------------------------

    def _task_changed(self, event: Event, view: View) -> bool:
        old, new = event.old, event.new
        assert isinstance(old, Task | None)
        assert isinstance(new, Task | None)
        if self._books is None:
            return False
        self._books.note_failure(view, old, new)
        self._books.look(view, event.id)
        return old is None or new is None or _stage(old) != _stage(new)

    def _node_changed(self, event: Event, view: View) -> bool:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        self._note_node(event.id, new)
        if self._books is None or (old and new and _place(old) == _place(new)):
            return False
        self._books.set_node(view, event.id, old, new)
        return True

    def _cluster_changed(self, event: Event, view: View) -> bool:
        old, new = event.old, event.new
        if isinstance(old, Cluster) and isinstance(new, Cluster):
            is_same = old.spec.labels == new.spec.labels
            if is_same and old.rebalance_asked_ms == new.rebalance_asked_ms:
                return False
        self._learn_rules(view)
        return True

    def _note_node(self, node_id: str, node: Node | None) -> None:
        self._came.pop(node_id, None)
        self._left.pop(node_id, None)
        if node is not None and _takes_tasks(node) and not node.settled_ms:
            self._came[node_id] = None
        elif node is not None and node.settled_ms and not _may_be_back(node):
            self._left[node_id] = None

    def _learn_rules(self, view: View) -> None:
        self._rules = {}
        for service in view.services.all():
            self._learn_rule(view, service.id)

    def _learn_rule(self, view: View, service_id: ServiceID) -> None:
        self._rules.pop(service_id, None)
        service = view.services.get(service_id)
        if service is None:
            return
        cluster = cluster_of(view)
        rule = rule_for(spec_of(view, service), cluster, is_asked=bool(cluster.rebalance_asked_ms))
        if rule is not None:
            self._rules[service_id] = rule

    # What to do -----------------------------------------------------------------------------

    def _keep_up(self, view: View, books: Books, now_ms: int) -> Decision:
        """Give up on tasks that nothing came for, and have nodes count as new that went."""
        changes: list[Change] = []
        ends: list[int] = []
        for task_id in sorted(books.moving):
            task = view.tasks.get(task_id)
            end_ms = end_of(books.moving[task_id].since_ms, PATIENCE_MS, now_ms)
            if end_ms:
                ends.append(end_ms)
            elif task is not None and task.move_ms and not _is_followed(view, task):
                stays = _replace(task, move_ms=0, moved_ms=now_ms)
                changes.append(Update(obj=stays, seen=task.version))
        for node_id in islice(sorted(self._left), SETTLED_MAX):
            node = view.nodes.get(node_id)
            if node is not None:
                changes.append(Update(obj=_replace(node, settled_ms=0), seen=node.version))
        return Decision(changes=tuple(changes), wake_at_ms=min(ends, default=None))

    def _look_on(self, view: View, books: Books, moment: Moment, kept: Decision) -> Decision:
        """The next move, if there is one and it may be made now."""
        now_ms = moment.now_ms
        if _must_wait(view, books, now_ms):
            return kept
        if books.moves_since(now_ms) >= MOVES_PER_MINUTE:
            return _by(kept, books.next_free_ms(now_ms))
        if not self._sweep and self._must_look_again(now_ms):
            due_ms = end_of(self._swept_ms, CHECK_PERIOD_MS, now_ms)
            if due_ms:
                return _by(kept, due_ms)
            self._begin(view, books, now_ms)
        moved = self._look_at_some(view, books, moment)
        if moved is not None:
            return moved
        if self._sweep or self._is_stirred:
            return _by(kept, now_ms + 1)
        return self._at_end(view, kept, now_ms)

    def _must_look_again(self, now_ms: int) -> bool:
        is_time = self._look_again_ms is not None and now_ms >= self._look_again_ms
        return self._is_stirred or is_time

    def _look_at_some(self, view: View, books: Books, moment: Moment) -> Decision | None:
        looked_at = 0
        while self._sweep and looked_at < SLICE_NODES:
            service = view.services.get(self._sweep[-1])
            if service is not None:
                looked_at += cost_of(books, books.group_of(service, spec_of(view, service)))
                moved = self._look_at(view, books, service, moment)
                if moved is not None:
                    return moved  # the service stays: it is looked at again where this is refused
            self._sweep.pop()
        return None

    def _begin(self, view: View, books: Books, now_ms: int) -> None:
        """Those with equal needs follow each other: they share what is known of the nodes."""

        def order(service_id: ServiceID) -> SortKey:
            service = view.services.get(service_id)
            assert service is not None, f"service {service_id} is gone, and nobody said so"
            return books.group_of(service, spec_of(view, service)).sort_key

        self._sweep = sorted(filter(self._is_due, self._rules), key=order, reverse=True)
        self._swept_ms, self._look_again_ms = now_ms, None
        self._is_stirred = self._is_held = False

    def _is_due(self, service_id: ServiceID) -> bool:
        mode = self._rules[service_id].mode
        return mode == CONTINUOUS or mode != ON_JOIN or bool(self._came)

    def _look_at(
        self, view: View, books: Books, service: Service, moment: Moment
    ) -> Decision | None:
        """A move of the service's; None: there is none now."""
        rule = self._rules.get(service.id)
        if rule is None:
            return None
        found = verdict_on(view, books, service, rule, moment.now_ms)
        if found.move is not None and not found.hindrance:
            return _moved(view, service, found.move, moment)
        self._is_held = self._is_held or found.is_passing
        if found.wake_at_ms:
            times = (self._look_again_ms or found.wake_at_ms, found.wake_at_ms)
            self._look_again_ms = min(times)
        return None

    def _at_end(self, view: View, kept: Decision, now_ms: int) -> Decision:
        """All services were looked at, and nothing is left to move now."""
        cluster, changes = cluster_of(view), list[Change]()
        asked_ms = cluster.rebalance_asked_ms
        is_over = not self._is_held and kept.wake_at_ms is None
        if is_over and any(rule.mode == ON_JOIN for rule in self._rules.values()):
            changes += islice(self._settlements(view, now_ms), SETTLED_MAX)
        if asked_ms and (is_over or not end_of(asked_ms, ASKED_FOR_MS, now_ms)):
            changes.append(
                Update(obj=_replace(cluster, rebalance_asked_ms=0), seen=cluster.version)
            )
        if changes:
            return Decision(changes=tuple(changes), reasons=("nothing is left to move",))
        asked_until = (asked_ms + ASKED_FOR_MS,) if asked_ms else ()
        return _by(kept, *asked_until, *filter(None, (self._look_again_ms,)))

    def _settlements(self, view: View, now_ms: int) -> Iterator[Update]:
        for node_id in sorted(self._came):
            node = view.nodes.get(node_id)
            if node is not None:
                yield Update(obj=_replace(node, settled_ms=now_ms), seen=node.version)


def _forget_wish(view: View) -> Decision:
    """A user asked for moves, and every service forbids them."""
    cluster = next(view.clusters.all(), None)
    if cluster is None or not cluster.rebalance_asked_ms:
        return REST
    change = Update(obj=_replace(cluster, rebalance_asked_ms=0), seen=cluster.version)
    return Decision(changes=(change,), reasons=("there is nothing to rebalance",))


def _by(decision: Decision, *at_ms: int) -> Decision:
    """The same, decided again by then at the latest."""
    known = () if decision.wake_at_ms is None else (decision.wake_at_ms,)
    return _replace(decision, wake_at_ms=min((*known, *at_ms), default=None))


def _must_wait(view: View, books: Books, now_ms: int) -> bool:
    """Whether as many are on the move as may, or where one goes is not known yet. Who has been on
    the way for long is not waited for."""
    moving = [
        task_id
        for task_id, one in books.moving.items()
        if end_of(one.since_ms, PATIENCE_MS, now_ms)
    ]
    return len(moving) >= MOVING_MAX or any(
        not _is_placed(view, task)
        for task_id in moving
        if (task := view.tasks.get(task_id)) is not None
    )


def _is_placed(view: View, task: Task) -> bool:
    """Whether it is known where the task that comes goes: this one, or one for this one."""
    if not task.move_ms:
        return task.status.state >= TaskState.ASSIGNED
    return any(one.status.state >= TaskState.ASSIGNED for one in _beside(view, task))


def _beside(view: View, task: Task) -> Iterator[Task]:
    """What else is wanted in its slot."""
    for other in view.tasks.scan("slot", (task.service_id, task.slot)):
        if other.id != task.id and is_wanted(other):
            yield other


def _is_followed(view: View, task: Task) -> bool:
    """Whether what came for it runs, and is only watched for a while yet."""
    return any(one.status.state == TaskState.RUNNING for one in _beside(view, task))


def _moved(view: View, service: Service, move: Move, moment: Moment) -> Decision:
    marked = _replace(move.task, move_ms=moment.now_ms)
    changes: list[Change] = [Update(obj=marked, seen=move.task.version)]
    if move.way != START_FIRST:
        changes = [hand_over(marked), Create(obj=_successor(view, service, move.task, moment))]
    words = f"{move.task.id} moves from {name_of(move.source)}: {move.reason}"
    changes.append(_told(service, move))
    return Decision(
        changes=tuple(changes), guards=needs_of_new(service), reasons=(f"{service.name}: {words}",)
    )


def _successor(view: View, service: Service, task: Task, moment: Moment) -> Task:
    """Held back until the task has stopped."""
    policy = policy_of(task_spec_of(view, task).task_template)
    after = _replace(successor(task, service, policy, view, moment), moved_ms=moment.now_ms)
    slot = list(view.tasks.scan("slot", (task.service_id, task.slot)))
    return released(after) if due_ms(after, slot, view, moment.now_ms) <= moment.now_ms else after


def _told(service: Service, move: Move) -> Note:
    return Note(
        kind="service",
        action="rebalance",
        id=service.id,
        attributes=(
            ("from", name_of(move.source)),
            ("name", service.name),
            ("order", move.way),
            ("reason", move.reason),
            ("slot", str(move.task.slot)),
            ("task", move.task.id),
            ("to", name_of(move.target)),
        ),
    )


def _takes_tasks(node: Node) -> bool:
    return node.status.state == NodeState.READY and node.spec.availability in ("", "active")


def _may_be_back(node: Node) -> bool:
    """Whether its tasks are still there when it is ready again: it has not left, as far as anybody
    knows."""
    return node.status.state != NodeState.DOWN and node.spec.availability != "drain"


def _stage(task: Task) -> tuple[object, ...]:
    """What of a task's row can matter to what is even."""
    state = task.status.state
    is_placed, runs, ended = (
        state >= TaskState.ASSIGNED,
        state >= TaskState.RUNNING,
        state > TaskState.RUNNING,
    )
    return task.desired, task.node_id, is_placed, runs, ended, task.move_ms


def _place(node: Node) -> tuple[object, ...]:
    """All of a node's row that a move can hang on."""
    status = node.status
    spec = node.spec
    return spec.labels, spec.availability, node.role, node.description, status.state, status.addr
