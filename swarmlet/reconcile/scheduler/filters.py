"""What a task needs of a node, and the words for the nodes that do not have it.

Tasks with equal needs pass the same filters and share one sorted pool of nodes. Filters and words
are SwarmKit's (manager/scheduler/filter.go), with two filters more: a node must have a runtime for
the task's image, and that must hold the task to the limits it was given. What only the node's own
row decides is asked first and remembered (`failing`); what changes with every placement is asked
each time (`NodeState.lacks`).
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from swarmlet.core.limits import PORT_MAX
from swarmlet.model.node import LIMITS_LABEL_PREFIX, RUNTIME_LABEL, Node, NodeState
from swarmlet.model.reference import HOST_IMAGES
from swarmlet.model.resource_limits import limits_of
from swarmlet.model.service import GenericResource, Placement, Resources, ServiceSpec
from swarmlet.reconcile.allocator.needs import is_ingress, ports_of
from swarmlet.reconcile.scheduler.plugins import Plugin, missing_plugins, plugins_of
from swarmlet.reconcile.slots import satisfies

_ARCHITECTURES: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "arm64"}


class Filter(IntEnum):
    """The filters in the order in which they are asked; a node counts for the first it fails."""

    READY = 0
    RUNTIME = 1
    LIMIT = 2
    PLUGIN = 3
    CONSTRAINT = 4
    PLATFORM = 5
    RESOURCE = 6
    HOST_PORT = 7
    AFFINITY = 8
    MAX_REPLICAS = 9


class Fixed(NamedTuple):
    """Needs that a node's own row answers. `runtimes`: any of them will do; empty: no matter.
    `limits`: what the task is limited in, of cpu, memory, pids, swap."""

    runtimes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    platforms: tuple[tuple[str, str], ...] = ()  # (os, architecture), "" for any
    plugins: tuple[Plugin, ...] = ()


class Needs(NamedTuple):
    """All that decides whether a node has room. Compares and hashes by value."""

    cpu_nano: int = 0
    memory_b: int = 0
    generic: tuple[tuple[str, int], ...] = ()  # (kind, count)
    ports: tuple[tuple[str, int], ...] = ()  # (protocol, port) in host mode
    fixed: Fixed = Fixed()


def needs_of(spec: ServiceSpec, networks: Sequence[str] = ()) -> Needs:
    """What a task made from `spec` needs: of room what it reserves, never its limits. `networks`:
    the drivers of those it joins."""
    template = spec.task_template
    resources = template.resources
    reserved = (resources and resources.reservations) or Resources()
    return Needs(
        cpu_nano=reserved.nano_cpus,
        memory_b=reserved.memory_bytes,
        generic=tuple(sorted(counts_of(reserved.generic_resources).items())),
        ports=_host_ports(spec),
        fixed=Fixed(
            runtimes=_runtimes(spec),
            limits=limits_of(resources),
            constraints=tuple(sorted((template.placement or Placement()).constraints)),
            platforms=tuple(
                sorted(
                    (platform.os.lower(), _architecture(platform.architecture))
                    for platform in (template.placement or Placement()).platforms
                )
            ),
            plugins=plugins_of(spec, networks),
        ),
    )


def counts_of(resources: list[GenericResource]) -> dict[str, int]:
    """How many of each kind: numbers as given, and each named one counts 1."""
    counts: dict[str, int] = {}
    for resource in resources:
        if (discrete := resource.discrete_resource_spec) is not None:
            counts[discrete.kind] = counts.get(discrete.kind, 0) + discrete.value
        if (named := resource.named_resource_spec) is not None:
            counts[named.kind] = counts.get(named.kind, 0) + 1
    return counts


def _host_ports(spec: ServiceSpec) -> tuple[tuple[str, int], ...]:
    ports = {
        (port.protocol or "tcp", port.published_port)
        for port in ports_of(spec)
        if not is_ingress(port) and 0 < port.published_port <= PORT_MAX
    }
    return tuple(sorted(ports))


def _runtimes(spec: ServiceSpec) -> tuple[str, ...]:
    container = spec.task_template.container_spec
    if container is None:
        return ()
    return ("process",) if container.image in HOST_IMAGES else ("docker", "oci")


def _architecture(name: str) -> str:
    return _ARCHITECTURES.get(name.lower(), name.lower())


def failing(node: Node, fixed: Fixed) -> Filter | None:
    """The first filter that the node's own row fails; None: it passes them all."""
    if node.status.state != NodeState.READY or not is_active(node):
        return Filter.READY
    if not has_runtime(node, fixed):
        return Filter.RUNTIME
    if missing_limits(node, fixed):
        return Filter.LIMIT
    if fixed.plugins and missing_plugins(node, fixed.plugins):
        return Filter.PLUGIN
    if not satisfies(node, fixed.constraints):
        return Filter.CONSTRAINT
    return None if runs_on(node, fixed) else Filter.PLATFORM


