"""What this daemon remembers of one task's container between two looks at it."""

import asyncio

from swarmlet.core.ids import TaskID
from swarmlet.runtime.docker.jobs import Job
from swarmlet.runtime.docker.sight import Sight


class Known:
    """One task. `sight` is the last look, None once anything may have changed since.

    `is_new`: created here and never asked to start. `is_doubtful`: a create was sent and its
    outcome is unknown. `has_ended`: it ran and died. `told_exit`: the exit code an event told.
    `job`: what must be over before anything else is asked of the container.
    """

    def __init__(self, task_id: TaskID, container_id: str = "") -> None:
        self.task_id, self.container_id = task_id, container_id
        self.is_new = self.is_doubtful = self.has_ended = False
        self.told_exit: int | None = None
        self.job: Job[None] | None = None
        self.sight: Sight | None = None
        self.changes = 0
        self.bell = asyncio.Event()

    def ring(self) -> None:
        """Something may have changed: who waits looks again."""
        self.sight = None
        self.changes += 1
        self.bell.set()
        self.bell = asyncio.Event()

    async def settled(self) -> None:
        """Return when nothing sent before is under way."""
        if self.job is not None:
            await self.job.settled()
