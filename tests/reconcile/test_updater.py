"""Rolling updates: a few slots at a time, in either order, paused or completed; at what cost."""

import pytest

from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.base import Empty
from swarmlet.model.change import Event
from swarmlet.model.service import (
    Placement,
    RestartPolicy,
    Service,
    ServiceMode,
    UpdateConfig,
    UpdateStatus,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.base import REST, Moment
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.reaper import ReaperDecider
from swarmlet.reconcile.rollout import LOOK_MAX, settings_of
from swarmlet.reconcile.updater import SLOTS_MAX, UpdaterDecider
from tests.reconcile.rolling import Cluster
from tests.reconcile.world import (
    Ids,
    World,
    assert_at_rest,
    node,
    replace,
    service_spec,
    task,
)

READY, RUNNING, SHUTDOWN = TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN
FAILED, COMPLETE, REJECTED = TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED
S = 1_000_000_000
MONITOR_MS = 30_000


# One update -------------------------------------------------------------------------------------
def test_update_stops_the_old_tasks_first_as_many_as_the_parallelism():
    cluster = Cluster(4, parallelism=2)
    cluster.update()
    assert cluster.state == "updating"
    assert cluster.service.update_status.message == "update in progress"
    assert cluster.service.update_status.started_ms == cluster.world.now_ms
    new = cluster.of(2)
    assert [(t.slot, t.desired, t.updated_from) for t in new] == [(1, READY, 1), (2, READY, 1)]
    old = [cluster.world.tasks.get(t.replaces) for t in new]
    assert [(t.slot, t.desired) for t in old] == [(1, SHUTDOWN), (2, SHUTDOWN)]
    cluster.report(old[0].id, SHUTDOWN)
    assert [t.desired for t in cluster.of(2)] == [RUNNING, READY]
    cluster.report(new[0].id, RUNNING)  # its place is taken by the next slot
    assert cluster.slots_of(2) == [1, 2, 3]


def test_update_without_a_config_replaces_one_at_a_time():
    cluster = Cluster(3)
    cluster.config = None
    cluster.update()
    assert cluster.slots_of(2) == [1]


def test_parallelism_of_zero_replaces_all_at_once():
    cluster = Cluster(4, parallelism=0)
    cluster.update()
    assert cluster.slots_of(2) == [1, 2, 3, 4]


def test_update_is_completed_once_the_last_task_was_watched():
    cluster = Cluster(2, parallelism=2)
    started_ms = cluster.world.now_ms
    cluster.update()
    cluster.settle()
    cluster.pass_ms(MONITOR_MS - 1)
    assert cluster.state == "updating"
    cluster.pass_ms(1)
    assert cluster.service.update_status == UpdateStatus(
        state="completed",
        started_ms=started_ms,
        completed_ms=started_ms + MONITOR_MS,
        message="update completed",
    )
    assert {t.spec_version for t in cluster.wanted()} == {2}
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize(
    ("config", "hold_ms"),
    [
        (None, 30_000),
        (UpdateConfig(monitor=7 * S), 7_000),
        (UpdateConfig(monitor=5 * S, delay=10 * S), 11_000),
        (UpdateConfig(monitor=5 * S, delay=5 * S), 6_000),
        (UpdateConfig(monitor=5 * S, delay=4 * S), 5_000),
    ],
)
def test_update_watches_as_long_as_its_config_says(config, hold_ms):
    assert settings_of(replace(service_spec(), update_config=config)).hold_ms == hold_ms


def test_delay_passes_between_a_slot_and_the_next():
    cluster = Cluster(3, parallelism=1, delay=10 * S, monitor=5 * S)
    cluster.update()
    cluster.settle()
    assert cluster.slots_of(2) == [1]
    cluster.pass_ms(9_999)
    assert cluster.slots_of(2) == [1]
    cluster.pass_ms(1)
    assert cluster.slots_of(2) == [1, 2]
    cluster.settle()
    cluster.pass_ms(10_000)
    cluster.settle()
    cluster.pass_ms(10_999)
    assert cluster.state == "updating"
    cluster.pass_ms(1)
    assert cluster.state == "completed"


def test_update_that_changes_no_task_leaves_no_status():
    cluster = Cluster(3)
    cluster.config = UpdateConfig(parallelism=3)
    before = cluster.wanted()
    cluster.update(force_update=0)
    assert (cluster.state, cluster.wanted()) == ("", before)
    assert_at_rest(cluster.world, all_deciders)


def test_update_of_placement_replaces_only_what_may_not_stay():
    cluster = Cluster(3)
    cluster.tell(cluster.world.put(node("n1", labels={"disk": "ssd"})))
    cluster.update(force_update=0, placement=Placement(constraints=["node.labels.disk==ssd"]))
    cluster.finish()
    assert {t.node_id for t in cluster.wanted()} == {"n1"}
    assert sorted(t.spec_version for t in cluster.wanted()) == [1, 2, 2]
    assert cluster.state == "completed"
    assert_at_rest(cluster.world, all_deciders)


def test_slot_is_left_alone_when_its_node_got_the_label_meanwhile():
    cluster = Cluster(3, parallelism=1)
    cluster.update(force_update=0, placement=Placement(constraints=["node.labels.disk==ssd"]))
    for name in ("n1", "n2", "n3"):
        cluster.tell(cluster.world.put(node(name, labels={"disk": "ssd"})))
    cluster.finish()
    assert sorted(t.spec_version for t in cluster.wanted()) == [1, 1, 2]
    assert cluster.state == "completed"


@pytest.mark.parametrize("mode", [ServiceMode(global_=Empty()), ServiceMode(global_job=Empty())])
def test_other_modes_are_left_alone(mode):
    world = World()
    world.add_service()
    world.put(replace(world.specs.get("web@1"), spec=replace(service_spec(), mode=mode)))
    world.update_service("web", replace(service_spec(image="other"), mode=mode))
    world.put(task("t", 0))
    assert UpdaterDecider().decide(world, ("service", "web"), Moment(1, Ids())) == REST
    assert UpdaterDecider().decide(world, ("service", "gone"), Moment(1, Ids())) == REST


# What has ended ----------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize(
    ("policy", "end"),
    [
        (RestartPolicy(condition="none"), FAILED),
        (RestartPolicy(condition="none"), COMPLETE),
        (RestartPolicy(condition="on-failure"), COMPLETE),
        (RestartPolicy(max_attempts=1, delay=0), FAILED),
    ],
)
def test_update_replaces_what_ended_and_was_not_restarted(policy, end, order):
    """Else a service that had given up stays so whatever is put right in its spec."""
    cluster = Cluster(2, policy=policy, parallelism=1, order=order)
    for _ in range(2):
        for row in cluster.wanted():
            cluster.report(row.id, end)
    assert not cluster.wanted()
    assert_at_rest(cluster.world, all_deciders)
    cluster.update()
    assert cluster.state == "updating"
    assert cluster.slots_of(2) == [1]
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(2) == [1, 2]
    assert len(cluster.wanted()) == 2
    assert_at_rest(cluster.world, all_deciders)


