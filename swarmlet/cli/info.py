"""`swarmlet info`."""

from collections.abc import Iterator, Sequence
from typing import Final

import click

from swarmlet.cli.client import Client, Object, own_words
from swarmlet.cli.errors import ApiError
from swarmlet.cli.format import human_duration, human_size
from swarmlet.cli.lazy import example
from swarmlet.cli.world import wall_s
from swarmlet.core.limits import NS_PER_S

_NOT_FOUND: Final = 404


@click.command(epilog=example("swarmlet info", "swarmlet info --format '{{.Swarm.NodeID}}'"))
@click.option("-f", "--format", "form", default="", metavar="STRING", help="json or a Go template.")
@click.pass_obj
def info(client: Client, *, form: str) -> None:
    """Show this node: its swarm, its runtime and its host."""
    found = client.get("/info")
    if form:
        from swarmlet.cli.output import print_objects

        if form == "json":
            form = "{{json .}}"
        print_objects([found], form)
        return
    swarm = found.get("Swarm") or {}
    lines = [
        *_swarm(swarm, _rotation(client, swarm), _group(client, swarm)),
        *_certificate(client, swarm),
        *_host(found),
        f"Socket: {client.host}",
    ]
    click.echo("\n".join(lines))
    for warning in found.get("Warnings") or []:
        click.echo(warning, err=True)


def _swarm(swarm: Object, rotation: str, group: Sequence[str]) -> Iterator[str]:
    state = swarm.get("LocalNodeState", "inactive")
    yield f"Swarm: {state}"
    if state == "locked" and swarm.get("Error"):
        yield f" Error: {own_words(swarm['Error'])}"
    if state in ("inactive", "locked"):
        return
    yield f" NodeID: {swarm.get('NodeID', '')}"
    if swarm.get("Error"):
        yield f" Error: {swarm['Error']}"
    is_manager = bool(swarm.get("ControlAvailable"))
    yield f" Is Manager: {str(is_manager).lower()}"
    if is_manager and swarm.get("Cluster"):
        yield from _cluster(swarm, rotation)
    yield from group
    yield f" Node Address: {swarm.get('NodeAddr', '')}"
    if managers := swarm.get("RemoteManagers"):
        yield " Manager Addresses:"
        yield from sorted(f"  {manager['Addr']}" for manager in managers)


def _cluster(swarm: Object, rotation: str) -> Iterator[str]:
    cluster = swarm["Cluster"]
    spec = cluster.get("Spec") or {}
    raft = spec.get("Raft") or {}
    heartbeat_ns = (spec.get("Dispatcher") or {}).get("HeartbeatPeriod", 0)
    expiry_ns = (spec.get("CAConfig") or {}).get("NodeCertExpiry", 0)
    history = (spec.get("Orchestration") or {}).get("TaskHistoryRetentionLimit", 0)
    locks = bool((spec.get("EncryptionConfig") or {}).get("AutoLockManagers"))
    yield f" ClusterID: {cluster.get('ID', '')}"
    yield f" Managers: {swarm.get('Managers', 0)}"
    yield f" Nodes: {swarm.get('Nodes', 0)}"
    if pool := cluster.get("DefaultAddrPool"):
        yield f" Default Address Pool: {'  '.join(pool)}"
        yield f" SubnetSize: {cluster.get('SubnetSize', 0)}"
    yield f" Data Path Port: {cluster.get('DataPathPort', 0)}"
    yield from (" Orchestration:", f"  Task History Retention Limit: {history}", " Raft:")
    yield f"  Snapshot Interval: {raft.get('SnapshotInterval', 0)}"
    yield f"  Number of Old Snapshots to Retain: {raft.get('KeepOldSnapshots', 0)}"
    yield f"  Heartbeat Tick: {raft.get('HeartbeatTick', 0)}"
    yield f"  Election Tick: {raft.get('ElectionTick', 0)}"
    yield from (" Dispatcher:", f"  Heartbeat Period: {human_duration(heartbeat_ns / NS_PER_S)}")
    yield from (" CA Configuration:", f"  Expiry Duration: {human_duration(expiry_ns / NS_PER_S)}")
    yield f" Autolock Managers: {str(locks).lower()}"
    rotates = bool(cluster.get("RootRotationInProgress"))
    yield f" Root Rotation In Progress: {str(rotates).lower()}"
    if rotation:
        yield f"  {rotation}"


def _group(client: Client, swarm: Object) -> list[str]:
    """The managers, as this one hears them."""
    if not swarm.get("ControlAvailable"):
        return []
    from swarmlet.cli.managers import group_lines

    try:
        found = client.get("/swarmlet/v1/members")
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return []  # what answers is a Docker Engine
    return group_lines(found, swarm.get("NodeID", ""), wall_s())


def _rotation(client: Client, swarm: Object) -> str:
    """How far a root rotation is; "" where there is none."""
    cluster = swarm.get("Cluster") or {}
    if not cluster.get("RootRotationInProgress"):
        return ""
    from swarmlet.cli.rotation import progress_of

    client.allow_stale(lambda _problem, _age_ms: None)  # what is lost is said already
    return progress_of(cluster, client.get("/nodes")).sentence


def _certificate(client: Client, swarm: Object) -> Iterator[str]:
    """This node's own."""
    if swarm.get("LocalNodeState", "inactive") == "inactive":
        return
    from swarmlet.cli.certificate import certificate_facts, own_certificate

    if certificate := own_certificate(client):
        yield " Certificate:"
        facts = certificate_facts(certificate, wall_s())
        yield from (f"  {name}: {facts[name]}" for name in facts)


def _host(found: Object) -> Iterator[str]:
    runtimes = " ".join(sorted(found.get("Runtimes") or {}))
    yield f"Server Version: {found.get('ServerVersion', '')}"
    yield f"Runtimes: {runtimes}"
    yield f"Default Runtime: {found.get('DefaultRuntime', '')}"
    yield f"Kernel Version: {found.get('KernelVersion', '')}"
    yield f"Operating System: {found.get('OperatingSystem', '')}"
    yield f"Architecture: {found.get('Architecture', '')}"
    yield f"CPUs: {found.get('NCPU', 0)}"
    yield f"Total Memory: {human_size(found.get('MemTotal', 0))}"
    yield f"Name: {found.get('Name', '')}"
    yield f"ID: {found.get('ID', '')}"
    yield f"Root Dir: {found.get('DockerRootDir', '')}"
