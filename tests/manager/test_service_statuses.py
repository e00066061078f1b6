"""What is remembered of services' statuses is what counting anew would find, at what cost."""

import random

import pytest

from swarmlet.manager.control import ServiceStatuses, service_status
from swarmlet.model.base import Empty
from swarmlet.model.change import Create, Remove, SetDesired, SetStatus, Update
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    JobStatus,
    ReplicatedJobMode,
    ReplicatedMode,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from tests.manager.control_world import new_swarm, task_of, worker
from tests.reconcile.explained import answer_of
from tests.reconcile.world import replace

MODES = {
    "sa": ServiceMode(replicated=ReplicatedMode(replicas=3)),
    "sb": ServiceMode(global_=Empty()),
    "sc": ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=5)),
}
STATES = (TaskState.ASSIGNED, TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED)


def rows_of(service_id, mode):
    spec = ServiceSpec(name=service_id, mode=mode)
    job = JobStatus(iteration=1) if mode.replicated_job is not None else None
    yield Create(obj=SpecVersion(id=f"{service_id}@1", service_id=service_id, number=1, spec=spec))
    yield Create(obj=Service(id=service_id, name=service_id, job_status=job))


def random_change(rng, view, number):
    tasks = sorted(view.tasks.all(), key=lambda task: task.id)
    kind = rng.choice(("come", "status", "status", "desired", "go", "node", "service"))
    if kind == "come" or not tasks:
        service = rng.choice([*view.services.all()]).id
        node_id, attempt = rng.choice(("n1", "n2")), rng.choice((0, 0, 0, 9))
        return task_of(
            service, f"t{number}", node_id=node_id, attempt=attempt, slot=rng.randrange(3)
        )
    task = rng.choice(tasks)
    if kind == "status":
        state = rng.choice([s for s in STATES if s >= task.status.state] or [TaskState.FAILED])
        return SetStatus(id=task.id, status=TaskStatus(state=state, at_ms=number))
    if kind == "desired":
        return SetDesired(id=task.id, desired=TaskState.SHUTDOWN)
    if kind == "go":
        return Remove(table=Task, id=task.id)
    if kind == "node":
        node = view.nodes.get(rng.choice(("n1", "n2")))
        state = rng.choice((NodeState.READY, NodeState.DOWN))
        return Update(
            obj=replace(node, status=replace(node.status, state=state)), seen=node.version
        )
    job = view.services.get("sc")
    iteration = JobStatus(iteration=rng.randint(1, 3))
    return Update(obj=replace(job, job_status=iteration), seen=job.version)


@pytest.mark.parametrize("seed", range(30))
async def test_remembered_status_is_what_counting_anew_finds(seed):
    rng, swarm = random.Random(seed), await new_swarm()
    await swarm.put(worker("n1"), worker("n2"))
    await swarm.put(*(change for name, mode in MODES.items() for change in rows_of(name, mode)))
    statuses, older = ServiceStatuses(swarm.store), []
    for number in range(120):
        await swarm.put(random_change(rng, swarm.view, number))
        older.append(swarm.store.hold())
        views = [swarm.store.hold(), rng.choice(older[-4:])]
        for view in rng.sample(views, rng.randint(0, 2)):
            for service in view.services.all():
                assert answer_of(statuses.of(view, service, number)) == answer_of(
                    service_status(view, service, number)
                )


async def test_nothing_is_kept_of_services_that_are_gone():
    swarm = await new_swarm()
    statuses = ServiceStatuses(swarm.store)
    await swarm.put(worker("n1"), *rows_of("sa", MODES["sa"]), task_of("sa", "t1", node_id="n1"))
    held = swarm.store.hold()
    await swarm.put(SetDesired(id="t1", desired=TaskState.REMOVE), Remove(table=Service, id="sa"))
    assert answer_of(statuses.of(held, held.services.get("sa"), 0)).running == 1
    status = TaskStatus(state=TaskState.SHUTDOWN, at_ms=1)
    await swarm.put(SetStatus(id="t1", status=status))
    await swarm.put(Remove(table=Task, id="t1"))
    assert not statuses._known
    assert not statuses._changed


async def test_status_is_counted_once_while_tasks_are_only_assigned(monkeypatch):
    swarm = await new_swarm()
    await swarm.put(worker("n1"), *rows_of("sa", MODES["sa"]))
    await swarm.put(*(task_of("sa", f"t{n}", state=TaskState.PENDING) for n in range(9)))
    counted = []

    def counting(view, service, now_ms):
        counted.append(service.id)
        return service_status(view, service, now_ms)

    monkeypatch.setattr("swarmlet.manager.control.status.service_status", counting)
    statuses = ServiceStatuses(swarm.store)
    for number in range(9):
        status = TaskStatus(state=TaskState.ASSIGNED, at_ms=1)
        await swarm.put(SetStatus(id=f"t{number}", status=status))
        view = swarm.store.hold()
        assert answer_of(statuses.of(view, view.services.get("sa"), 0)).running == 0
    assert counted == ["sa"]
    await swarm.put(SetStatus(id="t1", status=TaskStatus(state=TaskState.RUNNING, at_ms=2)))
    view = swarm.store.hold()
    assert answer_of(statuses.of(view, view.services.get("sa"), 0)).running == 1
    assert counted == ["sa", "sa"]
