"""Jobs: every task runs to its end once, an iteration at a time, and then all rests."""

from collections import Counter

import pytest

from swarmlet.core.limits import ENTRY_CHANGES_MAX, OLD_TASK_WAIT_MAX_MS
from swarmlet.model.change import Create
from swarmlet.model.job import job_status_of
from swarmlet.model.node import DrainPlan, Node, NodeState
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import RestartPolicy
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.jobs import JobsDecider, completions_of, concurrency_of
from swarmlet.reconcile.replicated import ReplicatedDecider
from tests.reconcile.job_scene import GLOBAL, Scene, add_job, fire, job_mode, jobs, lose, update
from tests.reconcile.world import Leader, World, node, replace, service_spec, task

READY, RUNNING, COMPLETE = TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE
SHUTDOWN, FAILED, REMOVE = TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REMOVE
SECOND_NS = 1_000_000_000


# Replicated jobs ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("most", "total", "expected"), [(None, None, (1, 1)), (3, None, (3, 3)), (2, 7, (2, 7))]
)
def test_a_job_runs_as_many_as_it_may_at_once_where_it_says_no_total(most, total, expected):
    spec = replace(service_spec(), mode=job_mode(most, total))
    assert (concurrency_of(spec), completions_of(spec)) == expected


def test_a_job_counts_its_slots_from_zero():
    scene = Scene(job_mode(3, 3))
    assert [t.slot for t in scene.tasks()] == [0, 1, 2]
    assert {(t.desired, t.job_iteration, t.attempt) for t in scene.tasks()} == {(COMPLETE, 0, 0)}
    scene.assert_at_rest()


def test_no_more_tasks_run_at_once_than_a_job_says():
    scene = Scene(job_mode(2, 5))
    seen = []
    while scene.running():
        seen.append(len(scene.running()))
        scene.end(scene.running()[-1])
    assert seen == [2, 2, 2, 2, 1]
    assert scene.completed() == [(0, slot) for slot in range(5)]
    assert scene.finished()
    scene.assert_at_rest()


def test_what_has_ended_well_is_not_run_again_whatever_the_condition():
    for condition in ("any", "on-failure", "none", ""):
        scene = Scene(job_mode(1, 1), restart_policy=RestartPolicy(condition=condition))
        scene.end_all()
        scene.run_for(3_600_000)
        assert len(scene.tasks()) == 1


def test_a_job_without_room_for_any_task_starts_none_and_is_not_finished():
    scene = Scene(job_mode(0, 2))
    assert scene.tasks() == []
    assert not scene.finished()


def test_a_failed_task_is_followed_in_its_slot_after_its_delay():
    scene = Scene(job_mode(2, 2), restart_policy=RestartPolicy(delay=5 * SECOND_NS))
    scene.end(scene.running()[0], FAILED)
    after = [t for t in scene.tasks() if t.replaces]
    assert [(t.slot, t.desired, t.attempt, t.job_iteration) for t in after] == [(0, READY, 1, 0)]
    scene.run_for(4_999)
    assert len(scene.running()) == 1
    scene.run_for(1)
    assert sorted(t.slot for t in scene.running()) == [0, 1]
    scene.end_all()
    assert scene.completed() == [(0, 0), (0, 1)]


def test_a_task_that_waits_for_its_restart_keeps_its_turn():
    scene = Scene(job_mode(1, 3))
    scene.end(scene.running()[0], FAILED)
    assert [t.slot for t in scene.tasks()] == [0, 0]
    scene.run_for(60_000)
    scene.end_all()
    assert scene.completed() == [(0, 0), (0, 1), (0, 2)]


def test_a_task_that_its_agent_stopped_for_want_of_a_manager_is_followed_at_once():
    scene = Scene(job_mode(1))
    (row,) = scene.running()
    scene.end(row, SHUTDOWN)
    (after,) = scene.running()
    assert (after.replaces, after.attempt) == (row.id, 0)


def test_a_job_opens_a_thousand_slots_at_a_time():
    world = World()
    add_job(world, job_mode(ENTRY_CHANGES_MAX + 1))
    leader = Leader(world, jobs())
    leader.run()
    made = [len(decision.changes) for _, decision in leader.decided if decision.changes]
    assert made == [ENTRY_CHANGES_MAX, 1]
    assert leader.decided[0][1].has_more


