"""The table of tasks, as `service ps` and `node ps` print it: newest first within a slot."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import click

from swarmlet.cli.client import Client, Object
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.format import ago, capital, epoch_s, natural, one_line, short_id, without_digest
from swarmlet.cli.options import filters_of
from swarmlet.cli.output import Row, fail_with, print_rows
from swarmlet.cli.world import wall_s

HEADINGS: Final = {
    "ID": "ID",
    "Name": "NAME",
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}
ERROR_LENGTH_MAX: Final = 30  # characters in the table; docker/cli task/formatter.go


class Style(NamedTuple):
    """The flags of a listing."""

    form: str = ""
    no_resolve: bool = False
    no_trunc: bool = False
    quiet: bool = False


class Names(NamedTuple):
    """Names of services and nodes by id, and the services whose slots count from 0."""

    known: dict[str, str]
    numbered: dict[str, None]

    def of(self, object_id: str) -> str:
        return self.known.get(object_id, object_id)


def print_tasks_of(
    client: Client,
    kind: str,
    names: Iterable[str],
    find: Callable[[Client, str], Object],
    filters: Iterable[str],
    style: Style,
) -> None:
    """Print the tasks of all of `kind` (service or node) that `find` finds, and then fail for the
    others."""
    ids: list[str] = []
    errors: list[CommandError] = []
    for name in names:
        try:
            ids.append(find(client, name)["ID"])
        except CommandError as error:
            errors.append(error)
    if ids:
        _print_tasks(client, {kind: dict.fromkeys(ids, True)}, filters, style)
    fail_with(errors)


def _print_tasks(
    client: Client, scope: dict[str, dict[str, bool]], filters: Iterable[str], style: Style
) -> None:
    """Print the tasks in `scope` (a filter) that pass `filters`."""
    from swarmlet.cli.node import resolved

    wanted = dict(scope)
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"Invalid filter {text!r}: it must be KEY=VALUE.")
        value = resolved(client, value) if key == "node" else value
        wanted[key] = {**wanted.get(key, {}), value: True}
    tasks = client.get("/tasks", **filters_of(wanted))
    names = Names({}, {}) if style.no_resolve or not tasks else _names(client)
    ordered = sorted(tasks, key=lambda task: _order(task, names))
    if style.quiet and not style.form:
        for task in ordered:
            click.echo(short_id(task["ID"], no_trunc=style.no_trunc))
        return
    is_table = style.form in ("", "table") or style.form.startswith("table ")
    rows = _rows(ordered, names, no_trunc=style.no_trunc, indent=r" \_ " if is_table else "")
    print_rows(rows, HEADINGS, tuple(HEADINGS), style.form)


def _names(client: Client) -> Names:
    """What may not be listed stays an id."""
    names = Names({}, {})
    try:
        for service in client.get("/services"):
            names.known[service["ID"]] = service["Spec"]["Name"]
            if (service["Spec"].get("Mode") or {}).get("ReplicatedJob") is not None:
                names.numbered[service["ID"]] = None
        for node in client.get("/nodes"):
            hostname = (node.get("Description") or {}).get("Hostname")
            names.known[node["ID"]] = hostname or node["ID"]
    except ApiError as error:
        click.echo(f"Note: names are not known: {error.message}", err=True)
    return names


def _order(task: Object, names: Names) -> tuple[list[str | int], float, str]:
    return natural(task_name(task, names)), -epoch_s(task["CreatedAt"]), task["ID"]


def task_name(task: Object, names: Names) -> str:
    """web.1, or web.NODEID where the task has no slot; the first slot of a replicated job is 0."""
    service_id = task.get("ServiceID", "")
    place = task.get("Slot") or (0 if service_id in names.numbered else task.get("NodeID", ""))
    return f"{names.of(service_id)}.{place}"


def _rows(tasks: Iterable[Object], names: Names, *, no_trunc: bool, indent: str) -> list[Row]:
    rows: list[Row] = []
    last, now_s = "", wall_s()
    for task in tasks:
        name = task_name(task, names)
        status = task.get("Status") or {}
        node_id = task.get("NodeID", "")
        spec = (task.get("Spec") or {}).get("ContainerSpec") or {}
        rows.append(
            {
                "ID": short_id(task["ID"], no_trunc=no_trunc),
                "Name": indent + name if name == last else name,
                "Image": without_digest(spec.get("Image", ""), no_trunc=no_trunc),
                "Node": names.of(node_id),
                "DesiredState": capital(task.get("DesiredState", "")),
                "CurrentState": _current_state(status, now_s),
                "Error": _error(status.get("Err", ""), no_trunc=no_trunc),
                "Ports": task_ports(status),
            }
        )
        last = name
    return rows


def _current_state(status: Object, now_s: float) -> str:
    return f"{capital(status.get('State', ''))} {ago(status.get('Timestamp', ''), now_s).lower()}"


def _error(text: str, *, no_trunc: bool) -> str:
    text = one_line(text)
    if not no_trunc and len(text) > ERROR_LENGTH_MAX:
        text = text[: ERROR_LENGTH_MAX - 1] + "…"
    return f'"{text}"' if text else ""


def task_ports(status: Object) -> str:
    """*:8080->80/tcp of the ports the task got on its own host."""
    ports = (status.get("PortStatus") or {}).get("Ports") or []
    return ",".join(
        f"*:{port.get('PublishedPort', 0)}->{port.get('TargetPort', 0)}/{port.get('Protocol', '')}"
        for port in ports
    )
