"""Liveness on the leader: many nodes by hand, clocks that are set, pauses, leaders that change."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.manager.manager import Manager
from swarmlet.manager.node_states import GATHER_S
from swarmlet.manager.session_watch import LATE_MAX_S, SilenceWatch
from swarmlet.model.change import Create, Remove
from swarmlet.model.node import Node, NodeState, NodeStatus
from swarmlet.model.task import TaskState as S
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel, memory_channel
from swarmlet.wire.messages import Goodbye, Heartbeat, Hello, Welcome
from tests.agent.virtual_time import run_virtual, until
from tests.manager.swarm import DESCRIPTION, NODE, OTHER, Swarm, node_row, play, task_row
from tests.store.memory_log import MemoryLog


class Clock:
    """A clock that can be set, on virtual time."""

    def __init__(self) -> None:
        self.set_by_ms = 0
        self.stood_still_s = 0.0

    def mono_s(self) -> float:
        return asyncio.get_running_loop().time() + self.stood_still_s

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round(self.mono_s() * 1_000) + self.set_by_ms


class ClockedSwarm(Swarm):
    def __init__(self, directory: Path, clock: Clock) -> None:
        super().__init__(directory)
        self.env = dataclasses.replace(self.env, clock=clock)
        self.store = Store(self.env)
        self.log = MemoryLog(self.store)
        self.store.attach(self.log)
        self.manager = Manager(self.env, self.store, self.log, NODE, ())


class Ground:
    """A leader and so many workers, whose agents are driven by hand."""

    def __init__(self, directory: Path, count: int) -> None:
        self.clock = Clock()
        self.swarm = ClockedSwarm(directory, self.clock)
        self.ids = [NodeID(f"w{number:03}") for number in range(count)]
        self.channels: dict[NodeID, AgentChannel] = {}

    async def join_all(self) -> None:
        rows = [Create(obj=node_row(node_id)) for node_id in self.ids]
        await self.swarm.store.batch([*rows, Remove(table=Node, id=OTHER)])
        await self.swarm.store.batch([Remove(table=Node, id=NODE)])
        await self.register(*self.ids)

    async def register(self, *nodes: NodeID, problem: str = "") -> None:
        for node_id in nodes:
            near, far = memory_channel()
            self.swarm.manager.dispatcher.open_session(far, node_id, "10.0.0.2")
            await near.send(
                Hello(protocol=1, node_id=node_id, description=DESCRIPTION, problem=problem)
            )
            self.channels[node_id] = near
        for node_id in nodes:
            welcome = await self.channels[node_id].receive()
            assert isinstance(welcome, Welcome)
            assert not welcome.refusal

    def lose(self, *nodes: NodeID) -> None:
        for node_id in nodes:
            self.channels.pop(node_id).close()

    async def pass_s(self, seconds: float) -> None:
        """Everyone who is there beats on."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        while loop.time() < end_s:
            for channel in self.channels.values():
                await channel.send(Heartbeat())
            await asyncio.sleep(min(1.0, end_s - loop.time()))

    def status(self, node_id: NodeID) -> NodeStatus:
        return self.swarm.node(node_id).status

    def states(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for node_id in self.ids:
            name = NodeState(self.status(node_id).state).name
            found[name] = found.get(name, 0) + 1
        return found


def on_ground(tmp_path: Path, count: int, story: Callable[[Ground], Awaitable[None]]) -> None:
    ground = Ground(tmp_path, count)

    async def main(_: Swarm) -> None:
        await ground.join_all()
        await story(ground)

    play(ground.swarm, main)


def test_node_lost_is_disconnected_at_once_and_down_three_seconds_later(tmp_path: Path):
    async def story(ground: Ground):
        await ground.pass_s(2)
        ground.lose(ground.ids[0])
        await asyncio.sleep(0.05)
        assert ground.states() == {"DISCONNECTED": 1, "READY": 4}
        await ground.pass_s(2.9)
        assert ground.states() == {"DISCONNECTED": 1, "READY": 4}
        await ground.pass_s(0.2)
        assert ground.states() == {"DOWN": 1, "READY": 4}
        status = ground.status(ground.ids[0])
        assert status.message == "heartbeat failure"
        assert status.since_ms - status.heard_ms == pytest.approx(3_500, abs=600)

    on_ground(tmp_path, 5, story)


def test_node_whose_host_shuts_down_is_down_at_once_and_says_why(tmp_path: Path):
    async def story(ground: Ground):
        leaving = ground.ids[0]
        await ground.channels[leaving].send(Goodbye(back_in_s=60, is_host_stopping=True))
        ground.lose(leaving)
        await asyncio.sleep(0.05)
        assert ground.states() == {"DOWN": 1, "READY": 4}
        assert ground.status(leaving).message == "the node's host was shut down"

    on_ground(tmp_path, 5, story)


def test_daemon_that_stops_for_an_upgrade_is_waited_for(tmp_path: Path):
    async def story(ground: Ground):
        leaving = ground.ids[0]
        await ground.channels[leaving].send(Goodbye(back_in_s=60))
        ground.lose(leaving)
        await ground.pass_s(20)
        assert ground.states() == {"DISCONNECTED": 1, "READY": 4}
        await ground.register(leaving)
        assert ground.states() == {"READY": 5}
        assert ground.status(leaving).lost_ms == ()

    on_ground(tmp_path, 5, story)


def test_many_lost_at_once_are_held_and_then_count_as_down_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def story(ground: Ground):
        ground.lose(*ground.ids[:5])
        await ground.pass_s(14.9)
        assert ground.states() == {"DISCONNECTED": 5, "READY": 4}
        held = ground.status(ground.ids[4])
        assert "of 9 nodes were lost at once: replacement is held for 15 s" in held.message
        assert held.held_until_ms > ground.clock.wall_ms()
        await ground.pass_s(0.2)
        assert ground.states() == {"DISCONNECTED": 3, "DOWN": 2, "READY": 4}
        await ground.register(ground.ids[4])
        await ground.pass_s(5)
        assert ground.states() == {"DOWN": 4, "READY": 5}

    on_ground(tmp_path, 9, story)
    told = [one for one in caplog.records if one.message == "node.many_lost"]
    assert [(one.nodes, one.held_s) for one in told] == [(9, 15)]


def test_next_leader_goes_on_holding(tmp_path: Path):
    async def story(ground: Ground):
        ground.lose(*ground.ids[:4])
        await ground.pass_s(3)
        ground.swarm.log.lose()
        await asyncio.sleep(1)
        ground.swarm.log.lead()
        await asyncio.sleep(0.1)
        await ground.register(*ground.ids[4:])
        assert ground.states() == {"DISCONNECTED": 4, "READY": 5}
        await ground.pass_s(10.5)
        assert ground.states() == {"DISCONNECTED": 4, "READY": 5}
        await ground.pass_s(3)
        assert ground.states() == {"DOWN": 4, "READY": 5}

    on_ground(tmp_path, 9, story)


@pytest.mark.parametrize("by_s", [3_600, -3_600, 365 * 86_400])
def test_clock_that_is_set_makes_nobody_down(tmp_path: Path, by_s: int):
    async def story(ground: Ground):
        ground.lose(ground.ids[0])
        await ground.channels[ground.ids[1]].send(Goodbye(back_in_s=60))
        ground.lose(ground.ids[1])
        await ground.pass_s(1)
        ground.clock.set_by_ms += by_s * 1_000
        await ground.pass_s(1.5)
        assert ground.states() == {"DISCONNECTED": 2, "READY": 4}
        await ground.pass_s(1)
        assert ground.states() == {"DISCONNECTED": 1, "DOWN": 1, "READY": 4}
        assert abs(ground.status(ground.ids[0]).since_ms - ground.clock.wall_ms()) < 1_000
        await ground.pass_s(60)
        assert ground.states() == {"DOWN": 2, "READY": 4}

    on_ground(tmp_path, 6, story)


@pytest.mark.parametrize("ahead_s", [365 * 86_400, -365 * 86_400])
def test_new_leader_whose_clock_is_another_gives_everybody_time(tmp_path: Path, ahead_s: int):
    async def story(ground: Ground):
        await ground.channels[ground.ids[0]].send(Goodbye(back_in_s=60))
        ground.lose(ground.ids[0])
        await ground.pass_s(1)
        ground.swarm.log.lose()
        ground.clock.set_by_ms += ahead_s * 1_000
        await asyncio.sleep(1)
        ground.swarm.log.lead()
        await asyncio.sleep(9)
        assert ground.states() == {"DISCONNECTED": 1, "UNKNOWN": 5}
        await ground.register(*ground.ids[1:])
        await ground.pass_s(40)
        assert ground.states()["READY"] == 5
        await ground.pass_s(30)
        assert ground.states() == {"DOWN": 1, "READY": 5}

    on_ground(tmp_path, 6, story)


@pytest.mark.parametrize("is_writing", [False, True])
def test_manager_that_stood_still_hears_everybody_before_it_counts_them_as_lost(
    tmp_path: Path, is_writing: bool
):
    async def story(ground: Ground):
        ground.lose(ground.ids[0])
        await ground.pass_s(1)
        if is_writing:
            await ground.register(ground.ids[1])
            await asyncio.sleep(GATHER_S / 2)
        ground.clock.stood_still_s += 60
        await asyncio.sleep(2.5)
        assert ground.states() == {"DISCONNECTED": 1, "READY": 5}
        await ground.register(ground.ids[0])
        await ground.pass_s(60)
        assert ground.states() == {"READY": 6}

    assert LATE_MAX_S < 60
    on_ground(tmp_path, 6, story)


def test_flapping_node_is_waited_for_longer_and_says_so(tmp_path: Path):
    async def story(ground: Ground):
        flapping = ground.ids[0]
        for _ in range(3):
            await ground.pass_s(10)
            ground.lose(flapping)
            await ground.pass_s(1)
            await ground.register(flapping)
        assert "lost 3 times within ten minutes" in ground.status(flapping).message
        ground.lose(flapping)
        await ground.pass_s(28)
        assert "4 times within ten minutes" in ground.status(flapping).message
        assert ground.states() == {"DISCONNECTED": 1, "READY": 4}
        await ground.pass_s(3)
        assert ground.states() == {"DOWN": 1, "READY": 4}
        await ground.register(flapping)
        await ground.pass_s(600)
        assert ground.status(flapping).message == ""

    on_ground(tmp_path, 5, story)


def test_nodes_that_come_at_once_share_their_entries(tmp_path: Path):
    async def story(ground: Ground):
        ground.swarm.log.lose()
        await asyncio.sleep(0.1)
        ground.swarm.log.lead()
        await asyncio.sleep(0.1)
        before = ground.swarm.log.proposals
        await ground.register(*ground.ids)
        assert ground.states() == {"READY": 200}
        assert ground.swarm.log.proposals - before <= 3

    on_ground(tmp_path, 200, story)


def test_node_that_registers_when_leadership_ends_hears_that_nobody_leads(tmp_path: Path):
    async def story(ground: Ground):
        ground.swarm.log.hold()
        hello = Hello(protocol=1, node_id=ground.ids[0], description=DESCRIPTION)
        nodes = ground.swarm.manager.dispatcher._nodes

        async def refused() -> None:
            with pytest.raises(UnavailableError):
                await nodes.register(hello, "10.0.0.9")

        async with asyncio.TaskGroup() as group:
            group.create_task(refused())
            await asyncio.sleep(0.1)
            group.create_task(refused())
            await asyncio.sleep(0.1)
            ground.swarm.log.lose()
        await refused()

    on_ground(tmp_path, 3, story)


def test_tasks_of_a_node_that_is_down_for_a_day_are_orphans_unless_they_wait_for_it(
    tmp_path: Path,
):
    async def story(ground: Ground):
        gone = ground.ids[0]
        await ground.swarm.create(
            task_row("replaced", S.RUNNING, gone, desired=S.SHUTDOWN),
            task_row("awaited", S.RUNNING, gone),
            task_row("over", S.FAILED, gone, desired=S.SHUTDOWN),
        )
        await ground.channels[gone].send(Goodbye(back_in_s=0))
        ground.lose(gone)
        await asyncio.sleep(86_400 - 10)
        assert ground.swarm.task("replaced").status.state == S.RUNNING
        await asyncio.sleep(20)
        await until(lambda: ground.swarm.task("replaced").status.state == S.ORPHANED)
        assert ground.swarm.task("awaited").status.state == S.RUNNING
        assert ground.swarm.task("over").status.state == S.FAILED

    on_ground(tmp_path, 2, story)


class Silent:
    """A session, as the silence watch sees one."""

    def __init__(self) -> None:
        self.silent_s, self.given_up_s = 15.0, 0.0

    def silent_at_s(self) -> float:
        return self.silent_s

    def give_up(self) -> None:
        self.given_up_s = asyncio.get_running_loop().time()


@pytest.mark.parametrize("is_heard", [True, False])
def test_silence_watch_that_stood_still_lets_everybody_be_heard_first(is_heard: bool):
    async def main() -> None:
        clock, session = Clock(), Silent()
        watch = SilenceWatch(clock)
        watch.add(session)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(watch.run())
            await asyncio.sleep(14.9)
            clock.stood_still_s += 60  # and the look at 15 s is late
            await asyncio.sleep(0.5)
            assert not session.given_up_s
            session.silent_s = 90.0 if is_heard else 15.0
            await asyncio.sleep(5)
            assert bool(session.given_up_s) != is_heard
            running.cancel()

    run_virtual(main())
