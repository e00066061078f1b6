"""`swarmlet service logs`: the daemon's frames, each a line of one task, named for people."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.format import SHORT_ID_LENGTH, epoch_s
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service, complete_task
from swarmlet.cli.service.listing import NOT_FOUND
from swarmlet.cli.units import seconds
from swarmlet.cli.world import wall_s
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.duration import parse_duration

HEADER_SIZE_B: Final = 8
FRAME_SIZE_MAX_B: Final = 16_777_216  # a line; the daemon's are far shorter
_STDERR: Final = 2
_SYSTEM_ERROR: Final = 3
_PREFIX: Final = "com.docker.swarm."


Command = Callable[..., Any]


class Frame(NamedTuple):
    """`stream`: 1 stdout, 2 stderr, 3 an error of the daemon itself."""

    stream: int
    payload: bytes


class Style(NamedTuple):
    """How a line is shown."""

    timestamps: bool
    details: bool
    no_resolve: bool
    no_task_ids: bool
    no_trunc: bool


def _flags(command: Command) -> Command:
    """Those of every command that prints logs, in the order of help."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


_FLAGS: Final = (
    click.option("-f", "--follow", is_flag=True, help="Go on with what comes."),
    click.option("-n", "--tail", default="all", show_default=True, help="Lines of each task."),
    click.option("--since", default="", metavar="TIME", help="5m for a duration, or a time stamp."),
    click.option("--until", default="", metavar="TIME", help="No line that is newer."),
    click.option("-t", "--timestamps", is_flag=True, help="With times."),
    click.option("--details", is_flag=True, help="With further attributes."),
    click.option("--raw", is_flag=True, help="Without the tasks' names."),
    click.option("--no-resolve", is_flag=True, help="Print ids, not names."),
    click.option("--no-task-ids", is_flag=True, help="Without the tasks' ids."),
    click.option("--no-trunc", is_flag=True, help="Do not cut ids."),
)


@click.command(
    epilog=example(
        "swarmlet service logs --follow --tail 10 web", "swarmlet service logs --since 5m web"
    )
)
@click.argument("name", metavar="SERVICE|TASK", shell_complete=complete_service)
@_flags
@click.pass_obj
def logs(client: Client, /, *, name: str, **options: Json) -> None:
    """Print what the tasks of a service wrote."""
    path, found = _source(client, name)
    _print_logs(client, path, found, {**options, "name": name})


@click.command("logs", epilog=example("swarmlet task logs --follow --tail 10 oh46iz5ujgo1"))
@click.argument("name", metavar="TASK", shell_complete=complete_task)
@_flags
@click.pass_obj
def task_logs(client: Client, /, *, name: str, **options: Json) -> None:
    """Print what a task wrote."""
    path = f"/tasks/{quote(name)}"
    _print_logs(client, path, client.get(path), {**options, "name": name})


def _print_logs(client: Client, path: str, found: Object, options: dict[str, Json]) -> None:
    raw, name = options["raw"], options["name"]
    query = _query(options, raw=raw)
    template = found["Spec"].get("TaskTemplate") or found["Spec"]
    pieces = client.stream(f"{path}/logs", **query)
    if (template.get("ContainerSpec") or {}).get("TTY"):
        if not raw:
            raise CommandError(
                f"The tasks of {name} write to a terminal, so that lines cannot be told apart.",
                "`swarmlet service logs --raw`",
            )
        for piece in pieces:
            _write(sys.stdout.buffer, piece)
        return
    style = Style(**{key: bool(options[key]) for key in Style._fields})
    labels = None if raw else _Labels(client, found, style)
    for frame in frames_of(pieces):
        _print(frame, labels)


