"""Global services: one task on every node that suits, whatever happens to nodes and tasks."""

from collections import Counter

import pytest

from swarmlet.model.change import Exists
from swarmlet.model.node import DrainPlan, Node, NodeState
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import (
    ResourceRequirements,
    Resources,
    RestartPolicy,
    UpdateConfig,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.base import Moment, started
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.drain import left_on, moves_of
from swarmlet.reconcile.eviction import EVICTED
from swarmlet.reconcile.global_services import GlobalDecider
from swarmlet.reconcile.moving import is_moving
from tests.reconcile.everywhere import Swarm
from tests.reconcile.explained import answer_of
from tests.reconcile.world import Ids, assert_at_rest, node, replace

RUNNING, SHUTDOWN, READY = TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.READY
PENDING, FAILED = TaskState.PENDING, TaskState.FAILED


def test_service_runs_once_on_every_node_and_its_tasks_have_no_slot():
    swarm = Swarm()
    assert swarm.running() == ["n0", "n1", "n2"]
    assert {t.slot for t in swarm.world.tasks.all()} == {0}
    assert_at_rest(swarm.world, all_deciders)


@pytest.mark.parametrize(
    ("how", "is_there"),
    [
        ({}, True),
        ({"availability": "drain"}, False),
        ({"availability": "pause"}, False),
        ({"state": NodeState.DOWN}, False),
        ({"state": NodeState.UNKNOWN}, True),
        ({"state": NodeState.DISCONNECTED}, True),
        ({"labels": {"zone": "us"}}, True),
    ],
)
def test_node_that_joins_gets_a_task_where_it_may_have_one(how, is_there):
    swarm = Swarm()
    swarm.set_node("new", **how)
    assert [t.desired for t in swarm.on("new")] == [RUNNING] * is_there


def test_task_waits_on_a_node_that_cannot_take_it_and_runs_there_once_it_can():
    swarm = Swarm(1, resources=ResourceRequirements(reservations=Resources(memory_bytes=1 << 33)))
    swarm.set_node("small", memory_b=1 << 20)
    (waiting,) = swarm.on("small")
    assert (waiting.status.state, waiting.desired) == (PENDING, RUNNING)
    assert "insufficient resources on 1 node" in waiting.status.err
    swarm.set_node("small", memory_b=1 << 34)
    swarm.settle()
    assert swarm.running() == ["n0", "small"]


def test_constraints_choose_the_nodes():
    swarm = Swarm(constraints=["node.labels.zone==eu"])
    assert swarm.wanted() == []
    swarm.set_node("n1", labels={"zone": "eu"})
    swarm.settle()
    assert swarm.running() == ["n1"]


@pytest.mark.parametrize("how", [{"availability": "drain"}, {"state": NodeState.DOWN}])
def test_task_stops_on_a_node_that_is_drained_or_down_and_nothing_moves(how):
    swarm = Swarm()
    swarm.set_node("n1", **how)
    swarm.settle()
    assert [t.desired for t in swarm.on("n1")] == [SHUTDOWN]
    assert swarm.running() == ["n0", "n2"]
    swarm.pass_ms(600_000)
    assert len(swarm.on("n1")) == 1
    swarm.set_node("n1")
    swarm.finish(3)
    assert swarm.running() == ["n0", "n1", "n2"]
    assert_at_rest(swarm.world, all_deciders)


def test_task_comes_back_with_its_node_even_where_none_is_restarted():
    swarm = Swarm(policy=RestartPolicy(condition="none"))
    swarm.set_node("n1", availability="drain")
    swarm.settle()
    swarm.set_node("n1")
    swarm.finish(2)
    assert swarm.running() == ["n0", "n1", "n2"]


def test_task_that_ended_is_not_made_again_where_none_is_restarted():
    swarm = Swarm(policy=RestartPolicy(condition="none"))
    swarm.report(swarm.on("n1")[0].id, TaskState.COMPLETE)
    swarm.finish(3)
    swarm.set_node("n1", labels={"zone": "eu"})
    swarm.finish(3)
    assert len(swarm.on("n1")) == 1
    assert_at_rest(swarm.world, all_deciders)


def test_new_task_waits_until_the_one_that_was_told_to_stop_has_stopped():
    swarm = Swarm(1)
    swarm.set_node("n0", availability="drain")
    swarm.set_node("n0")
    old, new = swarm.on("n0")
    assert (old.desired, new.desired) == (SHUTDOWN, READY)
    swarm.report(old.id, SHUTDOWN)
    assert swarm.on("n0")[1].desired == RUNNING


def test_new_task_waits_a_minute_at_most():
    swarm = Swarm(1)
    swarm.set_node("n0", availability="drain")
    swarm.set_node("n0")
    swarm.pass_ms(59_000)
    assert swarm.on("n0")[1].desired == READY
    swarm.pass_ms(1_000)
    assert swarm.on("n0")[1].desired == RUNNING


def test_paused_node_keeps_what_runs_and_gets_nothing():
    swarm = Swarm()
    swarm.set_node("n1", availability="pause")
    assert swarm.running() == ["n0", "n1", "n2"]
    swarm.update(force_update=1, update=UpdateConfig(parallelism=0, monitor=1))
    swarm.finish()
    assert (swarm.of(1), swarm.of(2)) == (["n1"], ["n0", "n2"])
    assert swarm.state == "completed"
    swarm.report(swarm.on("n1")[0].id, FAILED)
    assert [t.desired for t in swarm.on("n1")] == [SHUTDOWN]
    swarm.finish(3)
    assert len(swarm.on("n1")) == 1
    assert_at_rest(swarm.world, all_deciders)


def test_removed_node_takes_its_tasks_with_it():
    swarm = Swarm()
    swarm.remove_node("n1")
    swarm.finish(1)
    assert swarm.on("n1") == []
    assert swarm.running() == ["n0", "n2"]
    assert_at_rest(swarm.world, all_deciders)


def test_failed_task_is_restarted_on_its_node_after_the_delay():
    swarm = Swarm()
    swarm.report(swarm.on("n1")[0].id, FAILED)
    first, second = swarm.on("n1")
    assert (first.desired, second.desired, second.attempt) == (SHUTDOWN, READY, 1)
    assert (second.node_id, second.slot, second.replaces) == ("n1", 0, first.id)
    swarm.pass_ms(4_000)
    assert swarm.on("n1")[1].desired == READY
    swarm.pass_ms(1_000)
    swarm.settle()
    assert swarm.running() == ["n0", "n1", "n2"]


def test_attempts_are_counted_node_by_node():
    swarm = Swarm(policy=RestartPolicy(condition="any", delay=0, max_attempts=2), history=9)
    for _ in range(5):
        for row in swarm.on("n1"):
            if row.status.state == RUNNING:
                swarm.report(row.id, FAILED)
        swarm.finish(2)
    assert len(swarm.on("n1")) == 3
    assert swarm.running() == ["n0", "n2"]
    swarm.report(swarm.on("n0")[0].id, FAILED)
    swarm.finish(2)
    assert swarm.running() == ["n0", "n2"]


def test_never_replace_keeps_the_task_of_a_node_that_is_down():
    swarm = Swarm(labels={LABEL: "never-replace"})
    swarm.set_node("n1", state=NodeState.DOWN)
    swarm.pass_ms(600_000)
    assert [t.desired for t in swarm.on("n1")] == [RUNNING]
    swarm.set_node("n1")
    assert swarm.running() == ["n0", "n1", "n2"]
    swarm.set_node("n1", availability="drain")
    assert [t.desired for t in swarm.on("n1")] == [SHUTDOWN]


def test_stop_after_lets_the_agent_stop_the_task_of_a_node_that_is_lost():
    swarm = Swarm(labels={LABEL: "stop-after 30s"})
    swarm.set_node("n1", state=NodeState.DOWN)
    assert [t.desired for t in swarm.on("n1")] == [RUNNING]
    swarm.pass_ms(120_000)
    assert [t.desired for t in swarm.on("n1")] == [SHUTDOWN]


def test_new_task_is_released_when_the_node_that_stops_the_old_one_is_lost():
    swarm = Swarm(1, labels={LABEL: "stop-after 30s"})
    swarm.set_node("n0", availability="drain")
    swarm.set_node("n0")
    swarm.pass_ms(600_000)
    assert [t.desired for t in swarm.on("n0")] == [SHUTDOWN, READY]  # the old one may still run
    swarm.set_node("n0", state=NodeState.DISCONNECTED)
    swarm.pass_ms(120_000)
    assert [t.desired for t in swarm.on("n0")] == [SHUTDOWN, RUNNING]


def test_drain_with_a_plan_stops_the_task_at_once():
    swarm = Swarm(2)
    events = swarm.world.put(node("n1", availability="drain", drain=DrainPlan(began_ms=1)))
    host = swarm.world.nodes.get("n1")
    assert [left.waits_for for left in left_on(swarm.world, host)] == ["it is about to be stopped"]
    swarm.tell(events)
    (row,) = swarm.on("n1")
    assert row.desired == SHUTDOWN
    assert not is_moving(swarm.world, replace(row, desired=RUNNING))
    assert len(swarm.wanted()) == 1
    assert [left.waits_for for left in left_on(swarm.world, host)] == ["it is being stopped"]
    host = swarm.world.nodes.get("n0")
    (move,) = answer_of(moves_of(swarm.world, host, swarm.world.now_ms))
    assert (move.way, move.reason) == ("stop", "its service has one task on each node")


def test_node_that_is_promoted_gets_the_task_for_managers():
    swarm = Swarm(2, constraints=["node.role==manager"])
    assert swarm.wanted() == []
    swarm.set_node("n1", role="manager")
    assert [t.node_id for t in swarm.wanted()] == ["n1"]


def test_new_leader_removes_tasks_whose_node_went_meanwhile():
    swarm = Swarm()
    swarm.world.drop(Node, "n1")
    swarm.lead()
    assert swarm.on("n1") == []


def test_change_of_a_service_that_is_not_its_spec_wakes_nothing():
    swarm = Swarm()
    decider = GlobalDecider()
    started(decider, swarm.world)
    (event,) = swarm.world.put(replace(swarm.service, update_status=None))
    assert list(decider.keys_of(event, swarm.world)) == []


def test_service_that_is_removed_takes_its_tasks_with_it():
    swarm = Swarm()
    swarm.tell(swarm.world.remove_service("web"))
    swarm.finish(2)
    assert len(swarm.world.tasks) == 0


def test_task_for_a_node_that_is_gone_meanwhile_is_refused():
    swarm = Swarm(1)
    swarm.world.put(node("late"))
    decider = GlobalDecider()
    moment = Moment(swarm.world.now_ms, Ids(5))
    decision = decider.decide(swarm.world, ("node", "web", "late"), moment)
    assert Exists(table=Node, id="late") in decision.guards


# Updates ------------------------------------------------------------------------------------------


def test_update_goes_from_node_to_node():
    swarm = Swarm(update=UpdateConfig(parallelism=1, monitor=1))
    swarm.update(force_update=1, update=UpdateConfig(parallelism=1, monitor=1))
    assert (swarm.state, swarm.of(2)) == ("updating", ["n0"])
    swarm.settle(3)
    assert swarm.of(2) == ["n0", "n1"]
    swarm.finish()
    assert (swarm.of(2), swarm.state) == (["n0", "n1", "n2"], "completed")
    assert Counter(t.node_id for t in swarm.world.tasks.all()) == {"n0": 2, "n1": 2, "n2": 2}
    assert_at_rest(swarm.world, all_deciders)


def test_update_start_first_runs_both_on_the_node_for_a_moment():
    how = UpdateConfig(parallelism=1, order="start-first", monitor=1)
    swarm = Swarm(1, update=how)
    swarm.update(force_update=1, update=how)
    old, new = swarm.on("n0")
    assert (old.desired, new.desired) == (RUNNING, RUNNING)
    swarm.settle(1)
    swarm.report(new.id, RUNNING)
    assert [t.desired for t in swarm.on("n0")] == [SHUTDOWN, RUNNING]
    swarm.finish()
    assert (swarm.state, swarm.running()) == ("completed", ["n0"])


def test_update_that_fails_on_one_node_pauses():
    how = UpdateConfig(parallelism=1, failure_action="pause")
    swarm = Swarm(update=how, policy=RestartPolicy(condition="none"))
    swarm.update(force_update=1, update=how, policy=RestartPolicy(condition="none"))
    swarm.settle(2)
    failing = next(t for t in swarm.on("n0") if t.spec_version == 2)
    swarm.report(failing.id, FAILED)
    assert swarm.state == "paused"
    assert swarm.of(1) == ["n1", "n2"] or swarm.of(1) == ["n2"]


def test_update_that_fails_is_rolled_back_on_every_node_it_reached():
    how = UpdateConfig(parallelism=1, failure_action="rollback", max_failure_ratio=0.5)
    swarm = Swarm(update=how)
    swarm.update(force_update=1, update=how)
    for _ in range(20):
        swarm.settle(1)
        for row in swarm.wanted():
            if row.spec_version == 2 and row.status.state == RUNNING:
                swarm.report(row.id, FAILED)
        swarm.pass_ms(5_000)
    swarm.finish()
    assert swarm.state == "rollback_completed"
    assert swarm.running() == ["n0", "n1", "n2"]
    assert swarm.of(2) == []
    assert_at_rest(swarm.world, all_deciders)


def test_node_that_joins_during_an_update_gets_the_new_spec_at_once():
    swarm = Swarm(update=UpdateConfig(parallelism=1))
    swarm.update(force_update=1, update=UpdateConfig(parallelism=1, delay=60_000_000_000))
    swarm.set_node("new")
    assert [t.spec_version for t in swarm.on("new")] == [2]
    assert len(swarm.of(1)) == 2


def test_node_that_is_drained_during_an_update_does_not_hold_it():
    how = UpdateConfig(parallelism=1, monitor=1)
    swarm = Swarm(update=how)
    swarm.update(force_update=1, update=how)
    swarm.set_node("n0", availability="drain")
    swarm.finish()
    assert (swarm.state, swarm.of(2)) == ("completed", ["n1", "n2"])


def test_node_that_is_paused_during_an_update_does_not_hold_it():
    how = UpdateConfig(parallelism=1, monitor=1)
    swarm = Swarm(1, update=how)
    swarm.set_node("small", memory_b=1 << 20)
    needs = ResourceRequirements(reservations=Resources(memory_bytes=1 << 33))
    swarm.settle()
    swarm.update(force_update=1, update=how, resources=needs)
    swarm.finish()
    assert swarm.state == "updating"  # the new task finds no room on one node
    swarm.set_node("small", memory_b=1 << 20, availability="pause")
    swarm.finish()
    assert swarm.state == "completed"


def test_node_event_that_makes_tasks_dirty_goes_through_the_updater():
    """Two nodes come back from a pause with tasks of the old spec: one at a time."""
    how = UpdateConfig(parallelism=1, monitor=1)
    swarm = Swarm(update=how)
    for node_id in ("n0", "n1"):
        swarm.set_node(node_id, availability="pause")
    swarm.update(force_update=1, update=how)
    swarm.finish()
    assert (swarm.state, swarm.of(1)) == ("completed", ["n0", "n1"])
    events = swarm.world.put(node("n0")) + swarm.world.put(node("n1"))
    swarm.tell(events)
    assert (swarm.state, swarm.of(1), swarm.of(2)) == ("updating", ["n1"], ["n0", "n2"])
    swarm.finish()
    assert (swarm.state, swarm.of(2)) == ("completed", ["n0", "n1", "n2"])


def test_task_that_fails_on_a_node_that_comes_late_does_not_turn_back_what_was_completed():
    how = UpdateConfig(parallelism=1, monitor=1_000_000_000, failure_action="rollback")
    swarm = Swarm(update=how)
    swarm.set_node("n0", availability="pause")
    swarm.update(force_update=1, update=how)
    swarm.finish()
    assert (swarm.state, swarm.of(1)) == ("completed", ["n0"])
    swarm.set_node("n0")
    assert swarm.state == "updating"
    (late,) = [task for task in swarm.on("n0") if task.spec_version == 2]
    swarm.report(late.id, FAILED)
    assert swarm.service.spec_version == 2
    assert swarm.state == "paused"
    assert swarm.service.update_status.message.endswith(f"task {late.id}: it was completed before")
    swarm.finish()
    assert swarm.running() == ["n0", "n1", "n2"]
    assert_at_rest(swarm.world, all_deciders)


def test_update_of_labels_alone_replaces_nothing():
    swarm = Swarm()
    swarm.update(labels={"a": "b"})
    swarm.finish(2)
    assert len(swarm.world.tasks) == 3


def test_update_of_constraints_stops_where_they_fail_and_leaves_the_others():
    swarm = Swarm()
    for number in range(3):
        swarm.set_node(f"n{number}", labels={"zone": "eu" if number else "us"})
    before = {t.id for t in swarm.on("n1") + swarm.on("n2")}
    swarm.update(constraints=["node.labels.zone==eu"])
    swarm.finish(2)
    assert swarm.running() == ["n1", "n2"]
    assert {t.id for t in swarm.wanted()} == before
    (stopped,) = swarm.on("n0")
    assert (stopped.desired, stopped.status.state) == (SHUTDOWN, SHUTDOWN)


def test_task_that_waits_for_another_service_follows_a_spec_that_asks_for_it_no_more():
    """Though its node satisfies all that nodes are asked for, it was never placed there."""
    swarm = Swarm(2, constraints=["service==db"])
    assert (swarm.of(1), swarm.running()) == (["n0", "n1"], [])
    swarm.update()
    swarm.finish()
    assert (swarm.running(), swarm.of(2)) == (["n0", "n1"], ["n0", "n1"])
    assert swarm.state == "completed"
    assert_at_rest(swarm.world, all_deciders)


def test_label_that_is_taken_away_ends_the_task_and_given_back_brings_one():
    swarm = Swarm(1, constraints=["node.labels.zone==eu"], policy=RestartPolicy(condition="none"))
    swarm.set_node("n0", labels={"zone": "eu"})
    swarm.settle()
    swarm.set_node("n0")
    (row,) = swarm.on("n0")
    assert (row.status.state, row.status.message) == (TaskState.REJECTED, EVICTED)
    assert row.desired == SHUTDOWN
    swarm.finish(2)
    assert len(swarm.on("n0")) == 1
    swarm.set_node("n0", labels={"zone": "eu"})
    swarm.finish(2)
    assert swarm.running() == ["n0"]