def is_active(node: Node) -> bool:
    """Whether its users want the node to take tasks."""
    return node.spec.availability in ("", "active")


def has_runtime(node: Node, fixed: Fixed) -> bool:
    """Whether the node has one of the runtimes."""
    return not fixed.runtimes or bool(set(fixed.runtimes) & set(runtimes_of(node)))


def missing_limits(node: Node, fixed: Fixed) -> tuple[str, ...]:
    """The limits that the node's runtimes cannot hold a task to; of several the one that can most
    is asked. A runtime that does not say is taken to hold all."""
    if not fixed.limits:
        return ()
    labels, missing = node.description.engine.labels, fixed.limits
    for runtime in runtimes_of(node):
        if not fixed.runtimes or runtime in fixed.runtimes:
            held = labels.get(LIMITS_LABEL_PREFIX + runtime, ",".join(fixed.limits)).split(",")
            missing = min(missing, tuple(set(fixed.limits) - set(held)), key=len)
    return tuple(name for name in fixed.limits if name in missing)


def runtimes_of(node: Node) -> list[str]:
    """The runtime adapters a node says it has."""
    return node.description.engine.labels.get(RUNTIME_LABEL, "").split(",")


def runs_on(node: Node, fixed: Fixed) -> bool:
    """Whether the node is of one of the platforms."""
    if not fixed.platforms:
        return True
    os, architecture = (
        node.description.platform.os.lower(),
        _architecture(node.description.platform.architecture),
    )
    return any(
        wanted_os in ("", os) and wanted in ("", architecture) and bool(os or architecture)
        for wanted_os, wanted in fixed.platforms
    )


def explain(counts: Mapping[Filter, int], needs: Needs) -> str:
    """Why no node will do, for the task's status: the filter that most nodes fail comes first."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    sentence = "; ".join(_words(failed, n, needs) for failed, n in order if n)
    return f"no suitable node ({sentence})" if sentence else "no suitable node"


_WORDS: Final[Mapping[Filter, str]] = {
    Filter.PLUGIN: "missing plugin",
    Filter.CONSTRAINT: "scheduling constraints not satisfied",
    Filter.PLATFORM: "unsupported platform",
    Filter.RESOURCE: "insufficient resources",
    Filter.HOST_PORT: "host-mode port already in use",
    Filter.AFFINITY: "services asked for are not there, or unwanted ones are,",
    Filter.MAX_REPLICAS: "max replicas per node limit exceed",
}


def _words(failed: Filter, count: int, needs: Needs) -> str:
    nodes = f"{count} node" if count == 1 else f"{count} nodes"
    if failed is Filter.READY:
        return f"{nodes} not available for new tasks"
    if failed is Filter.RUNTIME:
        return f"no {' or '.join(needs.fixed.runtimes)} runtime, which the image needs, on {nodes}"
    if failed is Filter.LIMIT:
        return f"no runtime that can limit {' and '.join(needs.fixed.limits)} on {nodes}"
    return f"{_WORDS[failed]} on {nodes}"
