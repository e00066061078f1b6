"""What a node should be told: the difference between its tasks and what it was sent.

Rules are SwarmKit's (manager/dispatcher/assignments.go): a node gets every task bound to it from
ASSIGNED on, whatever became of it, until the row is gone; a task is sent again only if something
other than its status has changed, so a node's own reports never come back to it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from swarmlet.core.ids import TaskID
from swarmlet.model.service import GenericResource
from swarmlet.model.task import NetworkAttachment, Task, TaskState
from swarmlet.model.view import View

Fingerprint: TypeAlias = tuple[
    int, int, int, tuple[NetworkAttachment, ...], tuple[GenericResource, ...], int
]
"""All of a task that its node acts upon. Equal fingerprints need no sending."""


class Difference(NamedTuple):
    """Ids of tasks to send and of tasks to take back, each in order of id."""

    put: tuple[TaskID, ...]
    gone: tuple[TaskID, ...]


def fingerprint(task: Task) -> Fingerprint:
    """What of the task was sent. Its spec is named by its version, which never changes."""
    return (
        task.spec_version,
        task.slot,
        task.desired,
        task.networks,
        task.generic_resources,
        task.job_iteration,
    )


def plan(
    view: View,
    node_id: str,
    sent: Mapping[TaskID, Fingerprint],
    dirty: Iterable[TaskID] | None = None,
) -> Difference:
    """What `node_id` lacks and what it has too much, given what it was sent.

    Looks only at the `dirty` tasks (those whose rows changed since), O(their number); None means
    at everything, O(tasks of the node and tasks sent).
    """
    put: list[TaskID] = []
    gone: list[TaskID] = []
    for task_id in sorted(_candidates(view, node_id, sent) if dirty is None else set(dirty)):
        task = view.tasks.get(task_id)
        if task is None or not is_for(task, node_id):
            if task_id in sent:
                gone.append(task_id)
        elif sent.get(task_id) != fingerprint(task):
            put.append(task_id)
    return Difference(tuple(put), tuple(gone))


def is_for(task: Task, node_id: str) -> bool:
    """Whether the node should know of the task."""
    return task.node_id == node_id and task.status.state >= TaskState.ASSIGNED


def _candidates(view: View, node_id: str, sent: Mapping[TaskID, Fingerprint]) -> set[TaskID]:
    return {task.id for task in view.tasks.scan("node", node_id)} | set(sent)
