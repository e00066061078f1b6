"""A job on a few nodes, whose tasks come to run as soon as they may."""

from swarmlet.core.ids import ServiceID
from swarmlet.model.base import Empty
from swarmlet.model.job import first_iteration, next_iteration
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    ReplicatedJobMode,
    Service,
    ServiceMode,
    SpecVersion,
    spec_version_id,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.jobs import JobsDecider, is_finished
from tests.reconcile.world import Leader, World, assert_at_rest, node, replace, service_spec

READY, RUNNING, COMPLETE = TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE
SHUTDOWN, FAILED, REMOVE = TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REMOVE
SECOND_NS = 1_000_000_000


def jobs():
    return [JobsDecider()]


def job_mode(most=None, total=None):
    return ServiceMode(
        replicated_job=ReplicatedJobMode(max_concurrent=most, total_completions=total)
    )


GLOBAL = ServiceMode(global_job=Empty())


def add_job(world, mode, name="job", *, labels=None, **template):
    """Its events."""
    spec = replace(service_spec(name, **template), mode=mode, labels=labels or {})
    row = Service(id=ServiceID(name), name=name, job_status=first_iteration(world.now_ms))
    version = SpecVersion(
        id=spec_version_id(name, 1), service_id=ServiceID(name), number=1, spec=spec
    )
    return world.put(version) + world.put(row)


def fire(world, *, is_beside=False, name="job"):
    """The next iteration, of the same spec."""
    service = world.services.get(name)
    return world.put(next_iteration(service, world.now_ms, is_beside=is_beside))


def update(world, mode=None, name="job", **template):
    """A new spec, and with it the next iteration."""
    service = world.services.get(name)
    spec = world.specs.get(spec_version_id(name, service.spec_version)).spec
    changed = replace(spec.task_template, **template)
    spec = replace(spec, mode=mode or spec.mode, task_template=changed)
    events = world.update_service(name, spec)
    return events + world.put(next_iteration(world.services.get(name), world.now_ms))


class Scene:
    """A job on three nodes, whose tasks come to run as soon as they may."""

    def __init__(self, mode, *, nodes=("n1", "n2", "n3"), make=jobs, **spec):
        self.world = World()
        for node_id in nodes:
            self.world.put(node(node_id))
        add_job(self.world, mode, **spec)
        self.leader = Leader(self.world, make())
        self.run()

    def tell(self, events):
        self.leader.tell(events)
        self.run()

    def lead(self):
        """A new leader."""
        new_id, self.leader = self.leader.new_id, Leader(self.world, jobs())
        self.leader.new_id = new_id

    def run(self):
        """Until all that may run runs, and nothing is left to decide."""
        self.leader.run()
        while moved := [t for t in self.tasks() if self._advance(t)]:
            assert moved
            self.leader.run()

    def run_for(self, period_ms):
        self.leader.run_for(period_ms)
        self.run()

    def _advance(self, row):
        nodes = sorted(n.id for n in self.world.nodes.all() if n.spec.availability == "active")
        host = row.node_id or nodes[row.slot % len(nodes)]
        if self.world.nodes.get(host).status.state != NodeState.READY:
            return False
        if row.status.state < TaskState.ASSIGNED and row.desired <= COMPLETE:
            status = replace(row.status, state=int(TaskState.ASSIGNED))
            self.leader.tell(self.world.put(replace(row, node_id=host, status=status)))
            return True
        if row.status.state < RUNNING and RUNNING <= row.desired <= COMPLETE:
            self.leader.tell(self.world.report(row.id, RUNNING))
            return True
        return False

    def tasks(self, iteration=None):
        rows = self.world.service_tasks("job")
        return [t for t in rows if iteration is None or t.job_iteration == iteration]

    def running(self):
        return [t for t in self.tasks() if t.status.state == RUNNING and t.desired == COMPLETE]

    def end(self, row, state=COMPLETE):
        self.tell(self.world.report(row.id, state))

    def end_all(self, state=COMPLETE):
        while running := self.running():
            self.end(running[0], state)

    def completed(self):
        """(iteration, slot) of what has ended well."""
        done = [t for t in self.tasks() if t.status.state == COMPLETE]
        return sorted((t.job_iteration, t.slot) for t in done)

    def finished(self, iteration=0):
        return is_finished(self.world, self.world.services.get("job"), iteration)

    def assert_at_rest(self, make=jobs):
        assert_at_rest(self.world, make)


def lose(how):
    return {
        "down": {"state": NodeState.DOWN},
        "drained": {"availability": "drain"},
    }[how]
