"""The weights of managers, and whom they let a node choose."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.wire.messages import ManagerAddr
from swarmlet.wire.remotes import WEIGHT_MAX, Remotes


def manager(name: str, weight: int = 1) -> ManagerAddr:
    return ManagerAddr(node_id=NodeID(name), addr=f"{name}:2377", weight=weight)


def remotes(*managers: ManagerAddr, seed: int = 7) -> Remotes:
    return Remotes(Random(seed), managers)


def weights(known: Remotes) -> dict[str, int]:
    return {one.addr: one.weight for one in known.all()}


@pytest.mark.parametrize(
    ("start", "observed", "weight"),
    [
        (0, [True], 5),
        (0, [True, True], 8),  # 7.5, rounded up
        (0, [True] * 10, 10),
        (0, [False], -5),
        (0, [False, False], -7),  # -7.5, rounded up
        (0, [False] * 10, -9),
        (10, [False], 0),
        (-10, [True], 0),
        (1_000, [], WEIGHT_MAX),
        (-1_000, [], -WEIGHT_MAX),
        (1_000, [False], 123),
    ],
)
def test_a_weight_follows_what_was_observed(start, observed, weight):
    known = remotes(manager("a", start))
    for ok in observed:
        known.observe("a:2377", ok)
    assert weights(known) == {"a:2377": weight}


def test_replace_forgets_the_unnamed_and_keeps_what_was_observed():
    known = remotes(manager("a", 0), manager("b", 0))
    known.observe("a:2377", True)
    known.observe("b:2377", False)
    known.replace([manager("c"), manager("a", 9)])
    assert weights(known) == {"a:2377": 5, "c:2377": 1}
    known.replace([manager("b"), manager("a")])
    assert weights(known) == {"a:2377": 5, "b:2377": 1}


def test_replace_by_nobody_changes_nothing():
    known = remotes(manager("a", 4))
    known.replace([])
    assert weights(known) == {"a:2377": 4}


def test_an_address_counts_once_and_belongs_to_who_is_named_there_now():
    known = remotes(manager("a", 4), manager("a", 9))
    assert weights(known) == {"a:2377": 4}
    known.replace([ManagerAddr(node_id=NodeID("new"), addr="a:2377")])
    assert [(one.node_id, one.weight) for one in known.all()] == [("new", 4)]


def test_an_observation_of_a_stranger_is_dropped():
    known = remotes(manager("a"))
    known.observe("gone:2377", True)
    assert weights(known) == {"a:2377": 1}


def test_choose_avoids_an_address_while_there_is_another():
    known = remotes(manager("a", 200), manager("b", -200))
    assert {known.choose("a:2377").node_id for _ in range(50)} == {"b"}
    known.replace([manager("a")])
    assert known.choose("a:2377").node_id == "a"


def test_choose_says_so_where_nobody_is_known():
    with pytest.raises(UnavailableError, match="knows no manager") as raised:
        remotes().choose()
    assert "swarmlet join" in raised.value.remedy


def test_choose_goes_by_weight_and_starves_nobody():
    known = remotes(manager("a", 30), manager("b", 10), manager("c", -9))
    chosen = Counter(known.choose().node_id for _ in range(4_000))
    assert 0.7 < chosen["a"] / 4_000 < 0.8
    assert 0.2 < chosen["b"] / 4_000 < 0.3
    known = remotes(manager("a", 0), manager("c", -9))
    assert {known.choose().node_id for _ in range(100)} == {"a", "c"}


def test_failing_managers_are_all_chosen_alike():
    known = remotes(*(manager(name, -9) for name in "abcd"))
    chosen = Counter(known.choose().node_id for _ in range(4_000))
    assert all(850 < count < 1_150 for count in chosen.values())


@settings(max_examples=60)
@given(
    names=st.lists(st.sampled_from("abcdef"), min_size=1),
    calls=st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans())),
    seed=st.integers(0, 2**32),
)
def test_the_same_seed_chooses_the_same_whatever_the_order_of_names(names, calls, seed):
    both = [Remotes(Random(seed)) for _ in range(2)]
    both[0].replace(map(manager, names))
    both[1].replace(map(manager, reversed(names)))
    for name, ok in calls:
        for known in both:
            known.observe(f"{name}:2377", ok)
    assert both[0].all() == both[1].all()
    for known in both:
        assert all(-WEIGHT_MAX <= one.weight <= WEIGHT_MAX for one in known.all())
    assert [both[0].choose(f"{name}:2377") for name in names] == [
        both[1].choose(f"{name}:2377") for name in names
    ]
