"""What holds of every history of a swarm with services of all modes, whatever is cut off."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.reconcile.base import Decider, Decision
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.mixed import Mixed
from tests.reconcile.world import Leader, World, assert_at_rest


class KilledError(Exception):
    """The leader is gone, after what it committed."""


class Mortal(Leader):
    """Dies after so many of its own commits."""

    def __init__(self, world: World, deciders: Sequence[Decider], lives: int) -> None:
        self.lives = lives
        super().__init__(world, deciders)

    def _commit(self, decision: Decision) -> None:
        super()._commit(decision)
        self.lives -= 1
        if not self.lives:
            raise KilledError


@pytest.mark.parametrize("seed", range(30))
def test_any_history_keeps_the_invariants_and_comes_to_what_was_asked_for(seed):
    mixed = Mixed(seed)
    for _ in range(30):
        mixed.act()
    mixed.finish()
    mixed.check_end()
    assert_at_rest(mixed.world, all_deciders)


def finished(mixed: Mixed, lives: int) -> tuple[Mixed, int]:
    """From here to the end, with a leader that dies after `lives` commits and another that goes on;
    how many commits the first one had left to do."""
    copy = mixed.copy()
    copy.leader = Mortal(copy.world, all_deciders(), lives)
    copy.leader.new_id = copy.new_id
    copy.heal()
    left = lives
    for _ in range(40):
        try:
            copy.obey(1.0)
            copy.leader.run_for(20_000)
        except KilledError:
            left = 0
            copy.lead()
            copy.leader.run_for(20_000)
        copy.check()
        copy.shrunk.clear()
    return copy, left and copy.leader.lives


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 25), share=st.floats(0, 1))
def test_leader_killed_after_any_commit_changes_nothing_in_the_outcome(seed, steps, share):
    mixed = Mixed(seed, cuts=False)
    for _ in range(steps):
        mixed.act()
    mixed.change()
    whole, left = finished(mixed, 10**6)
    needed = 10**6 - left
    cut, _ = finished(mixed, 1 + int(share * (needed - 1)))
    assert cut.outcome() == whole.outcome()
    assert_at_rest(cut.world, all_deciders)
