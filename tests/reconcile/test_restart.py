"""Restarts: who gets a successor, when it may start, and what is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.model.node import NodeState
from swarmlet.model.service import RestartPolicy, TaskSpec
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.reconcile.base import Moment
from swarmlet.reconcile.restart import (
    Policy,
    attempts_made,
    delay_ms,
    due_ms,
    failures_in_row,
    is_held_back,
    may_restart,
    policy_of,
    short_runs,
    successor,
)
from tests.reconcile.world import World, node, task

ANY = Policy("any", 5_000, 0, 0)
COMPLETE, SHUTDOWN, FAILED = TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.FAILED
REJECTED, ORPHANED, RUNNING = TaskState.REJECTED, TaskState.ORPHANED, TaskState.RUNNING
MINUTES = 60_000
SECOND_NS = 1_000_000_000


def ended(state, *, at_ms=1_000_000, created_ms=990_000, **fields):
    status = TaskStatus(state=state, applied_at_ms=at_ms)
    return task("old", status=status, created_ms=created_ms, **fields)


@pytest.mark.parametrize(
    ("now_ms", "is_held"),
    [(999_999, True), (1_000_000, False), (930_000, True), (929_999, False), (0, False)],
)
def test_task_is_held_back_until_its_start_unless_the_clock_was_set_back(now_ms, is_held):
    held = task("new", created_ms=990_000, start_at_ms=1_000_000)
    assert is_held_back(held, now_ms) == is_held


def test_policy_is_any_after_five_seconds_without_limit_when_nothing_is_said():
    assert policy_of(TaskSpec()) == ANY
    assert policy_of(TaskSpec(restart_policy=RestartPolicy())) == ANY


def test_policy_takes_what_is_said_zero_included():
    given_policy = RestartPolicy(
        condition="on-failure", delay=0, max_attempts=3, window=2 * SECOND_NS + 1
    )
    assert policy_of(TaskSpec(restart_policy=given_policy)) == Policy("on-failure", 0, 3, 2_001)


@pytest.mark.parametrize(
    ("condition", "restarted"),
    [
        ("any", {COMPLETE, SHUTDOWN, FAILED, REJECTED, ORPHANED, RUNNING}),
        ("on-failure", {SHUTDOWN, FAILED, REJECTED, ORPHANED, RUNNING}),
        ("none", set()),
    ],
)
def test_condition_decides_by_what_was_observed(condition, restarted):
    policy = ANY._replace(condition=condition)
    states = [COMPLETE, SHUTDOWN, FAILED, REJECTED, ORPHANED, RUNNING]
    assert {s for s in states if may_restart(ended(s), policy, [ended(s)])} == restarted


@pytest.mark.parametrize(("runs", "is_granted"), [(1, True), (2, True), (3, False), (4, False)])
def test_max_attempts_grants_so_many_restarts_when_there_is_no_window(runs, is_granted):
    slot = [ended(FAILED, created_ms=n) for n in range(runs)]
    policy = ANY._replace(max_attempts=2)
    assert may_restart(slot[-1], policy, slot) is is_granted


def test_max_attempts_counts_runs_of_the_same_spec_version_alone():
    slot = [ended(FAILED, created_ms=n) for n in range(5)]
    last = ended(FAILED, created_ms=9, spec_version=2)
    assert attempts_made(last, ANY, [*slot, last]) == 0
    assert may_restart(last, ANY._replace(max_attempts=1), [*slot, last])


def test_max_attempts_forgets_restarts_before_the_window():
    policy = ANY._replace(max_attempts=2, window_ms=10_000)
    at = [0, 980_000, 990_000, 990_001, 1_000_000]
    slot = [ended(FAILED, created_ms=ms) for ms in at]
    last = ended(FAILED, created_ms=1_000_000, at_ms=1_000_000)
    assert attempts_made(last, policy, slot) == 2  # 990_000 is just outside
    assert not may_restart(last, policy, slot)
    assert may_restart(last, policy._replace(window_ms=9_999), slot)


@pytest.mark.parametrize(
    ("task_ended", "count"),
    [
        (ended(FAILED, attempt=0), 1),
        (ended(FAILED, attempt=3), 4),
        (ended(REJECTED, attempt=3), 4),
        (ended(ORPHANED, attempt=3), 4),
        (ended(COMPLETE, attempt=3), 0),
        (ended(RUNNING, attempt=3), 3),
        (ended(FAILED, attempt=3, at_ms=10 * MINUTES, created_ms=0), 1),
        (ended(FAILED, attempt=3, at_ms=10 * MINUTES - 1, created_ms=0), 4),
        (ended(FAILED, attempt=3, at_ms=10 * MINUTES, created_ms=0, start_at_ms=1), 4),
        (ended(REJECTED, attempt=3, at_ms=10 * MINUTES, created_ms=0), 4),
    ],
)
def test_failures_in_row_grow_until_a_clean_end_or_ten_minutes(task_ended, count):
    assert failures_in_row(task_ended) == count


@pytest.mark.parametrize(
    ("task_ended", "count"),
    [
        (ended(FAILED, short_runs=0), 1),
        (ended(COMPLETE, short_runs=3), 4),
        (ended(REJECTED, short_runs=3), 4),
        (ended(RUNNING, short_runs=3), 3),
        (ended(COMPLETE, short_runs=3, at_ms=10 * MINUTES, created_ms=0), 1),
        (ended(COMPLETE, short_runs=3, at_ms=10 * MINUTES, created_ms=0, start_at_ms=1), 4),
        (ended(SHUTDOWN, short_runs=3), 3),  # for want of a manager
    ],
)
def test_short_runs_grow_with_clean_ends_too_until_one_of_ten_minutes(task_ended, count):
    assert short_runs(task_ended) == count
    world = World()
    world.add_service()
    follower = successor(task_ended, world.services.get("web"), ANY, world, Moment(1, str))
    assert follower.short_runs == count


@pytest.mark.parametrize(
    ("base_ms", "delays"),
    [
        (5_000, [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]),
        (70_000, [70_000, 70_000]),
        (1, [1, 200, 400]),
        (0, [0, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000]),
    ],
)
def test_delay_doubles_with_failures_up_to_a_minute_or_itself(base_ms, delays):
    policy = ANY._replace(delay_ms=base_ms)
    assert [delay_ms(ended(FAILED, attempt=n), policy) for n in range(len(delays))] == delays


@given(st.integers(0, 10**6), st.integers(0, 10**9))
def test_delay_is_plain_after_a_clean_end_and_with_a_window(base_ms, attempt):
    policy = ANY._replace(delay_ms=base_ms)
    assert delay_ms(ended(COMPLETE, attempt=attempt), policy) == base_ms
    windowed = policy._replace(window_ms=1)
    assert delay_ms(ended(FAILED, attempt=attempt), windowed) == base_ms
    longest = max(base_ms, MINUTES)
    assert base_ms <= delay_ms(ended(FAILED, attempt=attempt), policy) <= longest


def world_with(*nodes):
    world = World()
    world.add_service()
    for row in nodes:
        world.put(row)
    return world


def follow(old, world, now_ms=1_000_100):
    service = world.services.get("web")
    return successor(old, service, ANY, world, Moment(now_ms, lambda: "new"))


def test_successor_takes_the_slot_and_waits_from_the_end_of_its_predecessor():
    new = follow(ended(FAILED, slot=4, attempt=1), world_with(node("n1")))
    assert (new.id, new.slot, new.replaces, new.attempt) == ("new", 4, "old", 2)
    assert (new.desired, new.status.state) == (TaskState.READY, TaskState.NEW)
    assert new.node_id == ""
    assert new.start_at_ms == 1_000_000 + 10_000


@pytest.mark.parametrize("at_ms", [0, 2_000_000])
def test_successor_waits_from_now_when_the_end_is_unknown_or_ahead(at_ms):
    assert follow(ended(FAILED, at_ms=at_ms), world_with(node("n1"))).start_at_ms == 1_005_100


@pytest.mark.parametrize(
    "lost", [node(state=NodeState.DOWN), node(availability="drain"), node("other")]
)
def test_successor_does_not_wait_when_the_node_is_lost(lost):
    assert follow(ended(RUNNING, attempt=2), world_with(lost)).start_at_ms == 1_000_100
    held = ended(TaskState.READY, start_at_ms=1_009_000, attempt=2)
    assert follow(held, world_with(lost)).start_at_ms == 1_009_000
    assert follow(held, world_with(lost)).attempt == 2


@pytest.mark.parametrize("kept", [NodeState.UNKNOWN, NodeState.DISCONNECTED])
def test_successor_waits_when_the_node_is_only_out_of_touch(kept):
    assert follow(ended(FAILED), world_with(node(state=kept))).start_at_ms == 1_005_000


def test_successor_is_made_from_the_current_spec():
    world = world_with(node())
    world.scale("web", 9)
    assert follow(ended(FAILED), world).spec_version == 2


@pytest.mark.parametrize(
    ("other", "waits"),
    [
        (task("p", state=RUNNING), True),
        (task("p", state=TaskState.ASSIGNED), True),
        (task("p", state=TaskState.PENDING, on=""), False),
        (task("p", state=COMPLETE), False),
        (task("p", state=RUNNING, on="down"), False),
        (task("p", state=RUNNING, on="gone"), False),
        (task("p", state=RUNNING, on="drained"), True),
        (task("p", state=RUNNING, on="silent"), True),
    ],
)
def test_due_waits_a_minute_at_most_while_another_of_the_slot_runs(other, waits):
    world = world_with(
        node("n1"),
        node("down", state=NodeState.DOWN),
        node("drained", availability="drain"),
        node("silent", state=NodeState.DISCONNECTED),
    )
    new = task("new", start_at_ms=7_000)
    assert due_ms(new, [other], world, 5_000) == (65_000 if waits else 7_000)
    late = task("new", start_at_ms=90_000)
    assert due_ms(late, [other], world, 5_000) == 90_000
