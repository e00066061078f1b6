"""History of jobs: as much of a place as of a slot of a service, and all that still decides."""

import pytest

from swarmlet.model.base import Empty
from swarmlet.model.job import next_iteration
from swarmlet.model.service import ReplicatedJobMode, RestartPolicy, Service, ServiceMode
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.reconcile.reaper import ReaperDecider
from tests.reconcile.world import Leader, World, assert_at_rest, replace, service_spec, task

COMPLETE, FAILED, SHUTDOWN = TaskState.COMPLETE, TaskState.FAILED, TaskState.SHUTDOWN
MODES = {
    "replicated": ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=1)),
    "global": ServiceMode(global_job=Empty()),
}


def ended(task_id, number, state=FAILED, *, iteration=0, slot=0, on="n1"):
    desired = COMPLETE if state == COMPLETE else SHUTDOWN
    status = TaskStatus(state=state, at_ms=number, applied_at_ms=number)
    return task(task_id, slot, on=on, status=status, desired=int(desired), job_iteration=iteration)


def reaped(tasks, *, mode="replicated", iteration=0, history=2, running=False, **policy):
    """Ids of what is left of them, in the job's present `iteration`."""
    world = World(history=history)
    spec = service_spec(restart_policy=RestartPolicy(**policy))
    world.add_service()
    world.update_service("web", replace(spec, mode=MODES[mode]))
    for _ in range(iteration):
        world.put(next_iteration(world.services.get("web"), world.now_ms))
    for row in tasks:
        world.now_ms += 1
        world.put(row)
    world.now_ms += 1
    if running:
        world.put(task("running", 0, desired=int(COMPLETE), job_iteration=iteration))
    leader = Leader(world, [ReaperDecider()])
    leader.run()
    assert_at_rest(world, lambda: [ReaperDecider()])
    assert world.services.get("web") is not None
    return sorted(t.id for t in world.service_tasks())


@pytest.mark.parametrize("mode", MODES)
def test_the_oldest_failures_of_a_place_go(mode):
    tasks = [ended(f"t{n}", n) for n in range(5)]
    assert reaped(tasks, mode=mode) == ["t3", "t4"]


def test_the_failures_of_a_slot_go_wherever_they_ran():
    tasks = [ended(f"t{n}", n, on=f"n{n}") for n in range(5)]
    assert reaped(tasks) == ["t3", "t4"]


def test_every_node_of_a_global_job_and_every_slot_keeps_its_own():
    tasks = [ended(f"t{n}", n, on=f"n{n % 3}") for n in range(9)]
    assert reaped(tasks, mode="global", history=1) == ["t6", "t7", "t8"]
    tasks = [ended(f"t{n}", n, slot=n % 3) for n in range(9)]
    assert reaped(tasks, history=1) == ["t6", "t7", "t8"]


def test_what_has_ended_well_in_the_present_iteration_stays():
    tasks = [ended("well", 0, COMPLETE), *(ended(f"t{n}", n) for n in range(1, 5))]
    assert reaped(tasks) == ["t4", "well"]


def test_what_has_ended_well_in_an_iteration_before_goes_with_the_rest():
    tasks = [ended(f"t{n}", n, COMPLETE, iteration=n) for n in range(5)]
    assert reaped(tasks, iteration=4) == ["t3", "t4"]


def test_attempts_are_kept_as_many_as_are_counted():
    tasks = [ended(f"t{n}", n) for n in range(7)]
    assert reaped(tasks, history=1, max_attempts=3) == ["t3", "t4", "t5", "t6"]
    assert reaped(tasks, history=1, max_attempts=3, iteration=1) == ["t6"]


def test_what_runs_or_waits_to_stays():
    tasks = [ended(f"t{n}", n) for n in range(3)]
    assert reaped(tasks, history=1, running=True) == ["running"]
    waiting = replace(ended("t3", 3), desired=int(COMPLETE))
    assert reaped([*tasks, waiting], history=1) == ["t3"]


def test_a_swarm_that_keeps_all_history_keeps_that_of_jobs():
    assert len(reaped([ended(f"t{n}", n) for n in range(9)], history=-1)) == 9


def test_history_goes_when_the_next_iteration_has_ended():
    world = World(history=1)
    world.add_service()
    world.update_service("web", replace(service_spec(), mode=MODES["replicated"]))
    world.put(ended("old", 0, COMPLETE))
    leader = Leader(world, [ReaperDecider()])
    leader.run()
    leader.tell(world.put(next_iteration(world.services.get("web"), world.now_ms)))
    assert isinstance(world.services.get("web"), Service)
    leader.tell(world.put(ended("new", 1, COMPLETE, iteration=1)))
    leader.run()
    assert [t.id for t in world.service_tasks()] == ["new"]


def test_history_goes_when_its_iteration_is_open_no_longer():
    world = World(history=1)
    world.add_service()
    world.update_service("web", replace(service_spec(), mode=MODES["replicated"]))
    for number in range(3):
        service = world.services.get("web")
        world.put(next_iteration(service, world.now_ms, is_beside=True))
        world.put(ended(f"t{number}", number, COMPLETE, iteration=number))
    leader = Leader(world, [ReaperDecider()])
    leader.run()
    assert len(world.tasks) == 3
    leader.tell(world.put(next_iteration(world.services.get("web"), world.now_ms)))
    leader.run()
    assert [t.id for t in world.service_tasks()] == ["t2"]