def test_old_task_that_ends_for_good_before_its_turn_is_replaced():
    cluster = Cluster(2, policy=RestartPolicy(condition="none"), parallelism=1)
    cluster.update()
    cluster.report(next(t.id for t in cluster.of(1) if t.slot == 2), COMPLETE)
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(2) == [1, 2]


def test_what_an_update_put_in_place_and_ended_for_good_is_not_tried_again():
    cluster = Cluster(2, policy=RestartPolicy(condition="none"), failure_action="continue")
    cluster.update()
    for _ in range(4):
        for row in cluster.of(2):
            if row.desired <= RUNNING:
                cluster.report(row.id, FAILED)
    cluster.finish()
    assert cluster.state == "completed"
    assert [t.slot for t in cluster.world.service_tasks() if t.spec_version == 2] == [1, 2]
    assert_at_rest(cluster.world, all_deciders)


# Start first ------------------------------------------------------------------------------------
def test_start_first_stops_the_old_task_once_the_new_one_runs():
    cluster = Cluster(2, parallelism=1, order="start-first")
    cluster.update()
    old, new = [t for t in cluster.wanted() if t.slot == 1]
    assert (old.desired, new.desired, new.replaces) == (RUNNING, RUNNING, old.id)
    assert new.updated_from == 1
    cluster.report(new.id, RUNNING)
    assert cluster.world.tasks.get(old.id).desired == SHUTDOWN
    cluster.finish()
    assert cluster.slots_of(2) == [1, 2]
    assert cluster.state == "completed"
    assert_at_rest(cluster.world, all_deciders)


