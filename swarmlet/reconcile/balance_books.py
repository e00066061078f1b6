"""What balance is judged by: the scheduler's ledger, how many tasks of each service run, and which
are on the move. Kept up to date from rows, however often and in whatever order they are looked at.
"""

from typing import Final, NamedTuple

import msgspec

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.node import Node
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View
from swarmlet.reconcile.allocator.needs import spec_version_of
from swarmlet.reconcile.restart import ended_ms
from swarmlet.reconcile.rollout import end_of
from swarmlet.reconcile.scheduler.group import Group, GroupKey
from swarmlet.reconcile.scheduler.ledger import Ledger, claim_of_row
from swarmlet.reconcile.scheduler.waiting import group_key
from swarmlet.reconcile.slots import is_wanted

PATIENCE_MS: Final = 300_000
"""How long a task waits for the one that takes its place before it is not moved after all."""
MINUTE_MS: Final = 60_000

_FAILURES: Final = (TaskState.FAILED, TaskState.REJECTED)


class _Counted(NamedTuple):
    """What a task counts for in its service's tally."""

    service_id: ServiceID
    is_wanted: bool
    is_running: bool


class Moving(NamedTuple):
    """A task on the move: of which service, and since when."""

    service_id: ServiceID
    since_ms: int


class Tally:
    """How many tasks of a service are wanted, and how many of them run."""

    __slots__ = ("running", "wanted")

    def __init__(self) -> None:
        self.wanted = self.running = 0


class Books:
    """Filled node by node (`fill`), then looked at task by task.

    `moving`: tasks that are to make place, and those that came for one and do not run yet. A task
    that is to make place counts for its node no more, its successor does. `planned`: those that
    somebody who only asks has moved in thought.
    """

    def __init__(self, view: View) -> None:
        self.ledger = Ledger()
        self.moving: dict[TaskID, Moving] = {}
        self.planned: set[TaskID] = set()  # never iterated
        self._groups: dict[GroupKey, Group] = {}
        self._counted: dict[str, _Counted] = {}
        self._kinds: dict[_Counted, _Counted] = {}  # each once: there are few, and many tasks
        self._tallies: dict[str, Tally] = {}
        self._moved: dict[str, int] = {}  # who made place, or gave up, and when
        self._unfilled: list[NodeID] = sorted((n.id for n in view.nodes.all()), reverse=True)
        for task in view.tasks.scan("unassigned", True):
            self.look(view, task.id)

    def fill(self, view: View, tasks_max: int) -> bool:
        """Count some more nodes and what they run; whether all are counted."""
        looked_at = 0
        while self._unfilled and looked_at < tasks_max:
            node = view.nodes.get(self._unfilled.pop())
            if node is None:
                continue
            self.ledger.set_node(node.id, node)
            looked_at += 1
            for task in list(view.tasks.scan("node", node.id)):
                self.look(view, task.id)
                self.note_failure(view, None, task)
                looked_at += 1
        return not self._unfilled

    def tally(self, service_id: str) -> Tally:
        return self._tallies.get(service_id) or Tally()

    def group_of(self, service: Service, spec: ServiceSpec) -> Group:
        """What tasks of its present spec need."""
        key = (service.id, service.spec_version)
        if key not in self._groups:
            self._groups[key] = Group(key, spec)
        return self._groups[key]

    def forget_spec(self, service_id: ServiceID, number: int) -> None:
        """The spec version is gone."""
        self._groups.pop((service_id, number), None)

    def set_node(self, view: View, node_id: str, old: Node | None, new: Node | None) -> None:
        self.ledger.set_node(node_id, new)
        if old is None or new is None:
            for task in list(view.tasks.scan("node", node_id)):
                self.look(view, task.id)

    def note_failure(self, view: View, old: Task | None, new: Task | None) -> None:
        """Where tasks failed lately the scheduler puts no others, and nothing is moved there."""
        if new is None or new.status.state not in _FAILURES or not new.node_id:
            return
        was_known = old is not None and old.status.state in _FAILURES
        group = self._group(view, new)
        if group is not None and not was_known:
            group.failed(new.node_id, ended_ms(new))

    def moves_since(self, now_ms: int) -> int:
        """How many tasks were moved within the last minute."""
        over = [one for one, at_ms in self._moved.items() if not end_of(at_ms, MINUTE_MS, now_ms)]
        for one in over:
            del self._moved[one]
        return len(self._moved)

    def next_free_ms(self, now_ms: int) -> int:
        """When the first of them is a minute old."""
        return min(self._moved.values(), default=now_ms) + MINUTE_MS

    def plan(self, task: Task, node_id: str) -> None:
        """Move a task in thought."""
        claim = self.ledger.claim_of(task.id)
        assert claim is not None, f"task {task.id} runs, and is not counted"
        there = msgspec.structs.replace(claim, node_id=node_id, given=())
        self.ledger.count(task.id, there)
        self.planned.add(task.id)

    def look(self, view: View, task_id: str) -> None:
        """Make what is counted for a task equal to its row."""
        task = view.tasks.get(task_id)
        group = None if task is None else self._group(view, task)
        if task is None or group is None:
            self.ledger.count(task_id, None)
            self._count(task_id, None)
            self.moving.pop(TaskID(task_id), None)
            return
        claim = claim_of_row(task, group)
        if claim is not None and task.move_ms:
            claim = msgspec.structs.replace(claim, is_active=False)
        self.ledger.count(task_id, claim)
        is_running = is_wanted(task) and task.status.state == TaskState.RUNNING
        self._count(task_id, _Counted(task.service_id, is_wanted(task), is_running))
        self._note_move(task)

    def _note_move(self, task: Task) -> None:
        is_open = task.status.state <= TaskState.RUNNING
        is_arriving = bool(task.moved_ms) and task.status.state < TaskState.RUNNING
        if is_wanted(task) and is_open and (task.move_ms or is_arriving):
            self.moving[task.id] = Moving(task.service_id, task.move_ms or task.moved_ms)
        else:
            self.moving.pop(task.id, None)
        if task.move_ms:
            self._moved[task.id] = task.move_ms
        elif task.moved_ms:
            self._moved[task.replaces or task.id] = task.moved_ms

    def _count(self, task_id: str, counted: _Counted | None) -> None:
        before = self._counted.pop(task_id, None)
        if counted is not None:
            self._counted[task_id] = self._kinds.setdefault(counted, counted)
        for one, sign in ((before, -1), (counted, 1)):
            if one is not None:
                tally = self._tallies.setdefault(one.service_id, Tally())
                tally.wanted += sign * one.is_wanted
                tally.running += sign * one.is_running

    def _group(self, view: View, task: Task) -> Group | None:
        key = group_key(task)
        group = self._groups.get(key)
        if group is None:
            made_from = spec_version_of(view, task)
            if made_from is not None:
                group = self._groups[key] = Group(key, made_from.spec)
        return group
