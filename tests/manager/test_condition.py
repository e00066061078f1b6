"""What the manager makes of a node whose runtime is away."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.agent.agent import Agent
from swarmlet.core.ids import NodeID
from swarmlet.model.change import Create, SetNodeStatus, Update
from swarmlet.model.node import NodeState, NodeStatus
from swarmlet.model.service import SpecVersion, spec_version_id
from swarmlet.model.task import TaskState as S
from swarmlet.model.view import View
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.messages import Condition, Goodbye, Heartbeat, Hello, Welcome
from tests.agent.virtual_time import until
from tests.manager.swarm import (
    DESCRIPTION,
    NODE,
    OTHER,
    WEB,
    Swarm,
    play,
    play_with_agent,
    web_spec,
)

AWAY = "The engine does not answer."


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


async def connected(swarm: Swarm, problem: str = "") -> AgentChannel:
    channel = await swarm.manager.connector().open_session()
    await channel.send(Hello(protocol=1, node_id=NODE, description=DESCRIPTION, problem=problem))
    welcome = await channel.receive()
    assert isinstance(welcome, Welcome)
    assert not welcome.refusal
    return channel


async def beat_for(channel: AgentChannel, seconds: int) -> None:
    for _ in range(seconds):
        await channel.send(Heartbeat())
        await asyncio.sleep(1)


async def is_now(swarm: Swarm, state: NodeState, message: str = "") -> None:
    await until(
        lambda: (swarm.node().status.state, swarm.node().status.message) == (state, message), 1
    )


def test_node_is_disconnected_with_the_reason_at_once_and_down_after_a_minute(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await connected(swarm)
        await channel.send(Condition(problem=AWAY))
        await is_now(swarm, NodeState.DISCONNECTED, AWAY)
        await beat_for(channel, 58)
        await is_now(swarm, NodeState.DISCONNECTED, AWAY)
        await beat_for(channel, 3)
        await is_now(swarm, NodeState.DOWN, AWAY)
        await channel.send(Condition(problem=""))
        await is_now(swarm, NodeState.READY)
        await beat_for(channel, 100)
        await is_now(swarm, NodeState.READY)

    play(swarm, story)


def test_node_that_heals_in_time_is_never_down(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await connected(swarm)
        for _ in range(3):
            await channel.send(Condition(problem=AWAY))
            await beat_for(channel, 50)
            await is_now(swarm, NodeState.DISCONNECTED, AWAY)
            await channel.send(Condition(problem=""))
            await beat_for(channel, 20)
            await is_now(swarm, NodeState.READY)

    play(swarm, story)


def test_node_with_one_problem_after_the_other_gets_no_second_grace(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await connected(swarm)
        await channel.send(Condition(problem=AWAY))
        await beat_for(channel, 40)
        await channel.send(Condition(problem="Another one."))
        await is_now(swarm, NodeState.DISCONNECTED, "Another one.")
        again = await connected(swarm, AWAY)
        await beat_for(again, 15)
        await is_now(swarm, NodeState.DISCONNECTED, AWAY)
        await beat_for(again, 6)
        await is_now(swarm, NodeState.DOWN, AWAY)

    play(swarm, story)


def test_node_that_registers_with_a_problem_is_never_ready_in_between(swarm: Swarm):
    async def story(swarm: Swarm):
        seen: list[int] = []

        def note(events):
            seen.extend(event.new.status.state for event in events if event.id == NODE)

        swarm.store.subscribe(note)
        channel = await connected(swarm, AWAY)
        await is_now(swarm, NodeState.DISCONNECTED, AWAY)
        await beat_for(channel, 10)
        assert NodeState.READY not in seen

    play(swarm, story)


def test_node_that_was_down_stays_down_until_its_runtime_is_back(swarm: Swarm):
    async def story(swarm: Swarm):
        down = NodeStatus(state=int(NodeState.DOWN))
        await swarm.store.commit([SetNodeStatus(id=NODE, status=down)])
        channel = await connected(swarm, AWAY)
        await is_now(swarm, NodeState.DOWN, AWAY)
        channel.close()
        await asyncio.sleep(1)
        await is_now(swarm, NodeState.DOWN, "the connection to the node was lost")
        channel = await connected(swarm, AWAY)
        await channel.send(Goodbye(back_in_s=60))
        channel.close()
        await asyncio.sleep(1)
        await is_now(swarm, NodeState.DOWN, "the node stopped in order")
        await connected(swarm)
        await is_now(swarm, NodeState.READY)

    play(swarm, story)


def test_node_whose_session_breaks_while_its_runtime_is_away_goes_the_usual_way(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await connected(swarm)
        await channel.send(Condition(problem=AWAY))
        await is_now(swarm, NodeState.DISCONNECTED, AWAY)
        channel.close()
        await asyncio.sleep(1)
        assert "lost" in swarm.node().status.message
        await asyncio.sleep(3)
        await is_now(swarm, NodeState.DOWN, "heartbeat failure")

    play(swarm, story)


def test_replaced_session_has_no_say_on_the_nodes_condition(swarm: Swarm):
    async def story(swarm: Swarm):
        older = await connected(swarm)
        await older.send(Condition(problem=AWAY))  # still unread when the newer one registers
        newer = await connected(swarm)
        await beat_for(newer, 70)
        await is_now(swarm, NodeState.READY)

    play(swarm, story)


def test_long_problem_is_cut(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await connected(swarm)
        await channel.send(Condition(problem="x" * 100_000))
        await until(lambda: swarm.node().status.state == NodeState.DISCONNECTED, limit_s=1)
        assert len(swarm.node().status.message) == 500

    play(swarm, story)


def live(view: View) -> list[tuple[NodeID, int]]:
    wanted = [task for task in view.tasks.all() if task.desired == S.RUNNING]
    return sorted((task.node_id, task.status.state) for task in wanted)


async def scale_to(swarm: Swarm, replicas: int) -> None:
    service = swarm.store.view().services.get(WEB)
    assert service is not None
    spec = SpecVersion(
        id=spec_version_id(WEB, 2), service_id=WEB, number=2, spec=web_spec(replicas)
    )
    await swarm.store.commit(
        [Create(obj=spec), Update(obj=replace(service, spec_version=2), seen=service.version)]
    )


def test_single_node_keeps_its_tasks_a_minute_and_runs_new_ones_once_it_healed(tmp_path: Path):
    swarm = Swarm(tmp_path, all_deciders())

    async def story(swarm: Swarm, agent: Agent):
        await scale_to(swarm, 1)
        await until(lambda: live(swarm.store.view()) == [(NODE, S.RUNNING)])
        first = next(t.id for t in swarm.store.view().tasks.all())
        swarm.runtime.condition.set(AWAY)
        await asyncio.sleep(50)
        assert live(swarm.store.view()) == [(NODE, S.RUNNING)]
        assert swarm.node(OTHER).status.state == NodeState.DOWN
        await asyncio.sleep(15)
        assert live(swarm.store.view()) == [("", S.PENDING)]
        swarm.runtime.condition.set("")
        await until(lambda: live(swarm.store.view()) == [(NODE, S.RUNNING)])
        await until(agent.is_at_rest)
        assert len(swarm.runtime.running()) == 1
        assert first not in swarm.runtime.running()

    play_with_agent(swarm, story)


def test_node_that_heals_in_time_keeps_its_very_tasks(tmp_path: Path):
    swarm = Swarm(tmp_path, all_deciders())

    async def story(swarm: Swarm, agent: Agent):
        await scale_to(swarm, 1)
        await until(lambda: live(swarm.store.view()) == [(NODE, S.RUNNING)])
        before = swarm.runtime.running()
        swarm.runtime.condition.set(AWAY)
        await asyncio.sleep(50)
        swarm.runtime.condition.set("")
        await asyncio.sleep(50)
        await until(agent.is_at_rest)
        assert swarm.runtime.running() == before
        assert swarm.runtime.tasks[before[0]].starts == 1

    play_with_agent(swarm, story)
