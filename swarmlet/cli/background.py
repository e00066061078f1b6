"""Starting a daemon that outlives the command which needs it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError, TimedOutError
from swarmlet.cli.world import mono_s, sleep_s
from swarmlet.core.paths import UNIX_PREFIX, default_data_dir, default_host, socket_path

START_TIMEOUT_S: Final = 10.0
POLL_PERIOD_S: Final = 0.02
LOG_TAIL_B: Final = 4_096
LOG_LINES_MAX: Final = 5


def ensure_daemon(client: Client, *, data_dir: str, runtime: str, docker_host: str = "") -> None:
    """Return when a daemon answers, started here where none did; said on stderr.

    Raises CommandError with the daemon's own words where it ended at once, TimedOutError where it
    does not answer within START_TIMEOUT_S.
    """
    where = os.path.abspath(data_dir or default_data_dir(os.environ, os.getuid()))
    if not client.named:
        client.named = default_host(os.environ, os.getuid(), os.path.exists, data_dir=where)
    path = socket_path(client.named)
    if client.ping():
        if data_dir or runtime or docker_host:
            options = "--data-dir, --runtime and --docker-host"
            click.echo(f"Note: a daemon answers; {options} are its own.", err=True)
        return
    own = {"--runtime": runtime, "--docker-host": docker_host}
    pid, log = _run_daemon(client, where, UNIX_PREFIX + path, own)
    is_found = not data_dir or "SWARMLET_HOST" in os.environ
    click.echo(
        f"Started a swarmlet daemon in the background (process {pid}); it logs to {log} and "
        "`swarmlet daemon stop` ends it."
        + ("" if is_found else f" Set SWARMLET_HOST={client.host} to find it."),
        err=True,
    )


def _run_daemon(client: Client, where: str, host: str, options: dict[str, str]) -> tuple[int, str]:
    """Its process id and its log, once it answers; options without a value are left out."""
    Path(where).mkdir(mode=0o700, parents=True, exist_ok=True)
    log = os.path.join(where, "daemon.log")
    arguments = ["--data-dir", where, "--host", host, "--log-file", log]
    for name, value in options.items():
        arguments += [name, value] if value else []
    daemon, begin = _start(arguments, log)
    try:
        _wait_for(client, daemon, begin, log)
    except KeyboardInterrupt:
        daemon.terminate()  # nobody asked for a daemon without a swarm
        daemon.wait()
        raise
    return daemon.pid, log


def _start(arguments: list[str], log: str) -> tuple[subprocess.Popen[bytes], int]:
    """The daemon, in a session of its own, and how long its log was before."""
    with open(log, "ab", opener=_private) as output:
        begin = output.tell()
        daemon = subprocess.Popen(
            [sys.executable, "-m", "swarmlet.daemon", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    return daemon, begin


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _wait_for(client: Client, daemon: subprocess.Popen[bytes], begin: int, log: str) -> None:
    deadline_s = mono_s() + START_TIMEOUT_S
    while not client.ping():
        if (code := daemon.poll()) is not None:
            raise _ended(code, _last_words(log, begin), log)
        if mono_s() > deadline_s:
            _let_go(daemon)
            raise TimedOutError(
                f"The daemon (process {daemon.pid}) was started, but does not answer at "
                f"{client.host} within {START_TIMEOUT_S:.0f} s.",
                f"See its log, {log}.",
            )
        sleep_s(POLL_PERIOD_S)
    _let_go(daemon)


def _let_go(daemon: subprocess.Popen[bytes]) -> None:
    """It outlives this command on purpose: Popen must not warn that nobody waits for it."""
    daemon.returncode = 0


def _last_words(log: str, begin: int) -> list[str]:
    with open(log, "rb") as stream:
        size_b = stream.seek(0, os.SEEK_END)
        stream.seek(max(begin, size_b - LOG_TAIL_B))
        return stream.read().decode("utf-8", "replace").splitlines()


def _ended(code: int, lines: list[str], log: str) -> CommandError:
    """The daemon's own error, else the end of what it wrote."""
    for place, line in enumerate(lines):
        if line.startswith("Error: "):
            follow = lines[place + 1].strip() if place + 1 < len(lines) else ""
            remedy = follow.removeprefix("Try: ") if follow.startswith("Try: ") else ""
            return CommandError(line.removeprefix("Error: "), remedy or f"See its log, {log}.")
    tail = "\n".join(lines[-LOG_LINES_MAX:])
    return CommandError(
        f"The daemon ended at once with code {code}{':' if tail else '.'}\n{tail}".rstrip(),
        f"See its log, {log}.",
    )
