"""The deciders on the real store, run by the real loop, with answers that get lost on the way."""

import asyncio
from random import Random

import pytest

from swarmlet.core.ids import ClusterID
from swarmlet.env.real import RealDisk
from swarmlet.manager.loop import ControlLoop
from swarmlet.model.change import Create, Remove, SetNodeStatus, SetStatus, Update
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.node import NodeState, NodeStatus
from swarmlet.model.service import (
    ReplicatedMode,
    Service,
    ServiceMode,
    SpecVersion,
    spec_version_id,
)
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.store.store import Store
from tests.agent.virtual_time import run_virtual, virtual_env
from tests.reconcile.everywhere import global_spec
from tests.reconcile.world import node, replace, service_spec
from tests.store.memory_log import MemoryLog

FAULTS = ["lost", "unknown", "late", "duplicate"]
RUNNING = TaskState.RUNNING


class Ground:
    """A store with four nodes, all deciders, and one hand that does what agents and users do."""

    def __init__(self, seed: int) -> None:
        env = virtual_env(RealDisk(), seed)
        self.rng, self.store = Random(seed), Store(env)
        self.log = MemoryLog(self.store)
        self.store.attach(self.log)
        self.loops = [ControlLoop(decider, self.store, env) for decider in all_deciders()]

    async def commit(self, *changes) -> None:
        self.log._faults.clear()  # only the loops' answers get lost
        await self.store.commit(changes)

    async def run(self, work) -> None:
        await self.commit(Create(obj=Cluster(id=ClusterID("c"), spec=SwarmSpec(name="default"))))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop.run()) for loop in self.loops]
            await self.commit(*(Create(obj=node(f"n{number}")) for number in range(4)))
            await work(self)
            for task in tasks:
                task.cancel()

    async def create(self, name: str, replicas: int) -> None:
        spec = service_spec(name, replicas)
        version = SpecVersion(id=f"{name}@1", service_id=name, number=1, spec=spec)
        await self.commit(Create(obj=Service(id=name, name=name)), Create(obj=version))

    async def scale(self, name: str, replicas: int) -> None:
        row = self.store.view().services.get(name)
        number = row.spec_version + 1
        mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
        version = SpecVersion(
            id=spec_version_id(name, number),
            service_id=row.id,
            number=number,
            spec=replace(service_spec(name, replicas), mode=mode),
        )
        after = replace(row, spec_version=number, previous_spec_version=row.spec_version)
        await self.commit(Create(obj=version), Update(obj=after, seen=row.version))

    async def obey(self) -> None:
        """Every task goes on to where it should be."""
        changes = [
            SetStatus(id=t.id, status=TaskStatus(state=self.goal(t), applied_at_ms=1))
            for t in self.store.view().tasks.all()
            if TaskState.ASSIGNED <= t.status.state <= RUNNING and t.status.state != self.goal(t)
        ]
        self.log._faults.clear()
        await self.store.batch(changes)

    @staticmethod
    def goal(task) -> TaskState:
        return TaskState.SHUTDOWN if task.desired > RUNNING else TaskState(task.desired)

    async def rest(self) -> None:
        """Until nothing is left to do but what timers will bring."""
        for _ in range(1_000):
            await asyncio.sleep(0.5)
            await self.obey()
            tasks = list(self.store.view().tasks.all())
            is_held = any(t.desired == TaskState.READY for t in tasks)
            is_done = all(self.goal(t) == t.status.state for t in tasks if t.desired <= RUNNING)
            if is_done and not is_held and all(loop.is_at_rest() for loop in self.loops):
                return
        raise AssertionError("never rests")

    def running(self, name: str) -> list[int]:
        tasks = self.store.view().tasks.scan("service", name)
        return sorted(t.slot for t in tasks if t.desired <= RUNNING and t.status.state == RUNNING)


@pytest.mark.parametrize("seed", range(20))
def test_service_comes_to_what_was_asked_for_when_answers_are_lost(seed):
    async def work(ground: Ground) -> None:
        await ground.create("web", 5)
        for _ in range(6):
            tasks = [t.id for t in ground.store.view().tasks.all() if t.status.state == RUNNING]
            status = TaskStatus(state=TaskState.FAILED, applied_at_ms=1)
            if tasks:
                await ground.commit(SetStatus(id=ground.rng.choice(tasks), status=status))
            await ground.scale("web", ground.rng.randint(1, 9))
            state = ground.rng.choice([NodeState.DOWN, NodeState.READY])
            await ground.commit(SetNodeStatus(id="n1", status=NodeStatus(state=state)))
            ground.log.fail_next(*ground.rng.choices(["", *FAULTS], k=4))
            await asyncio.sleep(ground.rng.choice([0.0, 1.0, 30.0]))
            await ground.obey()
        await ground.scale("web", 4)
        await ground.rest()
        assert len(ground.running("web")) == 4
        assert len(set(ground.running("web"))) == 4

    ground = Ground(seed)
    run_virtual(ground.run(work))


@pytest.mark.parametrize("seed", range(10))
def test_global_service_comes_to_every_node_when_answers_are_lost(seed):
    async def work(ground: Ground) -> None:
        spec = global_spec()
        version = SpecVersion(id="web@1", service_id="web", number=1, spec=spec)
        await ground.commit(Create(obj=Service(id="web", name="web")), Create(obj=version))
        for _ in range(6):
            row = ground.store.view().nodes.get(f"n{ground.rng.randrange(4)}")
            how = ground.rng.choice(["active", "pause", "drain"])
            changed = replace(row, spec=replace(row.spec, availability=how))
            await ground.commit(Update(obj=changed, seen=row.version))
            ground.log.fail_next(*ground.rng.choices(["", *FAULTS], k=4))
            await asyncio.sleep(ground.rng.choice([0.0, 1.0, 30.0]))
            await ground.obey()
        for row in list(ground.store.view().nodes.all()):
            active = replace(row, spec=replace(row.spec, availability="active"))
            await ground.commit(Update(obj=active, seen=row.version))
        await ground.rest()
        tasks = ground.store.view().tasks.scan("service", "web")
        assert sorted(t.node_id for t in tasks if t.desired == RUNNING) == ["n0", "n1", "n2", "n3"]

    ground = Ground(seed)
    run_virtual(ground.run(work))


def test_nothing_is_left_of_a_service_that_is_removed():
    async def work(ground: Ground) -> None:
        await ground.create("web", 1_200)
        await ground.rest()
        assert ground.running("web") == list(range(1, 1_201))
        await ground.commit(Remove(table=Service, id="web"))
        await ground.rest()
        await asyncio.sleep(1)
        view = ground.store.view()
        assert (len(view.tasks), len(view.specs)) == (0, 0)

    ground = Ground(0)
    run_virtual(ground.run(work))
