"""`--if-version`: to change a service only as somebody has seen it, in a plan or by inspecting."""

from typing import Final

import click

from swarmlet.cli.client import Object
from swarmlet.cli.errors import CommandError

if_version_option: Final = click.option(
    "--if-version",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if the service still has this version, as service plan names it.",
)


def check_version(service: Object, seen: int | None) -> None:
    """Raises CommandError where the service has changed since; what changes it in this very moment
    the daemon refuses."""
    version = service["Version"]["Index"]
    if seen is not None and version != seen:
        name = service["Spec"]["Name"]
        raise CommandError(
            f"Service {name} has version {version}, not {seen}: it was changed meanwhile.",
            f"`swarmlet service plan` shows what an update would do now, "
            f"`swarmlet service history {name}` what it was changed to.",
        )
