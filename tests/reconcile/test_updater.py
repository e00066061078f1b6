"""Rolling updates: a few slots at a time, in either order, paused or completed, whoever leads."""

from random import Random

import pytest

from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.base import Empty
from swarmlet.model.change import Event
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    Placement,
    RestartPolicy,
    Service,
    ServiceMode,
    UpdateConfig,
    UpdateStatus,
)
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.base import REST, Moment
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.reaper import ReaperDecider
from swarmlet.reconcile.rollout import end_of, settings_of
from swarmlet.reconcile.updater import UpdaterDecider
from tests.reconcile.world import (
    Ids,
    Leader,
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


class Cluster:
    """One service on three nodes, all deciders, and agents that obey when told to."""

    def __init__(self, replicas: int = 4, *, policy: RestartPolicy | None = None, **config) -> None:
        self.world, self.new_id = World(history=config.pop("history", None)), Ids()
        for number in (1, 2, 3):
            self.world.put(node(f"n{number}"))
        self.replicas, self.number = replicas, 0
        self.policy, self.config = policy or RestartPolicy(), UpdateConfig(**config)
        spec = self.spec()
        self.world.add_service(replicas=replicas)
        row = self.world.specs.get("web@1")
        self.world.put(replace(row, spec=spec))
        self.lead()
        self.settle()

    def spec(self, **template):
        made = service_spec("web", self.replicas, restart_policy=self.policy, **template)
        return replace(made, update_config=self.config)

    def lead(self) -> None:
        self.leader = Leader(self.world, all_deciders())
        self.leader.new_id = self.new_id
        self.leader.run()

    def tell(self, events: list[Event]) -> None:
        self.leader.tell(events)
        self.leader.run()

    def update(self, **template) -> None:
        """As the API does: the status of the update before goes."""
        self.number += 1
        template.setdefault("force_update", self.number)
        events = self.world.update_service("web", self.spec(**template))
        self.tell([*events, *self.world.put(replace(self.service, update_status=None))])

    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self.update(force_update=self.number)

    def report(self, task_id: str, state: TaskState) -> None:
        self.tell(self.world.report(task_id, state))

    def obey(self) -> None:
        """Once through all tasks: each goes to where it should be."""
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            self.obey_in(row)

    def obey_in(self, row: Task) -> None:
        if TaskState.ASSIGNED <= row.status.state <= RUNNING and self.is_up(row):
            goal = SHUTDOWN if row.desired > RUNNING else row.desired
            if goal > row.status.state:
                self.report(row.id, TaskState(goal))

    def is_up(self, row: Task) -> bool:
        on = self.world.nodes.get(row.node_id)
        return on is not None and on.status.state == NodeState.READY

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            self.obey()

    def pass_ms(self, period_ms: int) -> None:
        self.leader.run_for(period_ms)

    @property
    def service(self) -> Service:
        return self.world.services.get("web")

    @property
    def state(self) -> str:
        return self.service.update_status.state if self.service.update_status else ""

    def wanted(self) -> list[Task]:
        return [t for t in self.world.service_tasks() if t.desired <= RUNNING]

    def of(self, version: int) -> list[Task]:
        return [t for t in self.wanted() if t.spec_version == version]

    def slots_of(self, version: int) -> list[int]:
        return [t.slot for t in self.of(version)]

    def finish(self, rounds: int = 40) -> None:
        for _ in range(rounds):
            self.settle(2)
            self.pass_ms(10_000)


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
    assert [t.updated_from for t in cluster.wanted()] == [1, 1, 0]


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


# What else happens meanwhile --------------------------------------------------------------------
def test_update_over_a_paused_one_goes_on_from_what_is_there():
    cluster = Cluster(3, parallelism=1)
    cluster.update()
    cluster.report(cluster.of(2)[0].id, FAILED)
    assert cluster.state == "paused"
    cluster.update()
    assert cluster.state == "updating"
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(3) == [1, 2, 3]
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_update_over_a_running_one_ends_with_the_newest_spec(order):
    cluster = Cluster(4, parallelism=2, order=order)
    cluster.update()
    cluster.obey()
    cluster.update()
    slots = [t.slot for t in cluster.wanted()]
    assert max(slots.count(slot) for slot in slots) <= 2
    cluster.finish()
    assert cluster.slots_of(3) == [1, 2, 3, 4]
    assert len(cluster.wanted()) == 4
    assert cluster.state == "completed"


def test_update_that_is_taken_back_keeps_the_old_tasks():
    cluster = Cluster(2, parallelism=1, order="start-first")
    cluster.update(force_update=7)
    old = cluster.of(1)
    cluster.update(force_update=0)
    assert cluster.wanted() == old
    assert cluster.state == ""
    assert_at_rest(cluster.world, all_deciders)


def test_scale_up_during_an_update_makes_new_tasks_beside_the_limit():
    cluster = Cluster(2, parallelism=1)
    cluster.update()
    cluster.scale(5)
    assert [t.spec_version for t in cluster.wanted() if t.slot > 2] == [3, 3, 3]
    cluster.finish()
    assert cluster.state == "completed"
    assert len(cluster.wanted()) == 5
    assert {t.spec_version for t in cluster.wanted()} <= {2, 3}


def test_scale_down_during_an_update_is_done_before_more_slots_are_tried():
    cluster = Cluster(5, parallelism=1)
    cluster.update()
    cluster.scale(2)
    assert len({t.slot for t in cluster.wanted()}) == 2
    cluster.finish()
    assert {t.spec_version for t in cluster.wanted()} <= {2, 3}
    assert len(cluster.wanted()) == 2
    assert cluster.state == "completed"


def test_service_removed_in_the_middle_leaves_nothing():
    cluster = Cluster(3, parallelism=1, order="start-first")
    cluster.update()
    cluster.tell(cluster.world.remove_service("web"))
    cluster.finish(5)
    assert len(cluster.world.tasks) == 0
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_new_task_that_must_leave_its_node_is_no_failure(order):
    cluster = Cluster(2, parallelism=1, order=order)
    cluster.update()
    cluster.obey()
    (new,) = [t for t in cluster.of(2) if t.slot == 1]
    cluster.tell(cluster.world.put(node(new.node_id, availability="drain")))
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(2) == [1, 2]
    assert new.node_id not in {t.node_id for t in cluster.wanted()}


def test_moved_task_holds_the_place_of_the_one_that_had_to_leave():
    cluster = Cluster(3, parallelism=1)
    cluster.update()
    (new,) = cluster.of(2)
    cluster.tell(cluster.world.put(node(new.node_id, state=NodeState.DOWN)))
    moved = next(t for t in cluster.of(2) if t.replaces == new.id)
    tried = [t.slot for t in cluster.world.service_tasks() if t.updated_from]
    assert tried == [1]
    cluster.report(moved.id, RUNNING)
    tried = [t.slot for t in cluster.world.service_tasks() if t.updated_from]
    assert len(tried) == 2


def test_late_task_of_the_old_spec_is_replaced_too():
    cluster = Cluster(2, parallelism=2)
    cluster.update()
    cluster.finish()
    assert cluster.state == "completed"
    late = replace(cluster.wanted()[0], id="late", slot=2, spec_version=1, updated_from=0)
    cluster.tell(cluster.world.drop(Task, cluster.wanted()[1].id))
    cluster.tell(cluster.world.put(late))
    cluster.finish()
    assert {t.spec_version for t in cluster.wanted()} == {2}
    assert len(cluster.wanted()) == 2


def test_clock_set_back_holds_nobody_up():
    cluster = Cluster(2, parallelism=1, delay=10 * S)
    cluster.update()
    cluster.settle()
    cluster.world.now_ms -= 3_600_000
    cluster.lead()
    assert cluster.slots_of(2) == [1, 2]
    assert end_of(1_000_000, 10, 999_000) == 1_000_010
    assert end_of(0, 10, 5) == 0


def test_new_leader_goes_on_at_every_point():
    """The same tasks are made, whether one leads all the time or a new one after every event."""
    ends = []
    for changes in (False, True):
        cluster = Cluster(4, parallelism=2, delay=3 * S)
        cluster.update()
        for _ in range(30):
            for row in cluster.world.service_tasks():
                cluster.obey_in(cluster.world.tasks.get(row.id))
                if changes:
                    cluster.lead()
            cluster.pass_ms(2_000)
        made = [(t.slot, t.spec_version, t.desired) for t in cluster.world.service_tasks()]
        ends.append((made, cluster.state))
    assert ends[0] == ends[1]
    assert ends[0][1] == "completed"


# Economy ----------------------------------------------------------------------------------------
def test_services_at_rest_are_not_looked_at():
    cluster = Cluster(3, parallelism=3)
    decider = cluster.leader.deciders[1]
    assert isinstance(decider, UpdaterDecider)
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
    sizes = []
    while True:
        decision = decider.decide(world, ("service", "web"), Moment(world.now_ms, Ids(len(sizes))))
        if not decision.changes:
            break
        sizes.append((len(decision.changes), decision.has_more))
        again = decider.decide(world, ("service", "web"), Moment(world.now_ms, Ids(len(sizes) - 1)))
        assert again == decision
        for event in world.commit(decision.changes, decision.guards):
            list(decider.keys_of(event, world))
    assert sizes == [(999, True), (998, True), (4, False)]


# Histories --------------------------------------------------------------------------------------
class History:
    """Random updates, failures, nodes and leaders around one service."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.order = self.rng.choice(["stop-first", "start-first"])
        self.parallelism = self.rng.randint(0, 3)
        self.cluster = Cluster(
            self.rng.randint(1, 6),
            policy=RestartPolicy(
                delay=S, condition=self.rng.choice(["any", "any", "on-failure", "none"])
            ),
            order=self.order,
            parallelism=self.parallelism,
            delay=self.rng.choice([0, 2 * S]),
            monitor=self.rng.choice([S, 20 * S]),
            failure_action=self.rng.choice(["pause", "continue"]),
            max_failure_ratio=self.rng.choice([0, 0.5, 1]),
        )
        self.world = self.cluster.world

    def run(self) -> None:
        acts = [self.update, self.fail, self.fail, self.scale, self.change_node, self.wait]
        acts += [self.lead, self.wait, self.wait]
        for _ in range(25):
            self.rng.choice(acts)()
            self.obey()
            self.check()
        for name in ("n1", "n2", "n3"):
            self.cluster.tell(self.world.put(node(name)))
        for _ in range(60):
            self.cluster.settle(1)
            self.check()
            self.cluster.pass_ms(10_000)
            self.check()

    def update(self) -> None:
        self.cluster.update(force_update=self.rng.randint(1, 3))

    def fail(self) -> None:
        alive = [t for t in self.world.service_tasks() if 192 <= t.status.state <= RUNNING]
        for row in self.rng.sample(alive, min(len(alive), 1)):
            self.cluster.report(row.id, self.rng.choice([FAILED, COMPLETE, REJECTED]))

    def scale(self) -> None:
        replicas = self.rng.randint(0, 6)
        self.cluster.replicas = replicas
        spec = self.world.specs.get(f"web@{self.cluster.service.spec_version}").spec
        self.cluster.update(force_update=spec.task_template.force_update)

    def change_node(self) -> None:
        how = self.rng.choice([{}, {"state": NodeState.DOWN}, {"availability": "drain"}])
        self.cluster.tell(self.world.put(node(f"n{self.rng.randint(1, 3)}", **how)))

    def wait(self) -> None:
        self.cluster.pass_ms(self.rng.choice([10, 1_000, 25_000]))

    def lead(self) -> None:
        self.cluster.leader = Leader(self.world, all_deciders(), self.world.index + 2**40)
        self.cluster.leader.run()

    def obey(self) -> None:
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            if self.rng.random() < 0.7:
                self.cluster.obey_in(row)

    def check(self) -> None:
        wanted = self.cluster.wanted()
        pairs = [(t.slot, t.spec_version) for t in wanted]
        assert len(set(pairs)) == len(pairs), "a slot has two tasks of one version"
        spare = 0
        if self.order == "start-first":
            # what is in flight when another update comes is left to end beside its own
            spare = len(wanted) if not self.parallelism else 6
        assert len(wanted) <= self.cluster.replicas + spare
        slots = [t.slot for t in wanted]
        assert max((slots.count(slot) for slot in slots), default=0) <= 1 + bool(spare)


@pytest.mark.parametrize("seed", range(60))
def test_update_ends_completed_or_paused_with_a_reason_whatever_happens(seed):
    history = History(seed)
    history.run()
    cluster = history.cluster
    assert cluster.state in ("", "completed", "paused"), cluster.service
    if cluster.state == "paused":
        assert "failure or early termination of task " in cluster.service.update_status.message
    elif cluster.state == "completed" and history.order == "stop-first":
        current = history.world.specs.get(f"web@{cluster.service.spec_version}").spec
        for row in cluster.wanted():
            made_from = history.world.specs.get(f"web@{row.spec_version}").spec
            assert made_from.task_template == current.task_template
    assert {t.status.state for t in cluster.wanted()} <= {RUNNING}
    assert_at_rest(history.world, all_deciders)
