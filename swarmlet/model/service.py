"""Services: the spec users write, its immutable versions, and the service's row."""

import msgspec

from swarmlet.core.ids import ServiceID
from swarmlet.model.base import ApiStruct, Driver, Empty, Record, always
from swarmlet.model.container import ContainerSpec


class Limit(ApiStruct, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class NamedGenericResource(ApiStruct, frozen=True, kw_only=True):
    kind: str = ""
    value: str = ""


class DiscreteGenericResource(ApiStruct, frozen=True, kw_only=True):
    kind: str = ""
    value: int = 0


class GenericResource(ApiStruct, frozen=True, kw_only=True):
    named_resource_spec: NamedGenericResource | None = None
    discrete_resource_spec: DiscreteGenericResource | None = None


class Resources(ApiStruct, frozen=True, kw_only=True):
    """What a node has, or a task reserves. CPUs in nano, memory in bytes."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic_resources: list[GenericResource] = []


class ResourceRequirements(ApiStruct, frozen=True, kw_only=True):
    limits: Limit | None = None
    reservations: Resources | None = None
    swap_bytes: int | None = None
    memory_swappiness: int | None = None


class RestartPolicy(ApiStruct, frozen=True, kw_only=True):
    """Durations are nanoseconds; None where the user said nothing."""

    condition: str = ""
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class SpreadOver(ApiStruct, frozen=True, kw_only=True):
    spread_descriptor: str = always("")


class PlacementPreference(ApiStruct, frozen=True, kw_only=True):
    spread: SpreadOver | None = None


class Platform(ApiStruct, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


class Placement(ApiStruct, frozen=True, kw_only=True):
    constraints: list[str] = []
    preferences: list[PlacementPreference] = []
    max_replicas: int = 0
    platforms: list[Platform] = []


class NetworkAttachmentConfig(ApiStruct, frozen=True, kw_only=True):
    target: str = ""
    aliases: list[str] = []
    driver_opts: dict[str, str] = {}


class NetworkAttachmentSpec(ApiStruct, frozen=True, kw_only=True):
    container_id: str = ""


class PluginPrivilege(ApiStruct, frozen=True, kw_only=True):
    name: str = ""
    description: str = ""
    value: list[str] = []


class PluginSpec(ApiStruct, frozen=True, kw_only=True):
    name: str = ""
    remote: str = ""
    disabled: bool = False
    plugin_privilege: list[PluginPrivilege] = []
    env: list[str] = []


class TaskSpec(ApiStruct, frozen=True, kw_only=True):
    """The template every task of a service is made from."""

    container_spec: ContainerSpec | None = None
    plugin_spec: PluginSpec | None = None
    network_attachment_spec: NetworkAttachmentSpec | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: list[NetworkAttachmentConfig] = []
    log_driver: Driver | None = None
    force_update: int = always(0)
    runtime: str = ""


class ReplicatedMode(ApiStruct, frozen=True, kw_only=True):
    replicas: int | None = None


class ReplicatedJobMode(ApiStruct, frozen=True, kw_only=True):
    max_concurrent: int | None = None
    total_completions: int | None = None


class ServiceMode(ApiStruct, frozen=True, kw_only=True):
    replicated: ReplicatedMode | None = None
    global_: Empty | None = msgspec.field(name="Global", default=None)
    replicated_job: ReplicatedJobMode | None = None
    global_job: Empty | None = None


class UpdateConfig(ApiStruct, frozen=True, kw_only=True):
    """Durations are nanoseconds."""

    parallelism: int = always(0)
    delay: int = 0
    failure_action: str = ""
    monitor: int = 0
    max_failure_ratio: float = always(0)
    order: str = always("")


class PortConfig(ApiStruct, frozen=True, kw_only=True):
    """A published port; `published_port` 0 asks for one."""

    name: str = ""
    protocol: str = ""
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = ""


class EndpointSpec(ApiStruct, frozen=True, kw_only=True):
    mode: str = ""
    ports: list[PortConfig] = []


class ServiceSpec(ApiStruct, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = always({})
    task_template: TaskSpec = always(TaskSpec())
    mode: ServiceMode = always(ServiceMode())
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: list[NetworkAttachmentConfig] = []
    endpoint_spec: EndpointSpec | None = None


class SpecVersion(Record, frozen=True, kw_only=True):
    """One immutable version of a service's spec. `id` is `spec_version_id(service_id, number)`.

    Lives while the service refers to it (current, previous), any task was made from it, or it is
    one of the service's last REVISIONS_KEPT. A rollback makes a new version of an old spec:
    `repeats` is the number it had, `cause` the rollback's message.
    """

    id: str
    service_id: ServiceID
    number: int
    spec: ServiceSpec
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    registry_auth: str = ""  # X-Registry-Auth, for nodes that pull; never shown
    repeats: int = 0
    cause: str = ""


def spec_version_id(service_id: str, number: int) -> str:
    """The key of a spec version's row."""
    return f"{service_id}@{number}"


class VirtualIP(Record, frozen=True, kw_only=True):
    network_id: str
    addr: str = ""


class Endpoint(Record, frozen=True, kw_only=True):
    """Ports as allocated (never 0 for ingress) and one virtual IP a network."""

    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[VirtualIP, ...] = ()


class UpdateStatus(Record, frozen=True, kw_only=True):
    """`state`: updating, paused, completed, or rollback_ with started, paused, completed."""

    state: str
    started_ms: int = 0
    completed_ms: int = 0
    message: str = ""


class JobStatus(Record, frozen=True, kw_only=True):
    """Which iteration a job is in, and when (wall) it began. `earlier`: iterations before it that
    go on beside it, ascending. Rules in `model.job`."""

    iteration: int = 0
    last_execution_ms: int = 0
    earlier: tuple[int, ...] = ()
    is_idle: bool = False  # the job has a schedule and has never run: its iteration is none yet


class JobRun(Record, frozen=True, kw_only=True):
    """One run of a job, or runs of a schedule that did not take place. Times are wall ms.

    `trigger`: service (made or updated), manual or schedule; `outcome`: "" while it goes on, then
    complete, failed or replaced; skipped (an earlier run was going on) or missed (nobody could
    start it in time) stand for `count` fires in a row from `scheduled_ms` on, given up by
    `ended_ms`. `exit_codes`: (code, tasks that ended with it), of its tasks that ran to an end;
    `err`: why the last of them that failed did.
    """

    iteration: int = -1
    trigger: str = ""
    scheduled_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    outcome: str = ""
    count: int = 1
    completed: int = 0
    failed: int = 0
    exit_codes: tuple[tuple[int, int], ...] = ()
    err: str = ""


class JobHistory(Record, frozen=True, kw_only=True):
    """A job's runs, oldest first, and how far its schedule is decided: `schedule` is the one that
    `decided_ms` belongs to, and every fire of it up to then has been run, skipped or missed.
    `recorded`: the last iteration that has a run, -1 before any."""

    schedule: str = ""
    decided_ms: int = 0
    runs: tuple[JobRun, ...] = ()
    recorded: int = -1


class Service(Record, frozen=True, kw_only=True):
    """A service's row. The API writes all of it but `update_status` (updater) and `endpoint`
    (allocator); `job_status` is also written by whoever begins an iteration, and by the
    orchestrator of jobs where an earlier one has ended. `job_history` is written by the schedules'
    decider and by whoever begins a run by hand.

    `name` repeats the spec's name, which never changes, for the index.
    """

    id: ServiceID
    name: str
    spec_version: int = 1
    previous_spec_version: int = 0
    endpoint: Endpoint | None = None
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    job_history: JobHistory | None = None
