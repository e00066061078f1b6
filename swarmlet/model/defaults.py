"""What a spec means where it says nothing.

`normal_service` is the form that is stored: what Docker always shows is spelled out, so that a
client which sends back what it read changes nothing. `with_defaults` additionally fills in what
Docker shows only with `insertDefaults`; it is never stored.
"""

from typing import Final, TypeVar

import msgspec

from swarmlet.core.limits import (
    ELECTION_TICK,
    HEARTBEAT_PERIOD_NS,
    HEARTBEAT_TICK,
    LOG_ENTRIES_FOR_SLOW_FOLLOWERS,
    NODE_CERT_EXPIRY_NS,
    NS_PER_S,
    RESTART_DELAY_NS,
    SNAPSHOT_ENTRIES,
    STOP_GRACE_PERIOD_NS,
    TASK_HISTORY_RETENTION,
)
from swarmlet.model.cluster import (
    CLUSTER_NAME,
    CAConfig,
    DispatcherConfig,
    OrchestrationConfig,
    RaftConfig,
    SwarmSpec,
)
from swarmlet.model.container import ContainerSpec, DNSConfig, HealthConfig
from swarmlet.model.job import is_job
from swarmlet.model.service import (
    EndpointSpec,
    Placement,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    ResourceRequirements,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

S = TypeVar("S", bound=msgspec.Struct)

MONITOR_MIN_NS: Final = 30 * NS_PER_S  # an update watches a new task at least this long
HEALTH_INTERVAL_NS: Final = 30 * NS_PER_S  # Docker's default, also of the timeout
HEALTH_RETRIES: Final = 3

_replace = msgspec.structs.replace


# The stored form of a service --------------------------------------------------------------------
def normal_service(spec: ServiceSpec) -> ServiceSpec:
    """The same service with every implied word written out. Applying it twice changes nothing."""
    endpoint = spec.endpoint_spec
    return _replace(
        spec,
        task_template=_normal_task(spec.task_template, spec),
        mode=_normal_mode(spec.mode),
        networks=[],
        update_config=_normal_update(spec.update_config),
        rollback_config=_normal_update(spec.rollback_config),
        endpoint_spec=_normal_endpoint(endpoint) if endpoint is not None else None,
    )


def _normal_task(task: TaskSpec, spec: ServiceSpec) -> TaskSpec:
    """Networks of the service itself are an older spelling of the task's (API below 1.44)."""
    container, policy = task.container_spec, task.restart_policy
    return _replace(
        task,
        container_spec=_normal_container(container) if container is not None else None,
        restart_policy=_normal_restart(policy) if policy is not None else None,
        networks=task.networks or spec.networks,
        runtime=task.runtime or "container",
    )


def _normal_container(spec: ContainerSpec) -> ContainerSpec:
    return spec if spec.isolation else _replace(spec, isolation="default")


def _normal_restart(policy: RestartPolicy) -> RestartPolicy:
    return _replace(
        policy, condition=policy.condition or "any", max_attempts=policy.max_attempts or 0
    )


def _normal_mode(mode: ServiceMode) -> ServiceMode:
    if mode.replicated_job is not None:
        return ServiceMode(replicated_job=_normal_job(mode.replicated_job))
    if mode.replicated is None:
        is_given = mode != ServiceMode()
        return mode if is_given else ServiceMode(replicated=ReplicatedMode(replicas=1))
    if mode.replicated.replicas is None:
        return ServiceMode(replicated=ReplicatedMode(replicas=1))
    return mode


def _normal_job(job: ReplicatedJobMode) -> ReplicatedJobMode:
    """One at once, and as many in all as at once, where nothing is said (Docker's engine)."""
    most = _or(job.max_concurrent, 1)
    return ReplicatedJobMode(
        max_concurrent=most, total_completions=_or(job.total_completions, most)
    )


def _normal_update(config: UpdateConfig | None) -> UpdateConfig | None:
    if config is None:
        return None
    return _replace(
        config,
        failure_action=config.failure_action or "pause",
        order=config.order or "stop-first",
    )


def _normal_endpoint(endpoint: EndpointSpec) -> EndpointSpec:
    return _replace(
        endpoint, mode=endpoint.mode or "vip", ports=[_normal_port(p) for p in endpoint.ports]
    )


def _normal_port(port: PortConfig) -> PortConfig:
    return _replace(
        port, protocol=port.protocol or "tcp", publish_mode=port.publish_mode or "ingress"
    )


# What insertDefaults shows -----------------------------------------------------------------------
def with_defaults(spec: ServiceSpec) -> ServiceSpec:
    """The service as it behaves: absent parts filled in. For showing, never for storing."""
    normal = normal_service(spec)
    job = is_job(normal.mode)
    return _replace(
        normal,
        task_template=_full_task(normal.task_template),
        update_config=None if job else _full_update(normal.update_config, normal),
        rollback_config=None if job else _full_update(normal.rollback_config, normal),
    )


def _full_task(task: TaskSpec) -> TaskSpec:
    container = task.container_spec
    return _replace(
        task,
        container_spec=_full_container(container) if container is not None else None,
        resources=_or(task.resources, ResourceRequirements()),
        restart_policy=full_restart(task.restart_policy),
        placement=_or(task.placement, Placement()),
    )


def _full_container(spec: ContainerSpec) -> ContainerSpec:
    return _replace(
        spec,
        stop_grace_period=_or(spec.stop_grace_period, STOP_GRACE_PERIOD_NS),
        dns_config=_or(spec.dns_config, DNSConfig()),
    )


def full_restart(policy: RestartPolicy | None) -> RestartPolicy:
    """The policy a task lives by; where nothing is said: any condition, 5 s, no end of attempts."""
    given = _normal_restart(policy or RestartPolicy())
    return _replace(given, delay=_or(given.delay, RESTART_DELAY_NS))


def _full_update(config: UpdateConfig | None, spec: ServiceSpec) -> UpdateConfig:
    given = config or UpdateConfig(parallelism=1, failure_action="pause", order="stop-first")
    return given if given.monitor else _replace(given, monitor=monitor_ns(spec))


def monitor_ns(spec: ServiceSpec) -> int:
    """How long an update watches each new task where its config does not say.

    Long enough for the health check to fail for good: the start period, then every retry.
    """
    container = spec.task_template.container_spec
    health = container.healthcheck if container is not None else None
    if health is None or not health.test or health.test[0] == "NONE":
        return MONITOR_MIN_NS
    return max(MONITOR_MIN_NS, _failing_ns(health))


def _failing_ns(health: HealthConfig) -> int:
    interval = health.interval or HEALTH_INTERVAL_NS
    timeout = health.timeout or HEALTH_INTERVAL_NS
    return health.start_period + (interval + timeout) * (health.retries or HEALTH_RETRIES)


_V = TypeVar("_V")


def _or(value: _V | None, default: _V) -> _V:
    return default if value is None else value


# The swarm ---------------------------------------------------------------------------------------
def complete_swarm(spec: SwarmSpec) -> SwarmSpec:
    """A swarm spec as stored: zero stands for the default, at init as in an update."""
    raft, retention = spec.raft, spec.orchestration.task_history_retention_limit
    return _replace(
        spec,
        name=spec.name or CLUSTER_NAME,
        orchestration=OrchestrationConfig(
            task_history_retention_limit=_or(retention, TASK_HISTORY_RETENTION)
        ),
        raft=RaftConfig(
            snapshot_interval=raft.snapshot_interval or SNAPSHOT_ENTRIES,
            keep_old_snapshots=raft.keep_old_snapshots or 0,
            log_entries_for_slow_followers=raft.log_entries_for_slow_followers
            or LOG_ENTRIES_FOR_SLOW_FOLLOWERS,
            election_tick=raft.election_tick or ELECTION_TICK,
            heartbeat_tick=raft.heartbeat_tick or HEARTBEAT_TICK,
        ),
        dispatcher=DispatcherConfig(
            heartbeat_period=spec.dispatcher.heartbeat_period or HEARTBEAT_PERIOD_NS
        ),
        ca_config=_complete_ca(spec.ca_config),
    )


def _complete_ca(config: CAConfig) -> CAConfig:
    return _replace(config, node_cert_expiry=config.node_cert_expiry or NODE_CERT_EXPIRY_NS)
