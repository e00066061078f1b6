"""The half of a container that concerns its host (API: HostConfig): pure.

Numbers and words as moby's executor of swarm tasks gives them: a reservation is for the scheduler
alone, a limit of swap is the sum of memory and swap.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from swarmlet.model.container import ContainerSpec, Mount, Privileges
from swarmlet.model.service import ResourceRequirements, TaskSpec
from swarmlet.wire.messages import AssignedTask

Json = dict[str, Any]
"""An object of the engine's API."""

UNLIMITED: Final = -1


def host_config(task: AssignedTask, container: ContainerSpec, binds: Sequence[Json] = ()) -> Json:
    """What is said; what is not said is left to the engine's own defaults."""
    return {
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        **given(
            {
                "NetworkMode": task.network_mode,
                "PortBindings": port_bindings(task),
                "Mounts": [*(_mount(mount) for mount in container.mounts), *binds],
                "GroupAdd": container.groups,
                "ReadonlyRootfs": container.read_only,
                "Sysctls": container.sysctls,
                "CapAdd": container.capability_add,
                "CapDrop": container.capability_drop,
                "Ulimits": msgspec.to_builtins(container.ulimits),
                "OomScoreAdj": container.oom_score_adj,
                "ExtraHosts": _extra_hosts(container.hosts),
                "SecurityOpt": _security(container.privileges),
                "LogConfig": _log_config(task.spec),
            }
        ),
        **_init(container),
        **_dns(container),
        **_resources(task.spec.resources),
    }


def given(fields: Json) -> Json:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value}


def port_bindings(task: AssignedTask) -> dict[str, list[dict[str, str]]]:
    """Every port in host mode by `TARGET/PROTOCOL`; an empty HostPort lets the engine choose."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for _, protocol, target, published in task.ports:
        port = {"HostPort": str(published) if published else ""}
        bindings.setdefault(f"{target}/{protocol}", []).append(port)
    return bindings


def _init(container: ContainerSpec) -> Json:
    """False is said too: the engine's own default may be an init process."""
    return {} if container.init is None else {"Init": container.init}


def _dns(container: ContainerSpec) -> Json:
    dns = container.dns_config
    if dns is None:
        return {}
    return given({"Dns": dns.nameservers, "DnsSearch": dns.search, "DnsOptions": dns.options})


def _extra_hosts(entries: Sequence[str]) -> list[str]:
    """hosts(5) has `ADDRESS NAME [ALIAS...]`, the engine `NAME:ADDRESS` once a name."""
    words = [entry.split() for entry in entries]
    return [f"{name}:{address}" for address, *names in words for name in names]


def _log_config(spec: TaskSpec) -> Json:
    driver = spec.log_driver
    return {} if driver is None else {"Type": driver.name, "Config": driver.options}


# Resources ---------------------------------------------------------------------------------------
def _resources(resources: ResourceRequirements | None) -> Json:
    if resources is None:
        return {}
    limits = given(
        {
            "NanoCpus": resources.limits.nano_cpus,
            "Memory": resources.limits.memory_bytes,
            "PidsLimit": resources.limits.pids,
        }
        if resources.limits is not None
        else {}
    )
    swap_b, swappiness = resources.swap_bytes, resources.memory_swappiness
    if swap_b is not None and "Memory" in limits:
        limits["MemorySwap"] = swap_b if swap_b == UNLIMITED else limits["Memory"] + swap_b
    if swappiness is not None:
        limits["MemorySwappiness"] = swappiness
    return limits


# Security ----------------------------------------------------------------------------------------
def _security(privileges: Privileges | None) -> list[str]:
    """In the order of moby's executor."""
    if privileges is None:
        return []
    options = [*_selinux(privileges), *_seccomp(privileges)]
    if privileges.app_armor is not None and privileges.app_armor.mode == "disabled":
        options.append("apparmor=unconfined")
    if privileges.no_new_privileges:
        options.append("no-new-privileges=true")
    return options


def _selinux(privileges: Privileges) -> list[str]:
    context = privileges.selinux_context
    if context is None:
        return []
    disable = ["label=disable"] if context.disable else []
    parts = given(
        {"user": context.user, "role": context.role, "level": context.level, "type": context.type}
    )
    return disable + [f"label={name}:{value}" for name, value in parts.items()]


def _seccomp(privileges: Privileges) -> list[str]:
    """The engine's own profile needs no word; another is passed on as it was given."""
    seccomp = privileges.seccomp
    if seccomp is None or seccomp.mode in ("", "default"):
        return []
    custom = seccomp.profile.decode() if seccomp.mode == "custom" else seccomp.mode
    return [f"seccomp={custom}"]


# Mounts ------------------------------------------------------------------------------------------
def _mount(mount: Mount) -> Json:
    """The names are the service API's: what is not set is left out."""
    plain: Json = msgspec.to_builtins(mount)
    return plain
