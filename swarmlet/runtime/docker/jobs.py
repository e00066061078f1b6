"""Work that must come to its end although whoever asked for it was interrupted.

A request that was sent is carried out whether anybody waits for the answer or not; so a create or
a start is finished before the same container is stopped or removed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from swarmlet.core.errors import SwarmError
from swarmlet.runtime.base import TemporaryProblemError

T = TypeVar("T")
CLOSED: Final = "The docker runtime of this daemon is closed."


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One piece of work under way."""

    task: asyncio.Task[None]
    outcome: asyncio.Future[T]

    async def result(self) -> T:
        """What came of it; cancelling whoever waits leaves the work alone."""
        return await asyncio.shield(self.outcome)

    async def settled(self) -> None:
        """Return when it is over, whatever came of it."""
        if not self.outcome.done():
            await asyncio.wait((self.outcome,))


class Jobs:
    """Owns the work while `run` runs; its end cancels what is left, and the waiters are told."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._opened = asyncio.Event()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                self._opened.set()
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._opened.clear()

    async def opened(self) -> None:
        """Return once work can begin."""
        await self._opened.wait()

    def begin(self, work: Callable[[], Awaitable[T]], name: str) -> Job[T]:
        """Raises TemporaryProblemError where `run` does not run."""
        if self._group is None:
            raise TemporaryProblemError(CLOSED)
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return Job(self._group.create_task(_perform(work, outcome), name=name), outcome)


async def _perform(work: Callable[[], Awaitable[T]], outcome: asyncio.Future[T]) -> None:
    try:
        result = await work()
    except SwarmError as problem:
        outcome.set_exception(problem)
        outcome.exception()  # nobody may wait any more
    except Exception as bug:  # noqa: BLE001 - goes to whoever waits; the loop reports it otherwise
        outcome.set_exception(bug)
    else:
        outcome.set_result(result)
    finally:
        if not outcome.done():
            outcome.set_exception(TemporaryProblemError(CLOSED))
            outcome.exception()
