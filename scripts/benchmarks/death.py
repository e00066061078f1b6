"""One task's death in a large cluster: the manager's CPU from its report to its successor's node.

    scripts/bench death                                     5,000 nodes, 100,000 tasks
    scripts/bench death --nodes 1000 --tasks 20000 [--services 100] [--json]

A leader's loops, all of them, on a store of one manager, sealed and fsynced, where every task runs.
`first_ms`: the death that a leader decides first after its loops have begun; `death_ms` and
`longest_death_ms`: of 200 more, one after the other, each in another service. CPU of the whole
process, from the commit of the report to the row that gives the successor a node: two events, five
decisions of as many loops, three commits. Services restart without a delay.
"""

import argparse
import asyncio
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.scheduler import bench_node, bench_spec, rss_mib, sealed_store, task_id
from swarmlet.core.ids import ClusterID, ServiceID
from swarmlet.env.real import real_env
from swarmlet.manager.loop import ControlLoop
from swarmlet.model.change import Create, SetStatus
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.defaults import complete_swarm, normal_service
from swarmlet.model.service import (
    ReplicatedMode,
    RestartPolicy,
    Service,
    ServiceMode,
    SpecVersion,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.store.store import Store
from tests.reconcile.world import replace

DEATHS = 200


def rows_of(given: argparse.Namespace, now_ms: int) -> Iterator[Create]:
    replicas = given.tasks // given.services
    yield Create(obj=Cluster(id=ClusterID("bench"), spec=complete_swarm(SwarmSpec())))
    node_ids = [bench_node(number).id for number in range(given.nodes)]
    for number in range(given.nodes):
        yield Create(obj=bench_node(number))
    for number in range(given.services):
        row = spec_of(number, replicas)
        yield Create(obj=row)
        yield Create(obj=Service(id=row.service_id, name=row.spec.name))
    for number in range(given.services * replicas):
        yield Create(
            obj=Task(
                id=task_id(number),
                service_id=ServiceID(f"service{number % given.services:018}"),
                slot=1 + number // given.services,
                node_id=node_ids[number % given.nodes],
                desired=TaskState.RUNNING,
                status=TaskStatus(state=TaskState.RUNNING, at_ms=now_ms, running_ms=now_ms),
            )
        )


def spec_of(number: int, replicas: int) -> SpecVersion:
    row = bench_spec(number, constraint=False, spread=False)
    mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
    template = replace(row.spec.task_template, restart_policy=RestartPolicy(delay=0))
    return replace(row, spec=normal_service(replace(row.spec, mode=mode, task_template=template)))


class Deaths:
    """Tells when a successor was given its node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._assigned = asyncio.Event()
        store.subscribe(self._on_events)

    def _on_events(self, events) -> None:
        if any(
            event.table is Task
            and event.new is not None
            and event.new.status.state == TaskState.ASSIGNED
            for event in events
        ):
            self._assigned.set()

    async def one(self, number: int) -> float:
        """Milliseconds of CPU."""
        self._assigned.clear()
        now_ms = int(time.time() * 1e3)
        status = TaskStatus(state=TaskState.FAILED, at_ms=now_ms, running_ms=1, exit_code=1)
        begin_s = time.process_time()
        await self._store.commit([SetStatus(id=task_id(number), status=status)])
        async with asyncio.timeout(30):
            await self._assigned.wait()
        return (time.process_time() - begin_s) * 1e3


async def measure(given: argparse.Namespace, folder: str) -> dict[str, float]:
    env = real_env()
    store, engine = await sealed_store(folder)
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run())
        await store.batch(rows_of(given, env.clock.wall_ms()))
        gc.collect()
        gc.freeze()
        turnstile = asyncio.Lock()
        loops = [ControlLoop(one, store, env, turnstile) for one in all_deciders()]
        running = [group.create_task(loop.run()) for loop in loops]
        begin_s = time.process_time()
        await at_rest(loops)
        start_s = time.process_time() - begin_s
        deaths, times_ms = Deaths(store), []
        for number in range(1 + DEATHS):
            times_ms.append(await deaths.one(number))
            await at_rest(loops)
        for task in running:
            task.cancel()
        await engine.stop()
    first_ms, *others_ms = times_ms
    others_ms.sort()
    return {
        "first_ms": first_ms,
        "death_ms": others_ms[len(others_ms) // 2],
        "longest_death_ms": others_ms[-1],
        "start_seconds": start_s,
        "rss_mib": rss_mib(),
    }


async def at_rest(loops: list[ControlLoop]) -> None:
    await asyncio.sleep(0.02)
    async with asyncio.timeout(60):
        while not all(loop.is_at_rest() for loop in loops):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def run() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = tempfile.mkdtemp()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(given, folder))
    finally:
        shutil.rmtree(folder)
    found = {name: round(value, 3) for name, value in found.items()}
    line = json.dumps(found) if given.json else " ".join(f"{k} {v}" for k, v in found.items())
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    run()
