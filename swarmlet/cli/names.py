"""Shell completion with live names: of what the daemon has at this moment, or nothing."""

from collections.abc import Callable
from typing import Final

import click

from swarmlet.cli.client import Client, Object
from swarmlet.core.errors import SwarmError

NAMES_MAX: Final = 200  # offered to a shell

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _completer(path: str, name_of: Callable[[Object], str]) -> Completer:
    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        client = Client(str(ctx.find_root().params.get("host") or ""))
        try:
            names = sorted(name_of(found) for found in client.get(path))
        except SwarmError:  # a shell has no place for an error
            return []
        finally:
            client.close()
        return [name for name in names if name.startswith(incomplete)][:NAMES_MAX]

    return complete


def _spec_name(found: Object) -> str:
    return str(found["Spec"]["Name"])


complete_service: Final = _completer("/services", _spec_name)
complete_secret: Final = _completer("/secrets", _spec_name)
complete_config: Final = _completer("/configs", _spec_name)
complete_node: Final = _completer("/nodes", lambda found: str(found["Description"]["Hostname"]))
complete_task: Final = _completer("/tasks", lambda found: str(found["ID"]))
