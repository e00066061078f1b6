"""Listings, inspections and removals: the same for every noun."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import click

from swarmlet.cli.client import Json, Object
from swarmlet.cli.errors import CommandError
from swarmlet.cli.format import table
from swarmlet.core.errors import SwarmError

Row = dict[str, Json]
"""A row's fields as a template knows them; those with a leading "_" are for the table alone."""

_TABLE: Final = "table"
_JSON: Final = "json"


def print_rows(
    rows: Sequence[Row], headings: Mapping[str, str], columns: Sequence[str], form: str
) -> None:
    """Print `rows` as `--format` asks. `columns` are the default table's fields, in order."""
    if form in ("", _TABLE):
        cells = [[str(row[column]) for column in columns] for row in rows]
        names = [headings[column.removeprefix("_")] for column in columns]
        click.echo("\n".join(table([names, *cells])))
    elif form == _JSON:
        for row in rows:
            click.echo(json.dumps(_public(row), ensure_ascii=False, separators=(",", ":")))
    else:
        _print_template(rows, headings, form)


def _public(row: Row) -> Row:
    return {key: row[key] for key in sorted(row) if not key.startswith("_")}


def _print_template(rows: Sequence[Row], headings: Mapping[str, str], form: str) -> None:
    from swarmlet.model.template import compile as compile_template

    has_head = form.startswith(f"{_TABLE} ")
    text = form.removeprefix(f"{_TABLE} ").replace("\\t", "\t").replace("\\n", "\n")
    template = compile_template(text)
    lines = [template.render(_public(row)) for row in rows]
    if not has_head:
        for line in lines:
            click.echo(line)
        return
    cells = [line.split("\t") for line in [template.render(headings), *lines]]
    width = max(len(row) for row in cells)
    click.echo("\n".join(table([row + [""] * (width - len(row)) for row in cells])))


def print_ids(objects: Sequence[Object]) -> None:
    for found in objects:
        click.echo(found["ID"])


def print_objects(objects: Sequence[Object], form: str) -> None:
    """What `inspect` prints: the daemon's own JSON, indented, or a template on each."""
    if form in ("", _JSON):
        indent = 4 if not form else None
        click.echo(json.dumps(objects, indent=indent, ensure_ascii=False))
        return
    from swarmlet.model.template import compile as compile_template

    template = compile_template(form, is_lenient=True)
    for found in objects:
        click.echo(template.render(found))


def inspect(
    names: Sequence[str],
    find: Callable[[str], Object],
    form: str,
    pretty: Callable[[Object], None] | None = None,
) -> None:
    """Print every object that is found, then fail if one was not."""
    found: list[Object] = []
    errors: list[SwarmError] = []
    for name in names:
        try:
            found.append(find(name))
        except SwarmError as error:
            errors.append(error)
    if pretty is None:
        print_objects(found, form)
    else:
        for each in found:
            pretty(each)
    fail_with(errors)


def for_each(names: Sequence[str], act: Callable[[str], object]) -> None:
    """`act` on every name and print it, then fail if one could not be done."""
    errors: list[SwarmError] = []
    for name in names:
        try:
            act(name)
        except SwarmError as error:
            errors.append(error)
        else:
            click.echo(name)
    fail_with(errors)


def fail_with(errors: Sequence[SwarmError]) -> None:
    """Raise the only error as it is, or all of them as one; nothing where there is none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        messages = "\nError: ".join(error.message for error in errors)
        remedies = list(dict.fromkeys(error.remedy for error in errors if error.remedy))
        raise CommandError(messages, remedies[0] if len(remedies) == 1 else "")


def check_pretty_alone(form: str, *, pretty: bool) -> None:
    if form and pretty:
        raise click.UsageError("--format and --pretty exclude each other.")
