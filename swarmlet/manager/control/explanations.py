"""Questions about the swarm that are long to answer, on a view that holds still."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from swarmlet.manager.control.base import ControlBase
from swarmlet.model.view import View
from swarmlet.reconcile.why.answers import Steps

T = TypeVar("T")


class Explanations(ControlBase):
    """Reads, and writes nothing."""

    async def explain(self, question: Callable[[View, int], Steps[T]]) -> T:
        """The answer to a question, put to what this manager knows at this moment (wall ms); others
        have their turn between two of its steps."""
        steps = question(self._store.hold(), self._env.clock.wall_ms())
        while True:
            try:
                next(steps)
            except StopIteration as end:
                answer: T = end.value
                return answer
            await asyncio.sleep(0)
