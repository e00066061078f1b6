"""Nodes: what users want of one (spec), what it says of itself, what is observed."""

from enum import IntEnum

from swarmlet.core.ids import NodeID
from swarmlet.model.base import ApiStruct, Record, always
from swarmlet.model.service import Platform, Resources


class NodeSpec(ApiStruct, frozen=True, kw_only=True):
    """`role` is worker or manager; `availability` active, pause or drain."""

    name: str = ""
    labels: dict[str, str] = always({})
    role: str = ""
    availability: str = ""


class Plugin(ApiStruct, frozen=True, kw_only=True):
    type: str = ""
    name: str = ""


class EngineDescription(ApiStruct, frozen=True, kw_only=True):
    engine_version: str = ""
    labels: dict[str, str] = {}
    plugins: list[Plugin] = []


class TLSInfo(ApiStruct, frozen=True, kw_only=True):
    """Trust root as PEM; issuer's subject and public key as DER (base64 in JSON)."""

    trust_root: str = ""
    cert_issuer_subject: bytes = b""
    cert_issuer_public_key: bytes = b""


class NodeDescription(ApiStruct, frozen=True, kw_only=True):
    """What a node says of itself. `runtimes` are the runtime adapters it has, also told as engine
    label `swarmlet.runtime=NAME`."""

    hostname: str = ""
    platform: Platform = always(Platform())
    resources: Resources = always(Resources())
    engine: EngineDescription = always(EngineDescription())
    tls_info: TLSInfo = always(TLSInfo())


class NodeState(IntEnum):
    """Numbers are SwarmKit's."""

    UNKNOWN = 0
    DOWN = 1
    READY = 2
    DISCONNECTED = 3


NODE_STATE_NAMES = {int(state): state.name.lower() for state in NodeState}
"""The API's word for each state."""

RUNTIME_LABEL = "swarmlet.runtime"
"""Engine label: the runtimes a node has, comma separated."""

LIMITS_LABEL_PREFIX = "swarmlet.limits."
"""Engine label, with a runtime's name behind: which limits it holds tasks to, comma separated, of
cpu, memory, pids, swap. A runtime that has none is not known yet: it is taken to hold all."""


class NodeStatus(Record, frozen=True, kw_only=True):
    """Written by the dispatcher alone, all times by the leader's wall clock (0: none).

    `since_ms`: when `state` began; `heard_ms`: when the node was last heard of, as of its loss.
    `down_at_ms`: when a node that is not ready counts as down unless it is back before;
    `held_until_ms`: until when its replacement is held because many were lost at once. `lost_ms`:
    its losses without a goodbye in the last ten minutes, oldest first: flapping is judged by them.
    """

    state: int = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""
    since_ms: int = 0
    heard_ms: int = 0
    down_at_ms: int = 0
    held_until_ms: int = 0
    lost_ms: tuple[int, ...] = ()


class IssuanceState(IntEnum):
    """How far a node's certificate is; numbers are SwarmKit's. RENEW and PENDING wait for a
    signature; ROTATE asks the node to renew, and is ISSUED in all else."""

    UNKNOWN = 0
    RENEW = 1
    PENDING = 2
    ISSUED = 3
    FAILED = 4
    ROTATE = 5


class NodeCertificate(Record, frozen=True, kw_only=True):
    """Written by the CA alone. `state` is IssuanceState; `certificate` is PEM, leaf first."""

    state: int = 0
    csr: bytes = b""
    certificate: bytes = b""
    role: str = ""
    err: str = ""


class ManagerStatus(Record, frozen=True, kw_only=True):
    """A manager's place in Raft; None in a worker's row. Reachability is derived when shown."""

    raft_id: int = 0
    addr: str = ""


class DrainPlan(Record, frozen=True, kw_only=True):
    """A drain that lets replacements run first. `deadline_ms` (wall): from then on what is left is
    stopped as an availability of drain alone would do at once; 0: never."""

    began_ms: int = 0
    deadline_ms: int = 0


class Node(Record, frozen=True, kw_only=True):
    """A node's row. Spec: the API. `role` (observed): the role manager. Description and status: the
    dispatcher. Certificate: the CA. `drain`: the API, only while the availability is drain.
    `settled_ms`: the rebalancer, when all that would be moved here had been; 0: it joined or came
    back since, or nothing is rebalanced."""

    id: NodeID
    spec: NodeSpec
    role: str = "worker"
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    certificate: NodeCertificate = NodeCertificate()
    manager: ManagerStatus | None = None
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    drain: DrainPlan | None = None
    settled_ms: int = 0
