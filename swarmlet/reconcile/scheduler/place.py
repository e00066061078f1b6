"""The scheduler as a decider: one key, decided a thousand changes at a time.

`start` and `keys_of` keep the index equal to the rows; `decide` first counts again what the last
decision had promised (a commit may have been refused), then tries what is on the agenda and writes
why the rest waits: once a reason, not once a try.
"""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Final

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Assign, Change, Event, SetStatus
from swarmlet.model.node import Node
from swarmlet.model.service import SpecVersion
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View
from swarmlet.reconcile.allocator.needs import missing, spec_version_of
from swarmlet.reconcile.base import START_ROWS, Decision, Key, Moment
from swarmlet.reconcile.restart import ended_ms
from swarmlet.reconcile.scheduler.filters import explain
from swarmlet.reconcile.scheduler.group import Group, GroupKey
from swarmlet.reconcile.scheduler.ledger import Claim, Ledger, claim_of_row
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.pipeline import fits, place, why_not
from swarmlet.reconcile.scheduler.plugins import network_drivers
from swarmlet.reconcile.scheduler.pool import PoolKey
from swarmlet.reconcile.scheduler.waiting import Line, Preset, Waiting, group_key

PENDING: Final[Key] = ("pending",)
LINES_MAX: Final = 1_000  # lines tried a decision that has something to write: some 15 ms


