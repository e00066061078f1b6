"""Scheduler: tasks placed a second by nodes, tasks and services; balance; one death; the store.

    scripts/bench scheduler                                  the whole table, some minutes
    scripts/bench scheduler --nodes 5000 --tasks 100000 --constraint [--spread] [--json]
    scripts/bench scheduler --nodes 5000 --tasks 100000 --services 100000    a group a task
    scripts/bench scheduler --nodes 5000 --tasks 100000 --through store

`--through pure` (the default): groups placed in slices of 1,000 tasks on a ledger. `decider`: the
scheduler as the leader runs it, told of every task and every placement, rows in dicts; then 200
tasks die, one by one. `store`: the leader's loop on a store of one manager, sealed and fsynced,
while another process lists services (with and without their counts) and nodes through the API.
Seconds are CPU time, but for the store, where the clock on the wall counts. `fewest`, `most`: tasks
on a node that may have some. Each case of the table is a process of its own.
"""

import argparse
import asyncio
import gc
import json
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from swarmlet.api.app import build_app
from swarmlet.api.listener import serve_unix
from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.env.real import real_env
from swarmlet.env.sealed import SealKeys, new_seal_key, seal_key
from swarmlet.manager.control import Control
from swarmlet.manager.loop import ControlLoop
from swarmlet.model.change import Assign, Create, Event, SetStatus
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
    Service,
    ServiceSpec,
    SpecVersion,
    SpreadOver,
    TaskSpec,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.raft.engine import Origin, RaftEngine
from swarmlet.reconcile.base import Moment, started
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.ledger import Ledger
from swarmlet.reconcile.scheduler.pipeline import place
from swarmlet.reconcile.scheduler.place import PENDING, SchedulerDecider
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from tests.api.world import World

replace = msgspec.structs.replace
NOW_MS = 1_700_000_000_000
MOMENT = Moment(NOW_MS, str)
DEATHS = 200
LAG_PERIOD_S = 0.002
LISTS = {"services": "/services", "counted": "/services?status=true", "nodes": "/nodes"}
POLL_PERIOD_S = 0.25
REPORT = "seconds", "tasks_per_second", "rss_mib", "fewest", "most"

K = 1_000
TABLE = [  # nodes, tasks, services, options
    *((n, t, 1, ()) for n in (100, K, 5 * K) for t in (K, 10 * K, 100 * K)),
    *((n, t, t, ()) for n in (100, K, 5 * K) for t in (K, 10 * K, 100 * K)),
    (K, 100 * K, K, ()),
    (5 * K, 100 * K, 1, ("--constraint",)),
    (5 * K, 100 * K, K, ("--constraint",)),
    (5 * K, 100 * K, 100 * K, ("--constraint",)),
    (5 * K, 100 * K, 1, ("--spread",)),
    (5 * K, 100 * K, K, ("--spread",)),
    (5 * K, 100 * K, 100 * K, ("--spread",)),
    (5 * K, K * K, 1, ()),
    (5 * K, K * K, 10 * K, ()),
    (5 * K, K * K, K * K, ()),
    (100 * K, 100 * K, 1, ()),
    (100 * K, K * K, 1, ()),
    (100 * K, K * K, 10 * K, ()),
    (K, 100 * K, K, ("--through", "decider")),
    (5 * K, 100 * K, K, ("--through", "decider", "--constraint")),
    (5 * K, 100 * K, 100 * K, ("--through", "decider", "--constraint")),
    (5 * K, 100 * K, K, ("--through", "store")),
    (5 * K, K * K, 10 * K, ("--through", "store")),
]


# What is placed on what ----------------------------------------------------------------------


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


def task_id(number: int) -> TaskID:
    return TaskID(f"t{number * 7919 % 10**6:06}{number:018}")


def pending(number: int, services: int) -> Task:
    return Task(
        id=task_id(number),
        service_id=ServiceID(f"service{number % services:018}"),
        slot=1 + number // services,
        status=TaskStatus(state=TaskState.PENDING),
    )


def balance(nodes: int, constraint: bool, node_ids: Iterator[str]) -> dict[str, int]:
    may_have = (n for n in range(nodes) if not constraint or n % 3 == 0)
    totals = Counter({bench_node(number).id: 0 for number in may_have})
    totals.update(node_ids)
    return {"fewest": min(totals.values()), "most": max(totals.values())}


def rss_mib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmHWM in /proc/self/status")


# Groups on a ledger --------------------------------------------------------------------------


