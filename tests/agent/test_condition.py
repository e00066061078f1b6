"""A runtime that is away: the agent says so, registers all the same, and takes its orders later."""

import asyncio
from pathlib import Path

import pytest

from swarmlet.agent.agent import Agent
from swarmlet.env.real import RealDisk
from swarmlet.model.node import NodeDescription
from swarmlet.model.task import TaskState as S
from swarmlet.runtime.base import TemporaryProblemError
from tests.agent.fake_runtime import FakeRuntime, Script
from tests.agent.fakes import FakeManager, assigned
from tests.agent.test_agent import World
from tests.agent.virtual_time import VirtualClock, run_virtual, until, virtual_env

AWAY = "The engine does not answer."


class AwayRuntime(FakeRuntime):
    """Lists nothing while it has a problem."""

    async def list_tasks(self):
        if self.condition.problem:
            raise TemporaryProblemError(self.condition.problem)
        return await super().list_tasks()


@pytest.fixture
def world(tmp_path: Path) -> World:
    runtime = AwayRuntime(VirtualClock(), lambda task: Script())
    return World(virtual_env(RealDisk()), str(tmp_path / "agent"), runtime, manager=FakeManager())


def test_agent_says_each_change_of_its_runtimes_condition(world: World):
    async def story(_: Agent):
        await until(lambda: len(world.manager.hellos) == 1)
        for problem in (AWAY, "Another one.", ""):
            world.runtime.condition.set(problem)
            await asyncio.sleep(0.1)
        assert world.manager.hellos[0].problem == ""
        assert world.manager.problems == [AWAY, "Another one.", ""]
        assert len(world.manager.hellos) == 1

    run_virtual(world.with_agent(story))


def test_agent_says_a_long_problem_in_few_words(world: World):
    async def story(_: Agent):
        await until(lambda: len(world.manager.hellos) == 1)
        world.runtime.condition.set("x" * 10_000)
        await until(lambda: bool(world.manager.problems))
        assert len(world.manager.problems[0]) == 500

    run_virtual(world.with_agent(story))


def test_agent_registers_with_the_reason_while_its_runtime_is_away(world: World):
    world.runtime.condition.set(AWAY)

    async def story(agent: Agent):
        await world.manager.assign(assigned("before"))
        await until(lambda: len(world.manager.hellos) == 1, limit_s=1)
        assert world.manager.hellos[0].problem == AWAY
        await until(lambda: world.manager.channel is not None)
        await world.manager.assign(assigned("kept"))
        await world.manager.assign(assigned("taken-back"))
        await world.manager.assign(gone=("taken-back",))
        await asyncio.sleep(100)
        assert world.manager.beats > 15
        assert not agent.is_at_rest()
        assert not world.runtime.tasks
        world.runtime.condition.set("")
        await world.reaches("before", S.RUNNING, limit_s=3)
        await world.reaches("kept", S.RUNNING, limit_s=3)
        await until(agent.is_at_rest)
        assert world.manager.problems == [""]
        assert world.runtime.running() == ["before", "kept"]
        assert len(world.manager.hellos) == 1

    run_virtual(world.with_agent(story))


def test_agent_adopts_what_ran_on_once_its_runtime_is_back(world: World):
    async def first(agent: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        await until(agent.is_at_rest)

    async def second(agent: Agent):
        await until(lambda: len(world.manager.hellos) == 2)
        await asyncio.sleep(30)
        assert world.manager.state("a") == S.RUNNING
        world.runtime.condition.set("")
        await until(agent.is_at_rest)
        assert world.runtime.tasks["a"].starts == 1
        assert world.manager.state("a") == S.RUNNING

    async def both():
        await world.with_agent(first)
        world.runtime.condition.set(AWAY)
        await world.with_agent(second)

    run_virtual(both())


def test_agent_registers_anew_at_once_when_another_engine_came_back(world: World):
    version = ["1"]
    world.describe = lambda: NodeDescription(hostname=f"host{version[0]}")

    async def story(_: Agent):
        await until(lambda: len(world.manager.hellos) == 1)
        world.runtime.condition.set(AWAY)
        await asyncio.sleep(1)
        version[0] = "2"
        world.runtime.condition.set("")
        await until(lambda: len(world.manager.hellos) == 2, limit_s=1)
        assert world.manager.hellos[1].description.hostname == "host2"
        assert world.manager.hellos[1].problem == ""

    run_virtual(world.with_agent(story))
