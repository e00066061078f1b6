"""An engine for the API's tests: the real verbs on the real store, a log in memory, logs from a
list. Nothing else of a daemon is needed to answer requests."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import cast

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from swarmlet.api.app import build_app
from swarmlet.api.engine import EngineFacts, Forwarder, InitRequest, JoinRequest, SwarmState
from swarmlet.ca.root import new_root
from swarmlet.ca.unlock_key import wrong_key
from swarmlet.core.errors import (
    UnsupportedError,
    already_in_swarm,
    leaving_erases_swarm,
    not_in_swarm,
    not_manager_worker,
)
from swarmlet.core.errors import not_part_of_swarm as nothing_to_leave
from swarmlet.core.ids import ClusterID, NodeID, ServiceID, TaskID, new_id
from swarmlet.env.base import Disk, Env
from swarmlet.manager.bootstrap import Founding, first_changes
from swarmlet.manager.control import Control
from swarmlet.manager.event_feed import EventFeed
from swarmlet.manager.log_broker import LogBroker
from swarmlet.model.change import Change, Create, SetStatus, Update
from swarmlet.model.defaults import complete_swarm, normal_service
from swarmlet.model.node import NodeDescription, NodeState, NodeStatus
from swarmlet.model.service import (
    Platform,
    Resources,
    Service,
    ServiceSpec,
    SpecVersion,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.runtime.base import RuntimeDescription
from swarmlet.store.store import Store
from swarmlet.wire.messages import LogLine, LogOptions, ReadLogs
from tests.api.group import GroupLog
from tests.store.memory_log import ME

NOW_MS = 1_767_323_045_678
NODE_ID = NodeID(ME.node_id)


class Clock:
    def mono_s(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return NOW_MS


def seeded_env(seed: int = 1) -> Env:
    rng = random.Random(seed)

    async def blocking(work):
        return work()

    return Env(
        clock=Clock(), rng=rng, entropy=rng.randbytes, disk=cast(Disk, None), blocking=blocking
    )


class ListedLogs(LogBroker):
    """Yields `lines`, then (with follow) waits until it is closed; remembers what it was asked."""

    def __init__(self) -> None:
        self.lines: list[LogLine | Exception] = []
        self.asked: list[tuple[list[str], list[str], LogOptions]] = []
        self.is_reading = False

    async def batches(self, wanted: ReadLogs) -> AsyncGenerator[Sequence[LogLine], None]:
        self.asked.append((list(wanted.task_ids), list(wanted.services), wanted.options))
        self.is_reading = True
        try:
            for line in self.lines:
                if isinstance(line, Exception):
                    raise line
                yield (line,)
            if wanted.options.follow:
                await asyncio.Event().wait()
        finally:
            self.is_reading = False


FACTS = EngineFacts(
    engine_id="engine-1",
    hostname="box",
    data_dir="/data",
    kernel_version="6.1",
    operating_system="Linux",
    started_ms=NOW_MS,
    runtime=RuntimeDescription(
        name="process",
        engine_version="1",
        resources=Resources(nano_cpus=2_000_000_000, memory_bytes=1 << 30),
        architecture="x86_64",
        os="linux",
        plugins=(("Network", "host"),),
    ),
    runtimes=("process",),
    memory_b=1 << 30,
    cpus=2,
)


class World:
    """Implements Engine."""

    def __init__(self) -> None:
        self.env = seeded_env()
        self.logs = ListedLogs()
        self.facts = FACTS
        self.events = EventFeed(self.env.clock)
        self.state = SwarmState(state="inactive")
        self.is_stopped = self.is_host_stopping = False
        self.unlock_key = b""
        self.registry: bytes | None = None  # what it answers; None: there is none
        self.asked_registries: list[tuple[str, str]] = []
        self.problem: Exception | None = None  # what `control` raises instead of answering
        self.inits: list[InitRequest] = []
        self.joins: list[JoinRequest] = []
        self.leader: Forwarder | None = None  # the manager that leads, where another does
        self.store: Store | None = None
        self.log: GroupLog | None = None
        self._control: Control | None = None

    # Engine ---------------------------------------------------------------------------------------
    def swarm_state(self) -> SwarmState:
        return self.state

    async def distribution(self, name: str, auth: str) -> bytes:
        self.asked_registries.append((name, auth))
        if self.registry is None:
            raise UnsupportedError("The process runtime of this node has no images.")
        return self.registry

    def control(self) -> Control:
        if self.problem is not None:
            raise self.problem
        if self._control is None:
            raise not_in_swarm()
        return self._control

    async def init_swarm(self, request: InitRequest) -> NodeID:
        if self._control is not None:
            raise already_in_swarm()
        self.inits.append(request)
        self.store = Store(self.env)
        self.log = GroupLog(self.store)
        self.events.follow(self.store)
        self.store.attach(self.log)
        control = Control(self.store, self.log, self.logs, self.env, NODE_ID)
        founding = Founding(
            cluster_id=ClusterID(new_id(self.env.entropy)),
            node_id=NODE_ID,
            member=ME,
            spec=complete_swarm(request.spec),
            root=new_root(NOW_MS, self.env.entropy),
            certificate=b"",
            addr_pool=request.default_addr_pool,
            subnet_size=request.subnet_size,
        )
        await self.store.commit(first_changes(founding, self.env.entropy))
        await self._describe_node()
        self._control = control
        self.state = SwarmState(state="active", node_id=NODE_ID, node_addr="127.0.0.1")
        return NODE_ID

    async def join_swarm(self, request: JoinRequest) -> None:
        self.joins.append(request)
        self.state = SwarmState(state="active", node_id=NODE_ID, node_addr="127.0.0.1")
        self.problem = not_manager_worker()

    def forwarder(self) -> Forwarder | None:
        return self.leader

    async def unlock_swarm(self, unlock_key: bytes) -> None:
        if unlock_key != self.unlock_key:
            raise wrong_key()
        self.state, self.problem = SwarmState(state="active"), None

    async def leave_swarm(self, *, force: bool) -> None:
        if self._control is None:
            raise nothing_to_leave()
        if not force:
            raise leaving_erases_swarm()
        self._control = self.store = self.log = None
        self.state = SwarmState(state="inactive")

    def stop(self, *, is_host_stopping: bool = False) -> None:
        self.is_stopped, self.is_host_stopping = True, is_host_stopping

    def gauges(self) -> dict[str, float]:
        return {'tasks{state="running"}': 3.0, "loop_lag_s": 0.25, "writes_total": 7.0}

    # For tests ------------------------------------------------------------------------------------
    async def _describe_node(self) -> None:
        assert self.store is not None
        node = self.store.view().nodes.get(NODE_ID)
        assert node is not None
        description = NodeDescription(
            hostname="box",
            platform=Platform(architecture="x86_64", os="linux"),
            resources=FACTS.runtime.resources,
        )
        status = NodeStatus(state=NodeState.READY, addr="127.0.0.1")
        described = type(node)(
            **{
                **{name: getattr(node, name) for name in node.__struct_fields__},
                "description": description,
                "status": status,
            }
        )
        await self.commit(Update(obj=described, seen=node.version))

    async def commit(self, *changes: Change) -> None:
        assert self.store is not None
        await self.store.commit(changes)

    async def add_task(
        self, service_id: str, *, slot: int = 1, state: TaskState = TaskState.RUNNING, **fields
    ) -> Task:
        """A task of the service's first spec version, as the orchestrator would have made it."""
        task = Task(
            id=TaskID(new_id(self.env.entropy)),
            service_id=ServiceID(service_id),
            slot=slot,
            node_id=NODE_ID,
            status=TaskStatus(state=TaskState.NEW, at_ms=NOW_MS, message="created"),
            **fields,
        )
        await self.commit(Create(obj=task))
        status = TaskStatus(state=state, at_ms=NOW_MS, message="started", container_id="c1", pid=7)
        await self.commit(SetStatus(id=task.id, status=status))
        assert self.store is not None
        row = self.store.view().tasks.get(task.id)
        assert row is not None
        return row


