"""`swarmlet daemon`: read the options, guard the data directory, run until told to stop."""

import asyncio
import logging
import os
import resource
import signal
import sys
from typing import Final, NoReturn, TypeAlias

import click

from swarmlet.core.errors import InvalidArgumentError, SwarmError, first_of
from swarmlet.core.paths import DOCKER_HOST, default_data_dir, default_host, socket_path
from swarmlet.core.service import EXIT_STOPPED
from swarmlet.daemon.data_dir import locked
from swarmlet.daemon.logs import is_journal, levels_of, priority_of, start_logging
from swarmlet.daemon.notify import notifier
from swarmlet.daemon.serve import serve
from swarmlet.daemon.settings import RUNTIMES, Settings
from swarmlet.model.generic_resources import parse_resources
from swarmlet.runtime.process.kernel import prctl

log = logging.getLogger("swarmlet.daemon")

Option: TypeAlias = str | bool | tuple[str, ...]

PR_SET_DUMPABLE: Final = 4  # prctl(2)

EXAMPLE: Final = """
Example:

    swarmlet daemon --data-dir /var/lib/swarmlet --host unix:///run/swarmlet/swarmlet.sock
"""


def _levels_checked(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    try:
        levels_of(text)
    except InvalidArgumentError as error:
        raise click.BadParameter(f"{error.message} {error.remedy}") from error
    return text


@click.command(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data-dir", default="", metavar="DIR", help="Where this node keeps its data.")
@click.option("--host", default="", metavar="URL", help="Where to listen: unix:///path/to.sock")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="What runs the tasks; chosen when this node enters a swarm, kept while it is in it."
    " auto: docker if a Docker Engine answers, else process.",
)
@click.option(
    "--docker-host",
    default="",
    metavar="URL",
    help=f"The Docker Engine to use; else $DOCKER_HOST, else {DOCKER_HOST}",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    metavar="LEVEL[,ROOM=LEVEL...]",
    callback=_levels_checked,
    help="The least important events to log: debug, info, warning or error; also of one room.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How events are written.",
)
@click.option(
    "--log-file", default="", metavar="FILE", help="Log here, rotated, instead of to stderr."
)
@click.option(
    "--allow-root-tasks",
    is_flag=True,
    help="Let services run processes as root (only if this daemon is root).",
)
@click.option(
    "--listen-addr",
    default="",
    metavar="ADDR",
    help="Of a node that is in a swarm: where its port for other nodes is from now on.",
)
@click.option(
    "--advertise-addr",
    default="",
    metavar="ADDR",
    help="Of a node that is in a swarm: the address it tells others from now on.",
)
@click.option(
    "--node-generic-resource",
    "generic_resources",
    multiple=True,
    metavar="KIND=N|KIND=NAME",
    help="What this node has for tasks to reserve: ssd=3, or gpu=GPU-1 and gpu=GPU-2 by name.",
)
@click.option("--check", is_flag=True, help="Read the options, say what is wrong, and end.")
def daemon(data_dir: str, host: str, **options: Option) -> None:
    """Run this host's engine in the foreground.

    The other commands talk to it over its unix socket. Stopping it leaves its tasks running; the
    next start finds them again. `swarmlet daemon install` makes it a service of systemd.
    """
    try:
        checks_alone = options.pop("check")
        settings = _settings(data_dir, host, options)
        if checks_alone:
            return
        with locked(settings.data_dir):
            _run(settings)
    except SwarmError as error:
        _die(error)
    except OSError as error:
        _die(_unusable(error))


def run() -> None:
    """The entry of `python -m swarmlet.daemon`."""
    if not __debug__:
        _die(SwarmError("swarmlet checks itself with assertions.", "Start it without python -O."))
    try:
        daemon(prog_name="swarmlet daemon", standalone_mode=False)
    except click.ClickException as error:
        remedy = "`swarmlet daemon --help`"
        _die(SwarmError(error.format_message(), remedy), error.exit_code)


def _settings(data_dir: str, host: str, options: dict[str, Option]) -> Settings:
    """Raises InvalidArgumentError."""
    resources = options.pop("generic_resources")
    assert isinstance(resources, tuple), "click collects what may be given often"
    where = os.path.abspath(data_dir or default_data_dir(os.environ, os.getuid()))
    address = host or os.environ.get("SWARMLET_HOST", "")
    address = address or default_host(os.environ, os.getuid(), os.path.exists, data_dir=where)
    if options["log_file"]:
        options["log_file"] = os.path.abspath(str(options["log_file"]))
    options["docker_host_variable"] = os.environ.get("DOCKER_HOST", "")
    return Settings(
        data_dir=where,
        socket_path=socket_path(address),
        generic_resources=tuple(parse_resources(resources)),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        **options,  # type: ignore[arg-type]
    )


def _run(settings: Settings) -> None:
    """Raises SystemExit with EXIT_STOPPED where a service was told to stop through the API."""
    os.umask(0o077)
    start_logging(settings)
    _raise_file_limit()
    prctl(PR_SET_DUMPABLE, 0)  # the keys are in memory: no core file, no debugger of this user's
    tell, signals = notifier(os.environ), _Signals()
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner:
        try:
            runner.run(serve(settings, signals.stop_on, tell))
        except BaseExceptionGroup as group:
            raise first_of(group.subgroup(SwarmError) or group) from group
    if tell is not None and not signals.came:
        sys.exit(EXIT_STOPPED)


class _Signals:
    """SIGTERM and SIGINT end the daemon; who told it to stop decides whether it is restarted."""

    def __init__(self) -> None:
        self.came = False

    def stop_on(self, stop: asyncio.Event) -> None:
        """Set `stop` when a signal comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive, stop)

    def _receive(self, stop: asyncio.Event) -> None:
        self.came = True
        stop.set()


def _raise_file_limit() -> None:
    """Sessions cost a descriptor each; the soft limit is often 1,024. Tasks get the old one back:
    a program that uses select(2) goes wrong above."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _unusable(error: OSError) -> SwarmError:
    return SwarmError(
        f"{error.filename or 'The daemon'}: {error.strerror or error}.",
        remedy="Give this user a directory of its own, on a disk that works, with --data-dir.",
    )


def _die(error: SwarmError, code: int = 1) -> NoReturn:
    grave = f"<{priority_of(logging.ERROR)}>" if is_journal(os.environ, 2) else ""
    click.echo(f"{grave}Error: {error.message}", err=True)
    if error.remedy:
        click.echo(f"{grave}  Try: {error.remedy}", err=True)
    sys.exit(code)
