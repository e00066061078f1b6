"""What goes on beside the rounds: snapshots written and sent, a hand-over, connections."""

import asyncio
from collections.abc import Awaitable, Callable


class Background:
    """Tasks that end together; the first error of one ends all."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None

    async def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Until `main` ends or this is cancelled; all that was begun ends as well then."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._watched(main)

    def begin(self, work: Callable[[], Awaitable[None]], name: str) -> bool:
        """Whether it was begun: not before `run`, nor while all comes to its end."""
        if self._group is None:
            return False
        self._group.create_task(self._watched(work), name=name)
        return True

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BaseException:
            self._group = None  # it takes no task any more from now on
            raise
