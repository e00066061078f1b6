"""Global jobs: every node that is meant runs its task to the end, once an iteration."""

import pytest

from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    Placement,
    RestartPolicy,
)
from swarmlet.model.task import Task, TaskState
from tests.reconcile.job_scene import GLOBAL, Scene, add_job, jobs
from tests.reconcile.world import Leader, World, assert_at_rest, node, replace

READY, RUNNING, COMPLETE = TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE
SHUTDOWN, FAILED, REMOVE = TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REMOVE
SECOND_NS = 1_000_000_000


def test_a_global_job_runs_once_on_every_node_that_fits():
    scene = Scene(GLOBAL, placement=Placement(constraints=["node.id!=n2"]))
    assert sorted(t.node_id for t in scene.running()) == ["n1", "n3"]
    assert {t.slot for t in scene.tasks()} == {0}
    scene.end_all()
    assert scene.finished()
    scene.assert_at_rest()


@pytest.mark.parametrize("how", ["down", "drained", "paused", "unfit"])
def test_a_node_gets_its_task_of_a_global_job_once_it_can_run_it(how):
    fields = {
        "paused": {"availability": "pause"},
        "unfit": {"labels": {"zone": "b"}},
        "down": {"state": NodeState.DOWN},
        "drained": {"availability": "drain"},
    }[how]
    fit = {"labels": {"zone": "a"}}
    world = World()
    world.put(node("n1", **{**fit, **fields}))
    add_job(world, GLOBAL, placement=Placement(constraints=["node.labels.zone==a"]))
    leader = Leader(world, jobs())
    leader.run()
    assert world.service_tasks("job") == []
    leader.tell(world.put(node("n1", **fit)))
    leader.run()
    assert [t.node_id for t in world.service_tasks("job")] == ["n1"]
    assert_at_rest(world, jobs)


def test_a_task_of_a_global_job_waits_for_its_node_that_is_down():
    scene = Scene(GLOBAL)
    scene.tell(scene.world.put(node("n2", state=NodeState.DOWN)))
    scene.run_for(3_600_000)
    assert len(scene.tasks()) == 3
    scene.tell(scene.world.put(node("n2")))
    scene.end_all()
    assert len(scene.completed()) == 3


def test_a_task_of_a_global_job_is_run_again_when_its_drained_node_is_back():
    scene = Scene(GLOBAL)
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.tell(scene.world.put(node("n2", availability="drain")))
    assert scene.world.tasks.get(row.id).desired == SHUTDOWN
    assert len(scene.tasks()) == 3
    assert_at_rest(scene.world, jobs)
    scene.tell(scene.world.report(row.id, SHUTDOWN))
    scene.tell(scene.world.put(node("n2")))
    scene.end_all()
    done = sorted(t.node_id for t in scene.tasks() if t.status.state == COMPLETE)
    assert done == ["n1", "n2", "n3"]


def test_what_never_reached_its_node_is_withdrawn_when_that_is_drained_and_made_again():
    world = World()
    world.put(node("n1"))
    add_job(world, GLOBAL, restart_policy=RestartPolicy(condition="none"))
    leader = Leader(world, jobs())
    leader.run()
    leader.tell(world.put(node("n1", availability="drain")))
    leader.run()
    (row,) = world.service_tasks("job")
    assert row.desired == REMOVE
    leader.tell(world.drop(Task, row.id))
    leader.tell(world.put(node("n1")))
    leader.run()
    assert [t.desired for t in world.service_tasks("job")] == [COMPLETE]


def test_a_failed_task_of_a_global_job_is_followed_on_its_node():
    scene = Scene(GLOBAL, restart_policy=RestartPolicy(delay=0))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.end(row, FAILED)
    (after,) = [t for t in scene.tasks() if t.replaces == row.id]
    assert (after.node_id, after.slot, after.job_iteration) == ("n2", 0, 0)


def test_a_task_of_a_global_job_has_no_successor_on_a_node_that_is_unfit_by_now():
    fit, unfit = {"labels": {"zone": "a"}}, {"labels": {"zone": "b"}}
    world = World()
    world.put(node("n1", **fit))
    add_job(world, GLOBAL, placement=Placement(constraints=["node.labels.zone==a"]))
    leader = Leader(world, jobs())
    leader.run()
    (row,) = world.service_tasks("job")
    leader.tell(world.put(replace(row, status=replace(row.status, state=int(RUNNING)))))
    leader.tell(world.put(node("n1", **unfit)))
    leader.tell(world.report(row.id, TaskState.REJECTED))
    leader.run()
    assert [t.desired for t in world.service_tasks("job")] == [SHUTDOWN]
