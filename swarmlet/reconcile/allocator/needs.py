"""What a task needs of the allocator before it can be placed."""

from collections.abc import Iterator
from typing import Final

from swarmlet.model.network import Network
from swarmlet.model.service import (
    NetworkAttachmentConfig,
    PortConfig,
    ServiceSpec,
    SpecVersion,
    spec_version_id,
)
from swarmlet.model.task import Task
from swarmlet.model.view import View

NODE_LOCAL_DRIVERS: Final = ("host", "bridge", "null", "none", "macvlan", "ipvlan")
"""Networks of these drivers exist on each node by itself: no address comes from the swarm."""


def is_ingress(port: PortConfig) -> bool:
    """Whether a port is published through the routing mesh, as where nothing else is said."""
    return port.publish_mode in ("", "ingress")


def ports_of(spec: ServiceSpec) -> list[PortConfig]:
    """The ports a spec publishes."""
    return spec.endpoint_spec.ports if spec.endpoint_spec is not None else []


def networks_of(spec: ServiceSpec) -> list[NetworkAttachmentConfig]:
    """The networks a task of this spec joins; the template's go before the service's own."""
    return spec.task_template.networks or spec.networks


def spec_version_of(view: View, task: Task) -> SpecVersion | None:
    """The spec a task was made from; None once its service is gone and the record with it."""
    return view.specs.get(spec_version_id(task.service_id, task.spec_version))


def missing(view: View, spec: ServiceSpec, task: Task) -> str:
    """Why the task cannot be placed yet, in words for its status; "" where nothing is missing."""
    return "; ".join(_missing(view, spec, task))


def _missing(view: View, spec: ServiceSpec, task: Task) -> Iterator[str]:
    for wanted in networks_of(spec):
        network = find_network(view, wanted.target)
        if network is None:
            if wanted.target not in NODE_LOCAL_DRIVERS:
                yield f"network {wanted.target} does not exist"
        elif network.spec.driver not in NODE_LOCAL_DRIVERS and not _has_address(task, network.id):
            yield f"no address on network {network.spec.name} has been allocated"
    if any(is_ingress(port) for port in ports_of(spec)) and not task.networks:
        yield "no address on the ingress network has been allocated"


def find_network(view: View, target: str) -> Network | None:
    """A network by id, else by name."""
    return view.networks.get(target) or next(view.networks.scan("name", target.lower()), None)


def _has_address(task: Task, network_id: str) -> bool:
    return any(attachment.network_id == network_id for attachment in task.networks)
