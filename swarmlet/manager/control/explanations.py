"""Questions about the swarm that are long to answer, on a view that holds still."""

from collections.abc import Callable
from typing import TypeVar

from swarmlet.manager.control.base import ControlBase, worked_out
from swarmlet.model.view import View
from swarmlet.reconcile.base import Steps

T = TypeVar("T")


class Explanations(ControlBase):
    """Reads, and writes nothing."""

    async def explain(self, question: Callable[[View, int], Steps[T]]) -> T:
        """The answer to a question, put to what this manager knows at this moment (wall ms)."""
        return await worked_out(question(self._store.hold(), self._env.clock.wall_ms()))
