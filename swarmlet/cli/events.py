"""`swarmlet events`: what changes in the swarm, a line each, as docker prints it."""

import json
from collections.abc import Callable, Iterator

import click

from swarmlet.cli.client import Client, Object
from swarmlet.cli.errors import CommandError
from swarmlet.cli.lazy import example
from swarmlet.cli.options import filters_query
from swarmlet.cli.service.logs import since_s
from swarmlet.cli.stale import may_be_stale
from swarmlet.cli.world import wall_s
from swarmlet.core.limits import NS_PER_S

_FIELDS = {"scope": "Scope", "time": "Time", "timeNano": "TimeNano"}
"""What templates call the fields that JSON writes small."""

_OF_TASKS = ("task=", "type=task")


@click.command(
    epilog=example(
        "swarmlet events --filter type=service",
        "swarmlet events --since 10m --until 0s --format '{{.Action}} {{.Actor.ID}}'",
        "swarmlet events --tasks --since 1h --filter service=web",
    )
)
@click.option("--since", default="", metavar="TIME", help="From 10m ago, or a time stamp.")
@click.option("--until", default="", metavar="TIME", help="Stop there: 0s is now.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="type, event, service, node, secret, config, network or task; repeated: any of a "
    "key's values.",
)
@click.option("--tasks", "with_tasks", is_flag=True, help="Also what happens to tasks.")
@click.option("--format", "form", default="", metavar="STRING", help="json or a Go template.")
@click.pass_obj
@may_be_stale
def events(
    client: Client,
    *,
    since: str,
    until: str,
    filters: tuple[str, ...],
    with_tasks: bool,
    form: str,
) -> None:
    """Print what changes in the swarm until interrupted, or until --until."""
    query, now_s = filters_query(filters), wall_s()
    for key, text in (("since", since), ("until", until)):
        if text:
            query[key] = since_s(text, now_s, key)
    line_of = _line_of(form)
    _check_manager(client, is_told=bool(since))
    with_tasks = with_tasks or any(one.startswith(_OF_TASKS) for one in filters)
    path = "/swarmlet/v1/events" if with_tasks else "/events"
    for raw in lines_of(client.stream(path, **query)):
        click.echo(line_of(raw))


def _check_manager(client: Client, *, is_told: bool) -> None:
    """A node that is none is silent for ever, as docker's are. Raises CommandError. A manager
    without a majority is silent until it has one: `is_told`, where an answer says so itself."""
    state = client.get("/info").get("Swarm") or {}
    if not state.get("ControlAvailable"):
        said = f" {state['Error']}" if state.get("Error") else ""
        raise CommandError(
            f"This node is no manager of a swarm, and tells no events.{said}",
            "a manager: `swarmlet info` says how this node stands, and which managers it knows.",
        )
    if state.get("Error") and not is_told:
        click.echo(f"Warning: {state['Error']}", err=True)


def lines_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream, wherever its pieces are cut. Raises CommandError at half a line."""
    buffer = b""
    for piece in pieces:
        *whole, buffer = (buffer + piece).split(b"\n")
        yield from whole
    if buffer:
        raise CommandError("The stream of events broke off.", "Ask again with --since.")


def _line_of(form: str) -> Callable[[bytes], str]:
    """How an event's JSON is printed."""
    if form in ("json", "{{json .}}"):
        return bytes.decode
    if not form:
        return lambda raw: event_line(json.loads(raw))
    from swarmlet.model.template import compile as compile_template

    template = compile_template(form, is_lenient=True)
    return lambda raw: template.render(_named(json.loads(raw)))


def _named(event: Object) -> Object:
    return {_FIELDS.get(key, key): value for key, value in event.items()}


def event_line(event: Object) -> str:
    """`TIME TYPE ACTION ID (name=web, ...)`, the time in this host's zone with all nine digits."""
    from datetime import UTC, datetime

    seconds, ns = divmod(int(event["timeNano"]), NS_PER_S)
    at = datetime.fromtimestamp(seconds, UTC).astimezone()
    zone = at.strftime("%z")
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:5]}"
    stamp = f"{at:%Y-%m-%dT%H:%M:%S}.{ns:09d}{zone}"
    attributes: dict[str, str] = event["Actor"].get("Attributes") or {}
    shown = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    words = f"{stamp} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{words} ({shown})" if shown else words
