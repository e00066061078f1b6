"""The cluster object: one a swarm, with its spec, its CA and its keys."""

from swarmlet.core.ids import ClusterID
from swarmlet.model.base import ApiStruct, Driver, Record, always, hidden

CLUSTER_NAME = "default"
"""The only name a cluster may have (SwarmKit)."""


class OrchestrationConfig(ApiStruct, frozen=True, kw_only=True):
    task_history_retention_limit: int | None = None


class RaftConfig(ApiStruct, frozen=True, kw_only=True):
    """Ticks are 100 ms of Raft time (departures)."""

    snapshot_interval: int = 0
    keep_old_snapshots: int | None = None
    log_entries_for_slow_followers: int = 0
    election_tick: int = always(0)
    heartbeat_tick: int = always(0)


class DispatcherConfig(ApiStruct, frozen=True, kw_only=True):
    """Nanoseconds."""

    heartbeat_period: int = 0


class ExternalCA(ApiStruct, frozen=True, kw_only=True):
    protocol: str = always("")
    url: str = always("")
    options: dict[str, str] = {}
    ca_cert: str = always("")


class CAConfig(ApiStruct, frozen=True, kw_only=True):
    """`node_cert_expiry` is nanoseconds. Signing key and certificate are never shown again."""

    node_cert_expiry: int = 0
    external_cas: list[ExternalCA] = []
    signing_ca_cert: str = ""
    signing_ca_key: str = ""
    force_rotate: int = 0

    __repr__ = hidden


class EncryptionConfig(ApiStruct, frozen=True, kw_only=True):
    auto_lock_managers: bool = always(False)


class TaskDefaults(ApiStruct, frozen=True, kw_only=True):
    log_driver: Driver | None = None


class SwarmSpec(ApiStruct, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = always({})
    orchestration: OrchestrationConfig = always(OrchestrationConfig())
    raft: RaftConfig = always(RaftConfig())
    dispatcher: DispatcherConfig = always(DispatcherConfig())
    ca_config: CAConfig = always(CAConfig())
    task_defaults: TaskDefaults = always(TaskDefaults())
    encryption_config: EncryptionConfig = always(EncryptionConfig())


class JoinTokens(ApiStruct, frozen=True, kw_only=True):
    worker: str = always("")
    manager: str = always("")

    __repr__ = hidden


class RootRotation(Record, frozen=True, kw_only=True):
    """A root CA change under way."""

    cert_pem: bytes = b""
    key_pem: bytes = b""
    cross_signed_pem: bytes = b""

    __repr__ = hidden


class RootCA(Record, frozen=True, kw_only=True):
    """The swarm's trust. `key_pem` is empty where an external CA signs."""

    cert_pem: bytes = b""
    key_pem: bytes = b""
    cert_digest: str = ""
    tokens: JoinTokens = JoinTokens()
    rotation: RootRotation | None = None
    last_forced_rotation: int = 0

    __repr__ = hidden


class EncryptionKey(Record, frozen=True, kw_only=True):
    """A network key of the ring; 16 bytes."""

    subsystem: str
    key: bytes
    lamport_time: int = 0

    __repr__ = hidden


class UnlockKey(Record, frozen=True, kw_only=True):
    subsystem: str
    key: bytes

    __repr__ = hidden


class RemovedCertificate(Record, frozen=True, kw_only=True):
    """A removed node whose certificate is refused until it is long expired."""

    node_id: str
    expires_ms: int = 0


class Cluster(Record, frozen=True, kw_only=True):
    """The one row of its table. The API writes `spec`; the CA writes `root_ca`; the key manager the
    ring. `rebalance_asked_ms`: the API, when a user asks for tasks to be moved once; the rebalancer
    sets it to 0 again when that is done."""

    id: ClusterID
    spec: SwarmSpec
    root_ca: RootCA = RootCA()
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 24
    vxlan_port: int = 0
    key_ring: tuple[EncryptionKey, ...] = ()
    key_lamport: int = 0
    unlock_keys: tuple[UnlockKey, ...] = ()
    removed_certificates: tuple[RemovedCertificate, ...] = ()
    addr_pool_given: bool = False
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    rebalance_asked_ms: int = 0
