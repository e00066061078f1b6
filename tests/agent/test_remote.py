"""How an agent finds a manager: by weight, past those that fail, by the word of those that do not
lead; and how long it waits in between."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from swarmlet.agent.remote import RemoteConnector
from swarmlet.core.errors import (
    ForbiddenError,
    NotLeaderError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID
from swarmlet.env.real import RealDisk
from swarmlet.wire.channel import (
    AgentChannel,
    ChannelClosedError,
    MemoryStream,
    memory_channel,
    memory_stream,
)
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import Heartbeat, ManagerAddr, SwarmInfo
from swarmlet.wire.remotes import Remotes
from tests.agent.fake_runtime import FakeRuntime
from tests.agent.fakes import NODE, FakeManager, FakeSink, new_agent
from tests.agent.virtual_time import START_MS, VirtualClock, run_virtual, until, virtual_env
from tests.wire.identities import SwarmCA


class FakeLink:
    """Answers by address: an error, or a session whose far end is kept."""

    def __init__(self) -> None:
        self.answers: dict[str, SwarmError | None] = {}
        self.asked: list[str] = []
        self.shown: list[Credentials] = []
        self.far: AgentChannel | None = None
        self.streams: list[tuple[str, str]] = []

    async def open_session(self, addr: str, credentials: Credentials) -> AgentChannel:
        self.asked.append(addr)
        self.shown.append(credentials)
        answer = self.answers.get(addr)
        if answer is not None:
            raise answer
        near, self.far = memory_channel()
        return near

    async def open_log_stream(
        self, addr: str, subscription: str, credentials: Credentials
    ) -> FakeSink:
        self.streams.append((addr, subscription))
        return FakeSink()

    async def open_stream(
        self, addr: str, stream_id: str, credentials: Credentials
    ) -> MemoryStream:
        self.streams.append((addr, stream_id))
        return memory_stream()[0]


class World:
    def __init__(self, *addrs: str) -> None:
        self.link, self.ca = FakeLink(), SwarmCA(START_MS)
        self.own = self.ca.own("w")
        self.remotes = Remotes(random.Random(1), [manager(addr) for addr in addrs])
        self.connector = RemoteConnector(self.link, self.own, self.remotes)

    async def fails(self, kind: type[SwarmError] = UnavailableError) -> str:
        with pytest.raises(kind):
            await self.connector.open_session()
        return self.link.asked[-1]


def manager(addr: str) -> ManagerAddr:
    return ManagerAddr(node_id=NodeID(addr), addr=addr)


def weights(world: World) -> dict[str, int]:
    return {one.addr: one.weight for one in world.remotes.all()}


def test_connector_avoids_the_manager_that_just_failed():
    async def story():
        world = World("a", "b")
        world.link.answers = dict.fromkeys("ab", UnavailableError("away"))
        for _ in range(10):
            first, second = await world.fails(), await world.fails()
            assert first != second
        assert all(weight < 0 for weight in weights(world).values())

    run_virtual(story())


def test_connector_asks_the_only_manager_again_and_shows_its_present_certificate():
    async def story():
        world = World("a")
        world.link.answers = {"a": UnauthorizedError("expired")}
        await world.fails(UnauthorizedError)
        renewed = world.ca.credentials("w")
        world.own.replace(renewed, world.own.identity)
        world.link.answers = {}
        await world.connector.open_session()
        assert world.link.asked == ["a", "a"]
        assert world.link.shown[-1] is renewed

    run_virtual(story())


def test_connector_learns_managers_from_one_that_does_not_lead():
    async def story():
        world = World("joined")
        world.link.answers = {"joined": NotLeaderError("not me", managers=("lead", "joined"))}
        await world.connector.open_session()  # at once: no failure to wait after
        assert world.link.asked == ["joined", "lead"]
        assert sorted(weights(world)) == ["joined", "lead"]
        world.link.far.close()

    run_virtual(story())


def test_connector_asks_a_named_manager_once_and_then_by_weight():
    async def story():
        world = World("a")
        world.link.answers = {
            "a": NotLeaderError("not me", managers=("b",)),
            "b": UnavailableError("away"),
        }
        await world.fails()
        assert world.link.asked == ["a", "b"]
        world.link.answers["b"] = NotLeaderError("nor me", managers=("a",))
        await world.fails(NotLeaderError)
        assert world.link.asked == ["a", "b", "a", "b"]
        world.link.answers = {}
        await world.connector.open_session()
        assert world.link.asked[-1] == "a"

    run_virtual(story())


def test_connector_remembers_a_manager_that_ended_a_session_and_not_one_that_we_left():
    async def story():
        world = World("a", "b")
        channel = await world.connector.open_session()
        await world.link.far.send(Heartbeat())
        assert await channel.receive() == Heartbeat()
        world.link.far.close()
        for _ in range(2):
            with pytest.raises(ChannelClosedError):
                await channel.receive()
        first, before = world.link.asked[0], weights(world)
        assert before[first] < before["b" if first == "a" else "a"]
        channel = await world.connector.open_session()
        assert world.link.asked[1] != first
        before = weights(world)
        channel.close()
        with pytest.raises(ChannelClosedError):
            await channel.receive()
        assert weights(world) == before

    run_virtual(story())


def test_connector_sends_logs_and_streams_to_the_manager_of_the_session():
    async def story():
        world = World("a", "b", "c")
        for open_one in (world.connector.open_log_stream, world.connector.open_stream):
            with pytest.raises(UnavailableError):
                await open_one("s")
        await world.connector.open_session()
        await world.connector.open_log_stream("s")
        await world.connector.open_stream("t")
        there = world.link.asked[0]
        assert world.link.streams == [(there, "s"), (there, "t")]

    run_virtual(story())


# Between sessions --------------------------------------------------------------------------------


class Late(random.Random):
    """Always the longest wait."""

    def random(self) -> float:
        return 1.0


class Refuser(FakeManager):
    """Notes when it is asked, and raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.error: SwarmError | None = None
        self.asked_s: list[float] = []

    async def open_session(self) -> AgentChannel:
        self.asked_s.append(asyncio.get_running_loop().time())
        if self.error is not None:
            raise self.error
        return await super().open_session()

    def gaps_s(self) -> list[float]:
        return [round(b - a, 3) for a, b in zip(self.asked_s, self.asked_s[1:], strict=False)]


