"""Swarms of many hosts, simulated: a year of twenty nodes, and random histories of a few."""

import asyncio
import os

import pytest

from tests.sim.histories import run_history
from tests.sim.loop import EPOCH_MS, SimClock, run_sim
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


def test_skipped_gap_is_seen_by_long_waits_and_not_by_short_ones():
    clock, ended = SimClock(), []

    async def wait(wait_s):
        await asyncio.sleep(wait_s)
        ended.append((wait_s, clock.now_s))

    async def story():
        async with asyncio.TaskGroup() as group:
            for wait_s in (5, 3_600, 100_000):
                group.create_task(wait(wait_s))
            await asyncio.sleep(1)
            asyncio.get_running_loop().skip(90_000)

    run_sim(clock, story())
    assert ended == [(3_600, 1), (5, 5), (100_000, 10_000)]
    assert clock.wall_ms() == EPOCH_MS + 100_000_000
