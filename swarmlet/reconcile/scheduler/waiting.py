"""The tasks that wait for a node: by group, each in order of slot, with the reason they were given.

A line is either on the agenda (to be tried, the one that needs most first) or stuck (tried in
vain). A stuck line is woken when a node changes or when one is freed that could take a task of its
class; so at rest nothing is tried again, however much waits. Where a node is freed, the lines of a
class are gone through in their order only as far as there is room: what one task leaves behind is
not asked for by all that wait.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import TypeAlias, TypeVar

from swarmlet.core.ids import ServiceID, TaskID
from swarmlet.model.task import Task
from swarmlet.reconcile.scheduler.group import Group, GroupKey, SortKey
from swarmlet.reconcile.scheduler.ledger import Gain
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.pool import PoolKey, Pools

_Place = TypeVar("_Place")

Place: TypeAlias = tuple[int, TaskID]
"""(slot, task): a task's place in its line. A plain pair: of those the collector loses sight."""


class Line:
    """One group's waiting tasks. `unexplained`: those whose row does not bear `reason` yet."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.reason = ""
        self.is_stuck = False
        self.unexplained: dict[TaskID, None] = {}
        self._errs: dict[TaskID, str] = {}  # what each row bears
        self._order: list[Place] = []  # a heap; may hold places of tasks that left

    def __len__(self) -> int:
        return len(self._errs)

    def put(self, task: Task) -> bool:
        """The task waits, with this row. Returns whether it did not wait before."""
        is_new = task.id not in self._errs
        if is_new:
            heappush(self._order, (task.slot, task.id))
        self._errs[task.id] = task.status.err
        if task.status.err == self.reason:
            self.unexplained.pop(task.id, None)
        else:
            self.unexplained[task.id] = None
        return is_new

    def drop(self, task_id: TaskID) -> None:
        """The task waits no longer."""
        del self._errs[task_id]
        self.unexplained.pop(task_id, None)

    def first(self, count: int) -> list[Place]:
        """Take the first places out of the line's order; `back` returns them."""
        taken: dict[Place, None] = {}
        while self._order and len(taken) < count:
            place = heappop(self._order)
            if place[1] in self._errs:
                taken[place] = None
        return list(taken)

    def back(self, places: Iterable[Place]) -> None:
        """These were not placed: they stand where they stood."""
        for place in places:
            heappush(self._order, place)

    def explain(self, reason: str) -> None:
        """Nothing fits, for this reason; O(line) where it is not the reason given before."""
        if reason != self.reason:
            self.reason = reason
            self.unexplained = {t: None for t, err in self._errs.items() if err != reason}


