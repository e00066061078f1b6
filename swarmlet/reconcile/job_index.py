"""What the deciders of jobs remember of them and their tasks, so that no end of one task costs a
walk over all of them."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from swarmlet.model.job import is_job
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of

Place: TypeAlias = int | str
"""Where one task of an iteration belongs: a slot (from 0) of a replicated job, or the id of a node
of a global one."""


def is_active(task: Task) -> bool:
    """Whether the task still has something to do: it is to run to its end, and has not; or it
    failed, and nobody has decided yet what follows."""
    return task.desired <= TaskState.COMPLETE and task.status.state != TaskState.COMPLETE


def is_on_node(task: Task) -> bool:
    """Whether the task may run, by what was observed."""
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


class KnownJobs:
    """Which services are jobs, and which of those are for all nodes: so for life."""

    def __init__(self) -> None:
        self._is_job: dict[str, bool] = {}
        self.globals: dict[str, None] = {}

    def knows(self, view: View, service_id: str) -> bool:
        """Whether this is a job; one that is gone is none."""
        known = self._is_job.get(service_id)
        if known is None:
            service = view.services.get(service_id)
            if service is None:
                return False
            mode = spec_of(view, service).mode
            known = self._is_job[service_id] = is_job(mode)
            if mode.global_job is not None:
                self.globals[service_id] = None
        return known

    def forget(self, service_id: str) -> None:
        self._is_job.pop(service_id, None)
        self.globals.pop(service_id, None)


class Run:
    """One iteration of a job: which places have tasks, and which of those have something to do."""

    def __init__(self) -> None:
        self.filled: dict[Place, int] = {}  # place -> tasks that are not leaving
        self.active: dict[Place, int] = {}  # place -> tasks that are active
        self.on_nodes: dict[str, None] = {}  # ids of tasks that may run
        self._lowest = 0  # no slot below it is free

    @property
    def is_empty(self) -> bool:
        return not self.filled and not self.on_nodes

    def free_slots(self, total: int) -> Iterator[int]:
        """Slots below `total` that never had a task, ascending."""
        return (slot for slot in range(self._lowest, total) if slot not in self.filled)

    def count(self, place: Place, old: Task | None, new: Task | None) -> None:
        """Make it equal to a task's new row."""
        _add(self.filled, place, _is_kept(new) - _is_kept(old))
        _add(self.active, place, _is_active(new) - _is_active(old))
        if new is not None and is_on_node(new):
            self.on_nodes[new.id] = None
        elif old is not None:
            self.on_nodes.pop(old.id, None)
        if isinstance(place, int):
            if place not in self.filled:
                self._lowest = min(self._lowest, place)
            while self._lowest in self.filled:
                self._lowest += 1


def _add(counts: dict[Place, int], place: Place, change: int) -> None:
    if change:
        counts[place] = counts.get(place, 0) + change
        if not counts[place]:
            del counts[place]


def _is_kept(task: Task | None) -> bool:
    return task is not None and task.desired < TaskState.REMOVE


def _is_active(task: Task | None) -> bool:
    return task is not None and is_active(task)


class JobIndex:
    """Service -> iteration -> its run."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[int, Run]] = {}

    def run(self, service_id: str, iteration: int) -> Run:
        """An empty one where nothing of it is there."""
        return self._runs.get(service_id, {}).get(iteration) or Run()

    def closed_runs(self, service_id: str, still_open: Iterable[int]) -> list[Run]:
        """Those of iterations that are no longer open, oldest first."""
        runs = self._runs.get(service_id, {})
        closed = runs.keys() - set(still_open)
        return [runs[iteration] for iteration in sorted(closed)]

    def count(self, place: Place, old: Task | None, new: Task | None) -> None:
        """Make it equal to a task's new row; `place` is the task's."""
        task = new or old
        assert task is not None, "an event has a row"
        runs = self._runs.setdefault(task.service_id, {})
        run = runs.setdefault(task.job_iteration, Run())
        run.count(place, old, new)
        if run.is_empty:
            del runs[task.job_iteration]

    def forget(self, service_id: str) -> None:
        self._runs.pop(service_id, None)
