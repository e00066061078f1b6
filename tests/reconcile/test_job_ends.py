"""What a run of a job is told to have come to."""

from swarmlet.core.ids import TaskID
from swarmlet.model.node import NodeState
from swarmlet.model.task import TaskState
from tests.reconcile.test_schedules import (
    COMPLETE,
    GLOBAL,
    NOON_MS,
    job_mode,
    pass_to,
    runs,
    scene,
)
from tests.reconcile.world import node, replace


def test_a_slot_that_ended_well_twice_counts_once():
    """Its task was lost with its node and replaced, and had ended well all the same."""
    world, leader = scene(mode=job_mode(2))
    pass_to(world, leader, NOON_MS)
    first, second = world.service_tasks("job")
    lost = replace(first, id=TaskID("lost"), desired=int(TaskState.SHUTDOWN))
    leader.tell(world.put(lost))
    for task_id in (lost.id, first.id, second.id):
        leader.tell(world.report(task_id, COMPLETE))
    leader.run()
    (run,) = runs(world)
    assert (run.outcome, run.completed, run.exit_codes) == ("complete", 2, ((0, 3),))


def test_a_run_that_failed_without_a_failure_says_which_node_is_down():
    world, leader = scene(mode=GLOBAL)
    pass_to(world, leader, NOON_MS)
    first, second = world.service_tasks("job")
    leader.tell(world.report(first.id, COMPLETE))
    down = node(second.node_id, state=NodeState.DOWN)
    leader.tell(world.put(down))
    leader.run()
    (run,) = runs(world)
    assert (run.outcome, run.failed) == ("failed", 0)
    assert run.err == f"node {down.description.hostname or down.id} is down, or gone"


def test_a_run_that_failed_for_a_drain_says_that_a_task_was_stopped():
    world, leader = scene(mode=GLOBAL)
    pass_to(world, leader, NOON_MS)
    first, second = world.service_tasks("job")
    leader.tell(world.report(first.id, COMPLETE))
    leader.tell(world.report(second.id, TaskState.RUNNING))
    leader.tell(world.put(node(second.node_id, availability="drain")))
    leader.run()
    leader.tell(world.report(second.id, TaskState.SHUTDOWN))
    leader.run()
    (run,) = runs(world)
    assert (run.outcome, run.failed) == ("failed", 0)
    assert run.err == "a task of it was stopped before its end"