def pure(given: argparse.Namespace) -> dict[str, object]:
    """What each group needs has been read from its spec before the clock starts."""
    ledger = Ledger()
    for number in range(given.nodes):
        node = bench_node(number)
        ledger.set_node(node.id, node)
    waiting = []
    for number in range(given.services):
        row = bench_spec(number, given.constraint, given.spread)
        ids = [task_id(n) for n in range(number, given.tasks, given.services)]
        waiting.append((Group((row.service_id, 1), row.spec), ids))
    gc.collect()
    gc.freeze()
    longest_s, placed = 0.0, []
    start_s = time.process_time()
    for group, ids in sorted(waiting, key=lambda one: one[0].sort_key):
        for at in range(0, len(ids), ENTRY_CHANGES_MAX):
            begin_s = time.process_time()
            placed += place(ledger, group, ids[at : at + ENTRY_CHANGES_MAX], NOW_MS)
            longest_s = max(longest_s, time.process_time() - begin_s)
    seconds = time.process_time() - start_s
    assert len(placed) == given.tasks, f"{len(placed)} of {given.tasks} tasks were placed"
    node_ids = (node_id for _, node_id in placed)
    return {
        "seconds": seconds,
        **balance(given.nodes, given.constraint, node_ids),
        "longest_slice_ms": longest_s * 1e3,
    }


# The decider ---------------------------------------------------------------------------------


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


class Cluster:
    """A cluster and its scheduler."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.nodes, self.specs, self.tasks = Rows(), Rows(), Rows()
        self.view: Any = SimpleNamespace(nodes=self.nodes, specs=self.specs, tasks=self.tasks)
        self.decider = SchedulerDecider()
        self.longest_s = 0.0
        for node in map(bench_node, range(given.nodes)):
            self.nodes.rows[node.id] = node
        for number in range(given.services):
            spec = bench_spec(number, given.constraint, given.spread)
            self.specs.rows[spec.id] = spec
        started(self.decider, self.view)

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


def decider(given: argparse.Namespace) -> dict[str, object]:
    cluster = Cluster(given)
    rows = [pending(number, given.services) for number in range(given.tasks)]
    gc.collect()
    gc.freeze()
    seconds = cpu_s(lambda: ([cluster.put(None, row) for row in rows], cluster.place()))
    node_ids = (task.node_id for task in cluster.tasks.all() if task.node_id)
    figures = balance(given.nodes, given.constraint, node_ids)
    deaths = sorted(one_death(cluster, row, n) for n, row in enumerate(rows[:DEATHS]))
    return {
        "seconds": seconds,
        **figures,
        "longest_slice_ms": cluster.longest_s * 1e3,
        "death_ms": deaths[len(deaths) // 2] * 1e3,
        "longest_death_ms": deaths[-1] * 1e3,
    }


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def one_death(cluster: Cluster, row: Task, number: int) -> float:
    old = cluster.tasks.rows[row.id]
    dead = replace(old, status=replace(old.status, state=int(TaskState.FAILED)))
    after = replace(row, id=TaskID(f"s{number:024}"))

    def work() -> None:
        cluster.put(old, dead)
        assert cluster.put(None, after)
        assert cluster.place() == 1

    return cpu_s(work)


# The store -----------------------------------------------------------------------------------


class TimedScheduler(SchedulerDecider):
    """Knows how long its index took."""

    started_s = 0.0

    def start(self, view: Any) -> Any:
        begin_s = time.perf_counter()
        yield from super().start(view)
        self.started_s = time.perf_counter() - begin_s


class Lag:
    """How late the loop is: the longest."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        while True:
            due_s = time.perf_counter() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - due_s)


def through_store(given: argparse.Namespace) -> dict[str, object]:
    folder = tempfile.mkdtemp(dir=given.folder)
    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(on_store(given, folder))
    finally:
        shutil.rmtree(folder)


async def sealed_store(folder: str) -> tuple[Store, RaftEngine]:
    """A manager's, sealed and fsynced; the caller runs the engine and stops it."""
    env = real_env()
    store = Store(env)
    keys = SealKeys(current=seal_key(new_seal_key(env.entropy)))
    me = Member(raft_id=1, node_id="bench", address="127.0.0.1:2377")
    engine = RaftEngine(env, f"{folder}/raft", keys, store, me)
    await engine.start(Origin.FOUND)
    store.attach(engine)
    return store, engine


async def on_store(given: argparse.Namespace, folder: str) -> dict[str, object]:
    store, engine = await sealed_store(folder)
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run())
        await store.batch(rows_of(given))
        await store.batch(
            Create(obj=pending(number, given.services)) for number in range(given.tasks)
        )
        gc.collect()
        gc.freeze()
        path = f"{folder}/api.sock"
        async with serve_unix(build_app(answering(store, engine)), path):
            figures = await scheduled(given, store, group, path)
        await engine.stop()
    return figures


def answering(store: Store, engine: RaftEngine) -> World:
    """What the API's tests answer with, on this store."""
    world = World()
    world.store = store
    world._control = Control(store, engine, world.logs, real_env(), NodeID("bench"))
    return world


