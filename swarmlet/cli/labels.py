"""`--label-add` and `--label-rm`."""

from collections.abc import Iterable, Mapping

import click

from swarmlet.cli.options import pairs_of


def changed_labels(
    labels: Mapping[str, str], *, add: Iterable[str], remove: Iterable[str]
) -> dict[str, str]:
    """The labels after the change; what is removed and added is there in the end, as in docker."""
    gone = list(remove)
    for key in gone:
        if key not in labels:
            click.echo(f"Note: there is no label {key!r} to remove.", err=True)
    kept = {key: value for key, value in labels.items() if key not in gone}
    return {**kept, **pairs_of(add)}
