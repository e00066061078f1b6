"""`swarmlet unlock-key`: the key that a locked manager is opened with."""

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError
from swarmlet.cli.lazy import example
from swarmlet.cli.stale import warn
from swarmlet.cli.swarm import post_update
from swarmlet.cli.swarm_options import print_unlock_key


@click.command("unlock-key", epilog=example("swarmlet unlock-key", "swarmlet unlock-key --rotate"))
@click.option(
    "--rotate",
    is_flag=True,
    help="Make a new key first; a manager that is away now still opens with the old one.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the key alone.")
@click.pass_obj
def unlock_key(client: Client, *, rotate: bool, quiet: bool) -> None:
    """Print the key that unlocks a manager after its restart, where the swarm locks them."""
    if rotate:
        _rotate(client)
        if not quiet:
            click.echo("Successfully rotated manager unlock key.\n")
    else:
        client.allow_stale(warn)  # it may be what brings a majority back
    key = client.get("/swarm/unlockkey").get("UnlockKey", "")
    if not key:
        raise CommandError("no unlock key is set", "`swarmlet swarm update --autolock=true`")
    if quiet:
        click.echo(key)
    else:
        print_unlock_key(key)


def _rotate(client: Client) -> None:
    swarm = client.get("/swarm")
    if not (swarm["Spec"].get("EncryptionConfig") or {}).get("AutoLockManagers"):
        raise CommandError(
            "cannot rotate because autolock is not turned on",
            "`swarmlet swarm update --autolock=true`",
        )
    post_update(client, swarm, rotateManagerUnlockKey="true")
