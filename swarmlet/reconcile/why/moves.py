"""Which tasks of a service are moved for balance at the moment."""

from collections.abc import Iterable, Iterator, Sequence

from swarmlet.model.task import Task
from swarmlet.model.view import View
from swarmlet.reconcile.restart import has_stopped
from swarmlet.reconcile.slots import is_wanted
from swarmlet.reconcile.why.answers import Reason
from swarmlet.reconcile.why.words import name_of


def move_reasons(
    view: View, shown: Iterable[tuple[Task, Sequence[Task]]], service_name: str
) -> Iterator[Reason]:
    """Of tasks that do not run yet: those that come for one elsewhere."""
    for task, _ in shown:
        if task.moved_ms and is_wanted(task) and not has_stopped(task):
            yield _reason(view, task, service_name)


def _reason(view: View, task: Task, service_name: str) -> Reason:
    before = view.tasks.get(task.replaces) if task.replaces else None
    node = None if before is None else view.nodes.get(before.node_id)
    away = "" if node is None else f" away from {name_of(node)}"
    runs_on = before is not None and is_wanted(before)
    words = "which runs until the other does" if runs_on else "which stops first"
    return Reason(
        code="rebalancing",
        sentence=f"{service_name}.{task.slot} moves{away} for balance, {words}.",
        since_ms=task.moved_ms,
        task_id=task.id,
        node_id="" if before is None else before.node_id,
    )
