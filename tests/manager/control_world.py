"""A founded swarm of one manager in memory, and specs for it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.root import Root
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.manager.bootstrap import Founding, first_changes
from swarmlet.manager.control import Control
from swarmlet.manager.log_broker import LogBroker
from swarmlet.model.change import Change, Create
from swarmlet.model.cluster import SwarmSpec
from swarmlet.model.container import ContainerSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.node import Node, NodeDescription, NodeSpec, NodeStatus
from swarmlet.model.service import ReplicatedMode, ServiceMode, ServiceSpec, TaskSpec
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View
from swarmlet.store.store import Store
from swarmlet.wire.messages import LogLine, ReadLogs
from tests.store.memory_log import ME, MemoryLog
from tests.store.worlds import new_store, seeded_env

SELF = NodeID(ME.node_id)
FAKE_ROOT = Root(cert_pem=b"cert", key_pem=b"key")


class EchoedLogs(LogBroker):
    """Each task has written one line: its id."""

    def __init__(self) -> None:
        pass

    async def batches(self, wanted: ReadLogs) -> AsyncGenerator[Sequence[LogLine], None]:
        for task_id in wanted.task_ids:
            yield (LogLine(task_id, wanted.options.since_ns, 1, task_id.encode()),)


@dataclass
class Swarm:
    store: Store
    log: MemoryLog
    control: Control

    @property
    def view(self) -> View:
        return self.store.view()

    async def put(self, *changes: Change) -> None:
        await self.store.commit(changes)


async def new_swarm(
    seed: int = 1, root: Root = FAKE_ROOT, external: ExternalSigner | None = None
) -> Swarm:
    store, log = new_store(seed)
    env = seeded_env(seed)
    founding = Founding(
        cluster_id=ClusterID("cluster"),
        node_id=SELF,
        member=ME,
        spec=complete_swarm(SwarmSpec()),
        root=root,
        certificate=b"leaf",
    )
    await store.commit(first_changes(founding, env.entropy))
    control = Control(store, log, EchoedLogs(), env, SELF, external=external)
    return Swarm(store, log, control)


def worker(row_id: str, hostname: str = "", state: int = 2) -> Create:
    return Create(
        obj=Node(
            id=NodeID(row_id),
            spec=NodeSpec(role="worker", availability="active"),
            description=NodeDescription(hostname=hostname or row_id),
            status=NodeStatus(state=state),
        )
    )


def web(name: str = "web", replicas: int = 1, **container: object) -> ServiceSpec:
    return ServiceSpec(
        name=name,
        task_template=TaskSpec(container_spec=ContainerSpec(image="host", **container)),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
    )


def task_of(service_id: str, row_id: str, **fields: object) -> Create:
    state = fields.pop("state", TaskState.RUNNING)
    status = TaskStatus(state=int(state))
    return Create(obj=Task(id=row_id, service_id=service_id, status=status, **fields))