class SchedulerDecider:
    """Writes Assign, the reason a task waits, and SHUTDOWN for tasks given up before they had a
    node. An index of nodes and tasks; see the package's docstring."""

    name: Final = "scheduler"
    tables: Final = frozenset({Task, Node, SpecVersion})

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._ledger = Ledger()
        self._waiting = Waiting()
        self._preset = Preset()
        self._groups: dict[GroupKey, Group] = {}
        self._stale: dict[TaskID, None] = {}  # no longer wanted, never assigned
        self._promised: dict[TaskID, None] = {}  # in the last decision, not yet seen in a row
        self._full: dict[PoolKey, str] = {}  # why this turn's classes have no room

    def start(self, view: View) -> Iterator[Key | None]:
        self._reset()
        for number, node in enumerate(view.nodes.all()):
            self._ledger.set_node(node.id, node)
            if number % START_ROWS == 0:
                yield None
        failed: list[Task] = []
        for number, task in enumerate(view.tasks.all()):
            self._look(view, task.id)
            if _has_failed(task):
                failed.append(task)
            if number % START_ROWS == 0:
                yield None
        for number, task in enumerate(sorted(failed, key=lambda t: (ended_ms(t), t.id))):
            self._note_failure(view, task)
            if number % START_ROWS == 0:
                yield None
        yield PENDING

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """The one key, where the event made work: a task to place, or room for one that waits."""
        is_work = False
        if event.table is Task:
            is_work = self._task_changed(event, view)
        elif event.table is Node:
            is_work = self._node_changed(event, view)
        elif event.table is SpecVersion and isinstance(event.old, SpecVersion):
            self._groups.pop((event.old.service_id, event.old.number), None)
        return [PENDING] if is_work else ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        assert key == PENDING, key
        self._settle(view)
        self._full = {}
        changes: list[Change] = list(islice(self._given_up(view, moment), ENTRY_CHANGES_MAX))
        self._try_preset(view, changes, moment)
        reasons: list[str] = []
        has_more = False
        for tried in count():
            has_enough = tried >= LINES_MAX and (changes or self._waiting.has_unexplained)
            if len(changes) == ENTRY_CHANGES_MAX or has_enough:
                has_more = True
                break
            self._heed_gains()
            line = self._waiting.next_line(self._ledger.pools)
            if line is None:
                break
            changes += self._try_line(line, ENTRY_CHANGES_MAX - len(changes), moment)
            if line.is_stuck:
                reasons.append(f"service {line.group.service_id}: {line.reason}")
        explained = self._explanations(view, moment)
        changes += islice(explained, ENTRY_CHANGES_MAX - len(changes))
        return Decision(
            changes=tuple(changes),
            reasons=tuple(reasons) if changes else (),
            has_more=has_more or len(changes) == ENTRY_CHANGES_MAX,
        )

    def gauges(self) -> dict[str, int]:
        """Sizes for the metrics: tasks waiting, pools, groups."""
        return {
            "waiting_tasks": len(self._waiting),
            "pools": len(self._ledger.pools),
            "groups": len(self._groups),
        }

    # What happened --------------------------------------------------------------------------

    def _task_changed(self, event: Event, view: View) -> bool:
        old, new = event.old, event.new
        assert isinstance(old, Task | None)
        assert isinstance(new, Task | None)
        if old is not None and new is not None:
            if self._is_kept(new):
                return False
            if _has_failed(new) and not _has_failed(old):
                self._note_failure(view, new)
        return self._look(view, TaskID(event.id))

    def _is_kept(self, task: Task) -> bool:
        """Whether the row is what was promised of it, and held since: nothing is to be counted, nor
        looked at again. For the many; what a row says otherwise, `_look` sees."""
        if task.id not in self._promised:
            return False
        claim = self._ledger.claim_of(task.id)
        if claim is None or claim_of_row(task, claim.group) != claim:
            return False
        del self._promised[task.id]
        self._preset.drop(task.id)
        return True

    def _node_changed(self, event: Event, view: View) -> bool:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if old is not None and new is not None and _matters(old) == _matters(new):
            return False
        has_come_or_gone = old is None or new is None
        is_work = False
        if has_come_or_gone:  # what was promised is held on a node that is about to be replaced
            is_work = self._settle(view)
        self._ledger.set_node(event.id, new)
        if has_come_or_gone:
            for task in view.tasks.scan("node", event.id):
                is_work |= self._look(view, task.id)
        is_work |= self._waiting.wake(self._ledger.pools, None)
        return self._preset.wake(event.id) or is_work

    def _note_failure(self, view: View, task: Task) -> None:
        group = self._group(view, task)
        if group is not None:
            group.failed(task.node_id, ended_ms(task))

    def _look(self, view: View, task_id: TaskID) -> bool:
        """Make the index equal to the task's row; whether that made work."""
        task = view.tasks.get(task_id)
        group = None if task is None else self._group(view, task)
        loosened = self._ledger.count(task_id, self._claim(task, group))
        is_work = loosened is not None and self._loosen(loosened)
        is_work |= self._heed_gains()
        if task is None or group is None or task.status.state >= TaskState.ASSIGNED:
            self._forget(task_id)
            return is_work
        if task.desired > TaskState.COMPLETE:
            self._forget(task_id)
            if task.desired < TaskState.REMOVE:  # else the reaper takes the row away
                self._stale[task_id] = None
                return True
            return is_work
        return self._look_at_pending(view, task, group) or is_work

    def _look_at_pending(self, view: View, task: Task, group: Group) -> bool:
        made_from = spec_version_of(view, task)
        if (
            task.status.state < TaskState.PENDING
            or made_from is None
            or missing(view, made_from.spec, task)
        ):
            self._forget(task.id)
            return False
        if task.node_id:
            self._preset.put(task, group)
            return True
        return self._waiting.put(group, task)

    def _forget(self, task_id: TaskID) -> None:
        self._waiting.drop(task_id)
        self._preset.drop(task_id)
        self._stale.pop(task_id, None)

    def _loosen(self, state: NodeState) -> bool:
        has_woken = self._waiting.wake(self._ledger.pools, state)
        return self._preset.wake(state.id) or has_woken

    def _heed_gains(self) -> bool:
        """Services came to nodes: wake what may only run beside them. Whether there was any."""
        gained = self._ledger.gained()
        if not gained:
            return False
        has_woken = self._waiting.wake_near(gained)
        return self._preset.wake_near(gained) or has_woken

    def _claim(self, task: Task | None, group: Group | None) -> Claim | None:
        if task is None or not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
            return None
        if group is None:  # the spec went with its service; the task still holds what it holds
            before = self._ledger.claim_of(task.id)
            group = None if before is None else before.group
        return None if group is None else claim_of_row(task, group)

    def _group(self, view: View, task: Task) -> Group | None:
        key = group_key(task)
        group = self._groups.get(key)
        if group is None:
            made_from = spec_version_of(view, task)
            if made_from is not None:
                drivers = network_drivers(view, made_from.spec)
                group = self._groups[key] = Group(key, made_from.spec, drivers)
        return group

    # What to do -----------------------------------------------------------------------------

    def _settle(self, view: View) -> bool:
        """Count what was promised by its rows: confirmed promises are equal already, refused ones
        wait again. Whether that made work."""
        promised, self._promised = self._promised, {}
        is_work = False
        for task_id in promised:
            is_work |= self._look(view, task_id)
        return is_work

    def _given_up(self, view: View, moment: Moment) -> Iterator[SetStatus]:
        for task_id in self._stale:
            task = view.tasks.get(task_id)
            assert task is not None, f"task {task_id} is gone, and the index was not told"
            status = msgspec.structs.replace(
                task.status,
                state=int(TaskState.SHUTDOWN),
                at_ms=moment.now_ms,
                message="shut down before it was assigned to a node",
            )
            yield SetStatus(id=task_id, status=status)

    def _try_preset(self, view: View, changes: list[Change], moment: Moment) -> None:
        """What need not change takes no place in the entry: else those behind it would be left due
        with nobody to ask for them."""
        for task_id in sorted(self._preset.due):
            if len(changes) == ENTRY_CHANGES_MAX:
                return
            task = view.tasks.get(task_id)
            assert task is not None, f"task {task_id} is gone, and the index was not told"
            del self._preset.due[task_id]
            reason = self._try_node(view, task)
            if reason and reason == task.status.err:
                continue
            self._promised[task_id] = None
            if reason:
                changes.append(_explained(task, reason, moment))
            else:
                changes.append(self._assign(task_id, task.node_id))

    def _try_node(self, view: View, task: Task) -> str:
        """Hold the task's own node for it; the reason where it does not fit there."""
        state, group = self._ledger.nodes.get(task.node_id), self._group(view, task)
        if state is None or group is None:
            return f"no suitable node (node {task.node_id} does not exist)"
        failed = fits(self._ledger, group, state)
        if failed is not None:
            return explain({failed: 1}, group.needs)
        self._ledger.hold(task.id, state, group)
        self._ledger.offer_fuller((state.id,))
        return ""

    def _try_line(self, line: Line, room: int, moment: Moment) -> list[Change]:
        """Place up to `room` tasks of a line; put the line back, or let it stick where nothing
        more of it fits."""
        if self._ledger.pools.pool(line.group.pool_key).best(()) is None:
            self._waiting.stick(line, self._why_full(line.group))
            return []
        places = line.first(room)
        task_ids = [task_id for _, task_id in places]
        placed = place(self._ledger, line.group, task_ids, moment.now_ms)
        line.back(places[len(placed) :])
        for task_id, _ in placed:
            self._waiting.drop(task_id)
            self._promised[task_id] = None
        if len(placed) < len(places):
            self._waiting.stick(line, why_not(self._ledger, line.group))
        else:
            self._waiting.put_back(line)
        return [self._assign(task_id, node_id) for task_id, node_id in placed]

    def _why_full(self, group: Group) -> str:
        """Why no node has room for a class, whatever else its groups ask for: found once a turn,
        for it may cost O(nodes) and many groups may wait for the same."""
        reason = self._full.get(group.pool_key)
        if reason is None:
            reason = self._full[group.pool_key] = why_not(self._ledger, group)
        return reason

    def _assign(self, task_id: TaskID, node_id: NodeID) -> Assign:
        """What is held for the task, for the log."""
        claim = self._ledger.claim_of(task_id)
        assert claim is not None, f"task {task_id} was placed, and nothing is held for it"
        return Assign(id=task_id, node_id=node_id, generic_resources=claim.given)

    def _explanations(self, view: View, moment: Moment) -> Iterator[SetStatus]:
        for task_id, reason in self._waiting.unexplained():
            task = view.tasks.get(task_id)
            assert task is not None, f"task {task_id} is gone, and the index was not told"
            yield _explained(task, reason, moment)


def _explained(task: Task, reason: str, moment: Moment) -> SetStatus:
    status = msgspec.structs.replace(
        task.status, at_ms=moment.now_ms, message="pending task scheduling", err=reason
    )
    return SetStatus(id=task.id, status=status)


def _has_failed(task: Task) -> bool:
    """Whether the task failed on a node. Of one that was made for its node it makes no difference;
    the first task of a job has slot 0."""
    failed = task.status.state in (TaskState.FAILED, TaskState.REJECTED)
    return failed and bool(task.node_id)


def _matters(node: Node) -> tuple[object, ...]:
    """All of a node's row that placement looks at."""
    return (
        node.spec.labels,
        node.spec.availability,
        node.role,
        node.description,
        node.status.state,
        node.status.addr,
    )
