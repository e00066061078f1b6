"""The API's verbs: validation, name resolution and transactions (interface; being written)."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from swarmlet.core.ids import ConfigID, NetworkID, NodeID, SecretID, ServiceID
from swarmlet.env.base import Env
from swarmlet.manager.log_broker import LogBroker
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.node import Node, NodeSpec
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task
from swarmlet.model.view import View
from swarmlet.store.proposer import Leadership, Member, RaftLog
from swarmlet.store.store import Store
from swarmlet.wire.messages import LogLine, LogOptions


class ServiceCreated(msgspec.Struct, frozen=True, kw_only=True):
    id: ServiceID
    warnings: tuple[str, ...] = ()


class Control:
    """Every verb of the API on the cluster's objects. One a manager; writes go through the leader."""

    def __init__(self, store: Store, log: RaftLog, logs: LogBroker, env: Env, node_id: NodeID) -> None:
        raise NotImplementedError

    # Reading -------------------------------------------------------------------------------------
    async def read(self) -> View:
        """A linearizable live view: consistent until the next await of the caller."""
        raise NotImplementedError

    def leadership(self) -> Leadership: ...

    def members(self) -> tuple[Member, ...]: ...

    # Finding: full id, then exact name, then unique id prefix; NotFoundError, or InvalidArgumentError
    # "service foo is ambiguous (2 matches found)".
    def find_node(self, view: View, ref: str) -> Node: ...
    def find_service(self, view: View, ref: str) -> Service: ...
    def find_task(self, view: View, ref: str) -> Task: ...
    def find_secret(self, view: View, ref: str) -> Secret: ...
    def find_config(self, view: View, ref: str) -> Config: ...
    def find_network(self, view: View, ref: str) -> Network: ...

    # Writing -------------------------------------------------------------------------------------
    async def update_cluster(
        self, version: int, spec: SwarmSpec, *, rotate_worker_token: bool, rotate_manager_token: bool,
        rotate_unlock_key: bool,
    ) -> None: ...
    async def update_node(self, ref: str, version: int, spec: NodeSpec) -> None: ...
    async def remove_node(self, ref: str, *, force: bool) -> None: ...
    async def create_service(self, spec: ServiceSpec) -> ServiceCreated: ...
    async def update_service(
        self, ref: str, version: int, spec: ServiceSpec, *, rollback: str = ""
    ) -> tuple[str, ...]:
        """Warnings. `rollback` as in the API: "", "none" or "previous"."""
        ...
    async def remove_service(self, ref: str) -> None: ...
    async def create_secret(self, spec: SecretSpec) -> SecretID: ...
    async def update_secret(self, ref: str, version: int, spec: SecretSpec) -> None: ...
    async def remove_secret(self, ref: str) -> None: ...
    async def create_config(self, spec: ConfigSpec) -> ConfigID: ...
    async def update_config(self, ref: str, version: int, spec: ConfigSpec) -> None: ...
    async def remove_config(self, ref: str) -> None: ...
    async def create_network(self, spec: NetworkSpec) -> NetworkID: ...
    async def remove_network(self, ref: str) -> None: ...

    def read_logs(self, tasks: Sequence[Task], options: LogOptions) -> AsyncIterator[LogLine]:
        """Lines of these tasks' logs as they come; with `follow` until the caller stops reading."""
        raise NotImplementedError
