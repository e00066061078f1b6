"""What the API needs of the daemon it runs in: the life of this node's membership in a swarm."""

from typing import TYPE_CHECKING, Protocol

import msgspec
from aiohttp import web

from swarmlet.core.ids import NodeID
from swarmlet.model.cluster import SwarmSpec
from swarmlet.runtime.base import RuntimeDescription

if TYPE_CHECKING:
    from swarmlet.manager.control import Control
    from swarmlet.manager.event_feed import EventFeed


class InitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /swarm/init`, parsed. Addresses as given; "" for the default."""

    spec: SwarmSpec
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    availability: str = ""
    default_addr_pool: tuple[str, ...] | None = None  # None: not given
    subnet_size: int = 0
    force_new_cluster: bool = False
    announce: bool = False  # tell the local network that there is a manager here


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /swarm/join`, parsed. Addresses as given; no `remote_addrs`: look for managers on the
    local network."""

    token: str
    remote_addrs: tuple[str, ...] = ()
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    availability: str = ""
    announce: bool = False

    def __repr__(self) -> str:
        return "JoinRequest(***)"


class OwnCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """What this node's certificate says, for people. Names as RFC 4514 text; dates wall time."""

    subject: str
    issuer: str
    begins_ms: int
    ends_ms: int
    role: str


class SwarmState(msgspec.Struct, frozen=True, kw_only=True):
    """This node's membership. `state`: inactive, pending, active, locked, error. `managers`: node
    id and address (host:port) of those this node knows. `warnings`: sentences for `info`.
    `listen_addr`: where its port for other nodes is open, "" where none is."""

    state: str
    node_id: NodeID = NodeID("")
    node_addr: str = ""
    error: str = ""
    managers: tuple[tuple[NodeID, str], ...] = ()
    certificate: OwnCertificate | None = None
    warnings: tuple[str, ...] = ()
    listen_addr: str = ""


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The host and its runtime, as they are now. `runtime_problem`: why the runtime can run
    nothing, in a sentence; "" while all is well. `docker_host`: where it looks for an engine."""

    engine_id: str
    hostname: str
    data_dir: str
    kernel_version: str
    operating_system: str
    started_ms: int
    runtime: RuntimeDescription
    runtimes: tuple[str, ...]
    memory_b: int
    cpus: int
    runtime_problem: str = ""
    docker_host: str = ""


class Forwarder(Protocol):
    """The way to the manager that leads, for one that does not."""

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """The leader's answer, streamed both ways.

        Raises NotLeaderError where nothing was done: nobody is known to lead, or who was asked says
        that it does not. UnavailableError where it could not be asked, caused by what the
        connection's own library said: nothing was sent where it could not be connected to.
        """
        ...


class Engine(Protocol):
    """Implemented by the daemon."""

    @property
    def facts(self) -> EngineFacts: ...

    @property
    def events(self) -> "EventFeed":
        """What changed in the swarms this daemon was in, and what will."""
        ...

    def swarm_state(self) -> SwarmState: ...

    def control(self) -> "Control":
        """The manager's verbs. Raises NotManagerError with Docker's text for the present state."""
        ...

    def forwarder(self) -> Forwarder | None:
        """None where this manager leads, or is none. Another answers what may be read from its own
        copy of the swarm's state by `control`, and passes everything else on."""
        ...

    async def distribution(self, name: str, auth: str) -> bytes:
        """What the image's registry says of it, as `GET /distribution/{name}/json` answers.

        Raises UnsupportedError where this node's runtime has no images, and what its engine says.
        """
        ...

    async def init_swarm(self, request: InitRequest) -> NodeID:
        """Raises SwarmStateError where this node is in a swarm, InvalidArgumentError for bad
        addresses."""
        ...

    async def join_swarm(self, request: JoinRequest) -> None:
        """Become a node of another node's swarm. Raises SwarmStateError where this node is in one,
        on its way into one, or not there in time (then the attempt goes on),
        InvalidArgumentError for bad addresses, and what the swarm's managers said."""
        ...

    async def unlock_swarm(self, unlock_key: bytes) -> None:
        """Open a locked manager's data with this key, and go on where its last life ended. Raises
        WrongKeyError (then it is as locked as before), ConflictError where it is not locked."""
        ...

    async def leave_swarm(self, *, force: bool) -> None:
        """Stop tasks, manager and agent, and wipe the swarm's state. Raises SwarmStateError."""
        ...

    def stop(self, *, is_host_stopping: bool = False) -> None:
        """End the daemon in order; its tasks run on, or end with the host."""
        ...

    def gauges(self) -> dict[str, float]:
        """Numbers for /metrics by full metric name (labels included), without HELP lines."""
        ...