class Waiting:
    """All lines."""

    def __init__(self) -> None:
        self._lines: dict[GroupKey, Line] = {}
        self._where: dict[TaskID, GroupKey] = {}
        self._agenda: list[SortKey] = []
        self._queued: set[GroupKey] = set()  # never iterated
        self._stuck: dict[PoolKey, list[GroupKey]] = {}  # in order
        self._round: dict[
            PoolKey, GroupKey
        ] = {}  # the stuck line that is woken next; on the agenda
        self._silent: dict[GroupKey, None] = {}  # those that may have tasks without the reason
        self._near: dict[str, dict[GroupKey, None]] = {}  # service name -> stuck lines beside it

    def __len__(self) -> int:
        return len(self._where)

    def put(self, group: Group, task: Task) -> bool:
        """The task waits, with this row. Returns whether that makes work."""
        line = self._lines.get(group.key)
        if line is None:
            line = self._lines[group.key] = Line(group)
        self._where[task.id] = group.key
        is_new = line.put(task)
        if line.is_stuck:
            if task.id not in line.unexplained:
                return False
            self._silent[group.key] = None
            return True
        self._queue(line)
        return is_new

    def drop(self, task_id: TaskID) -> None:
        """The task waits no longer, if it did."""
        key = self._where.pop(task_id, None)
        if key is None:
            return
        line = self._lines[key]
        line.drop(task_id)
        if not line:
            del self._lines[key]
            self._unstick(line)

    def next_line(self, pools: Pools) -> Line | None:
        """The line on the agenda that needs most, off the agenda; None: nothing to try."""
        while self._agenda:
            *_, pool_key, key = heappop(self._agenda)
            if self._round.get(pool_key) == key:
                self._go_on(pools, pool_key, key)
            if key not in self._queued:
                continue
            self._queued.discard(key)
            line = self._lines.get(key)
            if line is not None and not line.is_stuck:
                return line
        return None

    def _go_on(self, pools: Pools, pool_key: PoolKey, key: GroupKey) -> None:
        """A class's round came to this line: wake it, unless all room is taken already."""
        if pools.pool(pool_key).best(()) is None:
            del self._round[pool_key]
            return
        stuck = self._stuck.get(pool_key, [])
        self._begin_round(pool_key, bisect_right(stuck, key))
        line = self._lines.get(key)
        if line is not None and line.is_stuck:
            self._wake_line(line)

    def _begin_round(self, pool_key: PoolKey, at: int) -> None:
        stuck = self._stuck.get(pool_key, [])
        if at == len(stuck):
            self._round.pop(pool_key, None)
        elif self._round.get(pool_key) != stuck[at]:
            self._round[pool_key] = stuck[at]
            heappush(self._agenda, self._lines[stuck[at]].group.sort_key)

    def put_back(self, line: Line) -> None:
        """The line has more to place: back on the agenda."""
        if line.group.key in self._lines:
            self._queue(line)

    def stick(self, line: Line, reason: str) -> None:
        """Nothing of the line fits anywhere until a node is loosened."""
        line.is_stuck = True
        line.explain(reason)
        if line.unexplained:
            self._silent[line.group.key] = None
        insort(self._stuck.setdefault(line.group.pool_key, []), line.group.key)
        for name in _near(line.group):
            self._near.setdefault(name, {})[line.group.key] = None

    def wake(self, pools: Pools, loosened: NodeState | None) -> bool:
        """Put the stuck lines that `loosened` has room for on the agenda, one after the other;
        None: all of them, for their reasons count the nodes. Whether there were any."""
        woken = [
            pool_key
            for pool_key in self._stuck
            if loosened is None or (pool := pools.peek(pool_key)) is None or pool.has_room(loosened)
        ]
        for pool_key in woken:
            if loosened is not None:
                self._begin_round(pool_key, 0)
                continue
            for key in self._stuck.pop(pool_key):
                self._wake_line(self._lines[key])
        return bool(woken)

    def wake_near(self, gained: Iterable[Gain]) -> bool:
        """Services came to other nodes: put the stuck lines that may only run beside them on the
        agenda; whether there were any."""
        if not self._near:
            return False
        woken = [key for name, _ in gained for key in self._near.get(name, ())]
        for key in dict.fromkeys(woken):
            self._wake_line(self._lines[key])
        return bool(woken)

    def _wake_line(self, line: Line) -> None:
        line.is_stuck = False
        self._unstick(line)
        self._queue(line)

    @property
    def has_unexplained(self) -> bool:
        """Whether there are stuck tasks whose rows do not bear the reason yet."""
        return next(self.unexplained(), None) is not None

    def unexplained(self) -> Iterator[tuple[TaskID, str]]:
        """(task, reason) of stuck tasks whose rows do not bear the reason yet."""
        for key in list(self._silent):
            line = self._lines.get(key)
            if line is None or not line.is_stuck or not line.unexplained:
                del self._silent[key]
                continue
            for task_id in line.unexplained:
                yield task_id, line.reason

    def _queue(self, line: Line) -> None:
        if line.group.key not in self._queued:
            self._queued.add(line.group.key)
            heappush(self._agenda, line.group.sort_key)

    def _unstick(self, line: Line) -> None:
        keys = self._stuck.get(line.group.pool_key, [])
        at = bisect_left(keys, line.group.key)
        if at < len(keys) and keys[at] == line.group.key:
            del keys[at]
            if not keys:
                del self._stuck[line.group.pool_key]
        for name in _near(line.group):
            near = self._near.get(name)
            if near is not None and near.pop(line.group.key, line) is None and not near:
                del self._near[name]


def _near(group: Group) -> Iterator[str]:
    """The services without which nothing of the group can run."""
    return (term.service for term in group.affinity.must if term.is_near)


class Preset:
    """Tasks that come with their node (global services) and wait for it to take them."""

    def __init__(self) -> None:
        self.due: dict[TaskID, None] = {}
        self._on: dict[str, dict[TaskID, None]] = {}  # node -> tasks
        self._beside: dict[Gain, dict[TaskID, None]] = {}  # those that need a service there
        self._place: dict[TaskID, tuple[str, Group]] = {}

    def put(self, task: Task, group: Group) -> None:
        """The task waits for its node, and is to be tried."""
        self._place[task.id] = (task.node_id, group)
        self._on.setdefault(task.node_id, {})[task.id] = None
        for name in _near(group):
            self._beside.setdefault((name, task.node_id), {})[task.id] = None
        self.due[task.id] = None

    def drop(self, task_id: TaskID) -> None:
        """The task waits no longer, if it did."""
        self.due.pop(task_id, None)
        place = self._place.pop(task_id, None)
        if place is None:
            return
        node_id, group = place
        _leave(self._on, node_id, task_id)
        for name in _near(group):
            _leave(self._beside, (name, node_id), task_id)

    def wake(self, node_id: str) -> bool:
        """The node was loosened or changed: try its tasks again. Whether there are any."""
        on = self._on.get(node_id, {})
        self.due.update(on)
        return bool(on)

    def wake_near(self, gained: Iterable[Gain]) -> bool:
        """Services came to nodes: try the tasks there that may only run beside them. Whether there
        are any."""
        if not self._beside:
            return False
        woken = dict.fromkeys(task for gain in gained for task in self._beside.get(gain, ()))
        self.due.update(woken)
        return bool(woken)


def _leave(lists: dict[_Place, dict[TaskID, None]], place: _Place, task_id: TaskID) -> None:
    there = lists[place]
    del there[task_id]
    if not there:
        del lists[place]


def group_key(task: Task) -> GroupKey:
    """The group a task belongs to."""
    return (ServiceID(task.service_id), task.spec_version)
