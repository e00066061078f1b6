"""`swarmlet join`: from a token to a node of another host's swarm."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import click

from swarmlet.cli.client import Client, Json, Object
from swarmlet.cli.errors import EXIT_INTERRUPTED
from swarmlet.cli.format import one_line
from swarmlet.cli.lazy import example
from swarmlet.cli.swarm_options import (
    announce_option,
    availability_of,
    availability_option,
    daemon_options,
    place_options,
)
from swarmlet.cli.world import mono_s
from swarmlet.core.errors import SwarmError

MANAGERS_VARIABLE: Final = "SWARMLET_MANAGERS"
_PREFIX: Final = "SWMTKN-"  # of every join token
_TOKEN_FILE_MAX: Final = 4096  # characters; a token has 85


@click.command(
    epilog=example(
        "swarmlet join SWMTKN-1-... 192.168.0.10:2377",
        "swarmlet join --token SWMTKN-1-... 192.168.0.10:2377",
        "swarmlet join SWMTKN-1-...     # a manager of the local network that announces itself",
        "swarmlet join --token-file - 192.168.0.10 < token",
    )
)
@click.argument("words", metavar="[TOKEN] [ADDR[:PORT]]...", nargs=-1)
@click.option("--token", default="", metavar="TOKEN", help="What `join-token` printed.")
@click.option(
    "--token-file",
    type=click.File(),
    metavar="FILE",
    help="Read the token here (- for standard input): in no shell's history, in no process list.",
)
@place_options
@availability_option
@announce_option
@daemon_options
@click.pass_obj
def join(
    client: Client,
    /,
    *,
    words: tuple[str, ...],
    token: str,
    token_file: TextIO | None,
    **options: Json,
) -> None:
    """Join another host's swarm with a token of it.

    Without an address those in SWARMLET_MANAGERS are asked, else managers of the local network that
    announce themselves. Starts a daemon in the background where none answers, and says so.
    """
    body = _join_request(_token(token, token_file), words, options)
    from swarmlet.cli.background import ensure_daemon

    place = {name: options[name] or "" for name in ("data_dir", "runtime", "docker_host")}
    ensure_daemon(client, **place)
    try:
        with _waiting(client):
            client.post("/swarm/join", body)
    except KeyboardInterrupt:
        click.echo(
            "\nThe attempt to join goes on in the background. `swarmlet info` shows how it went; "
            "`swarmlet leave` gives it up.",
            err=True,
        )
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    found = client.get("/info")
    is_manager = bool((found.get("Swarm") or {}).get("ControlAvailable"))
    click.echo(f"This node joined a swarm as a {'manager' if is_manager else 'worker'}.")
    for warning in found.get("Warnings") or []:
        click.echo(warning, err=True)


def _token(token: str, file: TextIO | None) -> str:
    """What the options say; "" where they leave it to the words."""
    if file is None:
        return token
    if token:
        raise click.UsageError("Give --token or --token-file, not both.")
    try:
        found = file.read(_TOKEN_FILE_MAX).strip()
    except UnicodeDecodeError:
        found = ""
    if not found.startswith(_PREFIX):
        raise click.UsageError("The file of --token-file does not begin with a join token.")
    return found


def _join_request(token: str, words: tuple[str, ...], options: dict[str, Json]) -> Object:
    if not token:
        token = next((word for word in words if word.startswith(_PREFIX)), "")
        token = token or next(iter(words), "")
        words = tuple(word for word in words if word != token)
    if any(word.startswith(_PREFIX) for word in words):
        raise click.UsageError("A join token stands where an address of a manager belongs.")
    if not token:
        raise click.UsageError("Joining needs a token: `swarmlet join-token worker` on a manager.")
    addrs = list(words) or os.environ.get(MANAGERS_VARIABLE, "").replace(",", " ").split()
    return {
        "ListenAddr": options["listen_addr"],
        "AdvertiseAddr": options["advertise_addr"],
        "DataPathAddr": options["data_path_addr"],
        "RemoteAddrs": addrs,
        "JoinToken": token,
        "Availability": availability_of(options),
        **({} if addrs else {"Discover": True}),
        **({"Announce": True} if options["announce"] else {}),
    }


@contextmanager
def _waiting(client: Client) -> Iterator[None]:
    """On a terminal, a line that says how long it takes and what the daemon waits for."""
    if not sys.stderr.isatty():
        yield
        return
    start_s = mono_s()

    def show() -> None:
        text = f"Joining, {mono_s() - start_s:.0f} s{_problem(client.host)}"
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        click.echo(f"\r\x1b[2K{text[: width - 1]}", err=True, nl=False)

    client.on_wait = show
    try:
        yield
    finally:
        client.on_wait = None
        click.echo("\r\x1b[2K", err=True, nl=False)


def _problem(host: str) -> str:
    """Why it takes so long, if the daemon knows."""
    client = Client(host)
    try:
        problem = (client.get("/info").get("Swarm") or {}).get("Error", "")
    except SwarmError:  # the join itself will say it
        return ""
    finally:
        client.close()
    return f": {one_line(problem)}" if problem else ""
