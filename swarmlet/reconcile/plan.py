"""What an update of a service would do, worked out without doing it.

Which instances are kept, replaced, made and removed is asked of what the deciders ask (`slots`,
`eligibility`); where new tasks go is placed by the scheduler's own pipeline on a ledger of its own,
in the order of the update: what is removed gives up its room first, then the missing slots are
placed, then the dirty ones, as many at a time as the update's parallelism (BATCHES_MAX batches at
most), old tasks off before (stop-first) or after (start-first). It is a forecast for the state the
view shows: tasks of others that wait for a node are not reckoned with.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.difference import FieldChange, changed_fields
from swarmlet.model.job import is_job
from swarmlet.model.revision import next_number
from swarmlet.model.schedule import is_scheduled
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.update_status import is_at_rest
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.eligibility import Standing, standing_of, takes_jobs
from swarmlet.reconcile.restart import has_stopped
from swarmlet.reconcile.rollout import Settings, settings_of
from swarmlet.reconcile.scheduler.filters import explain
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.pipeline import fits, place, why_not
from swarmlet.reconcile.scheduler.room import Room
from swarmlet.reconcile.slots import (
    Difference,
    counting_tasks,
    difference,
    free_slots,
    host_of,
    is_dirty,
    removal_order,
    replicas_of,
    slots_of,
)

KEEP: Final = "keep"
REPLACE: Final = "replace"
CREATE: Final = "create"
REMOVE: Final = "remove"

BATCHES_MAX: Final = 64
"""A turn of the scheduler walks the nodes that host the service: of a large one more slots are
placed together than are replaced at a time."""


class Planned(NamedTuple):
    """What becomes of one instance. `old` is the task there now, `node_id` where the new one would
    go: "" where there is none, or none that will do. `reason`: why it would have to wait, of a
    global service for the node that is named."""

    slot: int
    action: str
    old: Task | None = None
    node_id: NodeID = NodeID("")
    reason: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`version` is the one of the service this holds for; `number` the one the new spec would have,
    the present one where the update makes none. `is_scheduled`: a job that runs when its schedule
    says so, and not for the update."""

    version: int
    number: int
    changes: tuple[FieldChange, ...]
    settings: Settings
    is_job: bool
    is_scheduled: bool
    steps: tuple[Planned, ...]


def plan_update(
    view: View, service: Service, new: ServiceSpec, now_ms: int, *, is_rollback: bool = False
) -> Steps[Plan]:
    """`new` in the form it would be stored in; tasks are replaced by its rollback settings where it
    is rolled back to. O(nodes and tasks of the swarm)."""
    old = spec_of(view, service)
    changes = changed_fields(old, new)
    is_new = bool(changes) or is_rollback or not is_at_rest(service)
    settings = settings_of(new, is_rollback=is_rollback)
    draft = _Draft(view, service, new, settings, now_ms)
    steps: list[Planned] = []
    waits = is_job(new.mode) and (is_scheduled(old) or is_scheduled(new))
    if (is_new or is_job(new.mode)) and not waits:
        yield from draft.know_all()
        steps = yield from draft.steps()
    return Plan(
        version=service.version,
        number=next_number(view, service) if is_new else service.spec_version,
        changes=changes,
        settings=settings,
        is_job=is_job(new.mode),
        is_scheduled=waits,
        steps=tuple(steps),
    )


