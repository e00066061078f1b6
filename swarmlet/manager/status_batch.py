"""Statuses on their way into the store: gathered, so that a thousand reports cost one entry."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec

from swarmlet.core.errors import DiskFullError, UnavailableError
from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import (
    ENTRY_CHANGES_MAX,
    STATUS_BATCH_MAX,
    STATUS_BATCH_PAUSE_S,
    STATUS_BATCH_PERIOD_MIN_S,
    STATUS_BATCH_PERIOD_S,
)
from swarmlet.env.base import Env
from swarmlet.model.change import SetStatus
from swarmlet.model.task import TaskStatus
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

PAUSE_S: Final = 1.0  # after a full disk or an unknown outcome


class StatusBatch:
    """The newest status of each task; the first after a quiet time is written at once, the
    others after a pause of 10 to 100 ms, the longer the more were just written, or when 10,000
    wait. Whoever added statuses is called back once they are in the store."""

    def __init__(self, store: Store, env: Env, manager_id: NodeID) -> None:
        self._store, self._env, self._manager_id = store, env, manager_id
        self._clear()

    def _clear(self) -> None:
        self._statuses: dict[TaskID, TaskStatus] = {}
        self._waiting: list[Callable[[], None]] = []
        self._is_writing = False
        self._has_news, self._is_full, self._has_room = (asyncio.Event() for _ in range(3))
        self._has_room.set()

    def is_at_rest(self) -> bool:
        return not self._waiting and not self._is_writing

    async def add(
        self, statuses: Iterable[tuple[TaskID, TaskStatus]], written: Callable[[], None]
    ) -> None:
        """Waits while the batch is full."""
        await self._has_room.wait()
        for task_id, status in statuses:  # a session that was replaced may come late
            known = self._statuses.get(task_id)
            if known is None or known.state <= status.state:
                self._statuses[task_id] = status
        self._waiting.append(written)
        self._has_news.set()
        if max(len(self._statuses), len(self._waiting)) >= STATUS_BATCH_MAX:
            self._is_full.set()
            self._has_room.clear()

    async def run(self) -> None:
        """Until cancelled. What was not written then is reported again by its agents."""
        self._clear()
        try:
            while True:
                await self._has_news.wait()
                pause_s = STATUS_BATCH_PAUSE_S * await self._flush()
                pause_s = min(max(pause_s, STATUS_BATCH_PERIOD_MIN_S), STATUS_BATCH_PERIOD_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._is_full.wait()
        finally:
            self._has_room.set()  # whoever still waits with a session that is cut off now

    async def _flush(self) -> int:
        """Write what was gathered; how many statuses."""
        statuses, self._statuses = self._statuses, {}
        waiting, self._waiting = self._waiting, []
        self._has_news.clear()
        self._is_full.clear()
        self._has_room.set()
        self._is_writing = True
        remaining = iter(statuses.items())
        while piece := dict(islice(remaining, ENTRY_CHANGES_MAX)):
            await self._write(piece)
        self._is_writing = False
        for written in waiting:
            written()
        return len(statuses)

    async def _write(self, statuses: Mapping[TaskID, TaskStatus]) -> None:
        while changes := self._changes(statuses):
            try:
                await self._store.batch(changes)
            except (DiskFullError, UnavailableError) as problem:
                cause = problem.message
                log.warning("dispatcher.statuses_not_written", extra={"cause": cause})
                await asyncio.sleep(PAUSE_S)
            else:
                return

    def _changes(self, statuses: Mapping[TaskID, TaskStatus]) -> list[SetStatus]:
        """Only what says something new, stamped with who applied it and when."""
        tasks, now_ms = self._store.view().tasks, self._env.clock.wall_ms()
        changes: list[SetStatus] = []
        for task_id, status in statuses.items():
            task = tasks.get(task_id)
            if task is None or status.state < task.status.state:
                continue
            stamped = msgspec.structs.replace(
                status, applied_by=self._manager_id, applied_at_ms=task.status.applied_at_ms
            )
            if msgspec.structs.replace(task.status, applied_by=self._manager_id) != stamped:
                stamped = msgspec.structs.replace(stamped, applied_at_ms=now_ms)
                changes.append(SetStatus(id=task_id, status=stamped))
        return changes
