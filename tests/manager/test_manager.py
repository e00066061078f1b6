"""Manager and agent together: tasks run, reports come back, restarts and leadership changes are
survived."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from swarmlet.agent.agent import Agent
from swarmlet.env.real import RealDisk
from swarmlet.manager.leader import Leader
from swarmlet.model.change import Create, Remove, SetDesired, Update
from swarmlet.model.node import NodeDescription, NodeState
from swarmlet.model.service import Service, SpecVersion, spec_version_id
from swarmlet.model.task import Task
from swarmlet.model.task import TaskState as S
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.store.store import Store
from tests.agent.fake_runtime import Script
from tests.agent.virtual_time import run_virtual, until, virtual_env
from tests.manager.swarm import (
    NODE,
    OTHER,
    WEB,
    Swarm,
    play,
    play_with_agent,
    task_row,
    web_spec,
)
from tests.store.memory_log import MemoryLog


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


def at_rest(swarm: Swarm, agent: Agent) -> bool:
    return swarm.manager.is_at_rest() and agent.is_at_rest()


async def scale(swarm: Swarm, replicas: int) -> None:
    service = swarm.store.view().services.get(WEB)
    assert isinstance(service, Service)
    number = service.spec_version + 1
    spec = SpecVersion(
        id=spec_version_id(WEB, number), service_id=WEB, number=number, spec=web_spec(replicas)
    )
    row = msgspec.structs.replace(service, spec_version=number)
    await swarm.store.commit([Create(obj=spec), Update(obj=row, seen=service.version)])


def running(swarm: Swarm) -> int:
    return swarm.store.view().tasks.count("state", int(S.RUNNING))


def test_manager_runs_a_service_heals_and_scales_it(tmp_path: Path):
    async def story(swarm: Swarm, agent: Agent):
        await scale(swarm, 3)
        await until(lambda: running(swarm) == 3, limit_s=1.5)
        await until(lambda: at_rest(swarm, agent))
        victim = swarm.runtime.running()[0]
        swarm.runtime.kill(victim)
        await until(lambda: running(swarm) == 2, limit_s=1)
        await until(lambda: running(swarm) == 3, limit_s=7)
        assert swarm.task(victim).status.err == "task: non-zero exit (137)"
        await scale(swarm, 10)
        await until(lambda: running(swarm) == 10, limit_s=1.5)
        await scale(swarm, 1)
        await until(lambda: len(swarm.runtime.running()) == 1)
        await asyncio.sleep(120)  # old spec versions are kept for a minute
        await until(lambda: at_rest(swarm, agent))
        proposals = swarm.log.proposals
        await asyncio.sleep(600)
        assert swarm.log.proposals == proposals

    play_with_agent(Swarm(tmp_path, all_deciders()), story)


def test_manager_tells_the_agent_all_it_needs(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        await swarm.create(task_row("t"))
        await swarm.reaches("t", S.RUNNING)
        task = swarm.task("t")
        assert task.status.applied_by == NODE
        assert task.status.applied_at_ms >= task.status.at_ms > 0
        assert task.status.container_id == "fake-t"

    play_with_agent(swarm, story)


def test_manager_takes_tasks_back_when_their_rows_are_gone(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await swarm.create(task_row("t"), task_row("u"))
        await swarm.reaches("t", S.RUNNING)
        await swarm.reaches("u", S.RUNNING)
        await swarm.store.commit([Remove(table=Task, id="t")])
        await until(lambda: swarm.runtime.removed == ["t"])
        await until(lambda: at_rest(swarm, agent))
        assert swarm.runtime.running() == ["u"]

    play_with_agent(swarm, story)


def test_manager_writes_many_reports_as_few_entries(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await until(lambda: at_rest(swarm, agent))
        before = swarm.log.proposals
        await swarm.create(*(task_row(f"t{number:03}") for number in range(200)))
        await until(lambda: running(swarm) == 200)
        assert swarm.log.proposals - before < 25

    play_with_agent(swarm, story)


def test_manager_says_what_becomes_of_a_node_that_said_goodbye(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await until(lambda: swarm.node().status.state == NodeState.READY)
        assert swarm.node().status.addr == "127.0.0.1"
        assert swarm.node().description == swarm.description
        await agent.stop(back_in_s=60)
        await asyncio.sleep(1)
        assert swarm.node().status.state == NodeState.DISCONNECTED
        assert "60 s" in swarm.node().status.message
        await asyncio.sleep(58)
        assert swarm.node().status.state == NodeState.DISCONNECTED
        await asyncio.sleep(2)
        assert swarm.node().status.state == NodeState.DOWN

    play_with_agent(swarm, story)


def test_manager_counts_a_node_down_soon_after_its_session_broke(swarm: Swarm):
    async def story(swarm: Swarm):
        agent = swarm.new_agent()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(agent.run())
            await until(lambda: swarm.node().status.state == NodeState.READY)
            running.cancel()
        await until(lambda: swarm.node().status.state == NodeState.DISCONNECTED, limit_s=0.1)
        await asyncio.sleep(2.5)
        assert swarm.node().status.state == NodeState.DISCONNECTED
        await until(lambda: swarm.node().status.state == NodeState.DOWN, limit_s=1)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(swarm.new_agent().run())
            await until(lambda: swarm.node().status.state == NodeState.READY, limit_s=1)
            await asyncio.sleep(10)
            assert swarm.node().status.state == NodeState.READY
            running.cancel()

    play(swarm, story)


def test_manager_counts_nodes_down_that_never_register_with_a_new_leader(swarm: Swarm):
    async def story(swarm: Swarm, _: Agent):
        assert swarm.node(OTHER).status.state == NodeState.UNKNOWN
        await until(lambda: swarm.node(OTHER).status.state == NodeState.DOWN, limit_s=11)
        assert swarm.node().status.state == NodeState.READY

    play_with_agent(swarm, story)


def test_manager_writes_a_description_only_when_it_changed(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await asyncio.sleep(20)
        await until(lambda: at_rest(swarm, agent))
        proposals = swarm.log.proposals
        await asyncio.sleep(300)
        assert swarm.log.proposals == proposals
        swarm.description = NodeDescription(hostname="renamed")
        await until(lambda: swarm.node().description.hostname == "renamed", limit_s=21)
        assert swarm.node().status.state == NodeState.READY

    play_with_agent(swarm, story)


def test_manager_loses_nothing_when_leadership_comes_and_goes(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        swarm.scripts["late"] = Script(runs_s=5, exit_code=2)
        await swarm.create(task_row("t"), task_row("late"))
        await swarm.reaches("late", S.RUNNING)
        swarm.log.lose()
        await asyncio.sleep(20)
        assert not swarm.manager.is_at_rest()
        assert swarm.task("late").status.state == S.RUNNING
        swarm.log.lead()
        await swarm.reaches("late", S.FAILED, limit_s=10)
        await until(lambda: at_rest(swarm, agent))
        assert swarm.runtime.tasks["t"].starts == 1

    play_with_agent(swarm, story)


def test_manager_goes_on_when_the_disk_was_full_for_a_while(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await until(lambda: at_rest(swarm, agent))
        await swarm.create(task_row("t"))
        swarm.log.fail_next("full", "full", "lost", "full")
        await swarm.reaches("t", S.RUNNING)
        await until(lambda: at_rest(swarm, agent))

    play_with_agent(swarm, story)


def test_manager_stops_a_task_as_soon_as_that_is_desired(swarm: Swarm):
    async def story(swarm: Swarm, agent: Agent):
        await swarm.create(task_row("t"))
        await swarm.reaches("t", S.RUNNING)
        await swarm.store.commit([SetDesired(id="t", desired=int(S.SHUTDOWN))])
        await swarm.reaches("t", S.SHUTDOWN, limit_s=0.3)
        assert swarm.task("t").status.exit_code == 143
        await until(lambda: at_rest(swarm, agent))

    play_with_agent(swarm, story)


def test_manager_restarts_its_components_when_one_goes_down(tmp_path: Path):
    class Fragile:
        name = "fragile"
        tables = frozenset()
        starts = 0

        def start(self, view):
            self.starts += 1
            assert self.starts > 3, "a bug"
            return ()

        def keys_of(self, event, view):
            return ()

        def decide(self, view, key, moment):
            raise AssertionError("never asked")

    async def story(swarm: Swarm, agent: Agent):
        await until(lambda: at_rest(swarm, agent))
        assert swarm.manager.gauges()["swarmlet_leader_failures_total"] == 3
        await swarm.create(task_row("t"))
        await swarm.reaches("t", S.RUNNING)

    play_with_agent(Swarm(tmp_path, (Fragile(),)), story)


def test_leader_ends_though_a_component_fails_while_it_is_stopped():
    class Stubborn:
        name = "stubborn"
        starts = 0

        async def run(self):
            self.starts += 1
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("it does not let go")

    async def story():
        env, stubborn = virtual_env(RealDisk()), Stubborn()
        log = MemoryLog(Store(env))
        leader = Leader((stubborn,), log, env)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(leader.run())
            await asyncio.sleep(1)
            log.lose()
            await asyncio.sleep(100)
            assert (stubborn.starts, leader.is_leading) == (1, False)
            log.lead()
            await asyncio.sleep(1)
            assert stubborn.starts == 2
            running.cancel()

    run_virtual(story())
