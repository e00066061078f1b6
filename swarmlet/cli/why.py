"""`why`: why a service, a node or a task is as it is. The daemon finds the words; here they are
laid out. The exit code says how things stand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import click

from swarmlet.cli.client import Client, Object, quote
from swarmlet.cli.format import human_size, one_line
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_node, complete_service, complete_task
from swarmlet.cli.node import resolved
from swarmlet.cli.options import inspect_format_option
from swarmlet.cli.output import print_objects
from swarmlet.cli.stale import may_be_stale

NAMES_MAX: Final = 3  # tasks of a group that are named
EXIT_CODES: Final[Mapping[str, int]] = {"well": 0, "unsettled": 1, "unplaced": 3}
_NANO: Final = 1_000_000_000


@click.command(
    "why",
    epilog=example("swarmlet service why web", "swarmlet service why --format json web"),
)
@click.argument("name", metavar="SERVICE", shell_complete=complete_service)
@inspect_format_option
@click.pass_obj
@may_be_stale
def service(client: Client, *, name: str, form: str) -> None:
    """Say why tasks of a service do not run.

    Exit code 0: all run. 3: some find no place. 1: some do not run, or an update is not over.
    """
    _answer(client, f"services/{quote(name)}", form, _service_lines)


@click.command("why", epilog=example("swarmlet node why node2", "swarmlet node why"))
@click.argument("name", metavar="[self|NODE]", default="self", shell_complete=complete_node)
@inspect_format_option
@click.pass_obj
@may_be_stale
def node(client: Client, *, name: str, form: str) -> None:
    """Say why a node is not ready, what it takes, what it runs and what is free on it.

    Exit code 0: it is ready and all its tasks run. 3: some find no room. 1: all else.
    """
    _answer(client, f"nodes/{quote(resolved(client, name))}", form, _node_lines)


@click.command("why", epilog=example("swarmlet task why oh46iz5ujgo1"))
@click.argument("name", metavar="TASK", shell_complete=complete_task)
@inspect_format_option
@click.pass_obj
@may_be_stale
def task(client: Client, *, name: str, form: str) -> None:
    """Say why a task is in the state it is in.

    Exit code 0: it runs, or ended as it should. 3: it finds no place. 1: all else.
    """
    _answer(client, f"tasks/{quote(name)}", form, _task_lines)


def _answer(
    client: Client, path: str, form: str, lines_of: Callable[[Object], Iterator[str]]
) -> None:
    found = client.get(f"/swarmlet/v1/{path}/why")
    if form:
        print_objects([found], "{{json .}}" if form == "json" else form)
    else:
        click.echo("\n".join(map(_clean, lines_of(found))))
    code = EXIT_CODES.get(found["Verdict"], 1)
    if code:
        raise click.exceptions.Exit(code)


def _clean(line: str) -> str:
    """Words of tasks and nodes must not steer a terminal."""
    return one_line(line)


def _service_lines(found: Object) -> Iterator[str]:
    yield f"{found['Name']}: {_running(found)}"
    for reason in found["Reasons"]:
        yield from _reason_lines(reason)
    yield from _group_lines(found)


def _running(found: Object) -> str:
    running, wanted = found["Running"], found["Wanted"]
    tasks = "task" if wanted == 1 else "tasks"
    return f"{running} of {wanted} {tasks} {'runs' if running == 1 else 'run'}."


def _node_lines(found: Object) -> Iterator[str]:
    yield f"{found['Hostname']}: {_running(found)}"
    for reason in found["Reasons"]:
        yield from _reason_lines(reason)
    if loads := found["Services"]:
        names = [f"{load['ServiceName']} ({load['Running']})" for load in loads]
        more = found["MoreServices"]
        yield f"  Runs {', '.join(names)}{f' and {more} services more' if more else ''}."
    for amount in found["Resources"]:
        yield f"  {_amount_words(amount)}"
    yield from _group_lines(found)


def _amount_words(amount: Object) -> str:
    total, reserved, what = amount["Total"], amount["Reserved"], amount["What"]
    free = max(0, total - reserved)
    if what == "memory":
        return (
            f"Memory: {human_size(reserved)} of {human_size(total)} reserved, "
            f"{human_size(free)} free."
        )
    if what == "cpu":
        numbers = [f"{count / _NANO:g}" for count in (reserved, total, free)]
        return f"CPUs: {numbers[0]} of {numbers[1]} reserved, {numbers[2]} free."
    return f"{what}: {reserved} of {total} reserved, {free} free."


def _task_lines(found: Object) -> Iterator[str]:
    where = f" on {found['Hostname'] or found['NodeID']}" if found["NodeID"] else ""
    state, desired = found["State"], found["DesiredState"]
    yield f"{found['Name']}{where}: {state}, and should be {desired}."
    yield from _reason_lines(found["Reason"])


def _reason_lines(reason: Object) -> Iterator[str]:
    yield f"  {reason['Sentence']}"
    if remedy := reason.get("Remedy"):
        yield f"    Try: {remedy}"


def _group_lines(found: Object) -> Iterator[str]:
    for group in found["Waiting"]:
        yield ""
        yield f"{_names(group)}: {group['Tasks'][0]['State']}"
        yield from _reason_lines(group["Reason"])
    if unshown := found["Unshown"]:
        yield ""
        yield f"{unshown} tasks more do not run, for other reasons."
    for number, group in enumerate(found["Lately"]):
        if not number:
            yield from ("", "Failed lately:")
        yield f"{_names(group)}"
        yield from _reason_lines(group["Reason"])


def _names(group: Object) -> str:
    """web.1, web.2 and 97 more; a slot whose tasks failed again and again has one name."""
    tasks: Sequence[Object] = group["Tasks"]
    named = list(dict.fromkeys(each["Name"] for each in tasks))[:NAMES_MAX]
    beyond = group["Count"] - sum(each["Name"] in named for each in tasks)
    text = ", ".join(named)
    if beyond:
        return f"{text} and {beyond} more"
    return f"{text} ({group['Count']} times)" if len(named) < group["Count"] else text