def _source(client: Client, name: str) -> tuple[str, Object]:
    """Where the log is, and the service or task it is of."""
    for path in (f"/services/{quote(name)}", f"/tasks/{quote(name)}"):
        try:
            return path, client.get(path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
    raise CommandError(
        f"There is no service and no task {name!r}.", "`swarmlet service ls` lists the services."
    )


def _query(options: dict[str, Json], *, raw: bool) -> dict[str, str]:
    tail = options["tail"]
    if tail != "all" and not tail.isdigit():
        raise click.UsageError(f"Invalid value for --tail: {tail!r} is no number, nor 'all'.")
    query = {"stdout": "1", "stderr": "1", "tail": tail}
    if not raw:
        query["details"] = "1"
    for key in ("since", "until"):
        if options[key]:
            query[key] = since_s(options[key], wall_s(), key)
    for flag in ("follow", "timestamps"):
        if options[flag]:
            query[flag] = "1"
    return query


def since_s(text: str, now_s: float, name: str = "since") -> str:
    """Unix seconds of a duration before now, of RFC 3339 in UTC, or of unix seconds; `name`: the
    flag they were given to."""
    if text.replace(".", "", 1).isdigit():
        return text
    try:
        return f"{now_s - seconds(parse_duration(text)):.9f}"
    except InvalidArgumentError:
        pass
    try:
        return f"{epoch_s(text if 'T' in text else text + 'T00:00:00Z'):.9f}"
    except ValueError:
        raise click.UsageError(
            f"Invalid value for --{name}: {text!r}. "
            "Write 10m, 2026-01-31T12:00:00Z or unix seconds."
        ) from None


def frames_of(pieces: Iterator[bytes]) -> Iterator[Frame]:
    """Docker's frames, wherever the pieces are cut. Raises CommandError for what is none."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= HEADER_SIZE_B:
            size_b = int.from_bytes(buffer[4:HEADER_SIZE_B], "big")
            if buffer[0] > _SYSTEM_ERROR or size_b > FRAME_SIZE_MAX_B:
                raise CommandError("The daemon's log stream is damaged.", "See the daemon's log.")
            end = HEADER_SIZE_B + size_b
            if len(buffer) < end:
                break
            yield Frame(buffer[0], bytes(buffer[HEADER_SIZE_B:end]))
            del buffer[:end]
    if buffer:
        raise CommandError("The daemon's log stream broke off.", "Ask again.")


def _print(frame: Frame, labels: "_Labels | None") -> None:
    if frame.stream == _SYSTEM_ERROR:
        raise CommandError(frame.payload.decode("utf-8", "replace").strip())
    target = sys.stderr.buffer if frame.stream == _STDERR else sys.stdout.buffer
    _write(target, labels.line(frame.payload) if labels else frame.payload)


def _write(target: BinaryIO, content: bytes) -> None:
    target.write(content)
    target.flush()


class _Labels:
    """web.1.ID@NODE for every task, asked for once (the stream has a connection of its own)."""

    def __init__(self, client: Client, service: Object, style: Style) -> None:
        self.client = client
        self.style = style
        replicas = ((service["Spec"].get("Mode") or {}).get("Replicated") or {}).get("Replicas", 1)
        self.slot_width = len(str(replicas))
        self.known: dict[str, str] = {}
        self.names: dict[str, str] = {}

    def line(self, payload: bytes) -> bytes:
        """`[STAMP ]DETAILS LINE` as `[STAMP ]LABEL    | [DETAILS ]LINE`."""
        parts = payload.split(b" ", 2 if self.style.timestamps else 1)
        stamp = parts.pop(0) + b" " if self.style.timestamps else b""
        if len(parts) != 2:  # details and the line
            raise CommandError("The daemon's log stream is damaged.", "See the daemon's log.")
        details = _details(parts[0].decode("utf-8", "replace"))
        shown = b""
        if self.style.details:
            rest = (f"{key}={details[key]}" for key in sorted(details) if _PREFIX not in key)
            shown = f"{','.join(rest)} ".encode()
        return stamp + self.label(details).encode() + b"    | " + shown + parts[1]

    def label(self, details: dict[str, str]) -> str:
        task_id = details.get(f"{_PREFIX}task.id", "")
        if task_id not in self.known:
            self.known[task_id] = self.make_label(details, task_id)
        return self.known[task_id]

    def make_label(self, details: dict[str, str], task_id: str) -> str:
        service_id = details.get(f"{_PREFIX}service.id", "")
        node_id = details.get(f"{_PREFIX}node.id", "")
        if self.style.no_resolve:
            service, node = service_id, node_id
        else:
            service = self.name(f"/services/{service_id}", service_id)
            node = self.name(f"/nodes/{node_id}", node_id)
        slot = self.slot(task_id)
        shown_id = task_id if self.style.no_trunc else task_id[:SHORT_ID_LENGTH]
        parts = [service, slot, "" if self.style.no_task_ids else shown_id]
        padding = " " * (self.slot_width - len(slot))
        return ".".join(part for part in parts if part) + f"@{node}{padding}"

    def name(self, path: str, otherwise: str) -> str:
        if path not in self.names:
            found = self.look_up(path)
            hostname = (found.get("Description") or {}).get("Hostname")
            name = hostname or (found.get("Spec") or {}).get("Name") or otherwise
            self.names[path] = str(name)
        return self.names[path]

    def slot(self, task_id: str) -> str:
        return str(self.look_up(f"/tasks/{task_id}").get("Slot") or "")

    def look_up(self, path: str) -> Object:
        """The object, or nothing where it is gone: its log may outlive it."""
        try:
            found: Object = self.client.get(path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return {}
        return found


def _details(text: str) -> dict[str, str]:
    """`k=v,k2=v2`, both URL-escaped."""
    from urllib.parse import unquote_plus

    pairs = (part.partition("=") for part in text.split(",") if part)
    return {unquote_plus(key): unquote_plus(value) for key, _, value in pairs}
