"""The power goes while a node joins or leaves, at each operation of its disk: one join makes one
node, and what is left is the whole swarm or nothing."""

import asyncio
from random import Random

import pytest

from swarmlet.core.errors import SwarmError
from tests.daemon.sim_nodes import SimNode
from tests.sim.disk import SimCrash
from tests.sim.loop import SimClock, run_sim
from tests.sim.world import DATA
from tests.wire.memory_link import MemoryNet

CUTS = 60  # operations of a join and of the first seconds, or of a leave


async def crashed(worker, seed, act):
    """Whether the power went during `act`; the host is up again then."""
    try:
        await act()
        await asyncio.sleep(3)
        if not worker.disk.is_dead:
            worker.disk.fail_at(10**9)  # it did not come to that
            return False
    except (SimCrash, SwarmError, BaseExceptionGroup):
        assert worker.disk.is_dead
    await worker.kill()
    worker.net.end_process(worker.host)
    worker.disk.crash(Random(f"{seed}/cut"))
    await worker.start()
    return True


async def workers_of(manager):
    view = await manager.engine.control().read()
    return [node.id for node in view.nodes.all() if node.role == "worker"]


def run(story):
    clock = SimClock()

    async def whole():
        net = MemoryNet()
        manager, worker = (SimNode(net, host, clock) for host in ("m.x", "w.x"))
        for node in (manager, worker):
            await node.start()
        await manager.init()
        await story(manager, worker)
        for node in (worker, manager):
            await node.stop()

    run_sim(clock, whole())


@pytest.mark.parametrize("where", ["before", "after"])
def test_join_cut_at_any_operation_makes_one_node(where):
    cuts = 0

    for operation in range(CUTS):

        async def story(manager, worker, operation=operation):
            nonlocal cuts
            worker.disk.fail_at(operation, where)
            cuts += await crashed(worker, operation, lambda: worker.join(manager))
            if worker.state.state == "inactive":
                assert not worker.disk.list_dir(f"{DATA}/certificates")
                await worker.join(manager)
            await worker.until("active")
            assert await workers_of(manager) == [worker.state.node_id]

        run(story)
    assert cuts > 10


@pytest.mark.parametrize("where", ["before", "after"])
def test_leave_cut_at_any_operation_is_whole_or_not_at_all(where):
    cuts = 0

    for operation in range(25):

        async def story(manager, worker, operation=operation):
            nonlocal cuts
            await worker.join(manager)
            worker.disk.fail_at(operation, where)
            cuts += await crashed(worker, operation, lambda: worker.engine.leave_swarm(force=False))
            if worker.state.state != "inactive":
                await worker.until("active")
                await worker.engine.leave_swarm(force=False)
            await worker.join(manager)
            await worker.until("active")

        run(story)
    assert cuts > 5
