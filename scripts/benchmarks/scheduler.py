"""Scheduler: placing 10k and 100k tasks, one task that dies, tasks that fit nowhere; balance.

Rows are in plain dicts: no log, no store, no allocator in any figure. Seconds are CPU time and
include telling the scheduler of every task and of every placement. "longest" is the longest single
decision; "balance" the least and the most tasks on a node that may have some.
Usage: scripts/bench scheduler [NODES TASKS SERVICES [constraint] [spread]]
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.change import Assign, Event, SetStatus
from swarmlet.model.container import ContainerSpec
from swarmlet.model.node import (
    RUNTIME_LABEL,
    EngineDescription,
    Node,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
)
from swarmlet.model.service import (
    Placement,
    PlacementPreference,
    Platform,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    SpecVersion,
    SpreadOver,
    TaskSpec,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.base import Moment
from swarmlet.reconcile.scheduler.place import PENDING, SchedulerDecider

replace = msgspec.structs.replace
MOMENT = Moment(1_700_000_000_000, str)
DEATHS = 200
CASES = [
    # nodes, tasks, services, constraint and reservations, spread
    (1_000, 10_000, 1, False, False),
    (1_000, 100_000, 1, False, False),
    (1_000, 100_000, 1_000, False, False),
    (1_000, 100_000, 100_000, False, False),
    (5_000, 100_000, 1, True, False),
    (5_000, 100_000, 1_000, True, False),
    (5_000, 100_000, 100_000, True, False),
    (5_000, 100_000, 1, False, True),
    (5_000, 100_000, 1_000, False, True),
]


class Rows:
    """A table of a view: all that the scheduler asks of one."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}

    def get(self, row_id: str) -> Any:
        return self.rows.get(row_id)

    def all(self) -> Iterator[Any]:
        return iter(self.rows.values())

    def scan(self, index: str, key: str) -> Iterator[Any]:
        assert index == "node"
        return (row for row in list(self.rows.values()) if row.node_id == key)


class Bench:
    """A cluster and its scheduler."""

    def __init__(self, nodes: int, services: int, constraint: bool, spread: bool) -> None:
        self.nodes, self.specs, self.tasks = Rows(), Rows(), Rows()
        self.view: Any = SimpleNamespace(nodes=self.nodes, specs=self.specs, tasks=self.tasks)
        self.decider = SchedulerDecider()
        self.longest_s = 0.0
        for node in map(bench_node, range(nodes)):
            self.nodes.rows[node.id] = node
        for number in range(services):
            spec = bench_spec(number, constraint, spread)
            self.specs.rows[spec.id] = spec
        self.decider.start(self.view)

    def put(self, old: Task | None, new: Task) -> bool:
        self.tasks.rows[new.id] = new
        return bool(self.decider.keys_of(Event(Task, old, new), self.view))

    def place(self) -> int:
        """Decide and apply until nothing is left; the number of changes."""
        total = 0
        while True:
            start = time.process_time()
            decision = self.decider.decide(self.view, PENDING, MOMENT)
            self.longest_s = max(self.longest_s, time.process_time() - start)
            for change in decision.changes:
                task = self.tasks.rows[change.id]  # type: ignore[union-attr]
                if isinstance(change, Assign):
                    status = replace(task.status, state=int(TaskState.ASSIGNED))
                    self.put(task, replace(task, node_id=change.node_id, status=status))
                elif isinstance(change, SetStatus):
                    self.put(task, replace(task, status=change.status))
            total += len(decision.changes)
            if not decision.has_more:
                return total

    def balance(self) -> str:
        may_have = [
            n.id
            for n in self.nodes.all()
            if not self.is_constrained or n.spec.labels["kind"] == "0"
        ]
        totals = Counter({node_id: 0 for node_id in may_have})
        totals.update(t.node_id for t in self.tasks.all() if t.node_id)
        return f"{min(totals.values())}..{max(totals.values())}"

    @property
    def is_constrained(self) -> bool:
        return bool(next(self.specs.all()).spec.task_template.placement.constraints)


