"""What a session is told to hold, put together from its messages and passed on."""

from collections.abc import Iterable
from typing import Final

from swarmlet.agent.payloads import Key, Payloads
from swarmlet.agent.worker import Worker
from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import TaskID
from swarmlet.wire.messages import (
    AssignedPayload,
    AssignedTask,
    Assignments,
    decode_assigned_task,
    decode_payload,
)

_PAYLOADS: Final = ("secret", "config")


class GapError(UnavailableError):
    """A message before this one is missing: only a new session tells what it said."""

    code = "session-lost"


class Inventory:
    """Puts assignment messages together: a complete list may come in parts, a gap ends the
    session. Tasks that come before the worker can take them are kept, as one list."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._state = -1
        self._parts: list[AssignedTask] | None = None
        self._payloads: dict[Key, AssignedPayload] = {}
        self._kept: dict[TaskID, AssignedTask] | None = None

    def take(self, message: Assignments) -> None:
        """Pass on what the message says. Raises GapError."""
        put = [decode_assigned_task(item.body) for item in message.put if item.kind == "task"]
        payloads = {
            (item.kind, item.id): decode_payload(item.body)
            for item in message.put
            if item.kind in _PAYLOADS
        }
        if not message.is_complete and message.applies_to != self._state:
            raise GapError("An assignment message is missing.")
        self._state = message.results_in
        if message.is_complete:
            self._take_part(put, payloads, has_more=message.has_more)
            return
        # what a task needs is there before it, and goes after it
        self._held.change(payloads, ())
        gone = [TaskID(item_id) for kind, item_id in message.gone if kind == "task"]
        self._pass_on(put, gone, is_complete=False)
        self._held.change({}, [key for key in message.gone if key[0] in _PAYLOADS])

    async def hand_over(self) -> None:
        """What was kept, once the worker knows what its runtime has."""
        await self._worker.is_ready.wait()
        self._release()

    @property
    def _held(self) -> Payloads:
        return self._worker.payloads

    def _take_part(
        self, put: list[AssignedTask], payloads: dict[Key, AssignedPayload], *, has_more: bool
    ) -> None:
        self._parts = [*(self._parts or ()), *put]
        self._payloads.update(payloads)
        if has_more:
            return
        put, self._parts = self._parts, None
        all_payloads, self._payloads = self._payloads, {}
        self._held.replace(all_payloads)
        self._pass_on(put, (), is_complete=True)

    def _release(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            self._worker.assign(kept.values(), (), is_complete=True)

    def _pass_on(
        self, put: list[AssignedTask], gone: Iterable[TaskID], *, is_complete: bool
    ) -> None:
        if self._worker.is_ready.is_set():
            self._release()
            self._worker.assign(put, gone, is_complete=is_complete)
            return
        kept = {} if is_complete or self._kept is None else self._kept
        kept.update((task.id, task) for task in put)
        for task_id in gone:
            kept.pop(task_id, None)
        self._kept = kept
