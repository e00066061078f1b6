"""`on-disconnect stop-after D`: a node that lost every manager stops such tasks by itself.

The clock begins when a manager was last heard within a session, not when the loss was noticed: a
cut is noticed only by silence. A daemon that starts counts from its start. What the managers go by
when they replace such a task, and why the two never run at once, is in `reconcile.disconnect`.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from swarmlet.agent.worker import Worker
from swarmlet.core.ids import TaskID
from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Clock

log = logging.getLogger("swarmlet.agent")

LOOK_S: Final = 1.0  # at most, while such a task runs without a manager: the host may sleep


class Contact:
    """When a manager was last heard. Written by the session."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_s, self._heard_ms = clock.mono_s(), clock.wall_ms()
        self._is_open = False
        self._changed = asyncio.Event()

    def heard(self) -> None:
        """Within a session: what comes before one says only that somebody is there."""
        self._heard_s, self._heard_ms = self._clock.mono_s(), self._clock.wall_ms()

    def opened(self) -> None:
        self.heard()
        self._turn(is_open=True)

    def lost(self) -> None:
        self._turn(is_open=False)

    def silent_s(self) -> float | None:
        """For how long no manager was heard; None while there is a session. Where the clocks
        disagree the longer time: one of them stands still while a host sleeps, and too early is
        safe."""
        if self._is_open:
            return None
        by_wall_s = (self._clock.wall_ms() - self._heard_ms) / MS_PER_S
        return max(self._clock.mono_s() - self._heard_s, by_wall_s)

    async def changed(self) -> None:
        """Return when a session opened or was lost."""
        await self._changed.wait()

    def _turn(self, *, is_open: bool) -> None:
        self._is_open = is_open
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Due(NamedTuple):
    """Tasks to stop now, and in how many seconds the next one is to be; None: there is none."""

    now: tuple[TaskID, ...]
    next_in_s: float | None


def due(after_s: Mapping[TaskID, float], silent_s: float) -> Due:
    """`after_s`: how long each task may run without a manager. Pure."""
    now = tuple(task_id for task_id, limit_s in after_s.items() if limit_s <= silent_s)
    later = [limit_s - silent_s for limit_s in after_s.values() if limit_s > silent_s]
    return Due(now, min(later, default=None))


class DisconnectWatch:
    """Stops tasks when they are due."""

    def __init__(self, contact: Contact, worker: Worker) -> None:
        self._contact, self._worker = contact, worker

    async def run(self) -> None:
        """Until cancelled."""
        await self._worker.is_ready.wait()
        while True:
            wait_s = self._act()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._contact.changed()

    def _act(self) -> float | None:
        """How long to wait for the next; None: for a session that is lost."""
        silent_s = self._contact.silent_s()
        if silent_s is None:
            return None
        after_s = self._worker.stop_after_s()
        found = due(after_s, silent_s)
        for task_id in found.now:
            log.warning("task.cut_off", extra={"task_id": task_id, "silent_s": round(silent_s, 1)})
            self._worker.cut_off(task_id, _why(after_s[task_id]))
        return None if found.next_in_s is None else min(found.next_in_s, LOOK_S)


def _why(after_s: float) -> str:
    return (
        f"stopped by its node, which had heard no manager for {after_s:g} s "
        f"(on-disconnect stop-after {after_s:g}s)"
    )
