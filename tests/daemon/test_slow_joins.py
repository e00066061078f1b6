"""Joins that find nobody, or find somebody late, on virtual time."""

import asyncio

import pytest

from swarmlet.core.errors import SwarmStateError, UnavailableError
from swarmlet.daemon.joining import JOIN_WAIT_S
from tests.daemon.sim_nodes import PORT, run_pair
from tests.sim.world import DATA


def test_nobody_there_is_said_with_the_address_and_nothing_is_left():
    async def story(clock, manager, worker):
        manager.net.ports.clear()
        with pytest.raises(UnavailableError, match=f"m.x:{PORT}"):
            await worker.join(manager)
        assert worker.state.state == "inactive"
        for place in ("swarm", "certificates"):
            assert not worker.disk.list_dir(f"{DATA}/{place}")

    run_pair(story)


def test_join_that_takes_too_long_goes_on_in_the_background():
    async def story(clock, manager, worker):
        manager.net.cut("m.x", "w.x")
        began_s = clock.mono_s()
        with pytest.raises(SwarmStateError, match="Timeout was reached before node joined") as slow:
            await worker.join(manager)
        assert slow.value.message.endswith("status of your node. So far: m.x:2377 does not answer.")
        assert clock.mono_s() - began_s == pytest.approx(JOIN_WAIT_S, abs=1)
        assert worker.state.state == "pending"
        await asyncio.sleep(3600)
        assert worker.state.state == "pending"
        assert "m.x" in worker.state.error
        manager.net.mend("m.x", "w.x")
        await worker.until("active", limit_s=90)

    run_pair(story)


@pytest.mark.parametrize("way", ["init", "join"])
def test_daemon_that_is_stopping_begins_nothing(way):
    async def story(clock, manager, worker):
        await worker.stop()
        with pytest.raises(SwarmStateError, match="stopping"):
            await (worker.init() if way == "init" else worker.join(manager))
        assert worker.state.state == "inactive"
        assert not worker.disk.list_dir(f"{DATA}/swarm")

    run_pair(story)
