"""Tasks of a node that has been down for a day: nobody knows whether they run."""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from swarmlet.model.change import SetStatus
from swarmlet.model.task import TaskState
from swarmlet.model.view import View
from swarmlet.reconcile.disconnect import runs_until_ms

MESSAGE: Final = "its node has been down for a day"


def orphans(view: View, node_id: str, now_ms: int) -> Sequence[SetStatus]:
    """Their new status (SwarmKit's rule, manager/dispatcher). Not of those that are still wanted
    there, or that nothing may run beside: what is never replaced waits for its node for as long as
    it takes."""
    found = {
        task.id: task.status
        for task in view.tasks.scan("node", node_id)
        if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        and task.desired > TaskState.COMPLETE
        and runs_until_ms(view, task) <= now_ms
    }
    return [
        SetStatus(
            id=task_id,
            status=replace(status, state=int(TaskState.ORPHANED), at_ms=now_ms, message=MESSAGE),
        )
        for task_id, status in sorted(found.items(), key=lambda item: item[0])
    ]
