"""Tasks that their node does not suit any more: the manager ends them, their agent follows."""

from typing import Final

import msgspec

from swarmlet.model.change import SetStatus
from swarmlet.model.task import Task, TaskState

EVICTED: Final = "task rejected by constraint enforcer"
"""The message of such a task's status, and its mark."""

CAUSE: Final = "assigned node no longer meets constraints"


def evicted(task: Task, now_ms: int) -> SetStatus:
    """End it: observed, for what is wanted is its orchestrator's (SwarmKit's
    manager/orchestrator/constraintenforcer)."""
    status = msgspec.structs.replace(
        task.status,
        state=int(TaskState.REJECTED),
        at_ms=now_ms,
        applied_at_ms=now_ms,
        message=EVICTED,
        err=CAUSE,
    )
    return SetStatus(id=task.id, status=status)


def was_evicted(task: Task) -> bool:
    """Whether the enforcer ended it, and not its node."""
    status = task.status
    return status.state == TaskState.REJECTED and status.message == EVICTED
