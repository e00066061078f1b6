"""The simulated node: seeds with power cuts, and a power cut at every single write."""

import asyncio
import os

import pytest

from tests.sim.disk import WHERES
from tests.sim.runs import run_cut_at, run_seed
from tests.sim.world import World, check_truth, init

SEEDS = int(os.environ.get("SWARMLET_SIM_SEEDS", "40"))
CUT_STEP = int(os.environ.get("SWARMLET_SIM_CUT_STEP", "3"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_acknowledged_is_lost_and_every_loop_rests(seed):
    assert run_seed(seed, "light" if seed % 4 else "heavy").acknowledged > 0


def test_same_seed_replays_the_same_run():
    assert run_seed(5) == run_seed(5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", WHERES)
def test_power_cut_at_every_write_loses_nothing_acknowledged(where):
    operation = WHERES.index(where) % CUT_STEP
    while run_cut_at(operation, where):
        operation += CUT_STEP
    assert operation > 50


@pytest.mark.parametrize("turns", range(0, 60, 3))
def test_interrupted_init_leaves_nothing_running(turns):
    world = World(f"interrupted-{turns}")

    async def script(engine):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(init(engine))
            for _ in range(turns):
                await asyncio.sleep(0)
            first.cancel()
        if engine.swarm_state().state == "inactive":
            assert [t for t in asyncio.all_tasks() if t.get_name() in ("membership", "raft")] == []
            await init(engine)
        assert engine.swarm_state().state == "active"
        await check_truth(world, engine)

    assert world.live(script)
