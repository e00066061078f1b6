"""Sessions over real sockets and TLS: what the network in memory leaves out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.agent.agent import Agent
from swarmlet.agent.remote import RemoteConnector
from swarmlet.ca.identity import identify
from swarmlet.core.errors import NotFoundError
from swarmlet.core.ids import ClusterID, NodeID, TaskID
from swarmlet.env.real import real_env
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.manager.manager import Manager
from swarmlet.manager.removals import follow_removals
from swarmlet.model.address import Address
from swarmlet.model.change import Create, Remove, Update
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.node import IssuanceState, Node, NodeCertificate, NodeState
from swarmlet.model.task import Task
from swarmlet.model.task import TaskState as S
from swarmlet.store.store import Store
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.client import TlsLink
from swarmlet.wire.messages import (
    Hello,
    LogOptions,
    ManagerAddr,
    SwarmInfo,
    Welcome,
)
from swarmlet.wire.reception import PortParts
from swarmlet.wire.remotes import Remotes
from swarmlet.wire.server import NodePort
from swarmlet.wire.tls import Trust
from tests.agent.fake_runtime import FakeRuntime
from tests.manager.swarm import (
    DESCRIPTION,
    NODE,
    OTHER,
    manager_row,
    node_row,
    reading_of,
    service_rows,
    task_row,
)
from tests.store.memory_log import MemoryLog
from tests.wire.identities import CLUSTER, SwarmCA


async def no_api(request: object, path: str) -> object:
    raise AssertionError("nobody asks")


class World:
    """A leader's port on the loopback, and a worker's place."""

    def __init__(self, directory: Path) -> None:
        self.env, self.directory = real_env(), str(directory / "worker")
        self.store = Store(self.env)
        log = MemoryLog(self.store)
        self.store.attach(log)
        self.manager = Manager(self.env, self.store, log, NODE, ())
        self.ca, self.link = SwarmCA(self.env.clock.wall_ms()), TlsLink()
        self.own, clock = self.ca.own(OTHER), self.env.clock
        parts = PortParts(
            identify=lambda chain: identify(chain, clock.wall_ms()),
            gatekeeper=StoreGatekeeper(self.store, ClusterID(CLUSTER), clock),
            service=self.manager.port,
            api=no_api,
            forward=self.link.forward,
        )
        trust = Trust(self.ca.credentials(NODE, "manager"))
        self.port = NodePort(Address(host="127.0.0.1", port=0), trust, parts, clock)
        self.runtime = FakeRuntime(clock)
        self.heard: list[SwarmInfo] = []

    @property
    def addr(self) -> str:
        return str(self.port.addresses[0])

    def agent(self) -> Agent:
        manager = ManagerAddr(node_id=NODE, addr=self.addr)
        return Agent(
            self.env,
            OTHER,
            self.runtime,
            RemoteConnector(self.link, self.own, Remotes(self.env.rng, [manager])),
            state_dir=self.directory,
            describe=lambda: DESCRIPTION,
            own=self.own,
            on_info=self.heard.append,
        )

    def node(self) -> Node:
        row = self.store.view().nodes.get(OTHER)
        assert row is not None
        return row

    def task(self, name: str) -> Task:
        row = self.store.view().tasks.get(name)
        assert row is not None
        return row

    async def begin(self) -> None:
        cluster = Cluster(id=ClusterID(CLUSTER), spec=SwarmSpec())
        rows = [Create(obj=row) for row in (cluster, manager_row(), node_row(OTHER))]
        await self.store.commit([*rows, *service_rows()])


async def until(is_so: Callable[[], bool], limit_s: float = 10.0) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < limit_s, "waited in vain"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def play(directory: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World(directory)
        await world.begin()
        with follow_removals(world.store, world.port.close_node):
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(part.run()) for part in (world.manager, world.port)]
                await world.port.opened.wait()
                await story(world)
                await world.link.close()
                for task in running:
                    task.cancel()

    asyncio.run(main())


def test_worker_over_tls_runs_tasks_and_a_restarted_daemon_adopts_them(tmp_path: Path):
    async def one_life(world: World, script: Callable[[Agent], Awaitable[None]]) -> None:
        agent = world.agent()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(agent.run())
            await until(agent.is_registered)
            await script(agent)
            running.cancel()

    async def story(world: World):
        async def first(_: Agent) -> None:
            await world.store.commit([Create(obj=task_row("a", node_id=OTHER))])
            await until(lambda: world.task("a").status.state == S.RUNNING)
            assert world.node().status.addr == "127.0.0.1"
            assert world.node().description.tls_info.cert_issuer_subject
            assert world.heard[0].role == "worker"

        async def second(agent: Agent) -> None:
            await until(agent.is_at_rest)
            assert world.node().status.state == NodeState.READY
            assert world.runtime.running() == ["a"]
            world.runtime.kill(TaskID("a"))
            await until(lambda: world.task("a").status.state == S.FAILED)

        await one_life(world, first)  # ends as a crash does
        await until(lambda: world.node().status.state == NodeState.DISCONNECTED, limit_s=1)
        await one_life(world, second)

    play(tmp_path, story)


def test_worker_over_tls_is_read_asked_to_renew_and_cut_off_when_removed(tmp_path: Path):
    async def story(world: World):
        agent = world.agent()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(agent.run())
            await world.store.commit([Create(obj=task_row("a", node_id=OTHER))])
            await until(lambda: world.task("a").status.state == S.RUNNING)
            world.runtime.write(TaskID("a"), b"hello")
            reading = reading_of(world.manager, world.env, [world.task("a")], LogOptions())
            assert [line.data async for line in reading] == [b"hello"]
            row = world.node()
            asked = replace(row, certificate=NodeCertificate(state=IssuanceState.ROTATE))
            await world.store.commit([Update(obj=asked, seen=row.version)])
            await until(lambda: world.heard[-1].certificate_state == IssuanceState.ROTATE)
            world.own.replace(world.ca.credentials(OTHER), world.own.identity)
            await until(lambda: not agent.is_registered())
            await until(agent.is_registered)
            await world.store.commit([Remove(table=Task, id="a"), Remove(table=Node, id=OTHER)])
            assert await until(lambda: not agent.is_registered()) < 0.5
            await until(lambda: "removed" in agent.refusal)
            running.cancel()

    play(tmp_path, story)


def test_log_stream_nobody_asked_for_is_refused_over_tls(tmp_path: Path):
    async def story(world: World):
        with pytest.raises(NotFoundError):
            await world.link.open_log_stream(world.addr, "made-up", world.own.credentials)

    play(tmp_path, story)


def test_node_that_stops_reading_is_cut_off_when_the_kernel_gives_up(tmp_path: Path):
    async def story(world: World):
        big = [replace(task_row(f"t{n:03}", node_id=OTHER)) for n in range(200)]
        spec = world.store.view().specs.get(f"{big[0].service_id}@1")
        assert spec is not None
        env = [f"BIG={'x' * 200_000}"]
        template = spec.spec.task_template
        container = replace(template.container_spec, env=env)
        service = replace(spec.spec, task_template=replace(template, container_spec=container))
        await world.store.commit([Create(obj=replace(spec, id="web@2", number=2, spec=service))])
        await world.store.commit([Create(obj=replace(task, spec_version=2)) for task in big])
        channel = await world.link.open_session(world.addr, world.own.credentials)
        await channel.send(Hello(protocol=1, node_id=OTHER, description=DESCRIPTION))
        assert isinstance(await channel.receive(), Welcome)
        await until(lambda: world.node().status.state == NodeState.READY)
        transport = channel._ws._writer.transport
        transport.pause_reading()
        await until(lambda: world.node().status.state == NodeState.DISCONNECTED, limit_s=25)
        sessions = world.manager.dispatcher.gauges()["swarmlet_dispatcher_sessions"]
        assert sessions == 0
        transport.abort()

    play(tmp_path, story)


def test_identity_of_a_session_is_its_certificates(tmp_path: Path):
    async def story(world: World):
        channel = await world.link.open_session(world.addr, world.own.credentials)
        await channel.send(Hello(protocol=1, node_id=NodeID(NODE), description=DESCRIPTION))
        welcome = await channel.receive()
        assert isinstance(welcome, Welcome)
        assert "its certificate says node-2" in welcome.refusal
        with pytest.raises(ChannelClosedError):
            await channel.receive()

    play(tmp_path, story)