# The marks of the reference ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("policy", "runs"),
    [
        ({"condition": "none"}, 1),
        ({"condition": "any", "max_attempts": 2}, 3),
        ({"condition": "on-failure", "max_attempts": 1, "delay": 0}, 2),
    ],
)
def test_a_slot_that_was_given_up_is_not_run_by_the_next_look_at_the_job(policy, runs):
    """SwarmKit makes a new task in a given-up slot with any later change of the job's tasks."""
    scene = Scene(job_mode(2, 3), restart_policy=RestartPolicy(**policy))
    for _ in range(runs):
        (row,) = [t for t in scene.running() if t.slot == 0]
        scene.end(row, FAILED)
        scene.run_for(120_000)
    scene.end_all()
    scene.lead()
    scene.run_for(3_600_000)
    assert Counter(t.slot for t in scene.tasks()) == {0: runs, 1: 1, 2: 1}
    assert scene.completed() == [(0, 1), (0, 2)]
    assert scene.finished()
    scene.assert_at_rest()


def test_the_attempts_of_an_iteration_say_nothing_about_the_next_one():
    scene = Scene(job_mode(1), restart_policy=RestartPolicy(max_attempts=1, delay=0))
    for iteration in range(2):
        runs = 0
        while scene.running():
            scene.end(scene.running()[0], FAILED)
            scene.run_for(120_000)
            runs += 1
        assert runs == 2, iteration
        scene.tell(fire(scene.world))


def test_a_limit_of_attempts_holds_for_every_node_of_a_global_job_by_itself():
    """SwarmKit looks its restarts up without the node, and never finds them."""
    scene = Scene(GLOBAL, restart_policy=RestartPolicy(max_attempts=2, delay=0))
    runs = Counter()
    while failing := [t for t in scene.running() if t.node_id != "n3"]:
        runs[failing[0].node_id] += 1
        scene.end(failing[0], FAILED)
        scene.run_for(120_000)
    assert runs == {"n1": 3, "n2": 3}
    assert [t.node_id for t in scene.running()] == ["n3"]
    scene.end_all()
    assert scene.finished()
    scene.assert_at_rest()


def test_a_job_that_runs_more_than_it_may_starts_none_and_stops_none():
    """SwarmKit's unsigned arithmetic ends in an error here."""
    world = World()
    world.put(node("n1"))
    add_job(world, job_mode(1, 9))
    for slot in range(3):
        row = task(f"t{slot}", slot, service="job", desired=COMPLETE, job_iteration=0)
        world.put(row)
    leader = Leader(world, jobs())
    leader.run()
    assert not any(decision.changes for _, decision in leader.decided)
    for slot in range(3):
        leader.tell(world.report(f"t{slot}", COMPLETE))
        leader.run()
    assert [t.slot for t in world.service_tasks("job")] == [0, 1, 2, 3]


def test_a_node_that_joins_later_gets_its_task_of_a_global_job():
    """SwarmKit does not look at nodes that come while an iteration is under way."""
    scene = Scene(GLOBAL)
    scene.end_all()
    scene.tell(scene.world.put(node("n4")))
    assert [t.node_id for t in scene.running()] == ["n4"]
    scene.assert_at_rest()


# Iterations --------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [job_mode(2, 3), GLOBAL])
def test_a_new_iteration_runs_everything_again(mode):
    scene = Scene(mode)
    scene.end_all()
    before = len(scene.completed())
    for iteration in (1, 2):
        scene.tell(fire(scene.world))
        assert {t.job_iteration for t in scene.running()} == {iteration}
        scene.end_all()
        assert len(scene.completed()) == before * (iteration + 1)
    assert before == 3
    scene.assert_at_rest()


def test_what_still_runs_of_an_iteration_before_goes_and_what_failed_there_has_no_successor():
    scene = Scene(job_mode(3, 3), restart_policy=RestartPolicy(delay=60 * SECOND_NS))
    done, failed, running = scene.running()
    scene.end(done)
    scene.end(failed, FAILED)
    scene.tell(fire(scene.world))
    of_before = {t.id: t.desired for t in scene.tasks(0)}
    assert of_before[done.id] == COMPLETE
    assert of_before[failed.id] == SHUTDOWN
    assert of_before[running.id] == REMOVE
    assert [t.desired for t in scene.tasks(0) if t.replaces] == [REMOVE]
    scene.run_for(OLD_TASK_WAIT_MAX_MS)
    assert sorted(t.slot for t in scene.tasks(1)) == [0, 1, 2]


def test_tasks_that_stop_count_against_those_that_may_run_at_once():
    scene = Scene(job_mode(2, 2))
    first, second = scene.running()
    scene.tell(fire(scene.world))
    assert scene.running() == []
    scene.tell(scene.world.report(first.id, SHUTDOWN))
    assert [(t.job_iteration, t.slot) for t in scene.running()] == [(1, 0)]
    scene.tell(scene.world.report(second.id, SHUTDOWN))
    assert [(t.job_iteration, t.slot) for t in scene.running()] == [(1, 0), (1, 1)]


