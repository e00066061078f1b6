"""The plugins a task needs of its node: drivers of volumes, of networks and of logs."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from swarmlet.model.node import Node
from swarmlet.model.on_disconnect import LOCAL_DRIVERS
from swarmlet.model.service import ServiceSpec, TaskSpec
from swarmlet.model.view import View
from swarmlet.reconcile.allocator.needs import NODE_LOCAL_DRIVERS, find_network, networks_of

Plugin: TypeAlias = tuple[str, str]
"""(type, name): Volume, Network or Log, and the driver's name."""

_LATEST: Final = ":latest"  # how an engine lists a plugin of its own that has no other tag
_NO_LOG: Final = ("", "none")
_NO_NETWORK: Final = "none"  # whose driver is called null


def plugins_of(spec: ServiceSpec, networks: Sequence[str] = ()) -> tuple[Plugin, ...]:
    """What tasks of the spec need; `networks`: the drivers of the networks they join."""
    found = dict.fromkeys(
        (*_volumes(spec.task_template), *(("Network", driver) for driver in networks))
    )
    log_driver = spec.task_template.log_driver
    if log_driver is not None and log_driver.name not in _NO_LOG:
        found["Log", log_driver.name] = None
    return tuple(sorted(found))


def network_drivers(view: View, spec: ServiceSpec) -> list[str]:
    """The drivers of the networks that tasks of a spec join, as far as the networks are known."""
    found: dict[str, None] = {}
    for wanted in networks_of(spec):
        row = find_network(view, wanted.target)
        if row is not None:
            found[row.spec.driver] = None
        elif wanted.target in NODE_LOCAL_DRIVERS:
            found["null" if wanted.target == _NO_NETWORK else wanted.target] = None
    return [driver for driver in found if driver]


def _volumes(template: TaskSpec) -> Iterator[Plugin]:
    for mount in template.container_spec.mounts if template.container_spec is not None else ():
        options = mount.volume_options if mount.type == "volume" else None
        driver = options.driver_config if options is not None else None
        if driver is not None and driver.name not in LOCAL_DRIVERS:
            yield "Volume", driver.name


def missing_plugins(node: Node, wanted: Sequence[Plugin]) -> list[Plugin]:
    """Those the node has not. One that names no plugins is taken to have all, and one that names
    no log drivers to have all of those, as SwarmKit does (manager/scheduler/filter.go)."""
    has = {(plugin.type, plugin.name) for plugin in node.description.engine.plugins}
    has_logs = any(kind == "Log" for kind, _ in has)
    if not has:
        return []
    return [
        (kind, name)
        for kind, name in wanted
        if (kind, name) not in has
        and (kind, name + _LATEST) not in has
        and (kind != "Log" or has_logs)
    ]
