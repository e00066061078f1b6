"""`swarmlet init`, `leave` and `swarm update`."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.external_ca import external_ca_option, external_cas_of
from swarmlet.cli.lazy import example
from swarmlet.cli.swarm_options import (
    announce_option,
    availability_of,
    availability_option,
    daemon_options,
    join_text,
    place_options,
    show_unlock_key,
)
from swarmlet.cli.units import DURATION_NS

F = TypeVar("F", bound=Callable[..., Any])

# What init and update both set: flag, type, its place in the spec, help.
_SETTINGS: Final[tuple[tuple[str, Json, tuple[str, str], str], ...]] = (
    (
        "--task-history-limit",
        click.IntRange(min=0),
        ("Orchestration", "TaskHistoryRetentionLimit"),
        "How many tasks to keep per slot.",
    ),
    (
        "--cert-expiry",
        DURATION_NS,
        ("CAConfig", "NodeCertExpiry"),
        "How long node certificates are valid, such as 2160h.",
    ),
    (
        "--dispatcher-heartbeat",
        DURATION_NS,
        ("Dispatcher", "HeartbeatPeriod"),
        "How often nodes report, such as 5s.",
    ),
    (
        "--snapshot-interval",
        click.IntRange(min=0),
        ("Raft", "SnapshotInterval"),
        "Log entries between snapshots; kept, without effect in this release.",
    ),
    (
        "--max-snapshots",
        click.IntRange(min=0),
        ("Raft", "KeepOldSnapshots"),
        "Old snapshots to keep; kept, without effect in this release.",
    ),
    (
        "--rebalance",
        click.Choice(["on-join", "continuous", "off"]),
        ("Labels", "swarmlet.rebalance"),
        "Move running tasks for balance, of services that say nothing of it.",
    ),
)

_METAVARS: Final = {type(DURATION_NS): "DURATION", click.IntRange: "N"}


def _settings_options(command: F) -> F:
    command = external_ca_option(command)
    for flag, kind, _, text in reversed(_SETTINGS):
        metavar = _METAVARS.get(type(kind))
        command = click.option(flag, type=kind, metavar=metavar, help=text)(command)
    return command


def _set(spec: Object, options: dict[str, Json], root_pem: str = "") -> None:
    """Write the settings that were given into `spec`; external CAs are for the root `root_pem`."""
    for flag, _, (part, field), _ in _SETTINGS:
        value = options.get(flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            spec[part] = {**(spec.get(part) or {}), field: value}
    if authorities := external_cas_of(options["external_cas"], root_pem):
        spec["CAConfig"] = {**(spec.get("CAConfig") or {}), "ExternalCAs": authorities}


@click.command(
    epilog=example(
        "swarmlet init",
        "swarmlet init --advertise-addr 192.168.0.10 --runtime process",
        "swarmlet init --autolock                # managers need a key after each restart",
        "swarmlet init --force-new-cluster       # on a manager that is left",
    )
)
@place_options
@click.option(
    "--data-path-port", type=click.IntRange(0, 65_535), default=0, metavar="N", help="VXLAN port."
)
@click.option(
    "--default-addr-pool", multiple=True, metavar="CIDR", help="Where networks get subnets from."
)
@click.option(
    "--default-addr-pool-mask-length",
    "subnet_size",
    type=click.IntRange(1, 32),
    default=24,
    show_default=True,
    metavar="N",
    help="The prefix length of those subnets.",
)
@availability_option
@announce_option
@click.option("--autolock", is_flag=True, help="Lock managers: they need a key after each restart.")
@click.option(
    "--force-new-cluster",
    is_flag=True,
    help="Recover a swarm that lost too many managers: go on alone with what this one has.",
)
@_settings_options
@daemon_options
@click.pass_obj
def init(
    client: Client, /, *, data_dir: str, runtime: str | None, docker_host: str, **options: Json
) -> None:
    """Make a swarm with this node as its manager.

    Starts a daemon in the background where none answers, and says so.
    """
    from swarmlet.cli.background import ensure_daemon

    ensure_daemon(client, data_dir=data_dir, runtime=runtime or "", docker_host=docker_host)
    node_id = client.post("/swarm/init", _init_request(options))
    node = client.get(f"/nodes/{quote(node_id)}")
    swarm = client.get("/swarm")
    click.echo(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    address = (node.get("ManagerStatus") or {}).get("Addr", "")
    click.echo(join_text("worker", swarm["JoinTokens"]["Worker"], address))
    click.echo(
        "To add a manager to this swarm, run 'swarmlet join-token manager' "
        "and follow the instructions.\n"
    )
    if options["autolock"]:
        show_unlock_key(client)
    if options["force_new_cluster"]:
        click.echo(
            "The other managers are none any more. Start them again one at a time: each goes on "
            "as a worker, and `swarmlet node promote` makes it a manager. `swarmlet node rm` "
            "removes those that are gone.",
            err=True,
        )


def _init_request(options: dict[str, Json]) -> Object:
    spec: Object = {
        "Labels": None,
        "Orchestration": {},
        "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
        "Dispatcher": {},
        "CAConfig": {},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": options["autolock"]},
    }
    _set(spec, options)
    return {
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "DataPathPort": options["data_path_port"],
        "ForceNewCluster": options["force_new_cluster"],
        "Spec": spec,
        "AutoLockManagers": options["autolock"],
        "Availability": availability_of(options),
        "DefaultAddrPool": list(options["default_addr_pool"]),
        "SubnetSize": options["subnet_size"],
        **({"Announce": True} if options["announce"] else {}),
    }


@click.command(epilog=example("swarmlet leave --force"))
@click.option("-f", "--force", is_flag=True, help="Even where it ends the swarm and its state.")
@click.pass_obj
def leave(client: Client, *, force: bool) -> None:
    """Leave the swarm: stop this node's tasks and forget all of the swarm."""
    query = {"force": "1"} if force else {}
    client.post("/swarm/leave", **query)
    click.echo("Node left the swarm.")


@click.command(
    epilog=example(
        "swarmlet swarm update --task-history-limit 10", "swarmlet swarm update --autolock=true"
    )
)
@click.option(
    "--autolock",
    type=click.BOOL,
    metavar="true|false",
    help="Whether managers are locked: they need a key after each restart.",
)
@_settings_options
@click.pass_context
def update(ctx: click.Context, /, **options: Json) -> None:
    """Change the swarm's settings."""
    if not any(value is not None and value != () for value in options.values()):
        click.echo(ctx.get_help())
        return
    client: Client = ctx.obj
    swarm = client.get("/swarm")
    _set(swarm["Spec"], options, (swarm.get("TLSInfo") or {}).get("TrustRoot", ""))
    lock = swarm["Spec"].setdefault("EncryptionConfig", {})
    was_locked, autolock = bool(lock.get("AutoLockManagers")), options["autolock"]
    if autolock is not None:
        lock["AutoLockManagers"] = autolock
    post_update(client, swarm)
    click.echo("Swarm updated.")
    if autolock and not was_locked:
        show_unlock_key(client)


def post_update(client: Client, swarm: Object, **rotate: str) -> None:
    """Send the spec back if nobody changed it since."""
    query = {
        "version": str(swarm["Version"]["Index"]),
        "rotateWorkerToken": "false",
        "rotateManagerToken": "false",
        "rotateManagerUnlockKey": "false",
        **rotate,
    }
    client.post("/swarm/update", swarm["Spec"], **query)
