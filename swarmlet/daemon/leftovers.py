"""What the runtime still has of a swarm this node left is removed, now or when that is possible."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from swarmlet.core.errors import DiskFullError, SwarmStateError
from swarmlet.daemon.data_dir import DataDir
from swarmlet.runtime.base import Runtime, RuntimeProblemError

log = logging.getLogger("swarmlet.daemon")

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]

SWEEP_WAIT_S: Final = 15.0  # for one try to remove every task that is left
SWEEP_PAUSE_MIN_S: Final = 1.0  # between tries, doubling
SWEEP_PAUSE_MAX_S: Final = 30.0


class Leftovers:
    """`spawn` begins what has to be done later; it refuses with SwarmStateError once the daemon
    stops."""

    def __init__(self, data: DataDir, spawn: Spawn) -> None:
        self._data, self._spawn = data, spawn
        self._later: asyncio.Task[None] | None = None

    async def sweep(self, runtime: Runtime) -> None:
        """Remove all tasks of this runtime. Where it cannot now, it is done as soon as the runtime
        lets us, in this life of the daemon or the next."""
        try:
            async with asyncio.timeout(SWEEP_WAIT_S):
                await self._remove_tasks(runtime)
        except (TimeoutError, RuntimeProblemError) as problem:
            fields = {"runtime": runtime.name, "cause": _cause(problem)}
            log.warning("tasks.left_behind", extra=fields)
            with contextlib.suppress(DiskFullError):  # then this life of the daemon must do
                self._data.note_leftover(runtime.name)
            with contextlib.suppress(SwarmStateError):  # the next life looks at the note
                self._later = self._spawn(self._sweep_later(runtime), "sweep")

    async def stop(self) -> None:
        """Try no more in this life, or before the next swarm."""
        if self._later is not None:
            self._later.cancel()
            await asyncio.wait([self._later])

    async def _sweep_later(self, runtime: Runtime) -> None:
        pause_s = SWEEP_PAUSE_MIN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, SWEEP_PAUSE_MAX_S)
            try:
                async with asyncio.timeout(SWEEP_WAIT_S):
                    await self._remove_tasks(runtime)
            except (TimeoutError, RuntimeProblemError) as problem:
                fields = {"runtime": runtime.name, "cause": _cause(problem)}
                log.info("tasks.still_left_behind", extra=fields)
            else:
                log.info("tasks.removed_late", extra={"runtime": runtime.name})
                return

    async def _remove_tasks(self, runtime: Runtime) -> None:
        for task in await runtime.list_tasks():
            await runtime.remove(task.task_id)
        if self._data.leftover_runtime() == runtime.name:
            self._data.note_leftover("")


def _cause(problem: TimeoutError | RuntimeProblemError) -> str:
    return str(problem) or f"it took longer than {SWEEP_WAIT_S:g} s"