def test_tasks_that_do_not_stop_are_waited_for_a_minute_at_most():
    scene = Scene(job_mode(1))
    scene.tell(fire(scene.world))
    scene.run_for(OLD_TASK_WAIT_MAX_MS - 1)
    assert scene.tasks(1) == []
    scene.run_for(1)
    assert len(scene.tasks(1)) == 1


def test_tasks_that_stop_on_a_node_that_is_down_are_not_waited_for():
    scene = Scene(job_mode(1))
    (row,) = scene.running()
    scene.tell(fire(scene.world))
    scene.tell(scene.world.put(node(row.node_id, state=NodeState.DOWN)))
    assert len(scene.tasks(1)) == 1


def test_a_clock_that_was_set_back_makes_nobody_wait_for_it():
    scene = Scene(job_mode(1))
    scene.tell(fire(scene.world))
    scene.world.now_ms -= 3_600_000
    scene.lead()
    scene.run()
    assert len(scene.tasks(1)) == 1


@pytest.mark.parametrize("mode", [job_mode(2, 3), GLOBAL])
def test_iterations_beside_each_other_all_come_to_their_end(mode):
    scene = Scene(mode)
    scene.end(scene.running()[0])
    scene.tell(fire(scene.world, is_beside=True))
    assert {t.job_iteration for t in scene.running()} == {0, 1}
    assert job_status_of(scene.world.services.get("job")).earlier == (0,)
    while first := [t for t in scene.running() if t.job_iteration == 0]:
        scene.end(first[0])
    assert job_status_of(scene.world.services.get("job")).earlier == ()
    assert len([t for t in scene.completed() if t[0] == 0]) == 3
    scene.end_all()
    assert len(scene.completed()) == 6
    scene.assert_at_rest()


def test_an_iteration_that_fails_is_left_behind_once_it_was_given_up():
    scene = Scene(job_mode(1), restart_policy=RestartPolicy(condition="none"))
    scene.tell(fire(scene.world, is_beside=True))
    (first,) = [t for t in scene.running() if t.job_iteration == 0]
    scene.end(first, FAILED)
    assert job_status_of(scene.world.services.get("job")).earlier == ()
    assert [t.job_iteration for t in scene.running()] == [1]


def test_a_new_spec_is_followed_by_a_new_iteration_alone():
    scene = Scene(job_mode(1, 2))
    scene.end(scene.running()[0])
    scene.tell(update(scene.world, job_mode(3, 3), force_update=1))
    scene.run_for(OLD_TASK_WAIT_MAX_MS)
    assert [(t.spec_version, t.slot) for t in scene.tasks(1)] == [(2, 0), (2, 1), (2, 2)]
    assert {t.spec_version for t in scene.tasks(0)} == {1}


def test_a_removed_job_takes_its_tasks_along():
    scene = Scene(job_mode(2, 5), make=lambda: [JobsDecider(), ReplicatedDecider()])
    scene.end(scene.running()[0])
    scene.tell(scene.world.remove_service("job"))
    assert {t.desired for t in scene.tasks()} == {REMOVE}


def test_services_that_are_no_jobs_are_left_alone():
    world = World()
    world.put(node("n1"))
    world.add_service(replicas=2)
    world.put(task("t1"))
    leader = Leader(world, jobs())
    leader.tell(world.report("t1", FAILED))
    leader.run()
    assert leader.decided == []


# Nodes -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["down", "drained", "gone"])
def test_the_tasks_of_a_lost_node_go_on_elsewhere(how):
    scene = Scene(job_mode(3, 3))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    gone = how == "gone"
    events = scene.world.drop(Node, "n2") if gone else scene.world.put(node("n2", **lose(how)))
    scene.leader.tell(events)
    scene.leader.run()
    (after,) = [t for t in scene.tasks() if t.replaces == row.id]
    assert (after.slot, after.attempt, after.node_id) == (row.slot, 0, "")
    assert scene.world.tasks.get(row.id).desired == SHUTDOWN


def test_a_task_of_a_job_that_never_restarts_is_given_up_with_its_node():
    scene = Scene(job_mode(3, 3), restart_policy=RestartPolicy(condition="none"))
    scene.tell(scene.world.put(node("n2", availability="drain")))
    assert len(scene.tasks()) == 3
    scene.end_all()
    assert scene.finished()


def test_two_of_a_slot_end_as_one_where_the_first_has_ended_well():
    """The node was lost, not the task: it ran on, and tells so once it is back."""
    scene = Scene(job_mode(3, 3))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.leader.tell(scene.world.put(node("n2", state=NodeState.DOWN)))
    scene.leader.run()
    scene.leader.tell(scene.world.put(node("n2")))
    scene.end(row)
    (after,) = [t for t in scene.tasks() if t.replaces == row.id]
    assert after.desired == SHUTDOWN
    scene.assert_at_rest()


