"""A whole small swarm in one process, on virtual time: store, manager, agent and a fake runtime."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from swarmlet.agent.agent import Agent
from swarmlet.core.ids import ClusterID, NodeID, ServiceID, TaskID
from swarmlet.env.base import Env
from swarmlet.env.real import RealDisk
from swarmlet.manager.control.base import NoStreams
from swarmlet.manager.log_reader import LogReader
from swarmlet.manager.manager import Manager
from swarmlet.model.change import Create
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.container import ContainerSpec
from swarmlet.model.node import (
    EngineDescription,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeSpec,
)
from swarmlet.model.service import (
    EndpointSpec,
    Platform,
    PortConfig,
    ReplicatedMode,
    Resources,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
    TaskSpec,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.base import Decider
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentConnector
from swarmlet.wire.messages import LogLine, LogOptions
from tests.agent.fake_runtime import FakeRuntime, Script
from tests.agent.virtual_time import VirtualClock, run_virtual, until, virtual_env
from tests.store.memory_log import ME, MemoryLog

NODE = NodeID("node-1")
OTHER = NodeID("node-2")
WEB = ServiceID("web")

DESCRIPTION = NodeDescription(
    hostname="host1",
    platform=Platform(architecture="x86_64", os="linux"),
    resources=Resources(nano_cpus=8_000_000_000, memory_bytes=16 << 30),
    engine=EngineDescription(engine_version="1", labels={"swarmlet.runtime": "process"}),
)


def web_spec(replicas: int = 0) -> ServiceSpec:
    return ServiceSpec(
        name="web",
        labels={"tier": "front"},
        task_template=TaskSpec(container_spec=ContainerSpec(image="host", command=["true"])),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        endpoint_spec=EndpointSpec(
            ports=[PortConfig(target_port=80, protocol="tcp", publish_mode="host")]
        ),
    )


def node_row(node_id: NodeID, role: str = "worker") -> Node:
    return Node(id=node_id, spec=NodeSpec(role=role, availability="active"), role=role)


def manager_row() -> Node:
    """Of the manager itself."""
    place = ManagerStatus(raft_id=ME.raft_id, addr=ME.address)
    return replace(node_row(NODE, "manager"), manager=place)


def service_rows(replicas: int = 0) -> list[Create]:
    spec = SpecVersion(
        id=spec_version_id(WEB, 1), service_id=WEB, number=1, spec=web_spec(replicas)
    )
    return [Create(obj=spec), Create(obj=Service(id=WEB, name="web"))]


def task_row(
    name: str, state: int = TaskState.ASSIGNED, node_id: NodeID = NODE, desired: int = 512
) -> Task:
    return Task(
        id=TaskID(name),
        service_id=WEB,
        slot=1,
        node_id=node_id,
        desired=desired,
        status=TaskStatus(state=int(state)),
    )


def reading_of(
    manager: Manager,
    env: Env,
    tasks: Sequence[Task],
    options: LogOptions,
    services: Sequence[ServiceID] = (),
) -> AsyncGenerator[LogLine, None]:
    """Logs as the API of this manager, which is to lead, reads them."""
    return LogReader(manager.logs, NoStreams(), env).read(tasks, options, services)


class Swarm:
    """`agent` is there while `with_agent` runs."""

    def __init__(self, directory: Path, deciders: Iterable[Decider] = ()) -> None:
        self.env = virtual_env(RealDisk())
        self.scripts: dict[str, Script] = {}
        self.store = Store(self.env)
        self.log = MemoryLog(self.store)
        self.store.attach(self.log)
        self.manager = Manager(self.env, self.store, self.log, NODE, deciders)
        self.runtime = FakeRuntime(
            VirtualClock(), lambda task: self.scripts.get(task.id, self.scripts.get("", Script()))
        )
        self.description = DESCRIPTION
        self._directory = str(directory / "agent")

    def new_agent(self, connector: AgentConnector | None = None) -> Agent:
        return Agent(
            self.env,
            NODE,
            self.runtime,
            connector or self.manager.connector(),
            state_dir=self._directory,
            describe=lambda: self.description,
        )

    async def begin(self) -> None:
        cluster = Cluster(id=ClusterID("c"), spec=SwarmSpec())
        rows = [Create(obj=cluster), Create(obj=manager_row()), Create(obj=node_row(OTHER))]
        await self.store.commit(rows)

    async def create(self, *rows: Task) -> None:
        await self.store.commit([Create(obj=row) for row in rows])

    def task(self, name: str) -> Task:
        row = self.store.view().tasks.get(name)
        assert row is not None
        return row

    def node(self, node_id: NodeID = NODE) -> Node:
        row = self.store.view().nodes.get(node_id)
        assert row is not None
        return row

    async def reaches(self, name: str, state: int, limit_s: float = 60.0) -> None:
        await until(lambda: self.task(name).status.state == state, limit_s)


def play(swarm: Swarm, story: Callable[[Swarm], Awaitable[None]]) -> None:
    """Run `story` beside a manager that leads a swarm with one service, `web`, without replicas."""

    async def main() -> None:
        await swarm.begin()
        await swarm.store.commit(service_rows())
        async with asyncio.TaskGroup() as group:
            managing = group.create_task(swarm.manager.run())
            await asyncio.sleep(0.1)
            await story(swarm)
            managing.cancel()

    run_virtual(main())


def play_with_agent(swarm: Swarm, story: Callable[[Swarm, Agent], Awaitable[None]]) -> None:
    async def with_agent(swarm: Swarm) -> None:
        agent = swarm.new_agent()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(agent.run())
            await story(swarm, agent)
            running.cancel()

    play(swarm, with_agent)
