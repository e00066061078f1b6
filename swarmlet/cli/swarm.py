"""`swarmlet init`, `join`, `leave`, `join-token` and `swarm update`."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.lazy import example
from swarmlet.cli.units import DURATION_NS

F = TypeVar("F", bound=Callable[..., Any])
RUNTIMES: Final = ("auto", "process", "docker", "oci")
JOINING_TEXT: Final = "Joining comes with a later release; in this one a swarm has one node."

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
)


def _settings_options(command: F) -> F:
    for flag, kind, _, text in reversed(_SETTINGS):
        metavar = "DURATION" if kind is DURATION_NS else "N"
        command = click.option(flag, type=kind, metavar=metavar, help=text)(command)
    return command


def _set(spec: Object, options: dict[str, Json]) -> bool:
    """Write the settings that were given into `spec`; whether there was one."""
    was_given = False
    for flag, _, (part, field), _ in _SETTINGS:
        value = options.get(flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            spec[part] = {**(spec.get(part) or {}), field: value}
            was_given = True
    return was_given


_availability_option: Final = click.option(
    "--availability",
    type=click.Choice(["active", "pause", "drain"]),
    default="active",
    show_default=True,
    help="Whether this node takes tasks.",
)


@click.command(
    epilog=example("swarmlet init", "swarmlet init --advertise-addr 192.168.0.10 --runtime process")
)
@click.option("--advertise-addr", default="", metavar="IP|IFACE[:PORT]", help="What others call.")
@click.option(
    "--listen-addr",
    default="0.0.0.0:2377",
    show_default=True,
    metavar="IP|IFACE[:PORT]",
    help="Where this node listens for other nodes.",
)
@click.option("--data-path-addr", default="", metavar="IP|IFACE", help="For the tasks' traffic.")
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
@_availability_option
@_settings_options
@click.option("--data-dir", default="", metavar="DIR", help="For a daemon that is started here.")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="For a daemon that is started here.")
@click.option("--docker-host", default="", metavar="URL", help="For a daemon that is started here.")
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
    click.echo(_join_text("worker", swarm, node))
    click.echo(
        "To add a manager to this swarm, run 'swarmlet join-token manager' "
        "and follow the instructions.\n"
    )
    click.echo(JOINING_TEXT)


def _init_request(options: dict[str, Json]) -> Object:
    spec: Object = {
        "Labels": None,
        "Orchestration": {},
        "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
        "Dispatcher": {},
        "CAConfig": {},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": False},
    }
    _set(spec, options)
    return {
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "DataPathPort": options["data_path_port"],
        "ForceNewCluster": False,
        "Spec": spec,
        "AutoLockManagers": False,
        "Availability": _availability(options),
        "DefaultAddrPool": list(options["default_addr_pool"]),
        "SubnetSize": options["subnet_size"],
    }


def _availability(options: dict[str, Json]) -> str:
    """As docker sends it: the default is not spelled out."""
    chosen = str(options["availability"])
    return "" if chosen == "active" else chosen


def _join_text(role: str, swarm: Object, node: Object) -> str:
    token = swarm["JoinTokens"][role.capitalize()]
    address = (node.get("ManagerStatus") or {}).get("Addr", "")
    return (
        f"To add a {role} to this swarm, run the following command:\n\n"
        f"    swarmlet join --token {token} {address}\n"
    )


@click.command("join-token", epilog=example("swarmlet join-token worker"))
@click.argument("role", type=click.Choice(["worker", "manager"]))
@click.option("--rotate", is_flag=True, help="Make a new token first; the old one ends.")
@click.option("-q", "--quiet", is_flag=True, help="Print the token alone.")
@click.pass_obj
def join_token(client: Client, *, role: str, rotate: bool, quiet: bool) -> None:
    """Print what another host needs to join."""
    if rotate:
        swarm = client.get("/swarm")
        _post_update(client, swarm, **{f"rotate{role.capitalize()}Token": "true"})
        if not quiet:
            click.echo(f"Successfully rotated {role} join token.\n")
    swarm = client.get("/swarm")
    if quiet:
        click.echo(swarm["JoinTokens"][role.capitalize()])
        return
    node_id = (client.get("/info").get("Swarm") or {}).get("NodeID", "")
    click.echo(_join_text(role, swarm, client.get(f"/nodes/{quote(node_id)}")))
    click.echo(JOINING_TEXT)


@click.command(
    epilog=example(
        "swarmlet join --token SWMTKN-1-... 192.168.0.10:2377",
        "swarmlet join SWMTKN-1-... 192.168.0.10:2377",
    )
)
@click.argument("words", metavar="[TOKEN] ADDR[:PORT]...", nargs=-1)
@click.option("--token", default="", metavar="TOKEN", help="What `join-token` printed.")
@click.option("--advertise-addr", default="", metavar="IP|IFACE[:PORT]", help="What others call.")
@click.option(
    "--listen-addr",
    default="0.0.0.0:2377",
    show_default=True,
    metavar="IP|IFACE[:PORT]",
    help="Where this node listens for other nodes.",
)
@click.option("--data-path-addr", default="", metavar="IP|IFACE", help="For the tasks' traffic.")
@_availability_option
@click.pass_obj
def join(client: Client, /, *, words: tuple[str, ...], token: str, **options: Json) -> None:
    """Join a swarm with a token (in a later release)."""
    if not token:
        token, words = (words[0] if words else ""), words[1:]
    if not token or not words:
        raise click.UsageError("Joining needs a token and the address of a manager.")
    body = {
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "RemoteAddrs": list(words),
        "JoinToken": token,
        "Availability": _availability(options),
    }
    client.post("/swarm/join", body)
    click.echo("This node joined a swarm.")


@click.command(epilog=example("swarmlet leave --force"))
@click.option("-f", "--force", is_flag=True, help="Even where it ends the swarm and its state.")
@click.pass_obj
def leave(client: Client, *, force: bool) -> None:
    """Leave the swarm: stop this node's tasks and forget all of the swarm."""
    query = {"force": "1"} if force else {}
    client.post("/swarm/leave", **query)
    click.echo("Node left the swarm.")


@click.command(epilog=example("swarmlet swarm update --task-history-limit 10"))
@_settings_options
@click.pass_context
def update(ctx: click.Context, /, **options: Json) -> None:
    """Change the swarm's settings."""
    if all(value is None for value in options.values()):
        click.echo(ctx.get_help())
        return
    client: Client = ctx.obj
    swarm = client.get("/swarm")
    _set(swarm["Spec"], options)
    _post_update(client, swarm)
    click.echo("Swarm updated.")


def _post_update(client: Client, swarm: Object, **rotate: str) -> None:
    """Send the spec back if nobody changed it since."""
    query = {
        "version": str(swarm["Version"]["Index"]),
        "rotateWorkerToken": "false",
        "rotateManagerToken": "false",
        "rotateManagerUnlockKey": "false",
        **rotate,
    }
    client.post("/swarm/update", swarm["Spec"], **query)
