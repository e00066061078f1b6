"""The agent whose memory is lost, and the agent whose node is: what runs on, and what ends when."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.agent.agent import Agent
from swarmlet.agent.removal import BELIEVED_AFTER_S
from swarmlet.agent.state_db import TASKS_FILE
from swarmlet.core.errors import node_removed
from swarmlet.env.real import RealDisk
from swarmlet.model.task import TaskState as S
from swarmlet.model.task import TaskStatus
from tests.agent.fake_runtime import FakeRuntime
from tests.agent.fakes import assigned
from tests.agent.test_agent import World
from tests.agent.virtual_time import VirtualClock, run_virtual, until, virtual_env


@pytest.fixture
def world(tmp_path: Path) -> World:
    runtime = FakeRuntime(VirtualClock())
    return World(virtual_env(RealDisk()), str(tmp_path / "agent"), runtime)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)


def test_agent_that_lost_its_database_keeps_what_runs_until_a_manager_says_what_is_wanted(
    world: World,
):
    async def before(_: Agent):
        await world.manager.assign(assigned("a"), assigned("b"), assigned("waits", S.READY))
        await world.reaches("a", S.RUNNING)
        await world.reaches("b", S.RUNNING)
        await world.reaches("waits", S.READY)

    async def after(_: Agent):
        await asyncio.sleep(300)
        assert world.runtime.running() == ["a", "b"]  # nobody has said anything yet
        world.manager.is_up = True
        await until(lambda: world.runtime.removed == ["b"])
        await world.reaches("a", S.RUNNING)
        await world.manager.assign(assigned("waits"))
        await world.reaches("waits", S.RUNNING)
        assert world.runtime.running() == ["a", "waits"]
        assert world.runtime.tasks["a"].starts == 1
        world.runtime.kill("a")
        await world.reaches("a", S.FAILED)

    async def both():
        await world.with_agent(before)
        damage(Path(world.state_dir, TASKS_FILE))
        world.manager.is_up = False
        del world.manager.wanted["b"]
        heard = {"a": S.RUNNING, "waits": S.READY}
        for task_id, state in heard.items():  # as it was told before
            known = world.manager.wanted[task_id]
            world.manager.wanted[task_id] = replace(known, status=TaskStatus(state=int(state)))
        await world.with_agent(after)

    run_virtual(both())


def test_agent_that_was_removed_stops_its_tasks_once_it_is_sure_of_it(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a"), assigned("b"))
        await world.reaches("b", S.RUNNING)
        world.manager.removal = node_removed("node1")
        assert world.manager.channel is not None
        world.manager.channel.close()
        await until(lambda: agent.is_removed)
        assert world.runtime.running() == ["a", "b"]
        await asyncio.sleep(BELIEVED_AFTER_S - 1)
        assert world.runtime.running() == ["a", "b"]
        await until(lambda: sorted(world.runtime.removed) == ["a", "b"])
        world.manager.removal = None  # and it is taken in again
        await until(lambda: world.runtime.running() == ["a", "b"])

    run_virtual(world.with_agent(story))


def test_agent_that_one_manager_took_for_removed_keeps_its_tasks(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        for _ in range(5):
            world.manager.removal = node_removed("node1")
            assert world.manager.channel is not None
            world.manager.channel.close()
            await until(lambda: agent.is_removed)
            world.manager.removal = None
            await until(lambda: agent.is_registered())
            await asyncio.sleep(BELIEVED_AFTER_S)
        assert world.runtime.removed == []

    run_virtual(world.with_agent(story))
