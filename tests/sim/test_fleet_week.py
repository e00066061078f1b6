"""Updates, scaling and drains while leaders and workers are killed, for a week."""

import os

import pytest

from swarmlet.reconcile import rollout, slot
from tests.sim.fleet_week import run_week
from tests.sim.mutations import without

HALF_DAYS = int(os.environ.get("SWARMLET_SIM_HALF_DAYS", "6"))


@pytest.mark.parametrize("seed", range(2))
def test_every_service_ends_on_its_last_spec_and_keeps_its_floor_under_kills(seed):
    week = run_week(seed, HALF_DAYS)
    counts = week.fleet.counts
    assert counts["night"] == HALF_DAYS
    assert counts["update"] > 3 * HALF_DAYS
    assert counts["kill"] + counts["power"] > HALF_DAYS
    assert week.fleet.truth.floor.stops > 3 * HALF_DAYS
    assert week.moved > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # broken off
@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ((rollout, "_is_on_its_way", lambda _task: False), "was stopped with"),
        ((slot, "is_moving", lambda _view, _task: False), "before another ran"),
    ],
)
def test_without_a_piece_of_the_product_the_floor_gives_way(piece, said):
    def some_week():
        for seed in range(3):
            run_week(seed, 6)

    with without((piece,)), pytest.raises(AssertionError, match=said):
        some_week()
