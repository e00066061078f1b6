"""What secrets and configs share: both are named bytes; a config's alone can be read back."""

from binascii import b2a_base64
from collections.abc import Mapping
from typing import NamedTuple

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.format import ago, natural
from swarmlet.cli.options import filters_query, pairs_of
from swarmlet.cli.output import Row, print_ids, print_rows
from swarmlet.cli.world import wall_s
from swarmlet.core.errors import InvalidArgumentError


class Kind(NamedTuple):
    """`size_max_b` is exclusive, as SwarmKit has it."""

    name: str
    path: str
    size_max_b: int
    headings: Mapping[str, str]


def create(client: Client, kind: Kind, name: str, file: str, options: Mapping[str, Json]) -> None:
    """Store the bytes of `file` ("-": stdin, "": none, a driver has them) and print the id."""
    spec: Object = {"Name": name, "Labels": pairs_of(options["label"])}
    if file:
        spec["Data"] = b2a_base64(_content(kind, file), newline=False).decode()
    elif not options.get("driver"):
        raise click.UsageError(f"A file with the {kind.name} is missing ('-' reads stdin).")
    if options.get("driver"):
        spec["Driver"] = {"Name": options["driver"]}
    if options.get("template_driver"):
        spec["Templating"] = {"Name": options["template_driver"]}
    click.echo(client.post(f"{kind.path}/create", spec)["ID"])


def _content(kind: Kind, file: str) -> bytes:
    """The bytes; no more is read of an endless file than shows that it is too long."""
    with click.open_file(file, "rb") as stream:
        content: bytes = stream.read(kind.size_max_b)
    if not 0 < len(content) < kind.size_max_b:
        raise InvalidArgumentError(
            f"{kind.name} data must be larger than 0 and less than {kind.size_max_b} bytes",
            "Large files belong on a volume, or into the image.",
        )
    return content


def list_all(
    client: Client, kind: Kind, filters: tuple[str, ...], *, form: str, quiet: bool
) -> None:
    """Print the objects of a kind."""
    found = client.get(kind.path, **filters_query(filters))
    found.sort(key=lambda each: (natural(each["Spec"]["Name"]), each["ID"]))
    if quiet and not form:
        print_ids(found)
        return
    columns = [field for field in kind.headings if field != "Labels"]
    now_s = wall_s()
    print_rows([_row(kind, each, now_s) for each in found], kind.headings, columns, form)


def _row(kind: Kind, found: Object, now_s: float) -> Row:
    spec = found["Spec"]
    labels = spec.get("Labels") or {}
    row = {
        "ID": found["ID"],
        "Name": spec["Name"],
        "CreatedAt": ago(found.get("CreatedAt", ""), now_s),
        "UpdatedAt": ago(found.get("UpdatedAt", ""), now_s),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
    }
    if "Driver" in kind.headings:
        row["Driver"] = (spec.get("Driver") or {}).get("Name", "")
    return row


def find(client: Client, kind: Kind, name: str) -> Object:
    found: Object = client.get(f"{kind.path}/{quote(name)}")
    return found


def remove(client: Client, kind: Kind, name: str) -> None:
    client.delete(f"{kind.path}/{quote(name)}")


def pretty_lines(found: Object) -> list[str]:
    """The lines both kinds share in --pretty."""
    from swarmlet.cli.format import long_time

    spec = found["Spec"]
    lines = [f"ID:\t\t\t{found['ID']}", f"Name:\t\t\t{spec['Name']}"]
    if labels := spec.get("Labels"):
        lines += ["Labels:", *(f" - {key}={labels[key]}" for key in sorted(labels))]
    if spec.get("Driver"):
        lines.append(f"Driver:\t\t\t{spec['Driver'].get('Name', '')}")
    lines.append(f"Created at:            \t{long_time(found.get('CreatedAt', ''))}")
    return [*lines, f"Updated at:            \t{long_time(found.get('UpdatedAt', ''))}"]
