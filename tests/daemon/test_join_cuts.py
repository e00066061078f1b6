"""The power goes while a node joins or leaves, at each operation of its disk: one join makes one
node, and what is left is the whole swarm or nothing."""

import asyncio
from random import Random

import pytest

from swarmlet.core.errors import SwarmError
from tests.daemon.sim_nodes import run_pair
from tests.sim.disk import SimCrash
from tests.sim.world import DATA

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


@pytest.mark.parametrize("where", ["before", "after"])
def test_join_cut_at_any_operation_makes_one_node(where):
    cuts = 0

    for operation in range(CUTS):

        async def story(_clock, manager, worker, operation=operation):
            nonlocal cuts
            worker.disk.fail_at(operation, where)
            cuts += await crashed(worker, operation, lambda: worker.join(manager))
            if worker.state.state == "inactive":
                assert not worker.disk.list_dir(f"{DATA}/certificates")
                await worker.join(manager)
            await worker.until("active")
            assert await workers_of(manager) == [worker.state.node_id]

        run_pair(story)
    assert cuts > 10


@pytest.mark.parametrize("where", ["before", "after"])
def test_leave_cut_at_any_operation_is_whole_or_not_at_all(where):
    cuts = 0

    for operation in range(25):

        async def story(_clock, manager, worker, operation=operation):
            nonlocal cuts
            await worker.join(manager)
            worker.disk.fail_at(operation, where)
            cuts += await crashed(worker, operation, lambda: worker.engine.leave_swarm(force=False))
            if worker.state.state != "inactive":
                await worker.until("active")
                await worker.engine.leave_swarm(force=False)
            await worker.join(manager)
            await worker.until("active")

        run_pair(story)
    assert cuts > 5


@pytest.mark.parametrize("where", ["before", "after"])
def test_managers_join_cut_at_any_operation_makes_one_member(where):
    """Each crash leaves a member at most, and the node comes in by itself or is asked again."""
    cuts = 0

    for operation in range(0, CUTS, 2):

        async def story(_clock, manager, second, operation=operation):
            nonlocal cuts
            second.disk.fail_at(operation, where)
            cuts += await crashed(second, operation, lambda: second.join(manager, "manager"))
            if second.state.state == "inactive":
                await second.join(manager, "manager")
            async with asyncio.timeout(60):
                while second.member is None or not second.member.is_ready:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            members = manager.member.log.members()
            assert [one.is_voter for one in members] == [True, True]
            rows = (await manager.engine.control().read()).nodes.all()
            assert sorted(node.id for node in rows) == sorted(one.node_id for one in members)

        run_pair(story)
    assert cuts > 10
