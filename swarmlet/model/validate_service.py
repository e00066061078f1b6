"""What may be asked of a service: SwarmKit's rules for a spec, checked before anything is stored.

`check_service` looks at the spec alone; what it refers to (secrets, networks, other services'
ports) is checked against the store by the control API.
"""

import math
from collections.abc import Sequence
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import CPU_NANO_MIN, MEMORY_MIN_B, PORT_MAX
from swarmlet.model.constraint import SERVICE_KEY, check_spread
from swarmlet.model.constraint import parse as parse_constraint
from swarmlet.model.expand import check_templates
from swarmlet.model.job import is_job
from swarmlet.model.on_disconnect import said_by
from swarmlet.model.own_labels import check_own_labels
from swarmlet.model.rebalance import rebalance_said_by
from swarmlet.model.schedule import check_schedule
from swarmlet.model.service import (
    EndpointSpec,
    Limit,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmlet.model.strategy import strategy_of
from swarmlet.model.validate import check_dns_name, check_driver, check_labels
from swarmlet.model.validate_container import check_container

REPLICAS_MAX: Final = 2**31  # far above any cluster, far below what a sum of 64 bits can hold
RUNTIMES: Final = ("", "container", "plugin", "attachment")
RESTART_CONDITIONS: Final = ("", "none", "on-failure", "any")
UPDATE_ACTIONS: Final = ("", "pause", "continue", "rollback")
ROLLBACK_ACTIONS: Final = ("", "pause", "continue")
UPDATE_ORDERS: Final = ("", "stop-first", "start-first")
ENDPOINT_MODES: Final = ("", "vip", "dnsrr")
PROTOCOLS: Final = ("", "tcp", "udp", "sctp")
PUBLISH_MODES: Final = ("", "ingress", "host")


def check_service(spec: ServiceSpec) -> None:
    """Raises InvalidArgumentError with the first rule that is broken."""
    check_task(spec.task_template)
    check_dns_name(spec.name)
    check_labels(spec.labels)
    check_own_labels(spec.labels)
    said_by(spec.labels)
    rebalance_said_by(spec.labels)
    strategy_of(spec.labels)
    _check_affinity(spec)
    _check_mode(spec.mode)
    _check_job(spec)
    check_schedule(spec)
    _check_update(spec.update_config, "update", UPDATE_ACTIONS)
    _check_update(spec.rollback_config, "rollback", ROLLBACK_ACTIONS)
    if spec.endpoint_spec is not None:
        _check_endpoint(spec.endpoint_spec)
    check_templates(spec)


def check_task(task: TaskSpec) -> None:
    """The template of a service's tasks."""
    if task.runtime not in RUNTIMES:
        raise InvalidArgumentError(f'unrecognized runtime: "{task.runtime}"', _one_of(RUNTIMES))
    _check_runtime(task)
    if task.container_spec is not None:
        check_container(task.container_spec)
    if task.resources is not None:
        _check_resources(task.resources)
    if task.restart_policy is not None:
        _check_restart(task.restart_policy)
    if task.placement is not None:
        _check_placement(task.placement)
    check_driver(task.log_driver, "LogDriver")
    not_negative(task.force_update, "ForceUpdate")
    _check_networks(task)


def _check_runtime(task: TaskSpec) -> None:
    """Exactly the spec that belongs to the runtime is given."""
    given = {
        "container": task.container_spec,
        "plugin": task.plugin_spec,
        "attachment": task.network_attachment_spec,
    }
    named = [runtime for runtime, spec in given.items() if spec is not None]
    if named != [task.runtime or "container"]:
        raise InvalidArgumentError(
            "mismatched Runtime and *Spec fields",
            remedy="Give TaskTemplate.ContainerSpec with an Image, and no other runtime's spec.",
        )


def _check_networks(task: TaskSpec) -> None:
    for network in task.networks:
        if not network.target:
            raise InvalidArgumentError("Networks: a network's Target must be given")


def _check_mode(mode: ServiceMode) -> None:
    given = (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)
    if sum(one is not None for one in given) > 1:
        raise InvalidArgumentError("must specify only one service mode")
    if mode.replicated is not None:
        _check_count(mode.replicated.replicas, "Replicas")
    if mode.replicated_job is not None:
        _check_count(mode.replicated_job.max_concurrent, "MaxConcurrent")
        _check_count(mode.replicated_job.total_completions, "TotalCompletions")


def _check_job(spec: ServiceSpec) -> None:
    """An update of a job is its next iteration, and the updater has nothing to do with it."""
    if spec.update_config is not None and is_job(spec.mode):
        raise InvalidArgumentError(
            "update configuration is not supported for jobs",
            remedy="Leave UpdateConfig out: every update of a job begins its next iteration.",
        )


def _check_count(count: int | None, name: str) -> None:
    not_negative(count, name)
    if count is not None and count > REPLICAS_MAX:
        raise InvalidArgumentError(f"{name} must be at most {REPLICAS_MAX}, not {count}")


def not_negative(number: int | None, name: str) -> None:
    """Raises InvalidArgumentError; None is not given and so not negative."""
    if number is not None and number < 0:
        raise InvalidArgumentError(f"{name} must not be negative, but is {number}")


def _check_update(config: UpdateConfig | None, kind: str, actions: tuple[str, ...]) -> None:
    if config is None:
        return
    if config.failure_action not in actions:
        raise InvalidArgumentError(
            f"unrecognized {kind} failure action {config.failure_action}", _one_of(actions)
        )
    if config.order not in UPDATE_ORDERS:
        raise InvalidArgumentError(
            f"unrecognized {kind} order {config.order}", _one_of(UPDATE_ORDERS)
        )
    name = f"{kind.capitalize()}Config"
    not_negative(config.parallelism, f"{name}.Parallelism")
    not_negative(config.delay, f"{name}.Delay")
    not_negative(config.monitor, f"{name}.Monitor")
    ratio = config.max_failure_ratio
    if math.isnan(ratio) or not 0 <= ratio <= 1:
        raise InvalidArgumentError(
            f"TaskSpec: {kind}-maxfailureratio cannot be less than 0 or bigger than 1"
        )


def _one_of(words: tuple[str, ...]) -> str:
    given = [word for word in words if word]
    return f"It must be {', '.join(given[:-1])} or {given[-1]}."


# Resources, restart, placement -------------------------------------------------------------------
def _check_resources(resources: ResourceRequirements) -> None:
    if resources.limits is not None:
        _check_limit(resources.limits)
    if resources.reservations is not None:
        _check_reservation(resources.reservations)
    if resources.swap_bytes is not None and resources.swap_bytes < -1:
        raise InvalidArgumentError(f"invalid swap value {resources.swap_bytes}: -1 is unlimited")
    swappiness = resources.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgumentError(
            f"invalid memory swappiness {swappiness}: it must be 0 to 100, or -1 for the default"
        )


def _check_limit(limit: Limit) -> None:
    _check_cpu_and_memory(limit.nano_cpus, limit.memory_bytes)
    not_negative(limit.pids, "Limits.Pids")


def _check_reservation(reservation: Resources) -> None:
    _check_cpu_and_memory(reservation.nano_cpus, reservation.memory_bytes)
    for resource in reservation.generic_resources:
        if resource.named_resource_spec is not None:
            raise InvalidArgumentError(
                "invalid generic resource: a task reserves a number, not a named resource",
                remedy="Give DiscreteResourceSpec with Kind and Value.",
            )
        discrete = resource.discrete_resource_spec
        if discrete is None or not discrete.kind or discrete.value < 1:
            raise InvalidArgumentError(
                "invalid generic resource: Kind and a Value of at least 1 are needed"
            )


def _check_cpu_and_memory(nano_cpus: int, memory_b: int) -> None:
    if nano_cpus and nano_cpus < CPU_NANO_MIN:
        raise InvalidArgumentError(
            f"invalid cpu value {nano_cpus / 1e9:g}: Must be at least {CPU_NANO_MIN / 1e9:g}"
        )
    if memory_b and memory_b < MEMORY_MIN_B:
        raise InvalidArgumentError(
            f"invalid memory value {memory_b}: Must be at least 4MiB",
            remedy="Write it with a unit, such as 64M.",
        )


def _check_restart(policy: RestartPolicy) -> None:
    if policy.condition not in RESTART_CONDITIONS:
        raise InvalidArgumentError(
            f'invalid RestartCondition: "{policy.condition}"', _one_of(RESTART_CONDITIONS)
        )
    not_negative(policy.delay, "RestartPolicy.Delay")
    not_negative(policy.window, "RestartPolicy.Window")
    not_negative(policy.max_attempts, "RestartPolicy.MaxAttempts")


def _check_placement(placement: Placement) -> None:
    for constraint in placement.constraints:
        parse_constraint(constraint)
    for preference in placement.preferences:
        if preference.spread is None or not preference.spread.spread_descriptor:
            raise InvalidArgumentError(
                "Placement.Preferences: Spread.SpreadDescriptor must be given",
                remedy="Name a label to spread over, such as node.labels.zone.",
            )
        check_spread(preference.spread.spread_descriptor)
    not_negative(placement.max_replicas, "Placement.MaxReplicas")


def _check_affinity(spec: ServiceSpec) -> None:
    """A service that must run beside itself never begins."""
    placement = spec.task_template.placement
    for text in placement.constraints if placement is not None else ():
        asked = parse_constraint(text)
        is_own = asked.key.lower() == SERVICE_KEY and asked.value.lower() == spec.name.lower()
        if is_own and asked.is_equal:
            raise InvalidArgumentError(
                f"constraint '{text}': a service cannot wait for itself to be there",
                remedy=f"Write service!={spec.name} for one task a node, or name another service.",
            )


# Ports -------------------------------------------------------------------------------------------
def _check_endpoint(endpoint: EndpointSpec) -> None:
    if endpoint.mode not in ENDPOINT_MODES:
        raise InvalidArgumentError(
            f'invalid endpoint mode: "{endpoint.mode}"', _one_of(ENDPOINT_MODES)
        )
    for port in endpoint.ports:
        _check_port(port)
    if endpoint.mode == "dnsrr" and any(p.publish_mode != "host" for p in endpoint.ports):
        raise InvalidArgumentError(
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            remedy="Publish with mode=host, or use endpoint mode vip.",
        )
    _check_duplicates(endpoint.ports)


def _check_port(port: PortConfig) -> None:
    if port.protocol not in PROTOCOLS:
        raise InvalidArgumentError(
            f'invalid protocol of a published port: "{port.protocol}"', _one_of(PROTOCOLS)
        )
    if port.publish_mode not in PUBLISH_MODES:
        raise InvalidArgumentError(
            f'invalid publish mode: "{port.publish_mode}"', _one_of(PUBLISH_MODES)
        )
    if not 1 <= port.target_port <= PORT_MAX:
        raise InvalidArgumentError(
            f"invalid target port {port.target_port}: it must be 1 to {PORT_MAX}"
        )
    if not 0 <= port.published_port <= PORT_MAX:
        raise InvalidArgumentError(
            f"invalid published port {port.published_port}: it must be 1 to {PORT_MAX}, "
            "or 0 for any free one"
        )


def _check_duplicates(ports: Sequence[PortConfig]) -> None:
    seen: set[tuple[str, int]] = set()
    for port in ports:
        key = (port.protocol or "tcp", port.published_port)
        if port.published_port and key in seen:
            raise InvalidArgumentError(
                "EndpointSpec: duplicate published ports provided",
                remedy=f"Port {port.published_port}/{key[0]} is listed twice.",
            )
        seen.add(key)
