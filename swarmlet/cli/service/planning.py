"""`swarmlet service plan`: what an update would do, before it is done."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import click
from click.core import ParameterSource

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.errors import PlacementError
from swarmlet.cli.format import one_line, table
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.service.history import print_changes
from swarmlet.cli.service.listing import find, mode_of
from swarmlet.cli.service.update import apply, spec_options

ROWS_MAX: Final = 20  # tasks in the table
_HEADINGS: Final = ("TASK", "ACTION", "FROM", "TO", "NOTE")
_WORDS: Final = {"replace": "replaced", "create": "created", "remove": "removed", "keep": "kept"}


@click.command(
    epilog=example(
        "swarmlet service plan --image nginx:2 web",
        "swarmlet service plan --to 3 web",
        "swarmlet service update --if-version 57 --image nginx:2 web",
    )
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@spec_options
@click.option(
    "--to",
    "number",
    type=click.IntRange(min=1),
    metavar="REV",
    help="Instead of an update a rollback to this spec of the history.",
)
@click.option("--format", "form", type=click.Choice(["json"]), help="The daemon's own answer.")
@click.pass_obj
def plan(
    client: Client, /, *, name: str, number: int | None, form: str | None, **options: Json
) -> None:
    """Show what service update would do with the same flags, and change nothing.

    Which fields differ, which tasks are replaced, made and removed, and where the scheduler would
    put the new ones as things stand now; the exit code says whether each of them finds a place.
    """
    if number is not None and _given(options):
        raise click.UsageError("--to does not go with flags that change the service.")
    found = find(client, name)
    answer = _ask(client, found, number, options)
    if form:
        click.echo(json.dumps(answer, indent=4))
    else:
        _show(found, answer, _names(client))
        click.echo(f"To do this and nothing else: {_command(answer, name, number)}")
    homeless = [task for task in answer["Tasks"] if task.get("Reason")]
    if homeless:
        raise PlacementError(
            f"{len(homeless)} new tasks of {name} would find no place: {homeless[0]['Reason']}",
            "An update to this spec would wait for one.",
        )


def _given(options: Mapping[str, Json]) -> list[str]:
    """Those that stand on the command line, whatever their value."""
    source_of = click.get_current_context().get_parameter_source
    return [name for name in options if source_of(name) is ParameterSource.COMMANDLINE]


def _ask(client: Client, found: Object, number: int | None, options: Mapping[str, Json]) -> Object:
    path = f"/swarmlet/v1/services/{quote(found['ID'])}/plan"
    if number is not None:
        rollback: Object = client.post(path, {}, to=str(number))
        return rollback
    spec = found["Spec"]
    headers, doubt = apply(client, spec, options)
    if doubt:
        click.echo(doubt, err=True)
    answer: Object = client.post(path, spec, headers)
    return answer


def _names(client: Client) -> dict[str, str]:
    """Hostnames of nodes by id."""
    return {
        node["ID"]: (node.get("Description") or {}).get("Hostname") or node["ID"]
        for node in client.get("/nodes")
    }


def _show(found: Object, answer: Object, nodes: Mapping[str, str]) -> None:
    name, version = found["Spec"]["Name"], answer["Version"]["Index"]
    is_everywhere = mode_of(found["Spec"]).startswith("global")
    click.echo(f"Service {name} at version {version}:")
    print_changes(answer["Changes"])
    tasks = answer["Tasks"]
    click.echo(f"Tasks: {_counts(tasks)}{_pace(answer)}.")
    moving = [task for task in tasks if task["Action"] != "keep"]
    if moving:
        rows = [
            _row(f"{name}.{_place(task, nodes) if is_everywhere else task['Slot']}", task, nodes)
            for task in moving[:ROWS_MAX]
        ]
        click.echo("\n".join(table([list(_HEADINGS), *rows])))
    if len(moving) > ROWS_MAX:
        click.echo(f"and {len(moving) - ROWS_MAX} more (--format json lists all)")


def _command(answer: Object, name: str, number: int | None) -> str:
    version = f"--if-version {answer['Version']['Index']}"
    if number is None:
        return f"swarmlet service update {version} ..."
    return f"swarmlet service rollback --to {number} {version} {name}"


def _counts(tasks: Sequence[Object]) -> str:
    counts = Counter(task["Action"] for task in tasks)
    words = [f"{counts[key]} {_WORDS[key]}" for key in _WORDS if counts[key]]
    return ", ".join(words) or "nothing happens"


def _pace(answer: Object) -> str:
    """How the dirty ones are replaced."""
    if answer["IsScheduled"]:
        return "; the job runs by its schedule, not for this"
    if answer["IsJob"]:
        return "; the job begins its next iteration"
    if all(task["Action"] != "replace" for task in answer["Tasks"]):
        return ""
    many = f"{answer['Parallelism']} at a time" if answer["Parallelism"] else "all at once"
    return f"; replaced {many}, {answer['Order']}"


def _place(task: Object, nodes: Mapping[str, str]) -> str:
    """The node that an instance of a global service is for."""
    node_id = task.get("NodeID") or task.get("FromNodeID", "")
    return nodes.get(node_id, node_id)


def _row(name: str, task: Object, nodes: Mapping[str, str]) -> list[str]:
    source, target = task.get("FromNodeID", ""), task.get("NodeID", "")
    return [
        name,
        task["Action"],
        nodes.get(source, source) or "-",
        nodes.get(target, target) or "-",
        one_line(task.get("Reason", "")),
    ]
