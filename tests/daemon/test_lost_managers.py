"""What a worker says of managers that it reaches no more, on virtual time."""

import asyncio

import pytest

from tests.daemon.sim_nodes import run_pair


def test_worker_says_since_when_it_reaches_no_manager_and_why():
    async def story(clock, manager, worker):
        await worker.join(manager)
        await asyncio.sleep(60)
        manager.net.cut("m.x", "w.x")
        await asyncio.sleep(25)
        assert (worker.state.state, worker.state.error) == ("active", "")
        await asyncio.sleep(3600)
        assert worker.state.state == "active"
        assert worker.state.error.startswith("This node has had no session with a manager for 1h0m")
        assert "m.x" in worker.state.error.partition(": ")[2]
        manager.net.mend("m.x", "w.x")
        await asyncio.sleep(60)
        assert (worker.state.state, worker.state.error) == ("active", "")

    run_pair(story)


@pytest.mark.parametrize(("waited_s", "is_long"), [(20, False), (60, True)])
def test_worker_that_starts_alone_says_why_at_once_and_later_for_how_long(waited_s, is_long):
    async def story(clock, manager, worker):
        await worker.join(manager)
        await worker.stop()
        manager.net.cut("m.x", "w.x")
        await worker.start()
        await asyncio.sleep(waited_s)
        assert worker.state.state == "pending"
        assert ("no session" in worker.state.error) is is_long
        assert "m.x" in worker.state.error
        manager.net.mend("m.x", "w.x")
        await worker.until("active", limit_s=90)
        assert worker.state.error == ""

    run_pair(story)