def bench_node(number: int) -> Node:
    labels = {"kind": str(number % 3), "dc": f"d{number % 5}", "rack": f"r{number % 50}"}
    return Node(
        id=NodeID(f"node{number:021}"),
        spec=NodeSpec(labels=labels, availability="active", role="worker"),
        status=NodeStatus(state=NodeState.READY),
        description=NodeDescription(
            hostname=f"h{number}",
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=10**12, memory_bytes=1 << 42),
            engine=EngineDescription(labels={RUNTIME_LABEL: "process"}),
        ),
    )


def bench_spec(number: int, constraint: bool, spread: bool) -> SpecVersion:
    reserved = Resources(nano_cpus=10**8, memory_bytes=1 << 26) if constraint else None
    over = ("node.labels.dc", "node.labels.rack") if spread else ()
    template = TaskSpec(
        container_spec=ContainerSpec(image="host"),
        resources=ResourceRequirements(reservations=reserved),
        placement=Placement(
            constraints=["node.labels.kind==0"] if constraint else [],
            preferences=[PlacementPreference(spread=SpreadOver(spread_descriptor=k)) for k in over],
        ),
    )
    name = f"service{number:018}"
    return SpecVersion(
        id=spec_version_id(name, 1),
        service_id=ServiceID(name),
        number=1,
        spec=ServiceSpec(name=name, task_template=template),
    )


def pending(number: int, services: int) -> Task:
    return Task(
        id=TaskID(f"t{number * 7919 % 10**6:06}{number:018}"),
        service_id=ServiceID(f"service{number % services:018}"),
        slot=1 + number // services,
        status=TaskStatus(state=TaskState.PENDING),
    )


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def say(what: str, value: str) -> None:
    sys.stdout.write(f"{what:<64} {value}\n")
    sys.stdout.flush()


def bench(nodes: int, tasks: int, services: int, constraint: bool, spread: bool) -> None:
    name = f"{nodes} nodes, {tasks} tasks, {services} services"
    name += ", constrained" * constraint + ", spread" * spread
    cluster = Bench(nodes, services, constraint, spread)
    rows = [pending(number, services) for number in range(tasks)]
    seconds = cpu_s(lambda: ([cluster.put(None, row) for row in rows], cluster.place()))
    longest = f"longest {cluster.longest_s * 1e3:5.1f} ms"
    say(name, f"{seconds:7.3f} s  {longest}  balance {cluster.balance()}")
    deaths = sorted(one_death(cluster, row, number) for number, row in zip(count(), rows[:DEATHS]))
    if deaths:
        middle, longest_ms = deaths[len(deaths) // 2] * 1e3, deaths[-1] * 1e3
        say("  one task dies, its successor is placed", f"{middle:.3f} ms, most {longest_ms:.1f}")


def one_death(cluster: Bench, row: Task, number: int) -> float:
    old = cluster.tasks.rows[row.id]
    dead = replace(old, status=replace(old.status, state=int(TaskState.FAILED)))
    after = replace(row, id=TaskID(f"s{number:024}"))

    def work() -> None:
        cluster.put(old, dead)
        assert cluster.put(None, after)
        assert cluster.place() == 1

    return cpu_s(work)


def bench_unplaceable(nodes: int, tasks: int) -> None:
    """Tasks that fit nowhere, and what each event then costs."""
    cluster = Bench(nodes, 1, True, False)
    for node in list(cluster.nodes.all()):
        paused = replace(node, spec=replace(node.spec, availability="pause"))
        cluster.nodes.rows[node.id] = paused
    cluster.decider.start(cluster.view)
    rows = [pending(number, 1) for number in range(tasks)]
    seconds = cpu_s(lambda: ([cluster.put(None, row) for row in rows], cluster.place()))
    say(f"{nodes} nodes, {tasks} tasks that fit nowhere: told why", f"{seconds:7.3f} s")
    row = next(cluster.tasks.all())
    repeated = cpu_s(lambda: [cluster.put(row, row) for _ in range(1_000)])
    say("  an event that changes nothing", f"{repeated * 1e3:.2f} us")


def run(arguments: list[str]) -> None:
    if arguments:
        nodes, tasks, services = map(int, arguments[:3])
        bench(nodes, tasks, services, "constraint" in arguments, "spread" in arguments)
        return
    for case in CASES:
        bench(*case)
    bench_unplaceable(1_000, 20_000)


if __name__ == "__main__":
    run(sys.argv[1:])
