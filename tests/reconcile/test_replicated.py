"""Replicated services: slots open and close, tasks are followed by tasks, everything rests."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.base import Empty
from swarmlet.model.change import Create, Exists, SetDesired, Update
from swarmlet.model.node import NodeState
from swarmlet.model.service import RestartPolicy, Service, ServiceMode, SpecVersion
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.base import REST, Moment
from swarmlet.reconcile.replicated import ReplicatedDecider
from tests.reconcile.world import Ids, Leader, World, assert_at_rest, node, replace, task

READY, RUNNING, FAILED = TaskState.READY, TaskState.RUNNING, TaskState.FAILED
SHUTDOWN, REMOVE, COMPLETE = TaskState.SHUTDOWN, TaskState.REMOVE, TaskState.COMPLETE
SECOND_NS = 1_000_000_000


def replicated():
    return [ReplicatedDecider()]


def scene(replicas=3, *, nodes=("n1", "n2", "n3"), **policy):
    """A service at rest whose tasks run, round robin."""
    world = World()
    for node_id in nodes:
        world.put(node(node_id))
    world.add_service(replicas=replicas, restart_policy=RestartPolicy(**policy))
    leader = Leader(world, replicated())
    leader.run()
    run_all(world, leader)
    return world, leader


def run_all(world, leader):
    """Every task that has no node gets one; every task that may run runs."""
    nodes = sorted(n.id for n in world.nodes.all() if n.status.state == NodeState.READY)
    for number, row in enumerate(world.service_tasks()):
        if row.desired <= RUNNING and row.status.state < TaskState.ASSIGNED and nodes:
            status = replace(row.status, state=int(TaskState.ASSIGNED))
            placed = replace(row, node_id=nodes[number % len(nodes)], status=status)
            leader.tell(world.put(placed))
        row = world.tasks.get(row.id)
        if row.desired in (READY, RUNNING) and row.status.state < row.desired and row.node_id:
            leader.tell(world.report(row.id, TaskState(row.desired)))
    leader.run()


def in_slot(world, slot=1):
    return [t for t in world.service_tasks() if t.slot == slot]


def live(world):
    return [t for t in world.service_tasks() if t.desired <= RUNNING]


def test_service_gets_one_task_a_slot_when_created():
    world, _ = scene(4)
    tasks = world.service_tasks()
    assert [t.slot for t in tasks] == [1, 2, 3, 4]
    assert {t.desired for t in tasks} == {RUNNING}
    assert {(t.attempt, t.start_at_ms, t.replaces) for t in tasks} == {(0, 0, "")}
    assert_at_rest(world, replicated)


def test_service_opens_its_slots_a_thousand_at_a_time():
    world = World()
    world.add_service(replicas=ENTRY_CHANGES_MAX + 1)
    decider = ReplicatedDecider()
    decision = decider.decide(world, ("service", "web"), Moment(1, Ids()))
    assert decision.has_more
    assert len(decision.changes) == ENTRY_CHANGES_MAX
    assert set(decision.guards) == {
        Exists(table=Service, id="web"),
        Exists(table=SpecVersion, id="web@1"),
    }
    world.commit(decision.changes, decision.guards)
    rest = decider.decide(world, ("service", "web"), Moment(1, Ids(1)))
    assert [c.obj.slot for c in rest.changes] == [ENTRY_CHANGES_MAX + 1]
    assert not rest.has_more


def test_scale_up_takes_the_lowest_free_numbers():
    world, leader = scene(5)
    leader.tell(world.drop(Task, in_slot(world, 2)[0].id))
    leader.tell(world.scale("web", 7))
    leader.run()
    assert sorted(t.slot for t in live(world)) == [1, 2, 3, 4, 5, 6, 7]
    assert {t.spec_version for t in live(world) if t.slot in (2, 6, 7)} == {2}
    assert {t.spec_version for t in live(world) if t.slot in (1, 3, 4, 5)} == {1}


@pytest.mark.parametrize("replicas", [0, 1, 2, 4])
def test_scale_down_removes_the_surplus_and_nothing_else(replicas):
    world, leader = scene(5, nodes=("n1", "n2"))
    leader.tell(world.scale("web", replicas))
    leader.run()
    assert sorted(t.slot for t in live(world)) == list(range(1, replicas + 1))
    assert {t.desired for t in world.service_tasks()} <= {RUNNING, REMOVE}
    assert_at_rest(world, replicated)


def test_scale_down_removes_a_slots_history_before_its_live_task():
    world, leader = scene(1)
    leader.tell(world.report(in_slot(world)[0].id, FAILED))
    leader.run()
    leader.tell(world.scale("web", 0))
    decision = ReplicatedDecider().decide(world, ("service", "web"), leader.moment)
    old, new = in_slot(world)
    assert [c.id for c in decision.changes] == [old.id, new.id]
    assert all(c == SetDesired(id=c.id, desired=REMOVE) for c in decision.changes)


def test_tasks_are_removed_when_their_service_is():
    world, leader = scene(3)
    leader.tell(world.report(in_slot(world)[0].id, FAILED))
    leader.run()
    leader.tell(world.remove_service("web"))
    leader.run()
    assert [t.desired for t in world.service_tasks()] == [REMOVE] * 4
    assert_at_rest(world, replicated)


def test_task_that_should_run_is_made_anew_when_its_row_vanishes():
    world, leader = scene(3)
    leader.tell(world.drop(Task, in_slot(world, 2)[0].id))
    leader.run()
    assert [t.slot for t in live(world)] == [1, 2, 3]


@pytest.mark.parametrize("mode", [ServiceMode(global_=Empty()), ServiceMode(global_job=Empty())])
def test_other_modes_are_left_alone(mode):
    world = World()
    world.add_service()
    spec = replace(world.specs.get("web@1").spec, mode=mode)
    world.put(replace(world.specs.get("web@1"), spec=spec))
    world.put(task("t", 0, state=FAILED))
    leader = Leader(world, replicated())
    leader.run()
    assert [t.desired for t in world.service_tasks()] == [RUNNING]


def test_failed_task_is_stopped_and_followed_in_one_piece():
    world, leader = scene(1)
    (old,) = in_slot(world)
    leader.tell(world.report(old.id, FAILED))
    old = world.tasks.get(old.id)
    decision = leader.deciders[0].decide(world, ("slot", "web", "1"), leader.moment)
    update, create = decision.changes
    assert isinstance(update, Update)
    assert isinstance(create, Create)
    assert (update.obj.id, update.seen, update.obj.desired) == (old.id, old.version, SHUTDOWN)
    assert (create.obj.replaces, create.obj.desired) == (old.id, READY)
    assert Exists(table=SpecVersion, id="web@1") in decision.guards


def test_replacement_runs_after_the_delay_when_a_task_fails():
    world, leader = scene(1)
    failed_ms = world.now_ms
    leader.tell(world.report(in_slot(world)[0].id, FAILED))
    leader.run_for(4_999)
    run_all(world, leader)
    old, new = in_slot(world)
    assert (old.desired, new.desired, new.status.state) == (SHUTDOWN, READY, READY)
    leader.run_for(1)
    assert world.tasks.get(new.id).desired == RUNNING
    assert world.now_ms == failed_ms + 5_000
    assert_at_rest(world, replicated)


def test_delay_grows_with_each_crash_and_is_plain_after_a_clean_end():
    world, leader = scene(1)
    waits = []
    for state in (FAILED, FAILED, FAILED, COMPLETE, FAILED):
        run_all(world, leader)
        (now,) = live(world)
        leader.tell(world.report(now.id, state))
        leader.run()
        (after,) = live(world)
        waits.append((after.start_at_ms - world.now_ms, after.attempt))
        leader.run_for(after.start_at_ms - world.now_ms)
    assert waits == [(5_000, 1), (10_000, 2), (20_000, 3), (5_000, 0), (5_000, 1)]


def test_replacement_that_fails_while_held_back_waits_for_its_own_start():
    world, leader = scene(1)
    leader.tell(world.report(in_slot(world)[0].id, FAILED))
    leader.run()
    held = live(world)[0]
    leader.tell(world.report(held.id, TaskState.REJECTED))
    leader.run_for(4_999)
    assert len(in_slot(world)) == 2
    leader.run_for(1)
    last = live(world)[0]
    assert (last.replaces, last.attempt, last.start_at_ms) == (held.id, 2, held.start_at_ms + 5_000)


def test_delay_is_over_when_the_clock_was_set_back_to_before_it_began():
    world, leader = scene(1)
    leader.tell(world.report(in_slot(world)[0].id, FAILED))
    leader.run()
    (held,) = live(world)
    assert held.desired == READY
    world.now_ms = held.created_ms - 59_000  # no more than clocks differ
    leader.wake.clear()
    leader.tell(world.put(node("n1")))
    leader.run()
    world.now_ms = held.created_ms - 3_600_000
    leader.tell(world.report(held.id, TaskState.REJECTED))
    leader.run()
    (after,) = live(world)
    assert after.replaces == held.id
    assert after.start_at_ms <= world.now_ms + 10_000


@pytest.mark.parametrize(
    ("condition", "state", "is_followed"),
    [("none", FAILED, False), ("on-failure", COMPLETE, False), ("on-failure", FAILED, True)],
)
def test_slot_is_satisfied_by_a_task_the_policy_lets_end(condition, state, is_followed):
    world, leader = scene(2, condition=condition)
    leader.tell(world.report(in_slot(world)[0].id, state))
    leader.run()
    assert len(in_slot(world)) == 1 + is_followed
    assert world.tasks.get(in_slot(world)[0].id).desired == SHUTDOWN
    leader.tell(world.scale("web", 3))
    leader.run()
    assert sorted(t.slot for t in live(world)) == ([1, 2, 3] if is_followed else [2, 3])
    assert_at_rest(world, replicated)


def test_task_is_given_up_after_max_attempts():
    world, leader = scene(1, max_attempts=2, delay=0)
    for _ in range(5):
        run_all(world, leader)
        for row in live(world):
            leader.tell(world.report(row.id, FAILED))
        leader.run_for(1_000)
    assert len(in_slot(world)) == 3
    assert live(world) == []
    assert_at_rest(world, replicated)


@pytest.mark.parametrize(
    "after", [node("n1", state=NodeState.DOWN), node("n1", availability="drain"), None]
)
def test_tasks_move_at_once_when_their_node_is_lost(after):
    world, leader = scene(3)
    (moving,) = [t for t in live(world) if t.node_id == "n1"]
    leader.tell(world.drop(type(node()), "n1") if after is None else world.put(after))
    leader.run()
    (new,) = [t for t in live(world) if t.slot == moving.slot]
    assert new.replaces == moving.id
    assert new.start_at_ms == world.now_ms
    assert new.attempt == 0
    # a drained node still stops its task; the others will never say
    is_held = after is not None and after.spec.availability == "drain"
    assert new.desired == (READY if is_held else RUNNING)
    assert len(in_slot(world, moving.slot)) == 2
    assert {t.slot: t.id for t in live(world) if t.slot != moving.slot}.keys() == {1, 2, 3} - {
        moving.slot
    }


def test_moved_task_starts_when_its_predecessor_stopped():
    world, leader = scene(1, nodes=("n1",))
    leader.tell(world.put(node("n1", availability="drain")))
    leader.run_for(30_000)
    old, new = in_slot(world)
    assert new.desired == READY
    leader.tell(world.report(old.id, SHUTDOWN))
    leader.run()
    assert world.tasks.get(new.id).desired == RUNNING


def test_moved_task_starts_when_its_predecessors_node_goes_down_too():
    world, leader = scene(1, nodes=("n1",))
    leader.tell(world.put(node("n1", availability="drain")))
    leader.run()
    leader.tell(world.put(node("n1", availability="drain", state=NodeState.DOWN)))
    leader.run()
    assert [t.desired for t in in_slot(world)] == [SHUTDOWN, RUNNING]


def test_moved_task_waits_a_minute_at_most_for_its_predecessor():
    world, leader = scene(1, nodes=("n1",))
    leader.tell(world.put(node("n1", availability="drain")))
    leader.run_for(59_999)
    assert in_slot(world)[1].desired == READY
    leader.run_for(1)
    assert in_slot(world)[1].desired == RUNNING


def test_task_assigned_to_a_node_that_was_lost_meanwhile_moves_on():
    world, leader = scene(0)
    leader.tell(world.put(node("n1", state=NodeState.DOWN)))
    leader.tell(world.scale("web", 1))
    leader.run()
    (row,) = live(world)
    status = replace(row.status, state=int(TaskState.ASSIGNED))
    leader.tell(world.put(replace(row, node_id="n1", status=status)))
    leader.run()
    assert [t.desired for t in in_slot(world)] == [SHUTDOWN, RUNNING]


def test_slot_with_two_tasks_keeps_the_one_that_is_further():
    world, leader = scene(1)
    (first,) = in_slot(world)
    leader.tell(
        world.put(replace(first, id=TaskID("double"), status=task("x", state=READY).status))
    )
    leader.run()
    assert {t.id: t.desired for t in in_slot(world)} == {first.id: RUNNING, "double": SHUTDOWN}


def test_new_leader_finds_a_slot_with_two_tasks():
    world, _ = scene(1)
    (first,) = in_slot(world)
    world.put(replace(first, id=TaskID("double"), status=task("x", state=READY).status))
    Leader(world, replicated()).run()
    assert {t.id: t.desired for t in in_slot(world)} == {first.id: RUNNING, "double": SHUTDOWN}


def test_dead_slot_is_opened_again_where_it_is_needed_and_closed_where_not():
    world, leader = scene(3)
    for row in in_slot(world, 1) + in_slot(world, 2):
        world.put(replace(row, desired=int(SHUTDOWN), status=task("x", state=FAILED).status))
    leader.tell(world.scale("web", 2))
    leader.run()
    assert [(t.slot, t.desired) for t in world.service_tasks()] == [
        (1, SHUTDOWN),  # kept as the history of the slot
        (1, RUNNING),
        (2, REMOVE),
        (3, RUNNING),
    ]
    assert_at_rest(world, replicated)


def test_scale_down_in_slices_leaves_the_same_survivors_as_in_one():
    world = World()
    for number in range(1, ENTRY_CHANGES_MAX + 12):
        world.put(task(f"t{number:05}", number, on=f"n{number % 3}"))
    world.add_service(replicas=4)
    decision = ReplicatedDecider().decide(world, ("service", "web"), Moment(0, Ids()))
    assert decision.has_more
    world.commit(decision.changes)
    after = ReplicatedDecider().decide(world, ("service", "web"), Moment(0, Ids()))
    world.commit(after.changes)
    assert len(after.changes) == 7
    assert [t.slot for t in live(world)] == [1, 2, 3, 4]
    # the last of all survivors went first, so what was left after the first slice was their best
    last = {int(c.id[1:]) for c in after.changes}
    assert last == {5, 6, 7, 8, 9, 10, 11}


def test_restart_that_crossed_a_scale_down_does_not_leave_a_slot_too_many():
    world, leader = scene(3)
    failing = in_slot(world, 3)[0]
    leader.tell(world.report(failing.id, FAILED))
    decider = leader.deciders[0]
    restart = decider.decide(world, ("slot", "web", "3"), leader.moment)
    leader.tell(world.scale("web", 2))
    closing = decider.decide(world, ("service", "web"), leader.moment)
    leader.dirty.clear()
    for decision in (restart, closing):
        leader.tell(world.commit(decision.changes))
    leader.run()
    assert [t.slot for t in live(world)] == [1, 2]
    assert_at_rest(world, replicated)


def test_events_lead_to_slots_and_not_to_whole_services():
    world, leader = scene(3)
    decider = leader.deciders[0]
    row = in_slot(world)[0]

    def keys(events):
        return [key for event in events for key in decider.keys_of(event, world)]

    assert keys(world.put(replace(row, status=replace(row.status, message="still")))) == []
    assert keys(world.put(node("n2", labels={"a": "b"}))) == []
    assert keys(world.report(row.id, FAILED)) == [("slot", "web", "1")]
    assert keys(world.put(node("n2", state=NodeState.DISCONNECTED))) == []
    assert keys(world.put(node("n2", state=NodeState.DOWN))) == [("slot", "web", "2")]
    assert keys(world.put(node("n2", state=NodeState.DOWN, labels={"a": "b"}))) == []
    assert keys(world.put(node("n2"))) == []
    assert keys(world.scale("web", 3)) == [("service", "web")]


def test_decide_is_at_rest_where_there_is_nothing():
    assert ReplicatedDecider().decide(World(), ("slot", "gone", "1"), Moment(0, Ids())) == REST
    assert ReplicatedDecider().decide(World(), ("service", "gone"), Moment(0, Ids())) == REST


# Histories --------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.integers(0, 6)),
        st.tuples(st.just("report"), st.integers(0, 30)),
        st.tuples(
            st.just("end"), st.tuples(st.integers(0, 30), st.sampled_from([FAILED, COMPLETE]))
        ),
        st.tuples(st.just("node"), st.tuples(st.integers(1, 3), st.sampled_from("rdxg"))),
        st.tuples(st.just("drop"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3_000, 20_000, 700_000])),
        st.tuples(st.just("half"), st.just(0)),
        st.tuples(st.just("lead"), st.just(0)),
    ),
    max_size=25,
)
NODE_NOW = {"r": {}, "d": {"state": NodeState.DOWN}, "x": {"availability": "drain"}}


def step(world, leader, verb, what):  # noqa: C901 - one case a verb
    """One thing that happens around the decider; a new leader where it is that."""
    tasks = [t for t in world.service_tasks() if t.node_id and t.status.state <= RUNNING]
    row = (
        tasks[(what[0] if verb == "end" else what) % len(tasks)]
        if (tasks and verb in ("report", "end", "drop"))
        else None
    )
    match verb:
        case "scale":
            leader.tell(world.scale("web", what))
        case "report" if row:
            leader.tell(world.report(row.id, TaskState(min(row.desired, RUNNING))))
        case "end" if row:
            leader.tell(world.report(row.id, what[1]))
        case "drop" if row:
            leader.tell(world.drop(Task, row.id))
        case "node":
            node_id, state = f"n{what[0]}", what[1]
            if state != "g":
                leader.tell(world.put(node(node_id, **NODE_NOW[state])))
            elif world.nodes.get(node_id) is not None:
                leader.tell(world.drop(type(node()), node_id))
        case "wait":
            leader.run_for(what)
        case "half":
            run_all(world, leader)
        case "lead":
            return Leader(world, replicated(), seed=2**40 + world.index)
    return leader


def check_order(before, world):
    """Neither state ever falls, and a task stays on its node."""
    for row in world.tasks.all():
        old = before.get(row.id)
        if old is not None:
            assert row.desired >= old.desired
            assert row.status.state >= old.status.state
            assert old.node_id in ("", row.node_id)


@settings(max_examples=150, deadline=None)
@given(
    STEPS, st.integers(0, 2**32), st.sampled_from(["any", "on-failure", "none"]), st.integers(0, 2)
)
def test_service_converges_and_rests_whatever_happens(steps, seed, condition, max_attempts):
    world = World()
    for number in (1, 2, 3):
        world.put(node(f"n{number}"))
    policy = RestartPolicy(condition=condition, max_attempts=max_attempts, delay=SECOND_NS)
    world.add_service(replicas=3, restart_policy=policy)
    leader = Leader(world, replicated(), seed)
    for verb, what in steps:
        before = dict(world.tasks.rows)
        leader = step(world, leader, verb, what)
        check_order(before, world)
        if verb in ("half", "wait"):
            running = Counter(t.slot for t in world.tasks.all() if t.desired == RUNNING)
            assert max(running.values(), default=0) <= 1
    leader.run_for(200_000)
    service = world.services.get("web")
    replicas = world.specs.get(f"web@{service.spec_version}").spec.mode.replicated.replicas
    slots = Counter(t.slot for t in live(world))
    assert max(slots.values(), default=0) <= 1
    given_up = {t.slot for t in world.service_tasks() if t.desired == SHUTDOWN} - set(slots)
    assert len(slots) + len(given_up) == replicas
    assert condition != "any" or max_attempts or not given_up
    assert_at_rest(world, replicated)
