"""The reaper: what is done with goes, what is needed stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX, TASK_HISTORY_RETENTION
from swarmlet.model.base import Empty
from swarmlet.model.change import Remove
from swarmlet.model.cluster import OrchestrationConfig, SwarmSpec
from swarmlet.model.service import RestartPolicy, ServiceMode
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.base import REST, Moment
from swarmlet.reconcile.reaper import SPEC_GRACE_MS, ReaperDecider
from tests.reconcile.world import Ids, Leader, World, assert_at_rest, replace, task

RUNNING, FAILED, SHUTDOWN = TaskState.RUNNING, TaskState.FAILED, TaskState.SHUTDOWN
REMOVE, NEW, PENDING = TaskState.REMOVE, TaskState.NEW, TaskState.PENDING


def reaper():
    return [ReaperDecider()]


def scene(*tasks, history=None, **policy):
    world = World(history=history)
    world.add_service(restart_policy=RestartPolicy(**policy))
    for row in tasks:
        world.now_ms += 1
        world.put(row)
    return world


def reaped(world):
    """Ids of tasks that are left."""
    leader = Leader(world, reaper())
    leader.run()
    assert_at_rest(world, reaper)
    return [t.id for t in world.service_tasks()]


def ended(task_id, at_ms, slot=1, **fields):
    status = TaskStatus(state=FAILED, applied_at_ms=at_ms)
    return task(task_id, slot, status=status, desired=SHUTDOWN, **fields)


@pytest.mark.parametrize(
    ("state", "desired", "stays"),
    [
        (NEW, REMOVE, False),
        (PENDING, REMOVE, False),
        (TaskState.ASSIGNED, REMOVE, True),
        (RUNNING, REMOVE, True),
        (TaskState.COMPLETE, REMOVE, False),
        (FAILED, REMOVE, False),
        (TaskState.ORPHANED, REMOVE, False),
        (FAILED, SHUTDOWN, True),
        (FAILED, RUNNING, True),
        (NEW, RUNNING, True),
    ],
)
def test_task_is_removed_when_that_is_wanted_and_no_node_has_it(state, desired, stays):
    assert reaped(scene(task("t", state=state, desired=desired))) == (["t"] if stays else [])


@pytest.mark.parametrize(
    ("state", "stays"), [(RUNNING, True), (FAILED, False), (PENDING, False), (SHUTDOWN, False)]
)
def test_task_is_removed_when_its_service_is_gone_and_it_stopped(state, stays):
    world = scene(task("t", state=state, desired=SHUTDOWN))
    world.remove_service("web")
    assert reaped(world) == (["t"] if stays else [])


HISTORY = [ended(f"t{n}", 100 - n) for n in range(9)]
"""Ended in the reverse order of their creation."""


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        (None, TASK_HISTORY_RETENTION),
        (5, 5),
        (3, 3),
        (1, 1),
        (0, 1),
        (-1, 10),
        (10, 10),
        (11, 10),
    ],
)
def test_history_keeps_the_last_ended_up_to_the_limit_with_the_live_one(history, kept):
    world = scene(*HISTORY, task("live"), history=history)
    assert set(reaped(world)) == {"live", *[f"t{n}" for n in range(9)][: kept - 1]}


@pytest.mark.parametrize(("max_attempts", "kept"), [(1, 2), (7, 8), (20, 10)])
def test_history_keeps_what_restarts_are_counted_from(max_attempts, kept):
    world = scene(*HISTORY, task("live"), max_attempts=max_attempts)
    assert len(reaped(world)) == kept


def test_history_keeps_the_newest_of_a_slot_that_is_not_restarted():
    world = scene(ended("old", 5), ended("last", 5, replaces=TaskID("old")), history=0)
    assert reaped(world) == ["last"]


def test_history_is_kept_slot_by_slot():
    world = scene(ended("a", 1, 1), ended("b", 2, 2), task("c", 1), task("d", 2), history=1)
    assert reaped(world) == ["c", "d"]


def test_history_leaves_alone_what_still_runs_or_waits_for_its_successor():
    stopping = [task(f"s{n}", desired=SHUTDOWN) for n in range(3)]
    just_failed = task("f", state=FAILED)
    never = task("n", state=NEW, on="", desired=SHUTDOWN)
    world = scene(never, *stopping, just_failed, task("live"), history=1)
    assert reaped(world) == ["s0", "s1", "s2", "f", "live"]


def of_mode(world, **mode):
    spec = replace(world.specs.get("web@1").spec, mode=ServiceMode(**mode))
    world.put(replace(world.specs.get("web@1"), spec=spec))
    return world


def test_history_of_global_services_is_kept_node_by_node():
    rows = [ended(f"{on}-{n}", n, 0, on=on) for n in range(3) for on in ("n1", "n2")]
    world = scene(*rows, task("n1-up", 0, on="n1"), history=2)
    assert sorted(reaped(of_mode(world, global_=Empty()))) == ["n1-2", "n1-up", "n2-1", "n2-2"]


def test_removals_carry_the_version_that_was_seen():
    world = scene(task("t", state=FAILED, desired=REMOVE))
    decision = ReaperDecider().decide(world, ("slot", "web", "1"), Moment(0, Ids()))
    version = world.tasks.get("t").version
    assert decision.changes == (Remove(table=Task, id="t", seen=version),)


def test_removals_come_a_thousand_at_a_time():
    world = scene()
    for n in range(ENTRY_CHANGES_MAX + 1):
        world.put(task(f"t{n:05}", state=FAILED, desired=REMOVE))
    decision = ReaperDecider().decide(world, ("slot", "web", "1"), Moment(0, Ids()))
    assert (len(decision.changes), decision.has_more) == (ENTRY_CHANGES_MAX, True)
    assert reaped(world) == []


def test_events_lead_to_the_slot_that_may_have_too_much():
    world = scene(task("t"))
    decider = ReaperDecider()

    def keys(events):
        return [key for event in events for key in decider.keys_of(event, world)]

    slot = [("slot", "web", "1")]
    assert keys(world.put(task("u"))) == slot
    assert keys(world.put(task("u", state=FAILED))) == slot
    assert keys(world.put(task("u", state=TaskState.ORPHANED))) == []
    assert keys(world.put(task("u", state=TaskState.ORPHANED, desired=REMOVE))) == slot
    assert keys(world.drop(Task, "u")) == []
    assert keys(world.drop(Task, "t")) == [("specs", "web")]
    assert keys(world.scale("web", 3)) == [("specs", "web")]


def test_all_slots_are_looked_at_when_the_retention_limit_changes():
    world = scene(*HISTORY, task("live"), history=9)
    leader = Leader(world, reaper())
    leader.run()
    assert len(world.tasks) == 9
    cluster = world.clusters.get("cluster")
    spec = SwarmSpec(orchestration=OrchestrationConfig(task_history_retention_limit=2))
    leader.tell(world.put(replace(cluster, spec=spec)))
    leader.run()
    assert len(world.tasks) == 2
    assert leader.deciders[0].keys_of(world.put(world.clusters.get("cluster"))[0], world) == ()


def test_spec_versions_but_the_last_ten_go_a_minute_after_nobody_refers_to_them():
    world = scene(task("t"))
    leader = Leader(world, reaper())
    for replicas in range(4, 16):
        leader.tell(world.scale("web", replicas))
        leader.run()
    last = {f"web@{number}" for number in range(4, 14)}
    leader.run_for(SPEC_GRACE_MS - 1)
    assert len(world.specs) == 13
    leader.run_for(1)
    assert set(world.specs.rows) == {"web@1", *last}
    leader.tell(world.drop(Task, "t"))
    leader.run()
    assert set(world.specs.rows) == last
    assert_at_rest(world, reaper)


def test_spec_versions_go_with_the_last_task_of_a_service_that_is_gone():
    world = scene(task("t", desired=REMOVE), task("u", 2, desired=REMOVE))
    leader = Leader(world, reaper())
    leader.tell(world.remove_service("web"))
    leader.run()
    assert len(world.specs) == 1
    leader.tell(world.report("t", SHUTDOWN))
    leader.run()
    assert (len(world.tasks), len(world.specs)) == (1, 1)
    leader.tell(world.report("u", SHUTDOWN))
    leader.run()
    assert (len(world.tasks), len(world.specs)) == (0, 0)


def test_decide_is_at_rest_where_there_is_nothing():
    assert ReaperDecider().decide(World(), ("specs", "gone"), Moment(0, Ids())) == REST
    assert ReaperDecider().decide(World(), ("slot", "gone", "1"), Moment(0, Ids())) == REST


STATES = [NEW, PENDING, TaskState.ASSIGNED, RUNNING, TaskState.COMPLETE, SHUTDOWN, FAILED]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 2), st.sampled_from(STATES), st.sampled_from([RUNNING, SHUTDOWN, REMOVE])
        ),
        max_size=16,
    ),
    st.integers(-1, 6),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_reaper_keeps_what_is_wanted_and_the_limit_where_it_can(rows, history, is_gone, seed):
    world = scene(
        *[task(f"t{n:02}", slot, state=s, desired=d) for n, (slot, s, d) in enumerate(rows)],
        history=history,
    )
    if is_gone:
        world.remove_service("web")
    before = {t.id for t in world.tasks.all()}
    leader = Leader(world, reaper(), seed)
    leader.run()
    assert_at_rest(world, reaper)
    for slot in (1, 2):
        had = [r for r in enumerate(rows) if r[1][0] == slot]
        left = [t for t in world.service_tasks() if t.slot == slot]
        is_idle = [t.status.state < TaskState.ASSIGNED or t.status.state > RUNNING for t in left]
        stays = [
            t for t, idle in zip(left, is_idle, strict=True) if not idle or t.desired <= RUNNING
        ]
        assert {f"t{n:02}" for n, (_, s, d) in had if d == RUNNING and not is_gone} <= {
            t.id for t in left
        }
        if is_gone:
            assert not any(is_idle)
        elif history >= 0:
            kept = [t for t in left if t.desired < REMOVE]
            assert len(kept) <= max(1, history, len(stays) + 1)
        assert not any(t.desired == REMOVE and idle for t, idle in zip(left, is_idle, strict=True))
    assert {t.id for t in world.tasks.all()} <= before
