"""`GET /info`: the host, its runtime and its place in a swarm."""

from typing import TYPE_CHECKING

import msgspec

from swarmlet.api.engine import EngineFacts, SwarmState
from swarmlet.api.render.cluster import render_cluster
from swarmlet.core.errors import SwarmError
from swarmlet.core.ids import NodeID
from swarmlet.core.managers import manager_warnings
from swarmlet.model.cluster import Cluster

if TYPE_CHECKING:
    from swarmlet.store.proposer import Member


class SwarmNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What only a manager knows; `problem`, where the swarm cannot be ruled now."""

    members: tuple["Member", ...] = ()
    nodes: int = 0
    managers: int = 0
    cluster: Cluster | None = None
    problem: SwarmError | None = None


def _swarm_warnings(numbers: SwarmNumbers) -> list[str]:
    if numbers.problem is None:
        return manager_warnings(numbers.managers)
    problem = numbers.problem
    return [f"WARNING: {' '.join(filter(None, (problem.message, problem.remedy)))}"]


def render_swarm(state: SwarmState, numbers: SwarmNumbers | None) -> dict[str, object]:
    """`/info`'s part `Swarm`."""
    known = state.managers
    if numbers is not None:
        known = tuple((NodeID(member.node_id), member.address) for member in numbers.members)
    managers = [{"NodeID": node_id, "Addr": addr} for node_id, addr in known]
    swarm: dict[str, object] = {
        "NodeID": state.node_id,
        "NodeAddr": state.node_addr,
        "LocalNodeState": state.state,
        "ControlAvailable": numbers is not None,
        "Error": state.error or _problem(numbers),
        "RemoteManagers": managers or None,
    }
    if numbers is not None and numbers.cluster is not None:
        swarm["Nodes"] = numbers.nodes
        swarm["Managers"] = numbers.managers
        swarm["Cluster"] = render_cluster(numbers.cluster, with_tokens=False)
    return swarm


def _problem(numbers: SwarmNumbers | None) -> str:
    return "" if numbers is None or numbers.problem is None else numbers.problem.message


def _plugins(facts: EngineFacts) -> dict[str, list[str] | None]:
    named: dict[str, list[str] | None] = {
        "Volume": [],
        "Network": [],
        "Authorization": None,
        "Log": [],
    }
    for kind, name in sorted(facts.runtime.plugins):
        names = named.get(kind)
        if names is not None:
            names.append(name)
    return named


def _render_host(facts: EngineFacts) -> dict[str, object]:
    """Containers and images are 0: tasks are listed under `/tasks`, and no image is kept."""
    return {
        "ID": facts.engine_id,
        "Containers": 0,
        "ContainersRunning": 0,
        "ContainersPaused": 0,
        "ContainersStopped": 0,
        "Images": 0,
        "Driver": "",
        "DriverStatus": None,
        "Plugins": _plugins(facts),
        "Debug": False,
        "LoggingDriver": "",
        "KernelVersion": facts.kernel_version,
        "OperatingSystem": facts.operating_system,
        "OSType": facts.runtime.os,
        "Architecture": facts.runtime.architecture,
        "RegistryConfig": {},
        "NCPU": facts.cpus,
        "MemTotal": facts.memory_b,
        "GenericResources": msgspec.to_builtins(facts.runtime.resources.generic_resources) or None,
        "DockerRootDir": facts.data_dir,
        "Name": facts.hostname,
        "Labels": [],
        "ExperimentalBuild": False,
    }


def render_info(
    facts: EngineFacts, state: SwarmState, numbers: SwarmNumbers | None, server_version: str
) -> dict[str, object]:
    """`numbers` is None where this node is no manager."""
    warnings = [f"WARNING: {facts.runtime_problem}"] if facts.runtime_problem else []
    warnings += [f"WARNING: {sentence}" for sentence in state.warnings]
    if numbers is not None:
        warnings += _swarm_warnings(numbers)
    return {
        **_render_host(facts),
        "ServerVersion": server_version,
        "Runtimes": {name: {"path": ""} for name in facts.runtimes},
        "DefaultRuntime": facts.runtime.name,
        "Swarm": render_swarm(state, numbers),
        "LiveRestoreEnabled": True,  # tasks outlive the daemon
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": [],
        "Warnings": warnings or None,
    }
