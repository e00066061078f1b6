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


class NodeStatus(Record, frozen=True, kw_only=True):
    """Written by the dispatcher alone."""

    state: int = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""


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


class Node(Record, frozen=True, kw_only=True):
    """A node's row. Spec: the API. `role` (observed): the role manager. Description and status: the
    dispatcher. Certificate: the CA."""

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
