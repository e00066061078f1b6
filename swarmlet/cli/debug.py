"""`swarmlet debug`: what to send along with a question."""

import os

import click

from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError
from swarmlet.cli.format import human_size
from swarmlet.cli.lazy import example
from swarmlet.cli.world import wall_s
from swarmlet.core.paths import default_data_dir


@click.group(epilog=example("swarmlet debug bundle"), no_args_is_help=True)
def debug() -> None:
    """Find out what is wrong, with others' help."""


@debug.command(
    epilog=example("swarmlet debug bundle", "swarmlet debug bundle -o /tmp/node1.tar.gz")
)
@click.option("-o", "--output", default="", metavar="FILE", help="Write it here; not over a file.")
@click.option(
    "--data-dir", default="", metavar="DIR", help="The node's data, where no daemon answers."
)
@click.pass_obj
def bundle(client: Client, *, output: str, data_dir: str) -> None:
    """Collect what helps to find a fault, without secrets, in a tar.gz.

    Works without a daemon too. Values of environment variables, labels and options, arguments of
    commands, tokens and keys are taken out; names, addresses and paths are not: read it before you
    send it to anybody.
    """
    from swarmlet.cli.bundle import Collector, stamp_of, write_bundle

    now_s = wall_s()
    name = f"swarmlet-debug-{os.uname().nodename}-{stamp_of(now_s)}"
    path = os.path.abspath(output or f"{name}.tar.gz")
    if os.path.lexists(path):
        raise CommandError(f"{path} is there already; it was left alone.", "Another name with -o.")
    collector = Collector(client, data_dir or _default_dir())
    collector.collect(now_s)
    size_b = write_bundle(path, name, collector.parts, now_s)
    click.echo(f"Wrote {path} ({human_size(size_b)}), which you alone may read. It holds:")
    for part in collector.parts:
        click.echo(f"  {part.name:<22} {human_size(len(part.text.encode())):>10}  {part.what}")
    for problem in collector.problems:
        click.echo(f"Missing: {problem}", err=True)
    click.echo(
        "Secrets were taken out as far as they can be told. Read it before you send it:\n"
        f"  tar -xzOf {path} | less"
    )


def _default_dir() -> str:
    return default_data_dir(os.environ, os.getuid())