def test_of_two_tasks_of_a_slot_the_one_that_is_furthest_stays():
    scene = Scene(job_mode(1))
    (row,) = scene.running()
    scene.tell(
        scene.world.put(
            task(
                "twin",
                0,
                service="job",
                desired=COMPLETE,
                on="n1",
                status=replace(row.status, state=int(READY)),
            )
        )
    )
    assert scene.world.tasks.get("twin").desired == SHUTDOWN
    assert scene.running() == [row]


def test_a_task_on_a_node_that_is_drained_gently_runs_to_its_end():
    scene = Scene(job_mode(3, 3))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    plan = DrainPlan(deadline_ms=scene.world.now_ms + 60_000)
    scene.tell(scene.world.put(node("n2", availability="drain", drain=plan)))
    scene.run_for(59_999)
    assert row.id in [t.id for t in scene.running()]
    scene.end(row)
    assert len(scene.tasks()) == 3


def test_a_task_on_a_node_that_is_drained_gently_moves_at_the_deadline():
    scene = Scene(job_mode(3, 3))
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    plan = DrainPlan(deadline_ms=scene.world.now_ms + 60_000)
    scene.tell(scene.world.put(node("n2", availability="drain", drain=plan)))
    scene.run_for(60_000)
    assert scene.world.tasks.get(row.id).desired == SHUTDOWN
    assert [t.slot for t in scene.tasks() if t.replaces == row.id] == [row.slot]


def test_a_task_whose_service_never_replaces_waits_for_its_node():
    scene = Scene(job_mode(3, 3), labels={LABEL: "never-replace"})
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.tell(scene.world.put(node("n2", state=NodeState.DOWN)))
    scene.run_for(3_600_000)
    assert len(scene.tasks()) == 3
    assert scene.world.tasks.get(row.id).status.err
    scene.tell(scene.world.put(node("n2")))
    scene.end_all()
    assert len(scene.completed()) == 3


def test_task_held_back_on_a_node_that_goes_and_comes_back_is_released():
    """Its delay is over meanwhile, and nothing else happens to it."""
    scene = Scene(job_mode(3, 3), labels={LABEL: "never-replace"})
    (row,) = [t for t in scene.running() if t.node_id == "n2"]
    scene.end(row, FAILED)
    (held,) = [t for t in scene.tasks() if t.replaces == row.id]
    assert (held.desired, held.node_id) == (READY, "n2")
    scene.tell(scene.world.put(node("n2", state=NodeState.DOWN)))
    scene.run_for(3_600_000)
    scene.tell(scene.world.put(node("n2")))
    assert scene.world.tasks.get(held.id).desired == COMPLETE
    scene.assert_at_rest()


# Cost --------------------------------------------------------------------------------------------
def test_the_end_of_one_task_is_no_walk_over_the_others():
    world = World()
    world.put(node("n1"))
    add_job(world, job_mode(500, 600))
    leader = Leader(world, jobs())
    leader.run()
    row = world.service_tasks("job")[0]
    seen = []
    scan = world.tasks.scan
    world.tasks.scan = lambda index, key: seen.append(index) or scan(index, key)
    leader.tell(world.report(row.id, COMPLETE))
    leader.run()
    assert "service" not in seen
    made = [c for _, d in leader.decided for c in d.changes if isinstance(c, Create)]
    assert [change.obj.slot for change in made[-1:]] == [500]


@pytest.mark.parametrize("mode", [job_mode(6, 3), GLOBAL])
@pytest.mark.parametrize("how", ["it stops", "its row goes", "its node is drained"])
def test_task_that_waits_for_one_of_the_iteration_before_is_released_once_that_is_gone(mode, how):
    """Where no two of a place may run at once."""
    scene = Scene(mode, labels={LABEL: "never-replace"})
    scene.tell(fire(scene.world))
    held = scene.tasks(1)
    assert [row.desired for row in held] == [READY] * 3
    where = (held[0].slot, held[0].node_id)
    (old,) = [row for row in scene.tasks(0) if where in ((row.slot, row.node_id), (row.slot, ""))]
    if how == "it stops":
        scene.end(old, SHUTDOWN)
    elif how == "its row goes":
        scene.tell(scene.world.drop(Task, old.id))
    else:
        down = node(old.node_id, state=NodeState.DOWN, availability="drain")
        scene.tell(scene.world.put(down))
    scene.assert_at_rest()
    if how != "its node is drained":
        assert sorted(row.desired for row in scene.tasks(1)) == [READY, READY, COMPLETE]
