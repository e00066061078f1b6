"""`swarmlet version`."""

import sys

import click

from swarmlet.cli.client import API_PREFIX, Client, Object
from swarmlet.cli.lazy import example
from swarmlet.core.version import VERSION


@click.command(epilog=example("swarmlet version --format '{{.Client.Version}}'"))
@click.option("-f", "--format", "form", default="", metavar="STRING", help="json or a Go template.")
@click.pass_obj
def version(client: Client, *, form: str) -> None:
    """Print the versions of this command and of the daemon."""
    from swarmlet.cli.output import print_objects
    from swarmlet.core.errors import SwarmError

    problem: SwarmError | None = None
    server: Object | None = None
    try:
        server = client.get("/version")
    except SwarmError as error:
        problem = error
    known = {"Client": _client(), "Server": server}
    if form == "json":
        import json

        click.echo(json.dumps(known))
    elif form:
        print_objects([known], form)
    else:
        click.echo("\n".join(_lines(known)))
    if problem is not None:
        raise problem


def _client() -> Object:
    return {
        "Version": VERSION,
        "APIVersion": API_PREFIX.removeprefix("/v"),
        "PythonVersion": ".".join(str(part) for part in sys.version_info[:3]),
        "Os": sys.platform,
    }


def _lines(known: Object) -> list[str]:
    client, server = known["Client"], known["Server"]
    lines = [
        "Client:",
        f" Version:           {client['Version']}",
        f" API version:       {client['APIVersion']}",
        f" Python version:    {client['PythonVersion']}",
        f" OS:                {client['Os']}",
    ]
    if server is None:
        return lines
    least = server.get("MinAPIVersion", "")
    return [
        *lines,
        "",
        "Server:",
        " Engine:",
        f"  Version:          {server.get('Version', '')}",
        f"  API version:      {server.get('ApiVersion', '')} (minimum version {least})",
        f"  OS/Arch:          {server.get('Os', '')}/{server.get('Arch', '')}",
        f"  Kernel:           {server.get('KernelVersion', '')}",
        *_runtimes(server),
    ]


def _runtimes(server: Object) -> list[str]:
    lines = []
    for part in server.get("Components") or []:
        if part["Name"] != "Engine":
            lines += [f" {part['Name']}:", f"  Version:          {part['Version']}"]
    return lines
