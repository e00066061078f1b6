"""The judge of histories, against one that tries every order."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.group_history import NEVER, Call, why_not_linearizable


def brute(calls):
    """Every subset of the unknown writes, in every order that time allows."""
    unknown = [c for c in calls if not c.is_read and c.end == NEVER]
    known = [c for c in calls if c not in unknown]
    return any(
        _fits(order)
        for bits in range(1 << len(unknown))
        for order in permutations(known + [u for n, u in enumerate(unknown) if bits >> n & 1])
    )


def _fits(order):
    value = None
    for number, call in enumerate(order):
        if any(later.end < call.begin for later in order[number + 1 :]):
            return False
        if call.is_read and call.value != value:
            return False
        if not call.is_read:
            value = call.value
    return True


@st.composite
def histories(draw):
    writes = draw(st.integers(1, 3))
    reads = draw(st.integers(0, 3))
    moments = draw(st.permutations(range(2 * (writes + reads))))
    calls = []
    for number in range(writes + reads):
        begin, end = sorted(moments[2 * number : 2 * number + 2])
        is_read = number >= writes
        value = draw(st.sampled_from([None, *range(writes)])) if is_read else number
        known = is_read or draw(st.booleans())
        calls.append(Call("k", value, is_read, begin, end if known else NEVER))
    return calls


@settings(max_examples=400, deadline=None)
@given(histories())
def test_judge_agrees_with_one_that_tries_every_order(calls):
    assert (why_not_linearizable(calls) == "") == brute(calls)


def test_stale_read_is_seen():
    calls = [
        Call("k", 1, False, 0, 1),
        Call("k", 2, False, 2, 3),
        Call("k", 1, True, 4, 5),
    ]
    assert "1 and" not in why_not_linearizable(calls[:2])
    assert why_not_linearizable(calls)


def test_value_that_was_seen_and_is_gone_is_seen():
    calls = [
        Call("k", 1, False, 0, NEVER),
        Call("k", 1, True, 2, 3),
        Call("k", None, True, 4, 5),
    ]
    assert why_not_linearizable(calls)
    assert not why_not_linearizable(calls[:2])