def test_start_first_keeps_the_old_task_when_the_new_one_fails():
    cluster = Cluster(1, order="start-first", parallelism=1)
    cluster.update()
    old, new = cluster.wanted()
    cluster.report(new.id, FAILED)
    assert cluster.state == "paused"
    after = cluster.wanted()[1]
    assert cluster.world.tasks.get(old.id).desired == RUNNING
    assert (after.desired, after.replaces, after.updated_from) == (READY, new.id, 0)
    assert after.start_at_ms == cluster.world.now_ms + 5_000
    cluster.pass_ms(5_000)  # it does not wait for the old one, which is to run on
    assert cluster.world.tasks.get(after.id).desired == RUNNING
    cluster.report(after.id, RUNNING)  # what is in flight is finished, paused or not
    cluster.pass_ms(MONITOR_MS - 1)  # once it has shown that it is no crash loop
    assert cluster.slots_of(1) == [1]
    cluster.pass_ms(1)
    assert cluster.slots_of(1) == []
    assert_at_rest(cluster.world, all_deciders)


def test_start_first_leaves_the_old_task_where_the_new_one_is_given_up():
    policy = RestartPolicy(condition="none")
    cluster = Cluster(2, policy=policy, order="start-first", failure_action="continue")
    cluster.update()
    for _ in range(4):
        for row in cluster.of(2):
            cluster.report(row.id, FAILED)
        cluster.finish(3)
    assert cluster.slots_of(1) == [1, 2]
    assert cluster.state == "completed"
    assert len(cluster.world.service_tasks()) == 4  # each slot was tried once
    assert_at_rest(cluster.world, all_deciders)


def test_old_task_that_ends_while_a_new_one_starts_has_no_successor_of_its_own():
    cluster = Cluster(1, order="start-first")
    cluster.update()
    old, new = cluster.wanted()
    cluster.report(old.id, FAILED)
    assert [t.id for t in cluster.wanted()] == [new.id]


def test_start_first_stops_an_old_task_first_that_does_not_run():
    cluster = Cluster(1, order="start-first")
    cluster.report(cluster.wanted()[0].id, FAILED)
    cluster.update()
    assert [t.spec_version for t in cluster.wanted()] == [2]


def test_stop_first_ends_the_wait_of_a_new_task_beside_the_old_one_it_waits_for():
    """As for a host port: it cannot run before the old one has stopped."""
    cluster = Cluster(3, order="start-first", parallelism=0)
    cluster.update()
    assert cluster.slots_of(1) == cluster.slots_of(2) == [1, 2, 3]
    cluster.config = UpdateConfig(order="stop-first", parallelism=1)
    cluster.update(force_update=cluster.number)
    assert cluster.slots_of(2) == []
    assert len(cluster.slots_of(1)) == 2  # one at a time from now on
    assert cluster.slots_of(3) == [1]
    cluster.finish()
    assert (cluster.state, cluster.slots_of(3)) == ("completed", [1, 2, 3])
    assert_at_rest(cluster.world, all_deciders)


# Failures ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", [FAILED, COMPLETE, REJECTED])
def test_update_pauses_when_a_new_task_ends_early(state):
    cluster = Cluster(3, parallelism=1)
    cluster.update()
    (new,) = cluster.of(2)
    cluster.obey()
    cluster.report(new.id, state)
    assert cluster.state == "paused"
    assert cluster.service.update_status.message == (
        f"update paused due to failure or early termination of task {new.id}"
    )
    assert cluster.service.update_status.completed_ms == 0
    cluster.finish()
    assert cluster.slots_of(1) == [2, 3]
    assert cluster.state == "paused"
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize(("ran_ms", "state"), [(29_999, "paused"), (30_000, "updating")])
def test_task_that_ran_as_long_as_the_monitor_did_not_fail(ran_ms, state):
    cluster = Cluster(3, parallelism=1, delay=60 * S)
    cluster.update()
    cluster.settle()
    cluster.pass_ms(ran_ms)
    cluster.report(cluster.of(2)[0].id, FAILED)
    assert cluster.state == state


def test_crash_in_the_last_watch_pauses_too():
    cluster = Cluster(1)
    cluster.update()
    cluster.settle()
    cluster.pass_ms(20_000)
    cluster.report(cluster.of(2)[0].id, FAILED)
    assert cluster.state == "paused"


