"""Swarms of many hosts, simulated: a year of twenty nodes, and random histories."""

import os

import pytest

from tests.sim.year import ROTATIONS, run_year

YEARS = int(os.environ.get("SWARMLET_SIM_YEARS", "2"))
SMALL_NODES, SMALL_DAYS = 6, 200


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(YEARS))
def test_nobody_is_locked_out_in_a_year_who_was_not_removed(seed):
    report = run_year(seed)
    assert report.rotations == ROTATIONS
    assert report.certificates > 3 * 20
    assert report.power_cuts
    assert report.removed


def test_same_seed_replays_the_same_year():
    reports = {run_year("replayed", SMALL_NODES, SMALL_DAYS) for _ in range(2)}
    assert len(reports) == 1
