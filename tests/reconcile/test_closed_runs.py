"""What a run that is over gets no more: tasks of a later spec, or on nodes that come later."""

from tests.reconcile.test_schedules import (
    GLOBAL,
    HOUR_MS,
    NOON_MS,
    add_job,
    deciders,
    end,
    job_mode,
    job_spec,
    pass_to,
    scene,
)
from tests.reconcile.world import Leader, World, assert_at_rest, node


def test_an_update_to_more_tasks_begins_none_where_the_run_before_is_over():
    world, leader = scene(mode=job_mode(1))
    pass_to(world, leader, NOON_MS)
    leader.tell(end(world))
    leader.run()
    leader.tell(world.update_service("job", job_spec("0 * * * *", job_mode(3))))
    leader.run()
    assert len(world.service_tasks("job")) == 1
    leader.tell(world.update_service("job", job_spec(None, job_mode(4))))
    leader.run()
    assert len(world.service_tasks("job")) == 1, "nor one that takes the schedule away"
    assert_at_rest(world, deciders)


def test_a_node_that_comes_after_a_run_waits_for_the_next():
    world, leader = scene(mode=GLOBAL)
    pass_to(world, leader, NOON_MS)
    leader.tell(end(world))
    leader.run()
    leader.tell(world.put(node("n3")))
    leader.run()
    assert [task.node_id for task in world.service_tasks("job")] == ["n1", "n2"]
    assert_at_rest(world, deciders)
    pass_to(world, leader, NOON_MS + HOUR_MS)
    assert "n3" in [task.node_id for task in world.service_tasks("job")]


def test_a_node_that_comes_after_a_job_without_a_schedule_ran_gets_its_task():
    world = World()
    world.put(node("n1"))
    add_job(world, job_spec(mode=GLOBAL))
    leader = Leader(world, deciders())
    leader.run()
    leader.tell(end(world))
    leader.run()
    leader.tell(world.put(node("n2")))
    leader.run()
    assert [task.node_id for task in world.service_tasks("job")] == ["n1", "n2"]
