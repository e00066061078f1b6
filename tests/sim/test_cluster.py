"""Swarms of many hosts, simulated: a year of twenty nodes, and random histories of a few."""

import os

import pytest

from tests.sim.histories import run_history
from tests.sim.year import NODES, ROTATIONS, run_year

YEARS = int(os.environ.get("SWARMLET_SIM_YEARS", "1"))
HISTORIES = int(os.environ.get("SWARMLET_SIM_SEEDS", "40")) // 5
SMALL_NODES, SMALL_DAYS = 6, 200


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(YEARS))
def test_nobody_is_locked_out_in_a_year_who_was_not_removed(seed):
    report = run_year(seed)
    assert report.rotations == ROTATIONS
    assert report.certificates > 3 * NODES
    assert report.power_cuts
    assert report.removed


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_small_swarm_is_well_after_any_history(seed):
    assert run_history(seed).lives > 4


def test_same_seed_replays_the_same_year_and_history():
    assert len({run_year("replayed", SMALL_NODES, SMALL_DAYS) for _ in range(2)}) == 1
    assert len({run_history("replayed") for _ in range(2)}) == 1
