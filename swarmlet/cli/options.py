"""Flags that many commands share, and how their values are read."""

import json
from collections.abc import Iterable

import click

format_option = click.option(
    "--format",
    "form",
    default="",
    metavar="STRING",
    help="'table', 'json', 'table TEMPLATE' or a Go TEMPLATE such as '{{.Name}}'.",
)
inspect_format_option = click.option(
    "-f", "--format", "form", default="", metavar="STRING", help="'json' or a Go template."
)
pretty_option = click.option("--pretty", is_flag=True, help="Print it for people to read.")
filter_option = click.option(
    "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only what matches."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print ids alone.")
no_trunc_option = click.option("--no-trunc", is_flag=True, help="Do not cut ids and texts.")
no_resolve_option = click.option("--no-resolve", is_flag=True, help="Print ids, not names.")
detach_option = click.option(
    "-d", "--detach", is_flag=True, help="Do not wait for the service to converge."
)


def filters_query(filters: Iterable[str]) -> dict[str, str]:
    """The query of `--filter`s, empty where there is none. Raises click.UsageError."""
    wanted: dict[str, dict[str, bool]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"Invalid filter {text!r}: it must be KEY=VALUE.")
        wanted.setdefault(key.strip().lower(), {})[value.strip()] = True
    return filters_of(wanted) if wanted else {}


def filters_of(wanted: dict[str, dict[str, bool]]) -> dict[str, str]:
    """Docker's encoding of filters, as a query."""
    return {"filters": json.dumps(wanted, separators=(",", ":"), sort_keys=True)}


def pairs_of(texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` and `KEY` (an empty value) as labels; the last of a key wins."""
    labels: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise click.UsageError(f"Invalid label {text!r}: the key is missing.")
        labels[key] = value
    return labels
