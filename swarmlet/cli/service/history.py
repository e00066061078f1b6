"""`swarmlet service history` and `diff`: the specs a service had, and how they differ."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.format import ago
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import format_option, no_trunc_option
from swarmlet.cli.output import Row, print_rows
from swarmlet.cli.service.listing import find
from swarmlet.cli.stale import may_be_stale
from swarmlet.cli.world import wall_s

HEADINGS: Final = {
    "Rev": "REV",
    "Created": "CREATED",
    "Status": "STATUS",
    "Changed": "CHANGED",
    "Note": "NOTE",
}
CHANGED_MAX: Final = 3  # fields named in the table
_PREFIXES: Final = ("TaskTemplate.ContainerSpec.", "TaskTemplate.")

_revision: Final = click.IntRange(min=1)


@click.command(epilog=example("swarmlet service history web"))
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@format_option
@no_trunc_option
@click.pass_obj
@may_be_stale
def history(client: Client, /, *, name: str, form: str, no_trunc: bool) -> None:
    """List the specs a service had, the newest first: the last ten, and what is still in use.

    `service rollback --to REV` brings one back.
    """
    found = find(client, name)
    revisions = client.get(f"/swarmlet/v1/services/{quote(found['ID'])}/history")
    rows = [_row(one, no_trunc=no_trunc) for one in revisions]
    print_rows(rows, HEADINGS, tuple(HEADINGS), form)


def _row(revision: Object, *, no_trunc: bool) -> Row:
    words = [word for word in ("Current", "Previous") if revision[f"Is{word}"]]
    return {
        "Rev": str(revision["Number"]),
        "Created": ago(revision["CreatedAt"], wall_s()).lower(),
        "Status": ", ".join(words).lower(),
        "Changed": _changed(revision.get("Changed"), no_trunc=no_trunc),
        "Note": _note(revision),
    }


def _changed(paths: list[str] | None, *, no_trunc: bool) -> str:
    """Of the first that is kept nobody knows."""
    if paths is None:
        return "-"
    shown = paths if no_trunc else paths[:CHANGED_MAX]
    more = [f"and {len(paths) - len(shown)} more"] if len(shown) < len(paths) else []
    return ", ".join([*map(short_path, shown), *more]) or "nothing"


def short_path(path: str) -> str:
    """Without what most fields stand under."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return path[len(prefix) :]
    return path


def _note(revision: Object) -> str:
    if not revision.get("Repeats"):
        return ""
    return f"back to {revision['Repeats']}: {revision.get('Cause', '')}"


@click.command(
    epilog=example(
        "swarmlet service diff web", "swarmlet service diff web 3", "swarmlet service diff web 3 5"
    )
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@click.argument("first", metavar="[REV", required=False, type=_revision)
@click.argument("last", metavar="[REV]]", required=False, type=_revision)
@click.pass_obj
@may_be_stale
def diff(client: Client, /, *, name: str, first: int | None, last: int | None) -> None:
    """Show how two specs of a service differ, field by field.

    Without a REV the present one and the one before, with one that and the present one.
    """
    found = find(client, name)
    given = {"from": first, "to": last}
    query = {key: str(number) for key, number in given.items() if number is not None}
    answer = client.get(f"/swarmlet/v1/services/{quote(found['ID'])}/diff", **query)
    click.echo(f"--- {name} {answer['Old']}\n+++ {name} {answer['New']}")
    print_changes(answer["Changes"])


def print_changes(changes: Iterable[Mapping[str, Json]]) -> None:
    """Each field that differs, with what goes and what comes."""
    lines = [line for change in changes for line in _lines(change)]
    click.echo("\n".join(lines) if lines else "Nothing differs.")


def _lines(change: Mapping[str, Json]) -> Iterator[str]:
    old, new = _values(change["Old"]), _values(change["New"])
    gone = [value for value in old if value not in new]
    come = [value for value in new if value not in old]
    yield change["Path"] if gone or come else f"{change['Path']} (in another order)"
    yield from (f"  - {value}" for value in gone)
    yield from (f"  + {value}" for value in come)


def _values(value: Json) -> list[str]:
    """A list one entry a line, anything else as one value."""
    if value is None:
        return []
    return [_text(one) for one in value] if isinstance(value, list) else [_text(value)]


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
