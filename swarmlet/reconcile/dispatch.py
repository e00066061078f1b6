"""What a node should be told: the difference between its tasks and what it was sent.

Rules are SwarmKit's (manager/dispatcher/assignments.go): a node gets every task bound to it from
ASSIGNED on, whatever became of it, until the row is gone; a task is sent again only if something
other than its status has changed, so a node's own reports never come back to it. A secret or config
is on a node for as long as a task of it that is not over refers to it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from swarmlet.core.ids import TaskID
from swarmlet.model.service import GenericResource
from swarmlet.model.task import NetworkAttachment, Task, TaskState
from swarmlet.model.view import View, task_spec_of

Fingerprint: TypeAlias = tuple[
    int, int, int, tuple[NetworkAttachment, ...], tuple[GenericResource, ...], int
]
"""All of a task that its node acts upon. Equal fingerprints need no sending."""


PayloadKey: TypeAlias = tuple[str, str]
"""Kind (secret or config) and id."""


class Difference(NamedTuple):
    """Ids of tasks to send and of tasks to take back, each in order of id."""

    put: tuple[TaskID, ...]
    gone: tuple[TaskID, ...]


class PayloadDifference(NamedTuple):
    """Secrets and configs to send, before any task, and to take back; each in order."""

    put: tuple[PayloadKey, ...]
    gone: tuple[PayloadKey, ...]


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


class PayloadUsers:
    """Which tasks of one node need which secrets and configs. Costs O(what is asked about)."""

    __slots__ = ("_needs", "_users")

    def __init__(self) -> None:
        self._needs: dict[TaskID, tuple[PayloadKey, ...]] = {}
        self._users: dict[PayloadKey, int] = {}

    def turn(self, view: View, node_id: str, task_ids: Iterable[TaskID]) -> PayloadDifference:
        """Take in how these tasks are now; which payloads got their first user by that, and which
        lost their last."""
        before: dict[PayloadKey, int] = {}
        for task_id in task_ids:
            had, has = self._needs.get(task_id, ()), needed(view, node_id, task_id)
            for keys, step in ((had, -1), (has, 1)):
                for key in keys:
                    users = self._users.get(key, 0)
                    before.setdefault(key, users)
                    self._users[key] = users + step
            if has:
                self._needs[task_id] = has
            elif had:
                del self._needs[task_id]
        put = [key for key, users in before.items() if not users and self._users[key]]
        unused = [key for key in before if not self._users[key]]
        for key in unused:
            del self._users[key]
        return PayloadDifference(
            tuple(sorted(put)), tuple(sorted(key for key in unused if before[key]))
        )


def needed(view: View, node_id: str, task_id: TaskID) -> tuple[PayloadKey, ...]:
    """What the task refers to, each once; nothing where it is over, gone or not this node's."""
    task = view.tasks.get(task_id)
    if task is None or not is_for(task, node_id) or task.status.state > TaskState.RUNNING:
        return ()
    container = task_spec_of(view, task).task_template.container_spec
    if container is None or not (container.secrets or container.configs):
        return ()
    keys = [("secret", one.secret_id) for one in container.secrets]
    keys += [("config", one.config_id) for one in container.configs]
    return tuple(dict.fromkeys(keys))


def is_for(task: Task, node_id: str) -> bool:
    """Whether the node should know of the task."""
    return task.node_id == node_id and task.status.state >= TaskState.ASSIGNED


def _candidates(view: View, node_id: str, sent: Mapping[TaskID, Fingerprint]) -> set[TaskID]:
    return {task.id for task in view.tasks.scan("node", node_id)} | set(sent)