class _Draft:
    """The service as it would be, and the room there would be for it."""

    def __init__(
        self, view: View, service: Service, new: ServiceSpec, settings: Settings, now_ms: int
    ) -> None:
        self._view, self._service, self._new, self._now_ms = view, service, new, now_ms
        self._settings = settings
        self._room = Room(view)
        self._group = Group((service.id, next_number(view, service)), new)
        self._found: dict[int, Difference] = {}
        self._made = 0

    def know_all(self) -> Steps[None]:
        for node in sorted(self._view.nodes.all(), key=lambda node: node.id):
            self._room.know(node)
        yield from self._room.count_all()

    def steps(self) -> Steps[list[Planned]]:
        """Sorted by instance."""
        mode = self._new.mode
        if is_job(mode):
            found = self._of_job()
        elif mode.global_ is not None:
            found = self._of_global()
        else:
            found = self._of_replicated()
        steps: list[Planned] = []
        for batch in found:
            steps += batch
            yield
        return sorted(steps, key=lambda one: (one.slot, _node_of(one), one.action))

    # Replicated -----------------------------------------------------------------------------------
    def _of_replicated(self) -> Iterator[list[Planned]]:
        live = slots_of(self._view, self._service).live
        replicas = replicas_of(self._new) or 0
        order = removal_order(live)
        for slot in order[replicas:]:
            self._leave(live[slot])
            yield [Planned(slot, REMOVE, live[slot][0])]
        missing = list(islice(free_slots(live), max(0, replicas - len(live))))
        places = self._place(len(missing))
        yield [Planned(slot, CREATE, None, *places[n]) for n, slot in enumerate(missing)]
        dirty = [slot for slot in sorted(order[:replicas]) if self._is_dirty(live[slot])]
        kept = sorted(set(order[:replicas]) - set(dirty))
        yield [Planned(slot, KEEP, live[slot][0]) for slot in kept]
        for batch in _batches(dirty, self._settings.parallelism):
            yield self._replace(batch, live)

    def _replace(self, slots: Sequence[int], live: Mapping[int, Sequence[Task]]) -> list[Planned]:
        if self._settings.is_start_first:
            return self._start_first(slots, live)
        for slot in slots:
            self._leave(live[slot])
        places = self._place(len(slots))
        return [Planned(slot, REPLACE, live[slot][0], *places[n]) for n, slot in enumerate(slots)]

    def _start_first(
        self, slots: Sequence[int], live: Mapping[int, Sequence[Task]]
    ) -> list[Planned]:
        """What finds no room beside the old tasks waits, and may find it where some of those have
        gone."""
        steps: list[Planned] = []
        while slots:
            places = self._place(len(slots))
            count = sum(not reason for _, reason in places) or len(slots)
            for slot, at in zip(slots[:count], places, strict=False):
                if not at[1]:
                    self._leave(live[slot])
                steps.append(Planned(slot, REPLACE, live[slot][0], *at))
            slots = slots[count:]
        return steps

    def _is_dirty(self, tasks: Sequence[Task]) -> bool:
        return all(self._differs(task) for task in tasks)

    def _differs(self, task: Task) -> bool:
        """Every version is compared once."""
        number, made_from = task.spec_version, task_spec_of(self._view, task)
        if number not in self._found:
            self._found[number] = difference(made_from, self._new)
        if self._found[number] is not Difference.PLACE:
            return self._found[number] is Difference.ALL
        return is_dirty(made_from, self._new, host_of(self._view, task))

    # Global ---------------------------------------------------------------------------------------
    def _of_global(self) -> Iterator[list[Planned]]:
        """What stands on a node that is paused stays as it is."""
        there = self._by_node()
        for node in sorted(self._view.nodes.all(), key=lambda node: node.id):
            standing, tasks = standing_of(node, self._new), there.pop(node.id, [])
            if standing is Standing.OPEN:
                yield [self._on_node(node.id, tasks)]
            elif tasks:
                yield [Planned(0, KEEP if standing is Standing.PAUSED else REMOVE, tasks[0])]
        for node_id in sorted(there):
            yield [Planned(0, REMOVE, there[node_id][0])]

    def _on_node(self, node_id: str, tasks: Sequence[Task]) -> Planned:
        if tasks and not self._is_dirty(tasks):
            return Planned(0, KEEP, tasks[0])
        if not self._settings.is_start_first:
            self._leave(tasks)
        node, reason = self._fit(node_id)
        return Planned(0, REPLACE if tasks else CREATE, tasks[0] if tasks else None, node, reason)

    def _by_node(self) -> dict[str, list[Task]]:
        """What counts on each node now."""
        there: dict[str, list[Task]] = {}
        for task in self._view.tasks.scan("service", self._service.id):
            there.setdefault(task.node_id, []).append(task)
        counting = {at: list(counting_tasks(self._view, there[at])) for at in sorted(there)}
        return {at: tasks for at, tasks in counting.items() if tasks}

    # Jobs -----------------------------------------------------------------------------------------
    def _of_job(self) -> Iterator[list[Planned]]:
        """What runs of the present iteration is removed; of the next one that is placed which
        begins at once."""
        rows = self._view.tasks.scan("service", self._service.id)
        running = sorted(filter(_is_at_work, rows), key=lambda task: (task.slot, task.id))
        self._leave(running)
        yield [Planned(task.slot, REMOVE, task) for task in running]
        job = self._new.mode.replicated_job
        if job is None:
            for node in sorted(self._view.nodes.all(), key=lambda node: node.id):
                if takes_jobs(node, self._new):
                    yield [Planned(0, CREATE, None, *self._fit(node.id))]
            return
        total = 1 if job.total_completions is None else job.total_completions
        first = min(total, total if job.max_concurrent is None else job.max_concurrent)
        yield [Planned(slot, CREATE, None, *at) for slot, at in enumerate(self._place(first))]

    # Room -----------------------------------------------------------------------------------------
    def _leave(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._room.ledger.count(task.id, None)

    def _place(self, count: int) -> list[tuple[NodeID, str]]:
        """Where `count` new tasks go, and why the rest go nowhere."""
        ids = [TaskID(f"planned-{self._made + number}") for number in range(count)]
        self._made += count
        placed = place(self._room.ledger, self._group, ids, self._now_ms)
        places = [(node_id, "") for _, node_id in placed]
        if len(places) < count:
            nowhere = (NodeID(""), why_not(self._room.ledger, self._group))
            places += [nowhere] * (count - len(places))
        return places

    def _fit(self, node_id: str) -> tuple[NodeID, str]:
        """The one node, and why it has no room for its task, which then waits for that."""
        state = self._room.ledger.nodes[node_id]
        failed = fits(self._room.ledger, self._group, state)
        return NodeID(node_id), explain(
            {failed: 1}, self._group.needs
        ) if failed is not None else ""


def _is_at_work(task: Task) -> bool:
    return task.desired <= TaskState.COMPLETE and not has_stopped(task)


def _node_of(one: Planned) -> str:
    return one.node_id or (one.old.node_id if one.old is not None else "")


def _batches(slots: Sequence[int], parallelism: int) -> Iterator[Sequence[int]]:
    size = max(1, parallelism or len(slots), -(-len(slots) // BATCHES_MAX))
    for start in range(0, len(slots), size):
        yield slots[start : start + size]
