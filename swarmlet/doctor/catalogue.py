"""All probes, by group, in the order of the report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from swarmlet.doctor import (
    cgroups,
    clock,
    daemon,
    disk,
    host,
    kernel,
    limits,
    network,
    ports,
    runtimes,
)
from swarmlet.doctor.finding import Probe
from swarmlet.doctor.run import Named

ALL: Final[Mapping[str, tuple[Probe[Any], ...]]] = {
    "host": (*host.PROBES, *clock.PROBES),
    "disk": disk.PROBES,
    "kernel": (*kernel.PROBES, *cgroups.PROBES, *limits.KERNEL_PROBES),
    "network": (*network.PROBES, *ports.PROBES, *limits.NETWORK_PROBES),
    "runtimes": runtimes.PROBES,
    "daemon": daemon.PROBES,
}


def names() -> list[str]:
    """Of all probes and groups."""
    return [*ALL, *(probe.name for probes in ALL.values() for probe in probes)]


def chosen(wanted: Sequence[str]) -> list[Named]:
    """The probes that are named, themselves or by their group; all where none is."""
    return [
        (group, probe)
        for group, probes in ALL.items()
        for probe in probes
        if not wanted or group in wanted or probe.name in wanted
    ]
