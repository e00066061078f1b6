"""How far an update has come, slot by slot: worked out from the tasks alone, then kept up to date.

A slot is an instance here: of a global service the place on a node (`instances`), which is tried
only while the node is open to the service (`eligibility`).

An update is the way of a service's tasks to the present spec version. It tries each slot that was
dirty once: the tasks it made for that are known by `updated_from` and the spec version.
"""

import heapq
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import MS_PER_S
from swarmlet.model.defaults import monitor_ns
from swarmlet.model.service import Service, ServiceSpec, UpdateConfig
from swarmlet.model.task import Task, TaskState
from swarmlet.model.update_status import is_rolling_back, is_updating
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.eligibility import Standing, standing_of
from swarmlet.reconcile.instances import Instance, instance_of, is_bound, rows_of
from swarmlet.reconcile.moving import is_moving
from swarmlet.reconcile.restart import CLOCK_SLACK_MS, NS_PER_MS, ended_ms, must_leave
from swarmlet.reconcile.slots import (
    ENDED_BY_ITSELF,
    Dirt,
    counting_tasks,
    has_ended_by_itself,
    is_wanted,
    newest,
    wanted_of,
)

LOOK_MAX: Final = 500  # slots in one go: 2 to 4 ms
DEFAULT_CONFIG: Final = UpdateConfig(parallelism=1)


class Settings(NamedTuple):
    """How a service wants to be updated, with every default filled in; the rules are SwarmKit's.

    `parallelism` 0: all slots at once. `hold_ms`: how long the last slots are watched.
    """

    parallelism: int
    delay_ms: int
    monitor_ms: int
    hold_ms: int
    failure_action: str
    max_failure_ratio: float
    is_start_first: bool


