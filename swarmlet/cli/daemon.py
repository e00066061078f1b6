"""`swarmlet daemon`: becomes the daemon; `stop` ends one, `install` makes it a service."""

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from swarmlet.cli.client import BrokenOffError, Client
from swarmlet.cli.errors import TimedOutError
from swarmlet.cli.lazy import example
from swarmlet.cli.world import mono_s, sleep_s

STOP_TIMEOUT_S: Final = 30.0
POLL_PERIOD_S: Final = 0.05
STOP_PATH: Final = "/swarmlet/v1/daemon/stop"


class DaemonGroup(click.Group):
    """`stop`, `install` and `uninstall` are commands; whatever else follows is for the daemon
    itself, --help included."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, "install", "uninstall"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ("install", "uninstall"):
            from swarmlet.cli import install

            return install.install if cmd_name == "install" else install.uninstall
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        return "run", run, args


@click.group(
    cls=DaemonGroup,
    invoke_without_command=True,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    epilog=example(
        "swarmlet daemon --data-dir /var/lib/swarmlet",
        "swarmlet daemon stop",
        "swarmlet daemon install --print",
    ),
)
@click.pass_context
def daemon(ctx: click.Context) -> None:
    """Run the daemon in the foreground, or `install` it as a service; `stop` ends one."""
    if ctx.invoked_subcommand is None:
        become_daemon(ctx.obj, ())


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(client: Client, *, arguments: tuple[str, ...]) -> None:
    """The daemon with its own options."""
    become_daemon(client, arguments)


def become_daemon(client: Client, arguments: Sequence[str]) -> None:
    """Replace this process by `python -m swarmlet.daemon`, so that signals reach it directly."""
    named = ["--host", client.named] if client.named else []
    command = [sys.executable, "-m", "swarmlet.daemon", *named, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606 - this very program, no shell


@daemon.command(epilog=example("swarmlet daemon stop", "swarmlet daemon stop --host-stopping"))
@click.option(
    "--host-stopping",
    is_flag=True,
    help="This host shuts down: the swarm runs its tasks elsewhere at once.",
)
@click.pass_obj
def stop(client: Client, *, host_stopping: bool) -> None:
    """End the daemon in order. Its tasks run on, and the next daemon finds them; for a minute the
    swarm waits for that one."""
    client.raw_post(f"{STOP_PATH}?hostStopping=1" if host_stopping else STOP_PATH)
    deadline_s = mono_s() + STOP_TIMEOUT_S
    while _answers(client):
        if mono_s() > deadline_s:
            raise TimedOutError(
                f"The daemon was told to stop, but still answers after {STOP_TIMEOUT_S:.0f} s.",
                "See its log.",
            )
        sleep_s(POLL_PERIOD_S)
    what = "are moved to other nodes" if host_stopping else "run on"
    click.echo(f"Daemon stopped. Tasks it still had {what}.")


def _answers(client: Client) -> bool:
    try:
        return client.ping()
    except BrokenOffError:  # it ends at this very moment: look again
        return True
