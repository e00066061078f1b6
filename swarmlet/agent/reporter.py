"""The reporter: tells the manager the newest status of each task until it acknowledges it.

Only the newest status of a task is kept, so what waits is bounded by the tasks of the node. One
report is under way at a time; while it is, statuses gather for the next. A status is durable here
before it is told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Final

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import TaskID
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.messages import StatusReport

REPORT_STATUSES_MAX: Final = 1_000  # a report; with long error texts still within one frame
ACK_TIMEOUT_S: Final = 30.0  # longer than a proposal may take; then another session is tried


class Reporter:
    def __init__(self, durable: Callable[[], Awaitable[None]]) -> None:
        self._durable = durable
        self._newest: dict[TaskID, TaskStatus] = {}
        self._has_news = asyncio.Event()
        self._number = 0
        self._acked, self._all_told = asyncio.Event(), asyncio.Event()
        self._all_told.set()

    def note(self, task_id: TaskID, status: TaskStatus) -> None:
        """Report this status, instead of any older one of the task. An orphan's is the manager's
        own word, and no news to it."""
        if status.state > TaskState.REJECTED:
            return
        self._newest[task_id] = status
        self._has_news.set()
        self._all_told.clear()

    def note_all(self, statuses: Mapping[TaskID, TaskStatus]) -> None:
        """Report everything again, to a manager that may know nothing of it."""
        for task_id, status in statuses.items():
            self.note(task_id, status)

    def forget(self, task_id: TaskID) -> None:
        self._newest.pop(task_id, None)
        self._look_for_rest()

    def is_at_rest(self) -> bool:
        """Whether everything noted was acknowledged."""
        return not self._newest

    async def told(self) -> None:
        """Return once everything noted was acknowledged."""
        await self._all_told.wait()

    def acknowledge(self, number: int) -> None:
        if number == self._number:
            self._acked.set()

    async def run(self, channel: AgentChannel) -> None:
        """Report over the session for as long as it lasts. Raises UnavailableError where nobody
        acknowledges in time."""
        while True:
            await self._has_news.wait()
            statuses = tuple(islice(self._newest.items(), REPORT_STATUSES_MAX))
            if not statuses:
                self._has_news.clear()
                continue
            await self._durable()
            await self._tell(channel, statuses)
            for task_id, status in statuses:
                if self._newest.get(task_id) is status:
                    del self._newest[task_id]
            self._look_for_rest()

    def _look_for_rest(self) -> None:
        if not self._newest:
            self._all_told.set()

    async def _tell(
        self, channel: AgentChannel, statuses: tuple[tuple[TaskID, TaskStatus], ...]
    ) -> None:
        self._number += 1
        self._acked.clear()
        await channel.send(StatusReport(number=self._number, statuses=statuses))
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await self._acked.wait()
        except TimeoutError:
            raise UnavailableError(
                f"No manager acknowledged a status report within {ACK_TIMEOUT_S:g} s."
            ) from None
