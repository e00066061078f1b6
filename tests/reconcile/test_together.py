"""All deciders on one cluster, with agents that do as they are told: the whole way of a task."""

from collections import Counter
from random import Random

import pytest

from swarmlet.core.limits import REVISIONS_KEPT
from swarmlet.model.change import Event
from swarmlet.model.node import NodeState
from swarmlet.model.service import ResourceRequirements, Resources, RestartPolicy, Service
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.world import Leader, World, assert_at_rest, node, replace

RUNNING, READY, SHUTDOWN = TaskState.RUNNING, TaskState.READY, TaskState.SHUTDOWN
STEPS = 30


class Cluster:
    """Nodes whose agents bring every task to where it should be, at random moments."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.world = World(history=3)
        for number in range(4):
            self.world.put(node(f"n{number}", memory_b=5))
        for name in ("web", "db"):
            self.world.add_service(
                name,
                replicas=self.rng.randint(0, 5),
                restart_policy=RestartPolicy(delay=1_000_000_000),
                resources=ResourceRequirements(reservations=Resources(memory_bytes=1)),
            )
        self.seen: dict[str, Task] = {}
        self.leader = Leader(self.world, all_deciders(), seed)

    def run(self) -> None:
        for _ in range(STEPS):
            self.rng.choice([self.fail, self.scale, self.change_node, self.wait, self.lead])()
            self.obey()
            self.leader.run()
            self.check()
        for number in range(4):
            self.tell(self.world.put(node(f"n{number}", memory_b=5)))
        for _ in range(30):
            self.obey()
            self.leader.run_for(10_000)
            self.check()

    def tell(self, events: list[Event]) -> None:
        self.leader.tell(events)

    def fail(self) -> None:
        running = [t for t in self.world.tasks.all() if t.status.state == RUNNING]
        for row in self.rng.sample(running, min(len(running), self.rng.randint(1, 3))):
            self.tell(
                self.world.report(row.id, self.rng.choice([TaskState.FAILED, TaskState.COMPLETE]))
            )

    def scale(self) -> None:
        self.tell(self.world.scale(self.rng.choice(["web", "db"]), self.rng.randint(0, 9)))

    def change_node(self) -> None:
        how = self.rng.choice([{}, {"state": NodeState.DOWN}, {"availability": "drain"}])
        self.tell(self.world.put(node(f"n{self.rng.randrange(4)}", memory_b=5, **how)))

    def wait(self) -> None:
        self.leader.run_for(self.rng.choice([10, 1_000, 61_000]))

    def lead(self) -> None:
        self.leader = Leader(self.world, all_deciders(), self.world.index + 2**40)

    def obey(self) -> None:
        """Each task on a node that is up goes on to where it should be, most of the time."""
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            on = self.world.nodes.get(row.node_id)
            is_heard = on is not None and on.status.state == NodeState.READY
            if not is_heard or not TaskState.ASSIGNED <= row.status.state <= RUNNING:
                continue
            if self.rng.random() < 0.8:
                goal = SHUTDOWN if row.desired > RUNNING else row.desired
                self.tell(self.world.report(row.id, TaskState(goal)))

    def check(self) -> None:
        """What must hold at every moment."""
        for row in self.world.tasks.all():
            old = self.seen.get(row.id, row)
            assert row.desired >= old.desired
            assert row.status.state >= old.status.state
            assert old.node_id in ("", row.node_id)
            assert self.world.specs.get(f"{row.service_id}@{row.spec_version}") is not None
            self.seen[row.id] = row
        wanted = Counter(
            (t.service_id, t.slot) for t in self.world.tasks.all() if t.desired == RUNNING
        )
        assert max(wanted.values(), default=0) <= 1
        for host in self.world.nodes.all():
            held = [t for t in self.world.tasks.scan("node", host.id) if t.status.state <= RUNNING]
            assert len(held) <= 5, "more reserved than there is"


@pytest.mark.parametrize("seed", range(40))
def test_cluster_comes_to_what_was_asked_for_and_rests(seed):
    cluster = Cluster(seed)
    cluster.run()
    world = cluster.world
    for name in ("web", "db"):
        service = world.services.get(name)
        replicas = world.specs.get(f"{name}@{service.spec_version}").spec.mode.replicated.replicas
        live = [t for t in world.service_tasks(name) if t.desired <= RUNNING]
        assert len({t.slot for t in live}) == len(live) == replicas
        assert {t.status.state for t in live} <= {RUNNING}
        assert max(Counter(t.slot for t in world.service_tasks(name)).values(), default=0) <= 3
        assert not [t for t in world.service_tasks(name) if t.desired == TaskState.REMOVE]
        numbers = {s.number for s in world.specs.scan("service", name)}
        made_from = {t.spec_version for t in world.service_tasks(name)}
        last = service.spec_version
        kept = range(max(1, last - REVISIONS_KEPT + 1), last + 1)
        assert numbers == made_from | {*kept} | ({service.previous_spec_version} - {0})
    assert_at_rest(world, all_deciders)


def test_cluster_is_empty_when_its_services_are_removed():
    cluster = Cluster(0)
    cluster.run()
    for service in list(cluster.world.services.all()):
        cluster.tell(cluster.world.drop(Service, service.id))
    for _ in range(20):
        cluster.leader.run_for(1_000)
        cluster.obey()
    assert len(cluster.world.tasks) == 0
    assert len(cluster.world.specs) == 0
    assert_at_rest(cluster.world, all_deciders)


def test_replacement_of_a_crashed_task_takes_four_entries():
    world = World()
    world.put(node("n1"))
    world.add_service(replicas=1)
    leader = Leader(world, all_deciders())
    leader.run()
    (first,) = world.service_tasks()
    leader.tell(world.report(first.id, RUNNING))
    leader.run()
    leader.decided.clear()
    leader.tell(world.report(first.id, TaskState.FAILED))
    leader.run_for(5_000)
    written = [key[0] for key, decision in leader.decided if decision.changes]
    assert written == ["slot", "new", "pending", "slot"]  # replaced, admitted, placed, released
    assert replace(world.service_tasks()[1], status=first.status).desired == RUNNING
