"""`swarmlet unlock`: open a manager that was locked by its restart. The key is never an argument:
those can be read by every process of the host."""

import sys
from typing import Final

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError
from swarmlet.cli.lazy import example

_LINE_MAX: Final = 1_024  # characters; a key has 52


@click.command(epilog=example("swarmlet unlock", "swarmlet unlock < /run/keys/swarm"))
@click.pass_obj
def unlock(client: Client) -> None:
    """Unlock this manager with the swarm's unlock key.

    The key is asked for on a terminal, without showing it; elsewhere it is read from the standard
    input.
    """
    _check_locked(client)
    client.post("/swarm/unlock", {"UnlockKey": _read_key()})
    click.echo("Swarm unlocked.")


def _check_locked(client: Client) -> None:
    """Before anybody types a key. Raises CommandError."""
    state = (client.get("/info").get("Swarm") or {}).get("LocalNodeState", "inactive")
    if state == "inactive":
        raise CommandError(
            "This node is not part of a swarm.",
            "`swarmlet init` makes a swarm, `swarmlet join` enters another host's.",
        )
    if state != "locked":
        raise CommandError("swarm is not locked", "There is nothing to unlock: go on.")


def _read_key() -> str:
    if sys.stdin.isatty():
        key = click.prompt("Enter unlock key", hide_input=True, err=True, default="")
        return str(key).strip()
    key = sys.stdin.readline(_LINE_MAX).strip()
    if not key:
        raise CommandError(
            "There is no unlock key on the standard input.",
            "`swarmlet unlock < FILE`, or on a terminal, where it is asked for.",
        )
    return key
