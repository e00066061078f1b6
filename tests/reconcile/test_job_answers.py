"""What people are told of jobs: why they are where they are, and what a drain does with them."""

import pytest

from swarmlet.model.node import DrainPlan, NodeState
from swarmlet.model.service import Placement, RestartPolicy
from swarmlet.model.task import TaskState
from swarmlet.reconcile.drain import left_on, moves_of
from swarmlet.reconcile.why.answers import Verdict
from tests.reconcile.explained import answer_of, why, why_service
from tests.reconcile.job_scene import GLOBAL, Scene, fire, job_mode
from tests.reconcile.world import node, replace

COMPLETE, FAILED, SHUTDOWN = TaskState.COMPLETE, TaskState.FAILED, TaskState.SHUTDOWN


def answer(scene):
    return why_service(scene.world, "job")


def codes(scene):
    return [reason.code for reason in answer(scene).reasons]


def test_a_job_that_runs_is_well_and_says_how_far_it_is():
    scene = Scene(job_mode(2, 3))
    scene.end(scene.running()[0])
    found = answer(scene)
    assert (found.verdict, found.running, found.wanted) == (Verdict.WELL, 2, 2)
    assert codes(scene) == ["in-progress"]
    assert "Iteration 0 began" in found.reasons[0].sentence
    assert "1 of 3 tasks done." in found.reasons[0].sentence
    assert found.waiting == ()


@pytest.mark.parametrize("mode", [job_mode(3, 3), GLOBAL])
def test_a_job_that_is_complete_says_so(mode):
    scene = Scene(mode)
    scene.end_all()
    found = answer(scene)
    assert (found.verdict, found.running, found.wanted) == (Verdict.WELL, 0, 0)
    assert codes(scene) == ["complete"]
    assert why(scene.world, scene.tasks()[0].id).code == "complete"


def test_a_job_with_a_task_given_up_says_which():
    scene = Scene(job_mode(2, 2), restart_policy=RestartPolicy(condition="none"))
    scene.end(scene.running()[0], FAILED)
    found = answer(scene)
    assert found.verdict is Verdict.UNSETTLED
    assert codes(scene) == ["given-up"]
    assert "0 of 2 tasks done, and 1 given up." in found.reasons[0].sentence
    (group,) = found.waiting
    assert (group.reason.code, group.tasks[0].name) == ("not-restarted", "job.0")


def test_attempts_that_were_made_are_counted_by_iteration():
    policy = RestartPolicy(condition="any", max_attempts=1, delay=0)
    scene = Scene(job_mode(1), restart_policy=policy)
    scene.end(scene.running()[0], FAILED)
    scene.run_for(60_000)
    scene.end(scene.running()[0], FAILED)
    last = scene.tasks()[-1]
    assert "the 1 restart allowed were made" in why(scene.world, last.id).sentence


def test_a_task_of_a_job_that_waits_for_its_restart_says_until_when():
    scene = Scene(job_mode(1))
    scene.end(scene.running()[0], FAILED)
    assert answer(scene).waiting[0].reason.code in ("held-back", "new", "placing")
    assert answer(scene).running == 0


def test_tasks_of_an_iteration_before_say_that_it_is_over():
    scene = Scene(job_mode(1))
    (row,) = scene.running()
    scene.tell(fire(scene.world))
    assert codes(scene) == ["in-progress", "stopping-before"]
    scene.tell(scene.world.report(row.id, SHUTDOWN))
    reason = why(scene.world, row.id)
    assert (reason.code, reason.verdict) == ("iteration-over", Verdict.WELL)
    assert "It is of iteration 0, which is over: iteration 1 began" in reason.sentence


def test_open_iterations_beside_each_other_are_all_told_of():
    scene = Scene(job_mode(1))
    scene.tell(fire(scene.world, is_beside=True))
    assert codes(scene) == ["in-progress", "in-progress"]
    assert answer(scene).wanted == 2


def test_a_task_that_another_has_made_needless_says_so():
    scene = Scene(job_mode(3, 3))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.leader.tell(scene.world.put(node("n2", state=NodeState.DOWN)))
    scene.leader.run()
    scene.leader.tell(scene.world.put(node("n2")))
    scene.end(row)
    (after,) = [t for t in scene.tasks() if t.replaces == row.id]
    scene.tell(scene.world.report(after.id, SHUTDOWN))
    assert why(scene.world, after.id).code == "done"


def test_a_global_job_says_which_nodes_it_has_no_task_on():
    scene = Scene(GLOBAL, placement=Placement(constraints=["node.id!=n2"]))
    assert codes(scene) == ["in-progress", "kept-out"]
    nowhere = Scene(GLOBAL, placement=Placement(constraints=["node.id==nobody"]))
    assert codes(nowhere)[-1] == "no-node"
    assert answer(nowhere).verdict is Verdict.UNPLACED


def test_a_task_of_a_global_job_says_that_its_node_is_drained():
    scene = Scene(GLOBAL)
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.tell(scene.world.put(node("n2", availability="drain")))
    scene.tell(scene.world.report(row.id, SHUTDOWN))
    assert why(scene.world, row.id).code == "node-drained"


def test_a_job_that_may_run_nothing_says_so():
    assert codes(Scene(job_mode(0, 3))) == ["scaled-to-zero"]


# Drains ------------------------------------------------------------------------------------------
def ways(scene, node_id="n2"):
    row = scene.world.nodes.get(node_id)
    found = answer_of(moves_of(scene.world, row, scene.world.now_ms))
    return [(move.way, move.reason) for move in found]


@pytest.mark.parametrize("mode", [job_mode(3, 3), GLOBAL])
def test_a_drain_with_a_plan_lets_what_runs_of_a_job_come_to_its_end(mode):
    scene = Scene(mode)
    assert [way for way, _ in ways(scene)] == ["finish"]
    scene.tell(scene.world.put(node("n2", availability="drain", drain=DrainPlan())))
    (left,) = left_on(scene.world, scene.world.nodes.get("n2"))
    assert (left.waits_for, left.is_stuck) == ("its end: it is of a job", False)
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.end(row)
    assert left_on(scene.world, scene.world.nodes.get("n2")) == ()


def test_a_drain_moves_what_does_not_run_yet():
    scene = Scene(job_mode(3, 3))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    starting = replace(row.status, state=int(TaskState.STARTING))
    scene.world.put(replace(row, status=starting))
    assert [way for way, _ in ways(scene)] == ["stop-first"]
