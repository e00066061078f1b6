"""`swarmlet doctor`: what this machine can do, found out by trying. Needs no daemon."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import EXIT_ERROR
from swarmlet.cli.lazy import example
from swarmlet.doctor.catalogue import chosen, names
from swarmlet.doctor.finding import Finding
from swarmlet.doctor.place import Options, look_around
from swarmlet.doctor.report import as_json, is_well, lines, summary
from swarmlet.doctor.run import examine


@click.command(
    epilog=example(
        "swarmlet doctor", "sudo swarmlet doctor network disk-sync", "swarmlet doctor --json"
    )
)
@click.argument("wanted", metavar="[NAME...]", nargs=-1)
@click.option("--json", "is_json", is_flag=True, help="A list of objects, for programs.")
@click.option("--data-dir", default="", metavar="DIR", help="Where the daemon keeps its data.")
@click.option("--docker-host", default="", metavar="URL", help="The Docker Engine to look for.")
@click.option(
    "--listen-addr", default="", metavar="IP[:PORT]", help="Where the daemon would listen."
)
@click.pass_obj
def doctor(
    client: Client,
    *,
    wanted: tuple[str, ...],
    is_json: bool,
    data_dir: str,
    docker_host: str,
    listen_addr: str,
) -> int:
    """Try what swarmlet needs of this machine, and say what is missing and what helps.

    NAME is a probe or a group of them. Nothing is changed: all is tried in a scratch place.
    """
    check_names(wanted)
    options = Options(
        host=client.named, data_dir=data_dir, docker_host=docker_host, listen_addr=listen_addr
    )
    coming = examine(chosen(wanted), look_around(options, os.environ, os.geteuid()))
    if is_json:
        found = list(coming)
        click.echo(as_json(found))
    else:
        is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        found = []
        for line in lines(_kept(coming, found), is_coloured=is_coloured):
            click.echo(line)
        click.echo(f"\n{summary(found)}")
    return 0 if is_well(found) else EXIT_ERROR


def _kept(coming: Iterable[Finding], found: list[Finding]) -> Iterator[Finding]:
    """The same, printed as they come and counted at the end."""
    for finding in coming:
        found.append(finding)
        yield finding


def check_names(wanted: Sequence[str]) -> None:
    """Raises click.UsageError for a name there is not, with the nearest ones."""
    from difflib import get_close_matches

    known = names()
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known)
            meant = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
            raise click.UsageError(f"There is no probe {name!r}.{meant}")