def play(tmp_path: Path, story: Callable, own=None, on_info=None) -> None:
    async def main() -> None:
        env = replace(virtual_env(RealDisk()), rng=Late())
        refuser, runtime = Refuser(), FakeRuntime(VirtualClock())
        agent = new_agent(env, runtime, refuser, str(tmp_path), own=own, on_info=on_info)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part.run()) for part in (refuser, agent)]
            await story(agent, refuser)
            for task in tasks:
                task.cancel()

    run_virtual(main())


def test_agent_waits_longer_after_each_failure_and_from_the_start_after_a_session(tmp_path: Path):
    async def story(agent, refuser: Refuser):
        refuser.error = UnavailableError("away")
        await asyncio.sleep(40)
        assert refuser.gaps_s()[:8] == [0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 8.0, 8.0]
        assert not agent.refusal
        assert agent.problem == "away"
        refuser.error = None
        await until(agent.is_registered)
        assert agent.problem == ""
        refuser.error = UnavailableError("away")
        refuser.asked_s.clear()
        refuser.channel.close()
        await until(lambda: len(refuser.asked_s) > 2)
        assert refuser.gaps_s()[:2] == [0.3, 0.7]

    play(tmp_path, story)


def test_agent_says_why_it_is_refused_until_it_is_taken_and_does_not_hammer(tmp_path: Path):
    async def story(agent, refuser: Refuser):
        refuser.error = ForbiddenError("node node1 was removed")
        await asyncio.sleep(120)
        assert agent.refusal == "node node1 was removed"
        assert len(refuser.asked_s) < 25
        refuser.error, refuser.refusal = None, "not part of this swarm"
        await asyncio.sleep(20)
        assert agent.refusal == "not part of this swarm"
        with pytest.raises(TimeoutError):
            await agent.registered(0)
        refuser.refusal = ""
        await until(agent.is_registered)
        assert agent.refusal == ""

    play(tmp_path, story)


def test_agent_with_another_certificate_registers_anew_at_once_and_ends_a_wait(tmp_path: Path):
    ca = SwarmCA(START_MS)
    own = ca.own(NODE)

    async def story(agent, refuser: Refuser):
        await until(agent.is_registered)
        first = refuser.hellos[0].description.tls_info
        assert first.trust_root.encode() == ca.root_pem
        assert first.cert_issuer_subject
        own.replace(ca.credentials(NODE), own.identity)
        await until(lambda: len(refuser.hellos) == 2, limit_s=0.1)
        assert refuser.hellos[1].description.tls_info == first
        refuser.error = UnauthorizedError("expired")
        refuser.channel.close()
        await until(lambda: refuser.gaps_s()[-1] == 8, limit_s=60)
        refuser.error = None
        own.replace(ca.credentials(NODE), own.identity)
        await until(agent.is_registered, limit_s=0.1)

    play(tmp_path, story, own=own)


def test_agent_passes_on_what_it_is_told_of_the_swarm(tmp_path: Path):
    heard: list[SwarmInfo] = []
    info = SwarmInfo(managers=(manager("a"),), root_pem=b"r", certificate_state=5, role="worker")

    async def story(agent, refuser: Refuser):
        await until(lambda: refuser.channel is not None)
        await refuser.send(info)
        await until(lambda: heard == [info])
        assert agent.is_registered()

    play(tmp_path, story, on_info=heard.append)
