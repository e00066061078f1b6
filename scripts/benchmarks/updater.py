"""Updater: a rolling update of 10k and 100k tasks of one service, ten slots at a time.

Rows are in plain dicts: no log, no store, no other decider in any figure. Seconds are CPU time and
include telling the updater of every change. It looks at all tasks first, a part a decision.
Usage: scripts/bench updater [TASKS]
"""

import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.change import Create, Event, Update
from swarmlet.model.node import Node, NodeSpec, NodeState, NodeStatus
from swarmlet.model.service import (
    ReplicatedMode,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
    TaskSpec,
    UpdateConfig,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.base import Moment
from swarmlet.reconcile.updater import UpdaterDecider

replace = msgspec.structs.replace
KEY = ("service", "web")
PARALLELISM = 10


class Tasks:
    """One service's tasks, by slot."""

    def __init__(self) -> None:
        self.slots: dict[int, dict[str, Task]] = {}

    def put(self, row: Task) -> Event:
        slot = self.slots.setdefault(row.slot, {})
        old, slot[row.id] = slot.get(row.id), row
        return Event(Task, old, row)

    def scan(self, index: str, key: Any) -> Iterator[Task]:
        if index == "slot":
            return iter(list(self.slots[key[1]].values()))
        return (row for slot in self.slots.values() for row in slot.values())

    def count(self, _index: str, _key: str) -> int:
        return 1  # of every version there is


class Specs(dict[str, SpecVersion]):
    def scan(self, _index: str, _key: str) -> Iterator[SpecVersion]:
        return iter(list(self.values()))


def scene(size: int) -> Any:
    view = SimpleNamespace(tasks=Tasks(), specs=Specs(), services={}, nodes={})
    status = NodeStatus(state=NodeState.READY)
    view.nodes["n1"] = Node(id=NodeID("n1"), spec=NodeSpec(), status=status)
    for number in (1, 2):
        spec = ServiceSpec(
            name="web",
            task_template=TaskSpec(force_update=number),
            mode=ServiceMode(replicated=ReplicatedMode(replicas=size)),
            update_config=UpdateConfig(parallelism=PARALLELISM),
        )
        row_id = spec_version_id("web", number)
        view.specs[row_id] = SpecVersion(
            id=row_id, service_id=ServiceID("web"), number=number, spec=spec
        )
    service = Service(id=ServiceID("web"), name="web", spec_version=2, previous_spec_version=1)
    view.services["web"] = service
    for slot in range(1, size + 1):
        view.tasks.put(task(slot))
    return view


def task(slot: int) -> Task:
    return Task(
        id=TaskID(f"t{slot:06}"),
        service_id=ServiceID("web"),
        slot=slot,
        node_id=NodeID("n1"),
        status=TaskStatus(state=int(TaskState.RUNNING)),
    )


def obeyed(row: Task, now_ms: int) -> Task:
    """The task as its agent reports it: at what is wanted of it."""
    goal = TaskState.SHUTDOWN if row.desired > TaskState.RUNNING else TaskState.RUNNING
    status = TaskStatus(state=int(goal), applied_at_ms=now_ms, running_ms=now_ms)
    return replace(row, node_id=NodeID("n1"), status=status)


def run(size: int) -> None:
    view, decider, ids = scene(size), UpdaterDecider(), count()
    now_ms, decisions, looks, times = 1_700_000_000_000, 0, [], []
    began_s = time.process_time()
    while True:
        start_s = time.process_time()
        moment = Moment(now_ms, lambda: f"n{next(ids):08}")
        decision = decider.decide(view, KEY, moment)
        times.append(time.process_time() - start_s)
        decisions += 1
        if decision.has_more and not decision.changes:
            looks.append(times.pop())
        elif not decision.changes:
            break
        for change in decision.changes:
            assert isinstance(change, Create | Update)
            if isinstance(change.obj, Service):
                view.services["web"] = change.obj
                continue
            assert isinstance(change.obj, Task)
            for row in (change.obj, obeyed(change.obj, now_ms)):
                list(decider.keys_of(view.tasks.put(row), view))
        now_ms += 1
    total_s = time.process_time() - began_s
    sys.stdout.write(
        f"{size:>7} tasks: {decisions} decisions, {total_s:.2f} s in all; {len(looks)} looks, "
        f"longest {max(looks) * 1000:.1f} ms; longest other {max(times) * 1000:.1f} ms\n"
    )


for tasks in [int(size) for size in sys.argv[1:]] or [10_000, 100_000]:
    run(tasks)
