"""Global services: one task on every node that suits, whatever happens to nodes and tasks."""

from collections import Counter
from random import Random

import pytest

from swarmlet.model.base import Empty
from swarmlet.model.change import Event, Exists
from swarmlet.model.node import DrainPlan, Node, NodeState
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import (
    Placement,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.base import Moment
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.eviction import EVICTED
from swarmlet.reconcile.global_services import GlobalDecider
from swarmlet.reconcile.moving import is_moving
from tests.reconcile.world import Ids, Leader, World, assert_at_rest, node, replace, service_spec

RUNNING, SHUTDOWN, READY = TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.READY
PENDING, FAILED = TaskState.PENDING, TaskState.FAILED


def global_spec(
    *, update=None, labels=None, constraints=(), policy=None, **template
) -> ServiceSpec:
    made = service_spec(
        "web",
        placement=Placement(constraints=list(constraints)),
        restart_policy=policy,
        **template,
    )
    return replace(
        made,
        mode=ServiceMode(global_=Empty()),
        update_config=update,
        labels=labels or {},
    )


class Swarm:
    """Some nodes, one global service, all deciders, and agents that obey when told to."""

    def __init__(self, nodes: int = 3, seed: int | None = None, **spec) -> None:
        self.world, self.new_id, self.seed = World(history=spec.pop("history", None)), Ids(), seed
        self.nodes = {f"n{number}": node(f"n{number}") for number in range(nodes)}
        for row in self.nodes.values():
            self.world.put(row)
        self.world.add_service()
        self.world.put(replace(self.world.specs.get("web@1"), spec=global_spec(**spec)))
        self.lead()
        self.settle()

    def lead(self) -> None:
        self.leader = Leader(self.world, all_deciders(), self.seed)
        self.leader.new_id = self.new_id
        self.leader.run()

    def tell(self, events: list[Event]) -> None:
        self.leader.tell(events)
        self.leader.run()

    def update(self, **spec) -> None:
        events = self.world.update_service("web", global_spec(**spec))
        self.tell([*events, *self.world.put(replace(self.service, update_status=None))])

    def set_node(self, node_id: str, **fields) -> None:
        """What is said of a node; all else of it is as a plain node has it."""
        self.tell(self.world.put(node(node_id, **fields)))

    def remove_node(self, node_id: str) -> None:
        """As the API does: its tasks are orphaned."""
        for row in self.on(node_id):
            self.tell(self.world.report(row.id, TaskState.ORPHANED))
        self.tell(self.world.drop(Node, node_id))

    def report(self, task_id: str, state: TaskState) -> None:
        self.tell(self.world.report(task_id, state))

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
                self.obey_in(row)

    def obey_in(self, row: Task) -> None:
        on = self.world.nodes.get(row.node_id)
        is_up = on is not None and on.status.state == NodeState.READY
        if is_up and TaskState.ASSIGNED <= row.status.state <= RUNNING:
            goal = SHUTDOWN if row.desired > RUNNING else row.desired
            if goal > row.status.state:
                self.report(row.id, TaskState(goal))

    def pass_ms(self, period_ms: int) -> None:
        self.leader.run_for(period_ms)

    def finish(self, rounds: int = 30) -> None:
        for _ in range(rounds):
            self.settle(2)
            self.pass_ms(10_000)

    @property
    def service(self) -> Service:
        return self.world.services.get("web")

    @property
    def state(self) -> str:
        return self.service.update_status.state if self.service.update_status else ""

    def on(self, node_id: str) -> list[Task]:
        return [t for t in self.world.service_tasks() if t.node_id == node_id]

    def wanted(self) -> list[Task]:
        return [t for t in self.world.service_tasks() if t.desired <= RUNNING]

    def running(self) -> list[str]:
        """The nodes where a task is wanted and runs, each as often as one does."""
        return sorted(t.node_id for t in self.wanted() if t.status.state == RUNNING)

    def of(self, version: int) -> list[str]:
        return sorted(t.node_id for t in self.wanted() if t.spec_version == version)


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
    swarm.set_node("n1", availability="drain", drain=DrainPlan(began_ms=1))
    (row,) = swarm.on("n1")
    assert row.desired == SHUTDOWN
    assert not is_moving(swarm.world, replace(row, desired=RUNNING))
    assert len(swarm.wanted()) == 1


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
    decider.start(swarm.world)
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


# Histories ----------------------------------------------------------------------------------------


class Fate:
    """What happens to a swarm of a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.how = UpdateConfig(
            parallelism=self.rng.choice([0, 1, 2]),
            monitor=1,
            failure_action=self.rng.choice(["continue", "continue", "pause"]),
            order=self.rng.choice(["", "start-first"]),
        )
        self.force = 0
        self.swarm = Swarm(4, seed=seed, history=3, **self.spec())

    def spec(self, **more):
        return {
            "update": self.how,
            "policy": RestartPolicy(delay=1_000_000_000),
            "constraints": self.rng.choice([[], ["node.labels.zone==eu"]]),
            **more,
        }

    def node(self) -> None:
        how = self.rng.choice(
            [
                {},
                {"labels": {"zone": "eu"}},
                {"labels": {"zone": "eu"}},
                {"availability": "drain"},
                {"availability": "pause", "labels": {"zone": "eu"}},
                {"state": NodeState.DOWN},
                {"state": NodeState.DISCONNECTED},
            ]
        )
        self.swarm.tell(self.swarm.world.put(node(f"n{self.rng.randrange(6)}", **how)))

    def leave(self) -> None:
        node_id = f"n{self.rng.randrange(6)}"
        if self.swarm.world.nodes.get(node_id) is not None and self.rng.random() < 0.3:
            self.swarm.remove_node(node_id)

    def fail(self) -> None:
        up = [t for t in self.swarm.world.tasks.all() if t.status.state == RUNNING]
        if up:
            row = self.rng.choice(sorted(up, key=lambda t: t.id))
            self.swarm.report(row.id, self.rng.choice([FAILED, TaskState.COMPLETE]))

    def update(self) -> None:
        self.force += self.rng.randrange(2)
        self.swarm.update(**self.spec(force_update=self.force))

    def wait(self) -> None:
        self.swarm.pass_ms(self.rng.choice([10, 1_000, 61_000]))

    def run(self) -> None:
        swarm = self.swarm
        what = [self.node, self.node, self.leave, self.fail, self.update, self.wait, swarm.lead]
        for _ in range(25):
            self.rng.choice(what)()
            self.check()
            for row in sorted(swarm.world.tasks.all(), key=lambda t: t.id):
                if self.rng.random() < 0.7:
                    swarm.obey_in(row)
            self.check()

    def check(self) -> None:
        """Never two wanted on a node but while one starts before the other stops."""
        counts = Counter((t.node_id, t.spec_version) for t in self.swarm.wanted())
        assert max(counts.values(), default=0) <= 1
        both = Counter(t.node_id for t in self.swarm.wanted())
        assert max(both.values(), default=0) <= 2


@pytest.mark.parametrize("seed", range(30))
def test_swarm_ends_with_one_task_on_every_node_that_suits_and_rests(seed):
    fate = Fate(seed)
    fate.run()
    swarm = fate.swarm
    swarm.update(**fate.spec(force_update=99))
    for row in list(swarm.world.nodes.all()):
        swarm.set_node(row.id, labels=row.spec.labels)
    swarm.finish(40)
    constraints = swarm.world.specs.get(f"web@{swarm.service.spec_version}").spec.task_template
    eu_only = bool(constraints.placement.constraints)
    suiting = [
        row.id
        for row in swarm.world.nodes.all()
        if not eu_only or row.spec.labels.get("zone") == "eu"
    ]
    assert swarm.running() == sorted(suiting)
    assert swarm.of(swarm.service.spec_version) == sorted(suiting)
    assert max(Counter(t.node_id for t in swarm.world.tasks.all()).values(), default=0) <= 3
    assert not [t for t in swarm.world.tasks.all() if t.desired == TaskState.REMOVE]
    assert_at_rest(swarm.world, all_deciders)
