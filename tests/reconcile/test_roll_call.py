"""All nodes together: many that are lost at once, whose turn it is, new leaders, clocks."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import NodeID
from swarmlet.model.node import NodeState as N
from swarmlet.model.node import NodeStatus
from swarmlet.reconcile.liveness import (
    LOST_DOWN_AFTER_MS,
    MANY_HELD_MS,
    ORPHANED_AFTER_MS,
    Fact,
    Healed,
    Lost,
    Registered,
    SaidGoodbye,
    Troubled,
)
from swarmlet.reconcile.roll_call import DOWN_PER_S_MIN, DOWN_SHARE, RollCall

T = 1_700_000_000_000
LOST = Lost(heard_ms=T)
BACK = Registered(addr="10.0.0.2")


def name(number: int) -> NodeID:
    return NodeID(f"n{number:05}")


def of(count: int, state: int = N.READY) -> dict[NodeID, NodeStatus]:
    status = NodeStatus(state=int(state), since_ms=T - 60_000)
    return {name(number): status for number in range(count)}


def states(calls: RollCall, count: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for number in range(count):
        status = calls.get(name(number))
        assert status is not None
        found[status.state] = found.get(status.state, 0) + 1
    return found


def run_to(calls: RollCall, end_ms: int) -> list[tuple[int, list[NodeID]]]:
    """Whoever came to count as down, and when."""
    downs = []
    while (at_ms := calls.next_ms()) is not None and at_ms <= end_ms:
        due = calls.due(at_ms)
        downs.append((at_ms - T, [one for one, new in due.changes.items() if new.state == N.DOWN]))
        assert calls.due(at_ms).changes == {}, "deciding twice gives nothing"
    return [(at_ms, nodes) for at_ms, nodes in downs if nodes]


def test_lost_node_counts_as_down_after_three_seconds_and_not_before():
    calls = RollCall(of(5), T)
    assert list(calls.take(name(1), LOST, T)) == [name(1)]
    assert calls.next_ms() == T + LOST_DOWN_AFTER_MS
    assert not calls.due(T + LOST_DOWN_AFTER_MS - 1).changes
    assert run_to(calls, T + 60_000) == [(LOST_DOWN_AFTER_MS, [name(1)])]


def test_node_that_is_back_in_time_is_never_down():
    calls = RollCall(of(5), T)
    calls.take(name(1), SaidGoodbye(back_in_s=60), T)
    assert calls.take(name(1), BACK, T + 20_000)[name(1)].state == N.READY
    assert run_to(calls, T + 10**8) == []
    assert calls.next_ms() is None


@pytest.mark.parametrize(("count", "lost", "is_held"), [(5, 2, 0), (9, 3, 0), (5, 3, 1), (9, 4, 1)])
def test_replacement_is_held_where_more_than_a_third_and_at_least_three_are_lost(
    count: int, lost: int, is_held: bool
):
    calls = RollCall(of(count), T)
    for number in range(lost):
        calls.take(name(number), LOST, T + number)
    downs = run_to(calls, T + 60_000)
    assert downs[0][0] >= (MANY_HELD_MS if is_held else LOST_DOWN_AFTER_MS)
    assert (downs[0][0] < MANY_HELD_MS) != is_held
    assert states(calls, count)[N.DOWN] == lost


def test_held_nodes_say_so_and_until_when():
    calls = RollCall(of(6), T)
    calls.take(name(0), LOST, T)
    calls.take(name(1), LOST, T + 2_000)
    changes = calls.take(name(2), LOST, T + 2_500)
    assert sorted(changes) == [name(0), name(1), name(2)]
    for status in changes.values():
        assert status.held_until_ms == status.down_at_ms == T + 2_500 + MANY_HELD_MS
        assert "3 of 6 nodes were lost at once: replacement is held for 15 s" in status.message
    assert list(calls.take(name(3), LOST, T + 9_000)) == [name(3)]
    fourth = calls.get(name(3))
    assert fourth is not None
    assert fourth.held_until_ms == T + 2_500 + MANY_HELD_MS


def test_losses_more_than_ten_seconds_apart_are_not_many_at_once():
    calls = RollCall(of(6), T)
    for number in range(3):
        calls.take(name(number), LOST, T + number * 5_001)
    assert run_to(calls, T + 60_000)[-1][0] < MANY_HELD_MS


def test_those_who_were_down_long_since_are_not_counted_among_the_others():
    nodes = of(90, N.DOWN) | {name(90 + n): status for n, status in enumerate(of(6).values())}
    calls = RollCall(nodes, T)
    for number in range(90, 93):
        calls.take(name(number), LOST, T)
    assert run_to(calls, T + 60_000)[0][0] == MANY_HELD_MS


def test_nodes_that_left_in_order_are_not_lost():
    calls = RollCall(of(5), T)
    for number in range(4):
        calls.take(name(number), SaidGoodbye(back_in_s=60, is_host_stopping=True), T)
    assert states(calls, 5) == {N.DOWN: 4, N.READY: 1}


def test_held_nodes_count_as_down_a_few_each_second():
    count = 1_000
    calls = RollCall(of(count), T)
    for number in range(500):
        calls.take(name(number), LOST, T)
    downs = run_to(calls, T + 600_000)
    early = [at_ms for at_ms, nodes in downs for _ in nodes if at_ms < MANY_HELD_MS]
    assert not early
    assert {len(nodes) for _, nodes in downs} == {count // DOWN_SHARE}
    assert downs[-1][0] == MANY_HELD_MS + 49_000
    assert states(calls, count) == {N.DOWN: 500, N.READY: 500}


def test_held_nodes_that_come_back_keep_their_tasks():
    calls = RollCall(of(20), T)
    for number in range(10):
        calls.take(name(number), LOST, T)
    for number in range(10):
        calls.take(name(number), BACK, T + 14_000 + 500 * number)
        run_to(calls, T + 14_000 + 500 * number)
    assert states(calls, 20).get(N.DOWN, 0) <= DOWN_PER_S_MIN * 4
    assert run_to(calls, T + 600_000) == []


def test_new_leader_holds_those_who_do_not_find_it_where_they_are_many():
    calls = RollCall(of(9), T)
    assert len(calls.begin(T)) == 9
    for number in range(5):
        calls.take(name(number), BACK, T + 1_000)
    assert calls.next_ms() == T + 10_000
    assert {s.state for s in calls.due(T + 10_000).changes.values()} == {N.DISCONNECTED}
    assert run_to(calls, T + 60_000)[0][0] == 10_000 + MANY_HELD_MS


def test_new_leader_gives_up_a_few_who_do_not_find_it():
    calls = RollCall(of(9), T)
    calls.begin(T)
    for number in range(7):
        calls.take(name(number), BACK, T + 1_000)
    assert run_to(calls, T + 60_000) == [(10_000, [name(7), name(8)])]


def test_new_leader_goes_on_holding():
    calls = RollCall(of(9), T)
    for number in range(4):
        calls.take(name(number), LOST, T)
    calls.begin(T + 2_000)
    for number in range(4, 9):
        calls.take(name(number), BACK, T + 3_000)
    downs = run_to(calls, T + 60_000)
    assert downs[0] == (MANY_HELD_MS, [name(0), name(1)])
    assert [len(nodes) for _, nodes in downs] == [2, 2]


def test_node_down_for_a_day_is_told_once():
    calls = RollCall(of(3), T)
    calls.take(name(1), SaidGoodbye(back_in_s=0), T)
    assert calls.next_ms() == T + ORPHANED_AFTER_MS
    assert calls.due(T + ORPHANED_AFTER_MS - 1).orphaned == ()
    assert calls.due(T + ORPHANED_AFTER_MS).orphaned == (name(1),)
    assert calls.next_ms() is None


@pytest.mark.parametrize("by_ms", [10**9, -(10**9), 4_000])
def test_clock_that_is_set_changes_nothing_of_who_waits_how_long(by_ms: int):
    calls = RollCall(of(9), T)
    for number in range(4):
        calls.take(name(number), LOST, T)
    calls.take(name(5), SaidGoodbye(back_in_s=60), T)
    assert set(calls.shift(by_ms, T + by_ms + 1_000)) == {name(n) for n in (0, 1, 2, 3, 5)}
    downs = run_to(calls, T + by_ms + 600_000)
    assert [(at_ms - by_ms, len(nodes)) for at_ms, nodes in downs] == [
        (MANY_HELD_MS, 2),
        (MANY_HELD_MS + 1_000, 2),
        (60_000, 1),
    ]


def test_pause_of_the_manager_leaves_everybody_a_moment_to_be_heard():
    calls = RollCall(of(9), T)
    calls.take(name(1), LOST, T)
    calls.take(name(2), SaidGoodbye(back_in_s=60), T)
    later_ms = T + 90_000
    assert sorted(calls.put_off(later_ms)) == [name(1), name(2)]
    assert not calls.due(later_ms).changes
    calls.take(name(2), BACK, later_ms + 1)
    assert run_to(calls, later_ms + 60_000) == [(90_000 + LOST_DOWN_AFTER_MS, [name(1)])]


def test_removed_node_is_forgotten():
    calls = RollCall(of(3), T)
    calls.take(name(1), LOST, T)
    calls.drop(name(1))
    calls.drop(name(1))
    assert calls.get(name(1)) is None
    assert len(calls) == 2
    assert run_to(calls, T + 60_000) == []
    assert calls.take(name(1), BACK, T) == {}


# Histories


class Step(msgspec.Struct, frozen=True):
    wait_ms: int
    nodes: tuple[int, ...]
    fact: Fact | None


some_facts = st.sampled_from(
    [LOST, LOST, BACK, SaidGoodbye(back_in_s=60), Troubled(problem="no"), Healed(), None]
)
COUNT = 12
steps = st.builds(
    Step,
    wait_ms=st.integers(0, 12_000),
    nodes=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=COUNT, unique=True).map(tuple),
    fact=some_facts,
)


def allowed_ms(status: NodeStatus) -> int:
    return max(status.down_at_ms, status.held_until_ms)


class Watched:
    """A roll call whose every change is looked at."""

    def __init__(self) -> None:
        self.calls, self.now_ms = RollCall(of(COUNT), T), T
        self.stored = of(COUNT)
        self.log: list[dict[NodeID, NodeStatus]] = []
        self.downs: dict[NodeID, int] = {}

    def write(self, changes: dict[NodeID, NodeStatus], *, by_time: bool) -> None:
        for node_id, status in changes.items():
            before = self.stored[node_id]
            if status.state == N.DOWN and before.state != N.DOWN and by_time:
                assert self.now_ms >= allowed_ms(before), "down before its time"
                if before.held_until_ms:
                    self.downs[node_id] = self.now_ms
            if status.state != N.DOWN:
                self.downs.pop(node_id, None)
            if status.state == N.DISCONNECTED and status.held_until_ms:
                assert status.held_until_ms <= self.now_ms + MANY_HELD_MS, "held for too long"
        self.stored |= changes
        self.log.append(changes)

    def wait(self, wait_ms: int) -> None:
        end_ms = self.now_ms + wait_ms
        while (at_ms := self.calls.next_ms()) is not None and at_ms <= end_ms:
            self.now_ms = max(self.now_ms, at_ms)
            self.write(self.calls.due(self.now_ms).changes, by_time=True)
            assert self.calls.due(self.now_ms).changes == {}
        self.now_ms = end_ms

    def play(self, step: Step) -> None:
        self.wait(step.wait_ms)
        for number in step.nodes if step.fact else ():
            changes = self.calls.take(name(number), step.fact, self.now_ms)
            self.write(changes, by_time=False)


@settings(max_examples=60)
@given(st.lists(steps, max_size=12))
def test_nobody_is_down_before_its_time_and_everybody_lost_is_down_or_ready_in_the_end(history):
    watched = Watched()
    for step in history:
        watched.play(step)
    watched.wait(120_000)
    assert {status.state for status in watched.stored.values()} <= {N.READY, N.DOWN}
    for at_ms in watched.downs.values():
        last_second = [ms for ms in watched.downs.values() if at_ms - 1_000 < ms <= at_ms]
        assert len(last_second) <= DOWN_PER_S_MIN
    for node_id, status in watched.stored.items():
        assert watched.calls.get(node_id) == status


@settings(max_examples=60)
@given(st.lists(steps, max_size=12), st.data())
def test_whoever_goes_on_from_what_another_has_written_does_as_that_one(history, data):
    watched = Watched()
    for step in history:
        watched.play(step)
    other = RollCall(watched.stored, watched.now_ms)
    dues = [one.due(watched.now_ms).changes for one in (watched.calls, other)]
    assert dues[0] == dues[1]
    assert other.next_ms() == watched.calls.next_ms()
    ends = [run_to(one, watched.now_ms + 200_000) for one in (watched.calls, other)]
    assert ends[0] == ends[1]
    assert [watched.calls.get(one) for one in watched.stored] == [
        other.get(one) for one in watched.stored
    ]


@settings(max_examples=60)
@given(st.lists(steps, max_size=12), st.data())
def test_new_leader_after_any_part_of_a_write_brings_everybody_to_an_end(history, data):
    watched = Watched()
    for step in history:
        watched.play(step)
    stored, last = of(COUNT), watched.log[-1] if watched.log else {}
    for changes in watched.log[:-1]:
        stored |= changes
    stored |= dict(list(last.items())[: data.draw(st.integers(0, len(last)))])
    calls = RollCall(stored, watched.now_ms)
    before = {one: status for one, status in stored.items() if status.state == N.DOWN}
    changes = calls.begin(watched.now_ms)
    for status in changes.values():
        assert status.state == N.DOWN or status.down_at_ms >= watched.now_ms + 10_000
    run_to(calls, watched.now_ms + 200_000)
    for number in range(COUNT):
        status = calls.get(name(number))
        assert status is not None
        assert status.state == N.DOWN
    assert all(calls.get(one) is not None for one in before)
