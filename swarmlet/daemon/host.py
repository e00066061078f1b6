"""Where a daemon lives: what production and the simulation have each in their own way."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import msgspec
from aiohttp import web

from swarmlet.api.engine import EngineFacts
from swarmlet.ca.external import Exchange
from swarmlet.ca.key_file import KekHolder
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.daemon.addresses import Addresses
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.late_parts import load_parts
from swarmlet.env.base import Env
from swarmlet.model.address import Address
from swarmlet.model.service import GenericResource
from swarmlet.runtime.base import Runtime
from swarmlet.wire.channel import NodeLink
from swarmlet.wire.port import Gatekeeper, PortService

if TYPE_CHECKING:
    from swarmlet.raft.engine import RaftLimits

ApiCall = Callable[[web.Request, str], Awaitable[web.StreamResponse]]
"""Answers a request that another manager passed on, given its raw path in the API."""


class PortPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A node port to be opened: where, who this is, and what stands behind it."""

    listen: Address
    own: OwnIdentity
    gatekeeper: Gatekeeper
    service: PortService
    api: ApiCall


class Port(Protocol):
    """A node port, once it was planned."""

    opened: asyncio.Event

    async def run(self) -> None:
        """Listen until cancelled, then close in order. Raises FailedPreconditionError where the
        address cannot be listened on."""
        ...

    def close_node(self, node_id: NodeID) -> None:
        """End all live connections of this node at once."""
        ...

    def gauges(self) -> dict[str, float]: ...


class NodeNetwork(Protocol):
    """How this node reaches others, and is reached."""

    @property
    def link(self) -> NodeLink: ...

    @property
    def exchange(self) -> Exchange:
        """Calls external CAs."""
        ...

    def plan_port(self, plan: PortPlan) -> Port: ...

    def announce(
        self, at: Address, cluster_id: ClusterID, node_id: NodeID
    ) -> AbstractAsyncContextManager[None]:
        """Tell the local network of this manager, meanwhile. Raises UnavailableError."""
        ...

    async def find(self) -> list[str]:
        """Addresses (host:port) of managers that announce themselves; whose they are is not
        verified. Raises UnavailableError."""
        ...

    async def pass_on(
        self, addr: str, request: web.Request, own: OwnIdentity
    ) -> web.StreamResponse:
        """The API of the manager at `addr` answers; bodies stream. Raises NotLeaderError where it
        does not lead, UnavailableError, UnauthorizedError."""
        ...

    async def close(self) -> None:
        """Nothing is kept open any more."""
        ...


async def keep_runtime(present: Runtime) -> Runtime:
    """There is no other."""
    return present


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Where a daemon lives: production's and the simulation's differ in these alone. `runtime` is
    the one at start; `facts` says of it what was known then."""

    env: Env
    data: DataDir
    runtime: Runtime
    facts: EngineFacts
    addresses: Addresses
    network: NodeNetwork
    settle: Callable[[], None]  # called when much was loaded or dropped: the collector's turn
    raft_limits: "RaftLimits | None" = None
    listen_addr: str = ""  # of a node that is in a swarm already: other than it was
    advertise_addr: str = ""  # the same
    generic_resources: tuple[GenericResource, ...] = ()  # for tasks, beside the runtime's
    choose: Callable[[Runtime], Awaitable[Runtime]] = keep_runtime  # at init, given the present one
    load_parts: Callable[[], None] = load_parts  # before this node is a manager
    kek: KekHolder = msgspec.field(default_factory=KekHolder)  # this process has the unlock key in

    def node_files(self) -> NodeFiles:
        """The node's certificate and keys; all that read them know of the same unlock key."""
        return NodeFiles(self.env.disk, self.data.certificates, self.kek)
