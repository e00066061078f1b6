"""What `init` and `join` share: addresses, the daemon they start, the line to join with."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from swarmlet.cli.client import Client, Json, quote

F = TypeVar("F", bound=Callable[..., Any])
RUNTIMES: Final = ("auto", "process", "docker", "oci")

availability_option: Final = click.option(
    "--availability",
    type=click.Choice(["active", "pause", "drain"]),
    default="active",
    show_default=True,
    help="Whether this node takes tasks.",
)
announce_option: Final = click.option(
    "--announce",
    is_flag=True,
    help="As a manager, tell the local network, so that `join` finds it without an address.",
)


def place_options(command: F) -> F:
    """Where this node is for others."""
    for option in (
        click.option(
            "--data-path-addr", default="", metavar="IP|IFACE", help="For the tasks' traffic."
        ),
        click.option(
            "--listen-addr",
            default="0.0.0.0:2377",
            show_default=True,
            metavar="IP|IFACE[:PORT]",
            help="Where this node listens for other nodes.",
        ),
        click.option(
            "--advertise-addr", default="", metavar="IP|IFACE[:PORT]", help="What others call."
        ),
    ):
        command = option(command)
    return command


def daemon_options(command: F) -> F:
    """Of a daemon that is started in the background."""
    text = "For a daemon that is started here."
    for option in (
        click.option("--docker-host", default="", metavar="URL", help=text),
        click.option("--runtime", type=click.Choice(RUNTIMES), help=text),
        click.option("--data-dir", default="", metavar="DIR", help=text),
    ):
        command = option(command)
    return command


def availability_of(options: Mapping[str, Json]) -> str:
    """As docker sends it: the default is not spelled out."""
    chosen = str(options["availability"])
    return "" if chosen == "active" else chosen


def join_text(role: str, token: str, address: str) -> str:
    """What to run on another host, with the address of a manager; shells glob an IPv6 one's."""
    return (
        f"To add a {role} to this swarm, run the following command:\n\n"
        f"    swarmlet join --token {token} {shlex.quote(address)}\n"
    )


def show_unlock_key(client: Client) -> None:
    """Print the key that the swarm has now, where it locks its managers."""
    if key := client.get("/swarm/unlockkey").get("UnlockKey", ""):
        print_unlock_key(key)


def print_unlock_key(key: str) -> None:
    """How to unlock, and that the key is to be kept."""
    click.echo(
        "To unlock a swarm manager after it restarts, run the `swarmlet unlock`\n"
        f"command and provide the following key:\n\n    {key}\n\n"
        "Remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager."
    )


def manager_address(client: Client) -> str:
    """Where to join: this manager, or where it is none that others ask, one that it knows."""
    swarm = client.get("/info").get("Swarm") or {}
    node = client.get(f"/nodes/{quote(swarm.get('NodeID', ''))}")
    known = [manager["Addr"] for manager in swarm.get("RemoteManagers") or []]
    own = (node.get("ManagerStatus") or {}).get("Addr", "")
    return str(own or next(iter(known), ""))
