"""Jobs: what the decider costs for each task of a large one, and at its turning points.

    scripts/bench jobs                     100,000 tasks, 1,000 at once: half a minute
    scripts/bench jobs --tasks 20000       fewer of them
    scripts/bench jobs --json out.json     the figures for a program

The decider of jobs alone on a real store, without loop, log and agents; tasks end a hundred an
entry. Only the decider's own time is counted.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from msgspec.structs import replace

from swarmlet.core.ids import ServiceID
from swarmlet.model.change import Create, Event, SetStatus, Update
from swarmlet.model.job import first_iteration, next_iteration
from swarmlet.model.service import Service, SpecVersion
from swarmlet.model.task import TaskState
from swarmlet.reconcile.base import Key, Moment, started
from swarmlet.reconcile.jobs import JobsDecider, is_finished
from tests.reconcile.job_scene import job_mode
from tests.reconcile.world import service_spec
from tests.store.worlds import Direct

ENDING = 100  # tasks whose end is in one entry
JOB = ServiceID("job")


class Run:
    """The decider, what it has been told, and how long it took."""

    def __init__(self, tasks: int, at_once: int) -> None:
        number = itertools.count()
        self.moment = Moment(1_700_000_000_000, lambda: f"t{next(number):08d}")
        self.direct = Direct()
        self.events: list[Event] = []
        self.direct.store.subscribe(self.events.extend)
        spec = replace(service_spec("job"), mode=job_mode(at_once, tasks))
        self.apply(
            Create(obj=Service(id=JOB, name="job", job_status=first_iteration(1))),
            Create(obj=SpecVersion(id="job@1", service_id=JOB, number=1, spec=spec)),
        )
        self.decider = JobsDecider()
        self.events.clear()
        self.dirty: dict[Key, None] = dict.fromkeys(started(self.decider, self.view))
        self.busy_s = self.longest_s = 0.0

    @property
    def view(self):
        return self.direct.store.view()

    @property
    def service(self) -> Service:
        return self.view.services.get(JOB)

    def apply(self, *changes, guards=()) -> None:
        assert not self.direct.apply(*changes, guards=guards)

    def rest(self) -> float:
        """Decide until nothing is left; how long that took, in seconds."""
        before_s = self.busy_s
        while True:
            self._hear()
            if not self.dirty:
                return self.busy_s - before_s
            key = next(iter(self.dirty))
            del self.dirty[key]
            start_s = time.perf_counter()
            decision = self.decider.decide(self.view, key, self.moment)
            took_s = time.perf_counter() - start_s
            self.busy_s += took_s
            self.longest_s = max(self.longest_s, took_s)
            if decision.changes:
                self.apply(*decision.changes, guards=decision.guards)
                self.dirty[key] = None

    def _hear(self) -> None:
        told, self.events[:] = list(self.events), []
        start_s = time.perf_counter()
        for event in told:
            if event.table in self.decider.tables:
                self.dirty.update(dict.fromkeys(self.decider.keys_of(event, self.view)))
        self.busy_s += time.perf_counter() - start_s

    def end_some(self) -> int:
        fresh = list(itertools.islice(self.view.tasks.scan("state", TaskState.NEW), ENDING))
        done = {"state": int(TaskState.COMPLETE), "at_ms": 5}
        self.apply(*(SetStatus(id=t.id, status=replace(t.status, **done)) for t in fresh))
        return len(fresh)


def measure(tasks: int, at_once: int) -> dict[str, object]:
    run = Run(tasks, at_once)
    opening_s = run.rest()
    ended_s, ended = 0.0, 0
    while ended < tasks:
        ended += run.end_some()
        ended_s += run.rest()
    longest_ms = round(run.longest_s * 1000, 1)
    start_s = time.perf_counter()
    started(JobsDecider(), run.view)
    leader_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    assert is_finished(run.view, run.service, 0)
    look_s = time.perf_counter() - start_s
    run.apply(Update(obj=next_iteration(run.service, 2), seen=run.service.version))
    return {
        "tasks": tasks,
        "at_once": at_once,
        "opened_s": round(opening_s, 3),
        "a_task_us": round(ended_s / tasks * 1e6, 1),
        "longest_decision_ms": longest_ms,
        "new_leader_s": round(leader_s, 3),
        "whether_all_is_done_s": round(look_s, 3),
        "next_iteration_s": round(run.rest(), 3),
    }


def main() -> None:
    options = argparse.ArgumentParser(description="Measure the decider of jobs.")
    options.add_argument("--tasks", type=int, default=100_000)
    options.add_argument("--at-once", type=int, default=1_000)
    options.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    given = options.parse_args()
    found = measure(given.tasks, given.at_once)
    for name, value in found.items():
        print(f"{name:22} {value}")
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