def service_rows(spec: ServiceSpec, service_id: str = "s" * 25) -> tuple[Service, SpecVersion]:
    """A service and its first spec version as the verbs would have stored them."""
    row = SpecVersion(
        id=spec_version_id(service_id, 1),
        service_id=ServiceID(service_id),
        number=1,
        spec=normal_service(spec),
    )
    return Service(id=ServiceID(service_id), name=spec.name), row


def service_body(name: str = "web", **fields: object) -> dict[str, object]:
    """The smallest request that makes a service."""
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "host"}}, **fields}


class Api:
    """A client of the application, and the world behind it."""

    def __init__(self, world: World, client: TestClient) -> None:
        self.world, self.client = world, client

    async def __call__(self, method: str, path: str, body=None, **options):
        """The status and the decoded answer."""
        if body is not None:
            options["json"] = body
        options.setdefault("skip_auto_headers", ["Content-Type"] if body is None else [])
        async with self.client.request(method, path, **options) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, (await response.json() if is_json and raw else raw)

    async def service(self, name: str = "web", **fields: object) -> str:
        status, answer = await self("POST", "/services/create", service_body(name, **fields))
        assert status == 201, answer
        return answer["ID"]


async def serve(world: World) -> tuple[TestServer, TestClient]:
    app: web.Application = build_app(world)
    server = TestServer(app)
    client: TestClient = TestClient(server)
    await client.start_server()
    return server, client
