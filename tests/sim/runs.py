"""What a simulation run consists of: work under power cuts, then quiet, then the checks."""

import asyncio
import hashlib
from dataclasses import dataclass
from random import Random

from swarmlet.daemon.engine import DaemonEngine
from tests.sim.disk import ROOMY_B, WHERES
from tests.sim.world import User, World, check_rest, check_sealed, check_truth, init

STEPS_A_LIFE = 12
LEADS_WITHIN_S = 15.0  # of virtual time, once there is room


@dataclass(frozen=True)
class Report:
    """What a run did; `trace` is equal exactly for equal runs."""

    seed: int | str
    lives: int
    operations: int
    acknowledged: int
    trace: str


def run_seed(seed: int | str, faults: str = "light") -> Report:
    """Random work in several lives, most of them ended by a power cut at a random operation."""
    world, rng = World(seed), Random(f"{seed}/run")
    cuts = {"none": 0, "light": 3, "heavy": 12}[faults]
    for _ in range(cuts):
        world.disk.fail_at(rng.randrange(150), rng.choice(WHERES))
        world.live(lambda engine: work(world, engine, rng, STEPS_A_LIFE))
    finish(world, rng)
    return report(world)


def run_cut_at(operation: int, where: str, seed: int | str = "every-write") -> bool:
    """The same work each time, the power cut at one operation of it; False where there is no such
    one."""
    world, rng = World(f"{seed}"), Random(f"{seed}/run")
    world.disk.fail_at(operation, where)
    if world.live(lambda engine: work(world, engine, rng, STEPS_A_LIFE)):
        return False
    finish(world, rng)
    return True


def finish(world: World, rng: Random) -> None:
    """Live on without power cuts, work a little, come to rest; check everything after one more
    start."""
    world.disk.fail_at(1 << 40)
    world.disk.capacity_b = ROOMY_B
    assert world.live(lambda engine: work(world, engine, rng, 2))
    world.disk.capacity_b = ROOMY_B
    world.runtime.bring_back()
    assert world.live(lambda engine: rest(world, engine))
    check_sealed(world)


async def work(world: World, engine: DaemonEngine, rng: Random, steps: int) -> None:
    if engine.swarm_state().state == "inactive":
        is_free = world.truth.is_leaving or not world.truth.present
        assert is_free, "a swarm with acknowledged objects is gone"
        world.truth.present.clear()
        world.truth.open.clear()
        world.disk.capacity_b = ROOMY_B
        await init(engine)
    world.truth.is_leaving = False
    if world.disk.capacity_b < ROOMY_B:  # it started on a full disk: with room it leads by itself
        world.disk.capacity_b = ROOMY_B
        await asyncio.sleep(LEADS_WITHIN_S)
    await check_truth(world, engine)
    user = User(world, engine, rng)
    for _ in range(steps):
        await user.act()


async def rest(world: World, engine: DaemonEngine) -> None:
    await check_truth(world, engine)
    await check_rest(world, engine)


def report(world: World) -> Report:
    trace = hashlib.sha256("\n".join(world.disk.log).encode()).hexdigest()[:16]
    return Report(
        seed=world.seed,
        lives=world.lives,
        operations=world.disk.operations,
        acknowledged=world.truth.acknowledged,
        trace=trace,
    )
