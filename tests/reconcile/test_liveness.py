"""One node's status: a table of what becomes of it, and what holds whatever comes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.model.node import NodeState as N
from swarmlet.model.node import NodeStatus
from swarmlet.reconcile.liveness import (
    FLAPPING_DOWN_AFTER_MS,
    FLAPS_KEPT_MAX,
    FLAPS_WINDOW_MS,
    LOST_DOWN_AFTER_MS,
    MANY_HELD_MS,
    RUNTIME_GRACE_MS,
    Fact,
    Healed,
    Lost,
    Registered,
    SaidGoodbye,
    Troubled,
    Unregistered,
    after,
    alarm_ms,
    awaited,
    down,
    grace_ms,
    shifted,
)

T = 1_700_000_000_000
READY = NodeStatus(state=N.READY, addr="10.0.0.2", since_ms=T - 5_000)
DOWN = NodeStatus(state=N.DOWN, addr="10.0.0.2", since_ms=T - 5_000)
UNKNOWN = NodeStatus()
MINUTE = SaidGoodbye(back_in_s=60)
AWAY = "The engine does not answer."

TABLE = [
    (READY, Lost(heard_ms=T - 10), N.DISCONNECTED, "the connection to the node was lost", 3_000),
    (READY, MINUTE, N.DISCONNECTED, "stopped in order and is expected back within 60 s", 60_000),
    (READY, SaidGoodbye(back_in_s=0), N.DOWN, "the node left in order", None),
    (
        READY,
        SaidGoodbye(back_in_s=60, is_host_stopping=True),
        N.DOWN,
        "the node's host was shut down",
        None,
    ),
    (READY, Troubled(problem=AWAY), N.DISCONNECTED, AWAY, 60_000),
    (READY, Unregistered(), N.DISCONNECTED, "the node could not be registered", 10_000),
    (UNKNOWN, Registered(addr="10.0.0.9"), N.READY, "", None),
    (UNKNOWN, Registered(addr="10.0.0.9", problem=AWAY), N.DISCONNECTED, AWAY, 60_000),
    (DOWN, Registered(addr="10.0.0.9"), N.READY, "", None),
    (DOWN, Registered(addr="10.0.0.9", problem=AWAY), N.DOWN, AWAY, None),
    (DOWN, Healed(), N.READY, "", None),
    (DOWN, Troubled(problem=AWAY), N.DOWN, AWAY, None),
    (DOWN, Lost(heard_ms=T), N.DOWN, "the connection to the node was lost", None),
    (DOWN, MINUTE, N.DOWN, "the node stopped in order", None),
    (DOWN, Unregistered(), N.DOWN, "", None),
]


@pytest.mark.parametrize(("before", "fact", "state", "words", "down_in_ms"), TABLE)
def test_status_after_a_fact_says_what_and_until_when(
    before: NodeStatus, fact: Fact, state: int, words: str, down_in_ms: int | None
):
    status = after(before, fact, T)
    assert (status.state, words in status.message) == (state, True)
    assert status.down_at_ms == (0 if down_in_ms is None else T + down_in_ms)
    assert status.since_ms == (before.since_ms if before.state == state else T)


def test_lost_node_says_when_it_was_heard_of_last_until_it_is_back():
    lost = after(READY, Lost(heard_ms=T - 10), T)
    assert lost.heard_ms == down(lost, T + 3_000).heard_ms == T - 10
    assert after(lost, Registered(addr="10.0.0.3"), T + 1).heard_ms == 0
    assert after(lost, Registered(addr="10.0.0.3"), T + 1).addr == "10.0.0.3"


DOWN_WORDS = [
    (UNKNOWN, "the node did not register with the new leader"),
    (after(READY, MINUTE, T), "the node did not come back in the time it named"),
    (after(READY, Lost(heard_ms=T), T), "heartbeat failure"),
    (after(READY, Troubled(problem=AWAY), T), AWAY),
]


@pytest.mark.parametrize(("before", "message"), DOWN_WORDS)
def test_node_that_counts_as_down_says_why(before: NodeStatus, message: str):
    assert down(before, T + 1).message == message


def flapped(times: int, every_ms: int = 60_000) -> NodeStatus:
    status = READY
    for number in range(times):
        now_ms = T + number * every_ms
        status = after(status, Registered(addr="a"), now_ms - 1_000)
        status = after(status, Lost(heard_ms=now_ms), now_ms)
    return status


def test_node_lost_for_the_third_time_in_ten_minutes_is_waited_for_longer_and_says_so():
    second, third = flapped(2), flapped(3)
    assert second.down_at_ms == T + 60_000 + LOST_DOWN_AFTER_MS
    assert third.down_at_ms == T + 120_000 + FLAPPING_DOWN_AFTER_MS
    assert "3 times within ten minutes: it counts as down only after 30 s" in third.message
    back = after(third, Registered(addr="a"), T + 121_000)
    assert "lost 3 times within ten minutes" in back.message
    assert alarm_ms(back) == T + FLAPS_WINDOW_MS
    assert after(back, Healed(), T + FLAPS_WINDOW_MS).message == ""


def test_node_lost_three_times_in_longer_does_not_flap():
    assert flapped(5, FLAPS_WINDOW_MS // 2).down_at_ms == T + 2 * FLAPS_WINDOW_MS + 3_000
    assert len(flapped(50, 1_000).lost_ms) == FLAPS_KEPT_MAX


def test_goodbye_is_no_loss():
    status = READY
    for number in range(10):
        status = after(status, MINUTE, T + number)
        status = after(status, Registered(addr="a"), T + number)
    assert status.lost_ms == ()


def test_runtime_that_stays_away_gets_no_second_minute():
    status = after(READY, Troubled(problem=AWAY), T)
    status = after(status, Troubled(problem="Another one."), T + 40_000)
    assert status.down_at_ms == T + RUNTIME_GRACE_MS
    status = after(status, Lost(heard_ms=T + 41_000), T + 41_000)
    assert status.down_at_ms == T + 41_000 + LOST_DOWN_AFTER_MS
    status = after(status, Registered(addr="a", problem=AWAY), T + 42_000)
    assert status.down_at_ms == T + RUNTIME_GRACE_MS
    status = after(status, Lost(heard_ms=T + 59_000), T + 59_000)
    assert status.down_at_ms == T + RUNTIME_GRACE_MS


def test_new_leader_awaits_everybody_who_is_not_down():
    assert awaited(READY, T, 5).state == N.UNKNOWN
    assert awaited(READY, T, 5).down_at_ms == T + 10_000
    assert awaited(READY, T, 5_000).down_at_ms == T + 25_000 == T + grace_ms(5_000)
    assert awaited(DOWN, T, 5) == DOWN


AHEAD_MS = [0, 3_600_000, -3_600_000, 365 * 86_400_000, -365 * 86_400_000]


@pytest.mark.parametrize("ahead_ms", AHEAD_MS)
def test_new_leader_whose_clock_is_another_waits_for_the_lost_neither_shorter_nor_for_ever(
    ahead_ms: int,
):
    gone = after(READY, MINUTE, T)
    first = awaited(gone, T + 20_000 + ahead_ms, 5)
    assert 10_000 <= first.down_at_ms - (T + 20_000 + ahead_ms) <= 60_000
    again = awaited(first, T + 21_000, 5)
    assert 10_000 <= again.down_at_ms - (T + 21_000) <= 60_000
    assert again.since_ms <= T + 21_000
    if not ahead_ms:
        assert first.down_at_ms == gone.down_at_ms


def test_new_leader_knows_the_time_of_a_node_that_is_down_only_if_it_is_past():
    assert awaited(replace(DOWN, since_ms=0), T, 5).since_ms == T
    assert awaited(replace(DOWN, since_ms=T + 9), T, 5).since_ms == T


facts = st.one_of(
    st.builds(Registered, addr=st.just("a"), problem=st.sampled_from(["", AWAY])),
    st.just(Unregistered()),
    st.builds(SaidGoodbye, back_in_s=st.sampled_from([0, 15, 60]), is_host_stopping=st.booleans()),
    st.just(Lost(heard_ms=T)),
    st.just(Troubled(problem=AWAY)),
    st.just(Healed()),
)
histories = st.lists(st.tuples(facts, st.integers(0, 90_000)), max_size=20)


@given(histories)
def test_whoever_is_not_ready_has_a_time_at_which_it_counts_as_down(history):
    status, now_ms = READY, T
    for fact, wait_ms in history:
        now_ms += wait_ms
        before, status = status, after(status, fact, now_ms)
        assert len(status.lost_ms) <= FLAPS_KEPT_MAX
        assert all(a <= b for a, b in itertools.pairwise(status.lost_ms))
        assert status.since_ms <= now_ms
        if status.state == N.DISCONNECTED:
            assert status.down_at_ms - now_ms <= RUNTIME_GRACE_MS
            assert before.state != N.DOWN
        else:
            assert status.down_at_ms == status.held_until_ms == 0


@given(histories, st.integers(-10 * MANY_HELD_MS, 10 * MANY_HELD_MS))
def test_clock_that_is_set_moves_every_time_with_it(history, by_ms: int):
    status, now_ms = READY, T
    for fact, wait_ms in history:
        now_ms += wait_ms
        status = after(status, fact, now_ms)
    moved = shifted(status, by_ms)
    assert shifted(moved, -by_ms) == status
    assert (alarm_ms(moved) or 0) == ((alarm_ms(status) and alarm_ms(status) + by_ms) or 0)