def settings_of(spec: ServiceSpec, *, is_rollback: bool = False) -> Settings:
    config = (spec.rollback_config if is_rollback else spec.update_config) or DEFAULT_CONFIG
    delay_ms = -(-config.delay // NS_PER_MS)
    monitor_ms = -(-(config.monitor or monitor_ns(spec)) // NS_PER_MS)
    return Settings(
        parallelism=config.parallelism,
        delay_ms=delay_ms,
        monitor_ms=monitor_ms,
        hold_ms=monitor_ms if delay_ms < monitor_ms else delay_ms + MS_PER_S,
        failure_action=config.failure_action or "pause",
        max_failure_ratio=config.max_failure_ratio,
        is_start_first=config.order == "start-first",
    )


class SlotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where a slot stands in the update, whatever the time.

    `is_fresh`: what makes it count was made from older specs, if only a task that ended and is not
    restarted, and the update has yet to try.
    `is_tried`: the update has put a task there. `is_in_flight`: that task, or the one that follows
    it because it had to move, has not come to run yet; `reached_ms` (leader's clock, 0: not yet)
    when it did, or ended before. `failed`: it ended by itself too soon, or without running.
    `is_down`: fresh, and nothing runs there.
    """

    is_taken: bool = False
    is_fresh: bool = False
    is_tried: bool = False
    is_in_flight: bool = False
    reached_ms: int = 0
    failed: Task | None = None
    surplus: tuple[TaskID, ...] = ()
    is_down: bool = False


_EMPTY: Final = SlotFacts()
_CLEAN: Final = (SlotFacts(is_taken=True), SlotFacts(is_taken=True, is_in_flight=True))
_UNTRIED: Final = (
    SlotFacts(is_taken=True, is_fresh=True),
    SlotFacts(is_taken=True, is_fresh=True, is_down=True),
)


class Made(NamedTuple):
    """Which tasks an update made, how long it watches each, and whether beside the old ones."""

    spec_version: int
    monitor_ms: int
    is_start_first: bool

    def by_update(self, task: Task) -> bool:
        return task.updated_from != 0 and task.spec_version == self.spec_version

    def failed(self, task: Task) -> bool:
        """Whether it ended without running, or too soon after. Both moments are the agent's."""
        status = task.status
        if not has_ended_by_itself(task):
            return False
        return not status.running_ms or status.at_ms - status.running_ms < self.monitor_ms


def facts_of(view: View, dirt: Dirt, tasks: Sequence[Task], made: Made) -> SlotFacts:
    """The facts of a slot with these tasks, none of which is on its way out."""
    own = sorted(filter(made.by_update, tasks), key=lambda t: t.id)
    alone = [task for task in tasks if is_wanted(task)]
    counting = alone or (counting_tasks(view, tasks) if tasks else ())
    if not own and len(counting) < 2:  # as in nearly all slots: told at once
        if not counting:
            return _EMPTY
        if dirt.is_on(view, counting[0]):
            return _UNTRIED[not _any_runs(counting)]
        return _CLEAN[_is_on_its_way(counting[0])]
    wanted = wanted_of(view, dirt, tasks)
    old = [task for task in wanted.dirty if dirt.is_on(view, task)]  # others only have to move
    if not own and not made.is_start_first and _is_in_the_way(view, wanted.clean, old):
        surplus = tuple(task.id for task in (*wanted.surplus, *wanted.clean))
        return SlotFacts(is_taken=True, surplus=surplus)
    tip = _tip(own, wanted.clean) if own or old else None
    return SlotFacts(
        is_taken=bool(counting),
        is_fresh=bool(old) and len(old) == len(wanted.dirty) and not wanted.clean and not own,
        is_tried=bool(own),
        is_in_flight=tip is not None and tip.status.state < TaskState.RUNNING,
        reached_ms=0 if tip is None or not own else _reached_ms(tip),
        failed=next((task for task in own if made.failed(task)), None),
        surplus=tuple(task.id for task in wanted.surplus),
        is_down=not _any_runs(counting),
    )


def _is_in_the_way(view: View, clean: Sequence[Task], old: Sequence[Task]) -> bool:
    """Whether an update before, which started first, left a task beside the old one that does not
    run, and now the old one is to stop first: the two may be waiting for each other, for a port or
    for room. Without the new one the slot gets its turn as any other."""
    if not clean or not old or clean[0].status.state >= TaskState.RUNNING:
        return False
    is_up = old[0].status.state == TaskState.RUNNING
    return is_up and not must_leave(view, old[0]) and not is_moving(view, old[0])


def _is_on_its_way(task: Task) -> bool:
    """Whether an update before put it there, and it has yet to run: it follows the present spec
    too, and the slot is one that is gone for the update's sake."""
    has_begun = task.status.state < TaskState.RUNNING and not task.attempt
    return bool(task.updated_from) and has_begun and is_wanted(task)


def _any_runs(tasks: Iterable[Task]) -> bool:
    return any(task.status.state == TaskState.RUNNING for task in tasks)


def _tip(own: Sequence[Task], clean: Sequence[Task]) -> Task | None:
    """The task that shows how far the slot is. One that had to leave its node did not fail: the
    update waits for its successor instead, but not for the successor's successors."""
    if own:
        last = newest(own)
        if is_wanted(last) or last.status.state in ENDED_BY_ITSELF:
            return last
    return next((task for task in clean if not task.attempt), None)


def _reached_ms(task: Task) -> int:
    """When the task came to run, else ended, by the leader's clock; 0: neither yet.

    Once it has ended the leader's stamp is that of the end; how long it ran the agent knows.
    """
    status = task.status
    if status.state < TaskState.RUNNING:
        return 0
    has_run = status.state > TaskState.RUNNING and status.running_ms
    return ended_ms(task) - (max(0, status.at_ms - status.running_ms) if has_run else 0)


class Rollout:
    """The facts of all slots of one service at one spec version: looked at once, some at a time,
    then O(tasks of the slot) a change. They hold once `refresh` says so."""

    def __init__(self, view: View, service: Service) -> None:
        spec = spec_of(view, service)
        self.service_id, self.spec_version = service.id, service.spec_version
        self.settings = settings_of(spec, is_rollback=is_rolling_back(service))
        self.is_bound = is_bound(spec.mode)
        self.facts: dict[Instance, SlotFacts] = {}
        self.taken: set[Instance] = set()
        self.tried: set[Instance] = set()
        self.in_flight: set[Instance] = set()
        self.failed: dict[Instance, Task] = {}
        self.surplus: dict[Instance, tuple[TaskID, ...]] = {}
        self._spec = spec
        self._fresh: set[Instance] = set()
        self._queue: list[tuple[bool, Instance]] = []  # a heap of what is or was fresh: up, where
        self._dirt = Dirt(view, service)
        self._made = Made(
            service.spec_version, self.settings.monitor_ms, self.settings.is_start_first
        )
        self._reached: list[tuple[int, Instance]] = []  # a heap of when tried ones came to run
        self._last_ms: int | None = 0  # the last of them; None: not known
        self._unseen = map(instance_of, view.tasks.scan("service", service.id))
        self._has_unseen = True
        self._stale: dict[Instance, None] = {}

    @property
    def fresh_count(self) -> int:
        return len(self._fresh)

    def mark(self, slot: Instance) -> None:
        """A task of the slot has changed, or its node."""
        self._stale[slot] = None

    def refresh(self, view: View) -> bool:
        """Look at some of what was never seen, or marked. Whether all is as the view has it now."""
        if self._has_unseen:
            some = list(islice(self._unseen, LOOK_MAX))
            self._has_unseen = len(some) == LOOK_MAX
            for slot in some:
                if slot not in self.facts:  # else what came later is marked
                    self._look_at(view, slot)
            return not self._has_unseen and not self._stale
        for _ in range(min(len(self._stale), LOOK_MAX)):
            self._look_at(view, self._stale.popitem()[0])
        return not self._stale

    def fresh(self, view: View, most: int) -> list[Instance]:
        """The lowest fresh slots, looked at again: a node may have got other labels. Those where
        nothing runs go first: what an update before has stopped comes up again before more is."""
        found: dict[Instance, None] = {}
        while self._queue and len(found) < most:
            is_up, slot = heapq.heappop(self._queue)
            if slot in self._fresh and is_up != self.facts[slot].is_down and slot not in found:
                self._look_at(view, slot)
                found.update({slot: None} if slot in self._fresh else {})
        for slot in found:  # fresh until it is tried
            heapq.heappush(self._queue, (not self.facts[slot].is_down, slot))
        return list(found)

    def dirty_task(self, view: View, slot: Instance) -> Task:
        """What is to be replaced in a fresh slot."""
        tasks = rows_of(view, self.service_id, slot)
        counting = counting_tasks(view, [t for t in tasks if t.desired < TaskState.REMOVE])
        return next(iter(wanted_of(view, self._dirt, counting).dirty), counting[0])

    def resting(self, now_ms: int) -> list[int]:
        """When those slots end their delay that are still in it, soonest first."""
        delay_ms, reached = self.settings.delay_ms, self._reached
        if not delay_ms:
            return []
        while reached and reached[0][0] + delay_ms <= now_ms:
            heapq.heappop(reached)
        still = {slot: since for since, slot in reached if self.facts[slot].reached_ms == since}
        waiting = self.tried.intersection(still) - self.in_flight
        ends = (end_of(still[slot], delay_ms, now_ms) for slot in waiting)
        return sorted(filter(None, ends))

    def last_reached_ms(self) -> int:
        if self._last_ms is None:
            self._last_ms = max((self.facts[slot].reached_ms for slot in self.tried), default=0)
        return self._last_ms

    def _look_at(self, view: View, slot: Instance) -> None:
        self._put(view, slot, rows_of(view, self.service_id, slot))

    def _put(self, view: View, slot: Instance, tasks: Iterable[Task]) -> None:
        staying = [task for task in tasks if task.desired < TaskState.REMOVE]
        facts = facts_of(view, self._dirt, staying, self._made)
        if self.is_bound and not self._is_open(view, slot):
            facts = msgspec.structs.replace(facts, is_fresh=False, is_in_flight=False)
        before = self.facts.get(slot, _EMPTY)
        self.facts[slot] = facts
        if facts.reached_ms != before.reached_ms:
            self._note_reached(slot, before.reached_ms, facts.reached_ms)
        for members, is_one in (
            (self.taken, facts.is_taken),
            (self.tried, facts.is_tried),
            (self.in_flight, facts.is_in_flight),
        ):
            (members.add if is_one else members.discard)(slot)
        if facts.is_fresh and (slot not in self._fresh or facts.is_down != before.is_down):
            heapq.heappush(self._queue, (not facts.is_down, slot))
        (self._fresh.add if facts.is_fresh else self._fresh.discard)(slot)
        self.failed.pop(slot, None)
        if facts.failed is not None:
            self.failed[slot] = facts.failed
        self.surplus.pop(slot, None)
        if facts.surplus:
            self.surplus[slot] = facts.surplus

    def _note_reached(self, slot: Instance, before_ms: int, after_ms: int) -> None:
        if after_ms and self.settings.delay_ms:
            heapq.heappush(self._reached, (after_ms, slot))
        if self._last_ms is not None:
            is_last = before_ms == self._last_ms > after_ms
            self._last_ms = None if is_last else max(self._last_ms, after_ms)

    def _is_open(self, view: View, slot: Instance) -> bool:
        return standing_of(view.nodes.get(slot.node_id), self._spec) is Standing.OPEN


def counted(view: View, service: Service, old: Task, after: Task) -> Task:
    """The successor that a restart or a move gives to `old`, as a part of the update that is under
    way, or about to begin, where it brings the instance to the present spec out of its turn. Else
    nobody would watch it, and a spec whose tasks crash could end as completed."""
    is_open = is_updating(service) or service.update_status is None
    if not is_open or old.spec_version == after.spec_version:
        return after
    if not Dirt(view, service).is_on(view, old):
        return after
    return msgspec.structs.replace(after, updated_from=old.spec_version)


def end_of(since_ms: int, period_ms: int, now_ms: int) -> int:
    """When a period that is not over yet ends, else 0. Where the clock was set back to before it
    began, further than the clocks of managers differ, it is over, lest all wait for the clock."""
    is_on = since_ms - CLOCK_SLACK_MS <= now_ms < since_ms + period_ms
    return since_ms + period_ms if since_ms and is_on else 0
