"""Jobs while other things happen: nodes come and go, leaders change, iterations begin."""

from collections import Counter
from random import Random

import pytest

from swarmlet.model.job import open_iterations
from swarmlet.model.node import DrainPlan, Node, NodeState
from swarmlet.model.service import RestartPolicy, Service
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.jobs import completions_of, concurrency_of, is_finished
from tests.reconcile.job_scene import GLOBAL, add_job, fire, job_mode, update
from tests.reconcile.world import Leader, World, assert_at_rest, node

RUNNING, COMPLETE, FAILED = TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED
SHUTDOWN = TaskState.SHUTDOWN
STEPS = 30
NODES = 4
SECOND_NS = 1_000_000_000


class Cluster:
    """Nodes whose agents bring every task to its end, well or not, at random moments."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.world = World(history=self.rng.choice([1, 3]))
        for number in range(NODES):
            self.world.put(node(f"n{number}"))
        policy = RestartPolicy(
            condition=self.rng.choice(["any", "on-failure", "none"]),
            delay=self.rng.choice([0, SECOND_NS]),
            max_attempts=self.rng.choice([0, 0, 2]),
        )
        self.limit = 1 + policy.max_attempts if policy.max_attempts else 0
        if policy.condition == "none":
            self.limit = 1
        add_job(self.world, self._mode(), "job", restart_policy=policy)
        add_job(self.world, GLOBAL, "each", restart_policy=policy)
        self.seen: dict[str, Task] = {}
        self.runs: Counter[tuple[object, ...]] = Counter()  # what came to run, by place
        self.leader = Leader(self.world, all_deciders(), seed)

    def _mode(self):
        return job_mode(self.rng.randint(0, 3), self.rng.randint(0, 5))

    def run(self) -> None:
        for _ in range(STEPS):
            acts = [self.fire, self.update, self.change_node, self.wait, self.lead, self.obey]
            self.rng.choice(acts)()
            self.obey()
            self.leader.run()
            self.check()
        for number in range(NODES):
            self.tell(self.world.put(node(f"n{number}")))
        for _ in range(60):
            self.obey()
            self.leader.run_for(10_000)
            self.check()

    def tell(self, events) -> None:
        self.leader.tell(events)

    def fire(self) -> None:
        name, is_beside = self.rng.choice(["job", "each"]), self.rng.random() < 0.5
        self.tell(fire(self.world, is_beside=is_beside, name=name))

    def update(self) -> None:
        if self.rng.random() < 0.5:
            self.tell(update(self.world, self._mode(), "job"))
        else:
            self.tell(update(self.world, GLOBAL, "each", force_update=self.rng.randrange(9)))

    def change_node(self) -> None:
        at_ms = self.world.now_ms + 30_000
        how = self.rng.choice(
            [
                {},
                {"state": NodeState.DOWN},
                {"state": NodeState.DISCONNECTED},
                {"availability": "drain"},
                {"availability": "drain", "drain": DrainPlan(deadline_ms=at_ms)},
                {"availability": "pause"},
            ]
        )
        node_id = f"n{self.rng.randrange(NODES)}"
        if how or self.rng.random() < 0.7:
            self.tell(self.world.put(node(node_id, **how)))
        elif self.world.nodes.get(node_id) is not None:
            self.tell(self.world.drop(Node, node_id))

    def wait(self) -> None:
        self.leader.run_for(self.rng.choice([10, 1_000, 61_000]))

    def lead(self) -> None:
        new_id = self.leader.new_id
        self.leader = Leader(self.world, all_deciders(), self.world.index)
        self.leader.new_id = new_id

    def obey(self) -> None:
        """Each task on a node that is up goes on to where it should be, most of the time."""
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            on = self.world.nodes.get(row.node_id)
            is_heard = on is not None and on.status.state == NodeState.READY
            if not is_heard or not TaskState.ASSIGNED <= row.status.state <= RUNNING:
                continue
            if self.rng.random() < 0.8:
                self.tell(self.world.report(row.id, self._next(row)))

    def _next(self, row: Task) -> TaskState:
        if row.desired > COMPLETE:
            return SHUTDOWN
        if row.status.state == RUNNING:
            return self.rng.choice([RUNNING, COMPLETE, COMPLETE, FAILED])
        return TaskState(min(row.desired, RUNNING))

    def check(self) -> None:
        """What must hold at every moment."""
        for row in self.world.tasks.all():
            old = self.seen.get(row.id)
            if old is None:
                place = row.node_id if row.service_id == "each" else row.slot
                self.runs[row.service_id, row.job_iteration, place] += 1
            else:
                assert row.desired >= old.desired
                assert row.status.state >= old.status.state
                assert old.node_id in ("", row.node_id)
            self.seen[row.id] = row
        for service in self.world.services.all():
            self._check_job(service)
        if self.limit:
            made = {place: n for place, n in self.runs.items() if place[0] == "job"}
            assert max(made.values(), default=0) <= self.limit

    def _check_job(self, service: Service) -> None:
        spec = self.world.specs.get(f"{service.id}@{service.spec_version}").spec
        tasks = self.world.service_tasks(service.id)
        for iteration in open_iterations(service):
            own = [t for t in tasks if t.job_iteration == iteration]
            active = [t for t in own if t.desired <= COMPLETE and t.status.state != COMPLETE]
            places = Counter(t.node_id if service.id == "each" else t.slot for t in active)
            assert max(places.values(), default=0) <= 1
            if service.id == "job":
                done = {t.slot for t in own if t.status.state == COMPLETE}
                assert max(done, default=-1) < completions_of(spec)
                assert len(active) <= concurrency_of(spec)


@pytest.mark.parametrize("seed", range(40))
def test_jobs_come_to_their_end_and_rest(seed):
    cluster = Cluster(seed)
    cluster.run()
    world = cluster.world
    for name in ("job", "each"):
        service = world.services.get(name)
        spec = world.specs.get(f"{name}@{service.spec_version}").spec
        tasks = world.service_tasks(name)
        assert not [t for t in tasks if t.status.state < COMPLETE], "nothing is left running"
        if name == "each" or concurrency_of(spec):
            assert open_iterations(service) == (service.job_status.iteration,)
            assert is_finished(world, service, service.job_status.iteration)
        done = [
            t
            for t in tasks
            if t.job_iteration == service.job_status.iteration and t.status.state == COMPLETE
        ]
        if not cluster.limit and (name == "each" or concurrency_of(spec)):
            assert len(done) == (NODES if name == "each" else completions_of(spec))
    assert_at_rest(world, all_deciders)


@pytest.mark.parametrize("seed", range(10))
def test_no_more_of_a_job_run_than_may_whatever_iterations_they_are_of(seed):
    """But for what does not stop within a minute, and for iterations that are to run beside."""
    rng = Random(seed)
    world = World()
    for number in range(NODES):
        world.put(node(f"n{number}"))
    add_job(world, job_mode(3, 9))
    leader = Leader(world, all_deciders(), seed)
    for _ in range(40):
        leader.run_for(rng.choice([1, 500, 5_000]))
        if rng.random() < 0.2:
            leader.tell(fire(world))
            leader.run()
        for row in sorted(world.tasks.all(), key=lambda t: t.id):
            if row.status.state < TaskState.ASSIGNED or row.status.state > RUNNING:
                continue
            if row.status.state < RUNNING and row.desired == COMPLETE:
                leader.tell(world.report(row.id, RUNNING))
            elif rng.random() < 0.6:
                end = COMPLETE if row.desired == COMPLETE else SHUTDOWN
                leader.tell(world.report(row.id, end))
        on = [t for t in world.tasks.all() if TaskState.ASSIGNED <= t.status.state <= RUNNING]
        assert len(on) <= 3
