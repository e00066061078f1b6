"""How far a service is: pure, from what the daemon lists to what a person and an exit code need.

The rules are docker/cli's (service/progress): per slot the task that is wanted most and furthest
behind counts, tasks on nodes that are down do not.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from swarmlet.cli.client import Object
from swarmlet.cli.errors import CommandError, RolledBackError
from swarmlet.cli.format import epoch_s

STATES: Final = (
    "new",
    "allocated",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
    "shutdown",
    "failed",
    "rejected",
)
RUNNING: Final = STATES.index("running")
_NUMBERS: Final = {state: number for number, state in enumerate(STATES)}
NO_NODE: Final = "no node is meant for a task of it"
UNKNOWN_CAUSE: Final = "no reason is on record"
_WAITING: Final = ("new", "allocated", "pending")
_FAILURES: Final = ("failed", "rejected")


class Line(NamedTuple):
    """One slot: `name` is web.1, `error` what its task or the scheduler complains of."""

    name: str
    state: str
    error: str


class Progress(NamedTuple):
    """`verb` says what goes on, `blocked` why a task finds no place, `trouble` which failed last;
    `title` is the whole headline where it is not that of a service.

    Each is empty where there is nothing to say.
    """

    lines: tuple[Line, ...]
    running: int
    wanted: int
    verb: str
    blocked: str
    trouble: str
    title: str = ""

    @property
    def is_converged(self) -> bool:
        return self.running == self.wanted

    @property
    def headline(self) -> str:
        return (
            self.title or f"overall progress: {self.verb}{self.running} out of {self.wanted} tasks"
        )


def is_global(service: Object) -> bool:
    return (service["Spec"].get("Mode") or {}).get("Global") is not None


def progress_of(
    service: Object,
    tasks: Sequence[Object],
    nodes: Iterable[Object],
    others: Iterable[Object] = (),
) -> Progress:
    """The service's progress; a global service wants what its orchestrator made, at least one.
    `others`: its tasks that an update has yet to replace, whose nodes count, too."""
    spec = service["Spec"]
    replicated = (spec.get("Mode") or {}).get("Replicated")
    field, up = "NodeID" if replicated is None else "Slot", _nodes_up(nodes)
    chosen = _chosen(tasks, field, up)
    lines = tuple(_line(spec["Name"], place, chosen[place]) for place in sorted(chosen))
    running = sum(_is_running(task) for task in chosen.values())
    if replicated is None:
        wanted = max(1, len(chosen.keys() | _chosen(others, field, up).keys()))
    else:
        wanted = int(replicated.get("Replicas", 1))
    blocked = next((line.error for line in lines if line.error and line.state in _WAITING), "")
    if replicated is None and not chosen:
        blocked = NO_NODE
    is_rollback = _update_state(service).startswith("rollback_")
    verb = "rolling back update: " if is_rollback else ""
    healed = [place for place, task in chosen.items() if _is_running(task)]
    failures = [task for task in tasks if _is_failure(task) and task.get(field) not in healed]
    trouble = _trouble(spec["Name"], field, failures)
    return Progress(lines, running, wanted, verb, blocked, trouble)


def _is_failure(task: Object) -> bool:
    return _state(task) in _FAILURES and bool(task["Status"].get("Err"))


def _trouble(service_name: str, field: str, failed: Sequence[Object]) -> str:
    """The last failure in a slot that does not run again: its replacement says nothing of it."""
    if not failed:
        return ""
    last = max(failed, key=lambda task: (epoch_s(task["Status"]["Timestamp"]), task["ID"]))
    return f"{service_name}.{last.get(field, '')} {_state(last)}: {last['Status']['Err']}"


def _chosen(tasks: Iterable[Object], field: str, up: set[str]) -> dict[str | int, Object]:
    """One task a slot (or node)."""
    chosen: dict[str | int, Object] = {}
    for task in tasks:
        place, node_id = task.get(field) or 0, task.get("NodeID", "")
        if node_id and node_id not in up:
            continue
        if task.get("DesiredState") not in _NUMBERS or _state(task) not in _NUMBERS:
            continue
        if place and (place not in chosen or _rank(task) < _rank(chosen[place])):
            chosen[place] = task
    return chosen


def _rank(task: Object) -> tuple[int, int, str]:
    return _NUMBERS[task["DesiredState"]], _NUMBERS[_state(task)], task["ID"]


def _state(task: Object) -> str:
    return str((task.get("Status") or {}).get("State", ""))


def _is_running(task: Object) -> bool:
    return _state(task) == "running" and _NUMBERS[task["DesiredState"]] <= RUNNING


def _nodes_up(nodes: Iterable[Object]) -> set[str]:
    return {node["ID"] for node in nodes if (node.get("Status") or {}).get("State") != "down"}


def _line(service_name: str, place: str | int, task: Object) -> Line:
    error = str((task.get("Status") or {}).get("Err", ""))
    return Line(f"{service_name}.{place}", _state(task), error)


def _update_state(service: Object) -> str:
    return str((service.get("UpdateStatus") or {}).get("State", ""))


def is_under_way(service: Object) -> bool:
    """Whether an update or a rollback has not come to its end."""
    return _update_state(service) in ("updating", "rollback_started")


def rollback_cause(service: Object) -> str:
    """What a rollback that is under way says of itself; "" where there is none."""
    return _said(service) if _update_state(service) == "rollback_started" else ""


def is_rolled_back(service: Object) -> bool:
    return _update_state(service) == "rollback_completed"


def check_update(service: Object, progress: Progress, failure: str) -> bool:
    """Whether the update's own state ends the wait. Raises where it failed: `failure` says why it
    was rolled back, and is empty where a rollback is what was asked for."""
    state, said = _update_state(service), _said(service) or "no reason was given"
    name = service["Spec"]["Name"]
    if state in ("paused", "rollback_paused"):
        what = "rollback" if state.startswith("rollback") else "update"
        raise CommandError(
            f"service {what} paused: {said}", f"`swarmlet service ps {name}` shows its tasks."
        )
    if is_rolled_back(service) and progress.is_converged and failure:
        raise RolledBackError(
            f"The update of {name} failed and was rolled back: {failure}",
            f"`swarmlet service diff {name}` shows what it had changed.",
        )
    return state == "completed" and not progress.is_converged


def _said(service: Object) -> str:
    return str((service.get("UpdateStatus") or {}).get("Message", ""))
