"""A drain with a plan: another task runs before one stops, and people are told how far it is."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.base import Empty
from swarmlet.model.node import DrainPlan, Node, NodeState
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import (
    ResourceRequirements,
    Resources,
    RestartPolicy,
    Service,
    ServiceMode,
    UpdateConfig,
)
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.drain import Move, left_on, moves_of
from swarmlet.reconcile.scheduler.room import SLICE_TASKS
from tests.reconcile.explained import answer_of
from tests.reconcile.world import Leader, World, assert_at_rest, node, replace

READY, RUNNING, SHUTDOWN = TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN
FAILED, STARTING = TaskState.FAILED, TaskState.STARTING
SECOND_NS = 1_000_000_000


class Cluster:
    """Services on three nodes, all deciders, agents that do as they are told when asked to."""

    def __init__(self, replicas=3, *, seed=None, memory_b=100, **fields) -> None:
        self.world = World()
        self.memory_b = memory_b
        for number in (1, 2, 3):
            self.world.put(node(f"n{number}", memory_b=memory_b))
        self.world.add_service(
            replicas=replicas,
            restart_policy=fields.pop("policy", RestartPolicy(delay=SECOND_NS)),
            resources=ResourceRequirements(reservations=Resources(memory_bytes=10)),
        )
        made = self.world.specs.get("web@1")
        self.world.put(replace(made, spec=replace(made.spec, **fields)))
        self.leader = Leader(self.world, all_deciders(), seed)
        self.obey()

    @property
    def tasks(self) -> list[Task]:
        return self.world.service_tasks()

    def on(self, node_id) -> list[Task]:
        return [t for t in self.world.tasks.scan("node", node_id) if t.status.state <= RUNNING]

    def running(self) -> list[Task]:
        return [t for t in self.tasks if t.status.state == RUNNING and t.desired <= RUNNING]

    def tell(self, events) -> None:
        self.leader.tell(events)
        self.leader.run()

    def put(self, node_id, **fields) -> None:
        self.tell(self.world.put(replace(self.world.nodes.get(node_id), **fields)))

    def drain(self, node_id, deadline_ms=0) -> None:
        row = self.world.nodes.get(node_id)
        plan = DrainPlan(began_ms=self.world.now_ms, deadline_ms=deadline_ms)
        self.put(node_id, spec=replace(row.spec, availability="drain"), drain=plan)

    def activate(self, node_id) -> None:
        spec = replace(self.world.nodes.get(node_id).spec, availability="active")
        self.put(node_id, spec=spec, drain=None)

    def state(self, node_id, state) -> None:
        status = replace(self.world.nodes.get(node_id).status, state=state)
        self.put(node_id, status=status)

    def step(self, row, limit=RUNNING) -> None:
        """One task goes to where it should be, no further than `limit`."""
        host = self.world.nodes.get(row.node_id)
        if host is None or host.status.state == NodeState.DOWN:
            return
        if not TaskState.ASSIGNED <= row.status.state <= RUNNING:
            return
        goal = SHUTDOWN if row.desired > RUNNING else min(row.desired, limit)
        if goal > row.status.state:
            self.tell(self.world.report(row.id, TaskState(goal)))

    def obey(self, limit=RUNNING) -> None:
        self.leader.run()
        for _ in range(3):
            for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
                self.step(self.world.tasks.get(row.id) or row, limit)

    def ways(self, node_id):
        return [
            (move.slot, move.way, move.reason, move.to, move.problem)
            for move in self.moves(self.world.nodes.get(node_id))
        ]

    def moves(self, row) -> tuple[Move, ...]:
        return answer_of(moves_of(self.world, row, self.world.now_ms))

    def left(self, node_id):
        return [
            (one.slot, one.waits_for.replace(f" {self.after(one.slot)}", ""), one.is_stuck)
            for one in left_on(self.world, self.world.nodes.get(node_id))
        ]

    def after(self, slot) -> str:
        """The newest task of a slot."""
        return [t.id for t in self.tasks if t.slot == slot][-1]


# Start first -----------------------------------------------------------------------------------
def test_drained_task_stops_once_its_replacement_runs_elsewhere():
    cluster = Cluster()
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    (new,) = [t for t in cluster.tasks if t.replaces == old.id]
    assert (new.slot, new.desired, new.attempt, new.node_id != "n1") == (old.slot, RUNNING, 0, True)
    cluster.obey(limit=STARTING)
    assert [t.id for t in cluster.on("n1")] == [old.id]
    assert cluster.world.tasks.get(old.id).desired == RUNNING
    cluster.step(cluster.world.tasks.get(new.id))
    assert cluster.world.tasks.get(old.id).desired == SHUTDOWN
    cluster.obey()
    assert not cluster.on("n1")
    assert len(cluster.running()) == 3
    assert_at_rest(cluster.world, all_deciders)


def test_task_without_a_place_elsewhere_runs_on_until_the_deadline_and_is_stopped_then():
    cluster = Cluster(memory_b=10)  # room for one task a node
    (old,) = cluster.on("n1")
    cluster.drain("n1", deadline_ms=cluster.world.now_ms + 60_000)
    cluster.leader.run_for(59_999)
    cluster.obey()
    assert cluster.world.tasks.get(old.id).desired == RUNNING
    ((_, words, is_stuck),) = cluster.left("n1")
    assert is_stuck
    assert "waits for a place: no suitable node" in words
    cluster.leader.run_for(1)
    assert cluster.world.tasks.get(old.id).desired == SHUTDOWN
    cluster.obey()
    assert [t.status.state for t in cluster.tasks if t.slot == old.slot][-1] == TaskState.PENDING
    assert_at_rest(cluster.world, all_deciders)


def test_deadline_is_never_over_where_there_is_none():
    cluster = Cluster(memory_b=10)
    cluster.drain("n1")
    cluster.leader.run_for(10**9)
    cluster.obey()
    assert len(cluster.on("n1")) == 1
    assert len(cluster.running()) == 3
    cluster.world.put(node("n4", memory_b=10))
    cluster.tell(cluster.world.put(node("n4", memory_b=20)))
    cluster.obey()
    assert not cluster.on("n1")
    assert len(cluster.running()) == 3


def test_replacement_that_fails_is_tried_again_while_the_old_task_runs_on():
    cluster = Cluster()
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    for _ in range(3):
        new = cluster.world.tasks.get(cluster.after(old.slot))
        cluster.tell(cluster.world.report(new.id, FAILED))
        cluster.leader.run_for(20_000)
        assert cluster.world.tasks.get(old.id).desired == RUNNING
    cluster.obey()
    new = cluster.world.tasks.get(cluster.after(old.slot))
    assert (new.status.state, new.attempt) == (RUNNING, 3)
    assert cluster.world.tasks.get(old.id).desired == RUNNING  # until it has proved itself
    cluster.leader.run_for(30_000)
    assert cluster.world.tasks.get(old.id).desired == SHUTDOWN


def test_old_task_that_ends_by_itself_leaves_its_slot_to_the_replacement():
    cluster = Cluster()
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    cluster.tell(cluster.world.report(old.id, FAILED))
    wanted = [t for t in cluster.tasks if t.slot == old.slot and t.desired <= RUNNING]
    assert [t.replaces for t in wanted] == [old.id]
    cluster.obey()
    assert len(cluster.running()) == 3


def test_second_node_that_is_drained_sends_the_replacement_on():
    cluster = Cluster()
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    (other,) = {cluster.world.tasks.get(cluster.after(old.slot)).node_id}
    cluster.drain(other)
    cluster.obey()
    assert not cluster.on("n1")
    assert not cluster.on(other)
    assert len(cluster.running()) == 3
    assert_at_rest(cluster.world, all_deciders)


def test_node_that_goes_down_while_it_is_drained_is_waited_for_no_longer():
    cluster = Cluster()
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    new = cluster.after(old.slot)
    cluster.state("n1", NodeState.DOWN)
    assert cluster.world.tasks.get(old.id).desired == SHUTDOWN
    assert cluster.world.tasks.get(new).desired == RUNNING
    cluster.obey()
    assert len(cluster.running()) == 3


@pytest.mark.parametrize("has_begun", [True, False])
def test_node_that_is_active_again_keeps_the_tasks_that_run(has_begun):
    cluster = Cluster()
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    new = cluster.after(old.slot)
    if has_begun:
        cluster.obey(limit=STARTING)
    cluster.activate("n1")
    cluster.obey()
    assert cluster.world.tasks.get(old.id).desired == RUNNING
    assert cluster.world.tasks.get(new).desired == SHUTDOWN
    assert_at_rest(cluster.world, all_deciders)


def test_plan_that_is_taken_back_makes_a_plain_drain_of_it():
    cluster = Cluster(memory_b=10)
    cluster.drain("n1")
    cluster.put("n1", drain=None)
    assert [t.desired for t in cluster.on("n1")] == [SHUTDOWN]


# Stop first ------------------------------------------------------------------------------------
STOP_FIRST = {
    "order": {"update_config": UpdateConfig(parallelism=1, order="stop-first")},
    "stop-after": {"labels": {LABEL: "stop-after 30s"}},
    "never": {"labels": {LABEL: "never-replace"}},
}


@pytest.mark.parametrize("why", sorted(STOP_FIRST))
def test_service_that_may_not_run_one_more_is_moved_at_once(why):
    cluster = Cluster(**STOP_FIRST[why])
    (old,) = cluster.on("n1")
    cluster.drain("n1")
    assert cluster.world.tasks.get(old.id).desired == SHUTDOWN
    assert cluster.world.tasks.get(cluster.after(old.slot)).desired == READY
    cluster.obey()
    assert len(cluster.running()) == 3


def test_start_first_service_that_is_updated_meanwhile_has_as_many_as_it_should():
    order = UpdateConfig(parallelism=0, order="start-first")
    cluster = Cluster(update_config=order)
    made = cluster.world.specs.get("web@1").spec
    again = replace(made, task_template=replace(made.task_template, force_update=1))
    cluster.world.put(replace(cluster.world.nodes.get("n1")))
    cluster.leader.tell(cluster.world.update_service("web", again))
    cluster.drain("n1")
    assert len(cluster.running()) == 3
    cluster.obey(limit=STARTING)
    assert len(cluster.running()) == 3
    cluster.obey()
    cluster.leader.run_for(60_000)
    cluster.obey()
    assert {t.spec_version for t in cluster.running()} == {2}
    assert len(cluster.running()) == 3
    assert not cluster.on("n1")


def test_drain_alone_begins_no_update():
    cluster = Cluster()
    cluster.tell(cluster.world.scale("web", 4))  # tasks of two versions that are not dirty
    cluster.obey()
    cluster.drain("n1")
    cluster.obey(limit=STARTING)
    assert cluster.world.services.get("web").update_status is None


# What is told ----------------------------------------------------------------------------------
def test_moves_say_how_each_task_goes_and_where_to():
    cluster = Cluster()
    assert cluster.ways("n1") == [(1, "start-first", "", "n2", "")]
    assert not cluster.moves(cluster.world.put(node("n4"))[0].new)
    cluster = Cluster(memory_b=10, update_config=UpdateConfig(order="stop-first"))
    ((_, way, reason, to, problem),) = cluster.ways("n1")
    assert (way, reason, to) == ("stop-first", "its update order is stop-first", "")
    assert problem.startswith("no suitable node (")
    cluster = Cluster(policy=RestartPolicy(condition="none"))
    assert cluster.ways("n1")[0][1:4] == ("stop", "its restart policy grants no successor", "")


def test_moves_of_what_no_service_moves_say_so():
    cluster = Cluster()
    made = cluster.world.specs.get("web@1")
    mode = ServiceMode(global_=Empty())
    cluster.world.put(replace(made, spec=replace(made.spec, mode=mode)))
    assert cluster.ways("n1")[0][1:3] == ("stay", "its service's mode is one that no drain moves")
    cluster.drain("n1")
    assert cluster.left("n1")[0][1] == "nothing: its service's mode is one that no drain moves"
    cluster.world.drop(Service, "web")
    assert cluster.ways("n1")[0][1:3] == ("stop", "its service was removed")


def test_left_on_a_node_that_is_down_waits_for_its_word():
    cluster = Cluster()
    cluster.drain("n1")
    cluster.state("n1", NodeState.DOWN)
    assert cluster.left("n1")[0][1] == "its node is down, and tells once it is back"


def test_moves_of_many_tasks_reckon_with_each_other():
    cluster = Cluster(7, memory_b=30)
    ways = cluster.ways("n1")
    assert len(ways) == 3
    assert sum(1 for way in ways if way[3]) == 2  # seven of nine places are taken


def test_moves_are_worked_out_in_steps_however_many_tasks_there_are():
    cluster = Cluster(memory_b=10**6)
    (here,) = cluster.on("n1")
    for number in range(2 * SLICE_TASKS):
        cluster.world.put(replace(here, id=TaskID(f"more-{number:04}"), node_id=NodeID("n2")))
    row = cluster.world.nodes.get("n1")
    assert sum(1 for _ in moves_of(cluster.world, row, cluster.world.now_ms)) >= 2
    assert [move.to for move in cluster.moves(row)] == ["n3"]  # which has less to do


def test_moves_tell_where_the_scheduler_then_places_them():
    cluster = Cluster(5)
    told = {move[0]: move[3] for move in cluster.ways("n1")}
    cluster.drain("n1")
    cluster.obey()
    placed = {t.slot: t.node_id for t in cluster.running() if t.slot in told}
    assert Counter(placed.values()) == Counter(told.values())


def test_left_says_what_each_task_waits_for():
    cluster = Cluster()
    (old,) = cluster.on("n1")
    assert cluster.left("n1") == [(old.slot, "nothing: the node is not drained", False)]
    cluster.drain("n1")
    words = cluster.left("n1")[0][1]
    assert words == "its replacement on host-n2 is assigned"
    cluster.obey(limit=STARTING)
    assert cluster.left("n1")[0][1] == "its replacement on host-n2 is starting"
    cluster.step(cluster.world.tasks.get(cluster.after(old.slot)))
    assert cluster.left("n1")[0][1] == "it is being stopped"
    cluster.obey()
    assert cluster.left("n1") == []


# Histories -------------------------------------------------------------------------------------
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["drain", "deadline", "activate"]), st.integers(1, 3)),
        st.tuples(st.just("obey"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.sampled_from([500, 9_000, 70_000])),
        st.tuples(st.just("lead"), st.just(0)),
        st.tuples(st.sampled_from(["scale", "fail"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["down", "up"]), st.integers(1, 3)),
    ),
    max_size=20,
)
GENTLE = ("drain", "activate", "obey", "wait", "lead")


def act(cluster, verb, what):  # noqa: C901 - one case a verb
    world = cluster.world
    match verb:
        case "drain":
            cluster.drain(f"n{what}")
        case "deadline":
            cluster.drain(f"n{what}", world.now_ms + 30_000)
        case "activate":
            cluster.activate(f"n{what}")
        case "obey":
            rows = sorted(world.tasks.all(), key=lambda t: t.id)
            if rows:
                cluster.step(rows[what % len(rows)])
        case "wait":
            cluster.leader.run_for(what)
        case "lead":
            cluster.leader = Leader(world, all_deciders(), 2**41 + world.index)
            cluster.leader.run()
        case "scale":
            cluster.tell(world.scale("web", what))
        case "fail":
            running = cluster.running()
            if running:
                cluster.tell(world.report(running[what % len(running)].id, FAILED))
        case "down" | "up":
            cluster.state(f"n{what}", NodeState.DOWN if verb == "down" else NodeState.READY)


def converge(cluster):
    for number in (1, 2, 3):
        cluster.state(f"n{number}", NodeState.READY)
        cluster.activate(f"n{number}")
    for _ in range(12):
        cluster.obey()
        cluster.leader.run_for(30_000)
    service = cluster.world.services.get("web")
    spec = cluster.world.specs.get(f"web@{service.spec_version}").spec
    slots = [t.slot for t in cluster.running()]
    assert len(slots) == len(set(slots)) == spec.mode.replicated.replicas
    assert_at_rest(cluster.world, all_deciders)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(0, 2**32), st.sampled_from([20, 100]))
def test_no_drain_takes_a_running_task_before_another_runs(steps, seed, memory_b):
    cluster = Cluster(3, seed=seed, memory_b=memory_b)
    for verb, what in steps:
        if verb in GENTLE:
            act(cluster, verb, what)
            assert len({t.slot for t in cluster.running()}) == 3
    converge(cluster)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(0, 2**32), st.sampled_from([20, 100]))
def test_service_converges_and_rests_whatever_is_drained(steps, seed, memory_b):
    cluster = Cluster(3, seed=seed, memory_b=memory_b)
    for verb, what in steps:
        act(cluster, verb, what)
        for row in cluster.world.nodes.all():
            assert isinstance(row, Node)
            cluster.left(row.id) if cluster.tasks else []
            cluster.ways(row.id)
    converge(cluster)


def test_two_wanted_tasks_of_a_slot_leave_the_one_that_may_stay_on_its_node():
    cluster = Cluster(1, update_config=UpdateConfig(order="stop-first"))
    (first,) = cluster.running()
    double = replace(first, id=TaskID("double"), node_id="n2")
    cluster.world.put(double)
    cluster.put("n1", status=replace(cluster.world.nodes.get("n1").status, state=NodeState.DOWN))
    assert cluster.world.tasks.get(first.id).desired == SHUTDOWN
    assert cluster.world.tasks.get("double").desired == RUNNING