def test_failures_up_to_the_ratio_are_borne():
    cluster = Cluster(4, parallelism=1, max_failure_ratio=0.25)
    cluster.update()
    cluster.report(cluster.of(2)[0].id, FAILED)
    assert cluster.state == "updating"
    assert cluster.slots_of(2) == [1, 2]  # slot 1 is tried no more: the restart policy has it
    cluster.report(next(t.id for t in cluster.of(2) if t.slot == 2), FAILED)
    assert cluster.state == "paused"


def test_failures_stop_nothing_where_the_action_is_to_continue():
    cluster = Cluster(2, parallelism=1, failure_action="continue")
    cluster.update()
    for _ in range(3):
        for row in cluster.of(2):
            if row.updated_from:
                cluster.report(row.id, REJECTED)
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(2) == [1, 2]


def test_old_task_that_fails_before_its_turn_comes_back_with_the_new_spec():
    cluster = Cluster(3, parallelism=1)
    cluster.update()
    cluster.report(next(t.id for t in cluster.of(1) if t.slot == 3), FAILED)
    assert cluster.slots_of(2) == [1, 3]
    assert cluster.state == "updating"
    cluster.finish()
    assert cluster.state == "completed"
    assert [t.updated_from for t in cluster.wanted()] == [1, 1, 1]  # and it was watched


def test_tasks_that_tell_of_an_update_stay_until_it_is_over():
    cluster = Cluster(2, parallelism=1, failure_action="continue", history=1)
    cluster.update()
    (first,) = cluster.of(2)
    cluster.report(first.id, FAILED)  # slot 2 waits: its new task never comes to run
    for _ in range(8):
        cluster.pass_ms(60_000)
        for row in cluster.of(2):
            if row.slot == 1:
                cluster.report(row.id, FAILED)
    assert cluster.world.tasks.get(first.id) is not None
    assert cluster.state == "updating"
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.world.tasks.get(first.id) is None
    assert_at_rest(cluster.world, all_deciders)


def test_end_of_an_update_leads_the_reaper_to_its_slots():
    cluster = Cluster(1)
    cluster.update()
    old = cluster.service
    new = replace(old, update_status=None)
    keys = list(ReaperDecider().keys_of(Event(Service, old, new), cluster.world))
    assert keys == [("specs", "web"), ("slot", "web", "1")]


# Economy ----------------------------------------------------------------------------------------
def test_services_at_rest_are_not_looked_at():
    cluster = Cluster(3, parallelism=3)
    decider = next(d for d in cluster.leader.deciders if isinstance(d, UpdaterDecider))
    events = cluster.world.report(cluster.wanted()[0].id, FAILED)
    assert [list(decider.keys_of(event, cluster.world)) for event in events] == [[]]
    cluster.leader.tell(events)
    cluster.update()
    row = cluster.of(2)[0]
    prepared = cluster.world.report(row.id, TaskState.PREPARING)
    assert [list(decider.keys_of(event, cluster.world)) for event in prepared] == [[]]
    runs = cluster.world.report(row.id, RUNNING)
    assert [list(decider.keys_of(event, cluster.world)) for event in runs] == [[("service", "web")]]


def test_large_update_comes_in_slices():
    world = World()
    world.add_service(replicas=ENTRY_CHANGES_MAX)
    for number in range(1, ENTRY_CHANGES_MAX + 1):
        world.put(task(f"t{number:05}", number))
    spec = replace(
        service_spec(replicas=ENTRY_CHANGES_MAX, image="new"),
        update_config=UpdateConfig(parallelism=0),
    )
    world.update_service("web", spec)
    decider = UpdaterDecider()
    sizes, looks = [], 0
    while True:
        decision = decider.decide(world, ("service", "web"), Moment(world.now_ms, Ids(len(sizes))))
        if not decision.changes and not decision.has_more:
            break
        if not decision.changes:
            assert not sizes, "all slots are looked at before the first is updated"
            looks += 1
            continue
        sizes.append((len(decision.changes), decision.has_more))
        again = decider.decide(world, ("service", "web"), Moment(world.now_ms, Ids(len(sizes) - 1)))
        assert again == decision
        for event in world.commit(decision.changes, decision.guards):
            list(decider.keys_of(event, world))
    slots = 2 * SLOTS_MAX  # of changes: a task goes, and a task comes
    assert looks == ENTRY_CHANGES_MAX // LOOK_MAX
    assert sizes == [(slots + 1, True), *[(slots, True)] * 8, (slots, False)]
