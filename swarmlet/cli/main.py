"""`swarmlet`: the root of the commands; here errors become words and exit codes."""

import os
import sys
from typing import Final, cast

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE
from swarmlet.cli.lazy import LazyGroup, example
from swarmlet.core.errors import SwarmError
from swarmlet.core.version import VERSION

COMMANDS: Final = {
    "init": "swarm:init",
    "join": "join:join",
    "leave": "swarm:leave",
    "join-token": "join_token:join_token",
    "unlock": "unlock:unlock",
    "unlock-key": "unlock_key:unlock_key",
    "ca": "ca:ca",
    "node": "node:node",
    "service": "service:service",
    "task": "task:task",
    "config": "config:config",
    "secret": "secret:secret",
    "swarm": "swarm_group:swarm",
    "daemon": "daemon:daemon",
    "debug": "debug:debug",
    "events": "events:events",
    "info": "info:info",
    "version": "version:version",
    "doctor": "doctor:doctor",
    "completion": "completion:completion",
}
WIDTH_MAX: Final = 100  # columns of help


class Root(LazyGroup):
    """Hands the commands a client of the daemon that --host names."""

    def invoke(self, ctx: click.Context) -> object:
        client = ctx.obj = Client(str(ctx.params.get("host") or ""))
        ctx.call_on_close(client.close)
        return super().invoke(ctx)


def _root() -> Root:
    text = "Run services on a cluster of hosts, as Docker Swarm does."
    epilog = example(
        "swarmlet init", "swarmlet service create --name web --replicas 3 host sleep 60"
    )
    root = Root("swarmlet", lazy=COMMANDS, text=text, epilog=epilog)
    root.context_settings = {
        "help_option_names": ["-h", "--help"],
        "max_content_width": WIDTH_MAX,
    }
    host_help = "The daemon to talk to: unix:///path/to.sock or its path."
    root.params.append(
        click.Option(["-H", "--host"], metavar="URL", envvar="SWARMLET_HOST", help=host_help)
    )
    return click.version_option(VERSION, message="swarmlet %(version)s")(root)


root: Final = _root()


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code. Says every error in a sentence, on stderr."""
    try:
        code = root.main(args=arguments, prog_name="swarmlet", standalone_mode=False)
    except (click.ClickException, click.Abort, KeyboardInterrupt, SwarmError, OSError) as error:
        return _explained(error)
    except Exception as error:
        if os.environ.get("SWARMLET_DEBUG"):
            raise  # asked for; otherwise a person never sees a stack trace
        say_error(
            f"swarmlet itself is at fault: {type(error).__name__}: {error}",
            "SWARMLET_DEBUG=1 shows where; please report it.",
        )
        return EXIT_ERROR
    return code if isinstance(code, int) else 0


def _explained(error: BaseException) -> int:
    """Say what is known of `error`; return its exit code."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return EXIT_USAGE
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "swarmlet"
            say_error(_sentence(error.format_message()), f"`{path} --help`")
            return EXIT_USAGE
        case click.ClickException():
            say_error(_sentence(error.format_message()))
        case SwarmError():
            say_error(error.message, error.remedy)
            return cast(int, getattr(error, "exit_code", EXIT_ERROR))
        case OSError():
            what = f"{error.filename or 'The system'}: {error.strerror}"
            say_error(_sentence(what), "another path, or its permissions.")
        case _:
            return EXIT_INTERRUPTED
    return EXIT_ERROR


def say_error(message: str, remedy: str = "") -> None:
    """The two lines every error has here."""
    click.echo(f"Error: {message}", err=True)
    if remedy:
        click.echo(f"  Try: {remedy}", err=True)


def _sentence(text: str) -> str:
    text = " ".join(text.split())  # click lists choices a line each
    return text if text.endswith((".", "?", ")", "\n")) else text + "."