def rows_of(given: argparse.Namespace) -> Iterator[Create]:
    for number in range(given.nodes):
        yield Create(obj=bench_node(number))
    for number in range(given.services):
        spec = bench_spec(number, given.constraint, given.spread)
        yield Create(obj=spec)
        yield Create(obj=Service(id=spec.service_id, name=spec.spec.name))


async def scheduled(
    given: argparse.Namespace, store: Store, group: asyncio.TaskGroup, path: str
) -> dict[str, object]:
    scheduler, lag = TimedScheduler(), Lag()
    reader = await asyncio.to_thread(new_reader, path)
    assert reader.stdout is not None
    await asyncio.to_thread(reader.stdout.readline)  # it has begun
    watch = group.create_task(lag.run())
    await asyncio.sleep(10 * LAG_PERIOD_S)
    begin_s, cpu_s_before = time.perf_counter(), time.process_time()
    loop = group.create_task(ControlLoop(scheduler, store, real_env()).run())
    view = store.view()
    while view.tasks.count("state", TaskState.PENDING):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(LAG_PERIOD_S)
    seconds, cpu = time.perf_counter() - begin_s, time.process_time() - cpu_s_before
    for task in (loop, watch):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    listed, _ = await asyncio.to_thread(reader.communicate)
    node_ids = (task.node_id for task in view.tasks.all())
    return {
        "seconds": seconds,
        **balance(given.nodes, given.constraint, node_ids),
        "cpu_seconds": cpu,
        "index_seconds": scheduler.started_s,
        "longest_lag_ms": lag.longest_s * 1e3,
        **json.loads(listed),
    }


def new_reader(path: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--poll", path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def poll(path: str) -> None:
    """Ask for each list in turn until the input ends; print how long each took."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    answers = connection.makefile("rb")
    times_ms: dict[str, list[float]] = {name: [] for name in LISTS}
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    is_over = False
    while not is_over:
        for name, target in LISTS.items():
            begin_s = time.perf_counter()
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
            head = list(iter(answers.readline, b"\r\n"))
            assert b" 200 " in head[0], head[0]
            (size,) = (int(line[15:]) for line in head if line[:15].lower() == b"content-length:")
            answers.read(size)
            times_ms[name].append((time.perf_counter() - begin_s) * 1e3)
        is_over = bool(select.select([sys.stdin], [], [], POLL_PERIOD_S)[0])
    found = {}
    for name, times in times_ms.items():
        times.sort()
        found[f"{name}_p50_ms"] = round(times[len(times) // 2], 1)
        found[f"{name}_p99_ms"] = round(times[int(len(times) * 0.99)], 1)
        found[f"{name}_lists"] = len(times)
    sys.stdout.write(json.dumps(found))


# The command line ----------------------------------------------------------------------------

WAYS = {"pure": pure, "decider": decider, "store": through_store}


def one_case(given: argparse.Namespace) -> dict[str, object]:
    figures = WAYS[given.through](given)
    figures["tasks_per_second"] = round(given.tasks / float(str(figures["seconds"])))
    figures["rss_mib"] = rss_mib()
    rest = [name for name in figures if name not in REPORT]
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in ((name, figures[name]) for name in (*REPORT, *rest))
    }


def table() -> None:
    for nodes, tasks, services, options in TABLE:
        arguments = ["--nodes", nodes, "--tasks", tasks, "--services", services, *options]
        command = [sys.executable, __file__, *map(str, arguments), "--json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        name = f"{nodes:,} nodes, {tasks:,} tasks, {services:,} services {' '.join(options)}"
        say(name, found)


def say(name: str, found: dict[str, Any]) -> None:
    first = f"{found['seconds']:8.3f} s {found['tasks_per_second']:11,}/s {found['rss_mib']:6} MiB"
    rest = " ".join(f"{k} {v}" for k, v in islice(found.items(), len(REPORT), None))
    balanced = f"{found['fewest']}..{found['most']} a node"
    sys.stdout.write(f"{name:<72}{first}  {balanced}  {rest}\n")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--services", type=int, default=1, help="which share the tasks evenly")
    parser.add_argument("--constraint", action="store_true", help="1 node in 3, and reservations")
    parser.add_argument("--spread", action="store_true", help="5 data centres of 10 racks")
    parser.add_argument("--through", choices=WAYS, default="pure")
    parser.add_argument("--folder", help="where the store writes (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--poll", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if (given.nodes is None) != (given.tasks is None):
        parser.error("give --nodes and --tasks, or neither for the whole table")
    return given


def run(given: argparse.Namespace) -> None:
    if given.poll:
        poll(given.poll)
        return
    if given.nodes is None:
        table()
        return
    found = one_case(given)
    if given.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        say(f"{given.nodes:,} nodes, {given.tasks:,} tasks, {given.services:,} services", found)


if __name__ == "__main__":
    run(arguments())
