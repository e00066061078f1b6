"""How the runs of a job end, by its tasks."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from swarmlet.model.job import open_iterations
from swarmlet.model.job_history import COMPLETE, FAILED, REPLACED, going_on, history_of
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import JobRun, Service
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.job_index import Place
from swarmlet.reconcile.job_run import (
    is_candidate,
    is_global,
    is_place_finished,
    lacks_last,
    place_of,
)
from swarmlet.reconcile.jobs import completions_of
from swarmlet.reconcile.restart import ended_ms

EXIT_CODES_MAX: Final = 16  # different ones that a run remembers
ERR_LENGTH_MAX: Final = 256
_FAILED: Final = (TaskState.FAILED, TaskState.REJECTED)


def ends(view: View, service: Service, now_ms: int) -> Iterator[JobRun]:
    """The runs that are over and not yet recorded so, as they ended. O(tasks of the service,
    nodes) a run."""
    still_open = open_iterations(service)
    for run in going_on(service):
        outcome = _outcome(view, service, run.iteration)
        if outcome or run.iteration not in still_open:
            yield end_of(view, service, run, outcome or REPLACED, now_ms)


def end_of(view: View, service: Service, run: JobRun, outcome: str, now_ms: int) -> JobRun:
    """A run with what its tasks came to."""
    tasks = sorted(_tasks_of(view, service, run.iteration), key=lambda t: (ended_ms(t), t.id))
    spec, failed = spec_of(view, service), [t for t in tasks if t.status.state in _FAILED]
    completed = {place_of(spec, t) for t in tasks if t.status.state == TaskState.COMPLETE}
    return replace(
        run,
        outcome=outcome,
        ended_ms=now_ms,
        completed=len(completed),
        failed=len(failed),
        exit_codes=_exit_codes(tasks),
        err=_why(view, outcome, tasks, failed)[:ERR_LENGTH_MAX],
    )


def _why(view: View, outcome: str, tasks: list[Task], failed: list[Task]) -> str:
    """The last failure; of a run that failed without any, what became of a task of it."""
    if failed:
        return _error(failed[-1])
    if outcome != FAILED:
        return ""
    undone = [task for task in tasks if task.status.state != TaskState.COMPLETE]
    for task in reversed(undone):
        node = view.nodes.get(task.node_id)
        if task.node_id and is_down(node):
            name = "" if node is None else node.description.hostname
            return f"node {name or task.node_id} is down, or gone"
    return "a task of it was stopped before its end" if undone else ""


def runs_so_far(view: View, service: Service) -> list[JobRun]:
    """The history, with what the tasks of runs that go on came to so far."""
    runs = history_of(service).runs
    return [run if run.outcome else end_of(view, service, run, "", 0) for run in runs]


def _tasks_of(view: View, service: Service, iteration: int) -> Iterator[Task]:
    return (t for t in view.tasks.scan("service", service.id) if t.job_iteration == iteration)


def _exit_codes(tasks: list[Task]) -> tuple[tuple[int, int], ...]:
    codes = Counter(task.status.exit_code for task in tasks if _has_run(task))
    return tuple(sorted(codes.items())[:EXIT_CODES_MAX])


def _has_run(task: Task) -> bool:
    """Whether its exit code is that of a program: what could not be started failed without one."""
    state = task.status.state
    return state == TaskState.COMPLETE or (state == TaskState.FAILED and task.status.exit_code != 0)


def _error(task: Task) -> str:
    return task.status.err or task.status.message


def _outcome(view: View, service: Service, iteration: int) -> str:
    """complete, failed, or "" while something is left to do. A run of a global job does not go on
    for what is left on nodes that are down: nobody could tell when they are back."""
    spec = spec_of(view, service)
    if not is_global(spec) and lacks_last(view, service, iteration, completions_of(spec)):
        return ""
    completed: dict[Place, bool] = {}
    for task in _tasks_of(view, service, iteration):
        if task.desired < TaskState.REMOVE:
            place = place_of(spec, task)
            is_complete = task.status.state == TaskState.COMPLETE
            completed[place] = completed.get(place, False) or is_complete
    if any(place not in completed for place in _wanted(view, service)):
        return ""
    for place in completed:
        is_over = completed[place] or _is_lost(view, place)
        if not is_over and not is_place_finished(view, service, iteration, place):
            return ""
    return COMPLETE if all(completed.values()) else FAILED


def _wanted(view: View, service: Service) -> Iterator[Place]:
    spec = spec_of(view, service)
    if is_global(spec):
        return (node.id for node in view.nodes.all() if is_candidate(node, spec))
    return iter(range(completions_of(spec)))


def _is_lost(view: View, place: Place) -> bool:
    return isinstance(place, str) and is_down(view.nodes.get(place))


def is_down(node: Node | None) -> bool:
    return node is None or node.status.state == NodeState.DOWN
