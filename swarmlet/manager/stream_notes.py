"""Who used which task how: notes in the swarm's history, written before a use begins and once it
has ended.

A program is a use. Connections to one port of a task by the same caller are one use, as long as
there is no pause of ten seconds between them: what a browser does is not hundreds.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

import msgspec

from swarmlet.core.errors import (
    DiskFullError,
    NotLeaderError,
    OutcomeUnknownError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.redaction import redact_arguments
from swarmlet.manager.hearsay import in_one_line
from swarmlet.model.change import Note
from swarmlet.store.store import Store
from swarmlet.wire.messages import DialRequest, ExecRequest, TaskStreamAsk

log = logging.getLogger("swarmlet.manager")

PAUSE_S: Final = 10.0  # without a connection, then a use of a port has ended
KIND: Final = "task"
EXEC_START: Final = "exec_start"  # Docker's words for containers
EXEC_DIE: Final = "exec_die"
FORWARD_START: Final = "forward_start"
FORWARD_END: Final = "forward_end"
COMMAND_LENGTH_MAX: Final = 512  # characters of an argument list
WHO_LENGTH_MAX: Final = 200

Spawn = Callable[[Coroutine[None, None, None]], object]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a use happens."""

    task_id: str
    service: str
    node_id: str


class Use:
    """One use, begun or about to be. `total` counts the connections of a port's."""

    def __init__(self, ask: TaskStreamAsk, place: Place, use_id: str) -> None:
        self.place = place
        self.open, self.total = 0, 0
        self.is_decided = asyncio.Event()
        self.is_noted = False
        self.failure: SwarmError | None = None
        self.is_exec = isinstance(ask.request, ExecRequest)
        self.key = (ask.task_id, _subject(ask), ask.who) if not self.is_exec else (use_id,)
        self._attributes = {
            "node": place.node_id,
            "service": place.service,
            "who": ask.who[:WHO_LENGTH_MAX],
            **_described(ask.request, use_id),
        }

    def started(self) -> Note:
        action = EXEC_START if self.is_exec else FORWARD_START
        return _note(action, self.place.task_id, self._attributes)

    def ended(self, exit_code: int, problem: str) -> Note:
        if self.is_exec:
            how = {"problem": problem} if problem else {"exitCode": str(exit_code)}
            return _note(EXEC_DIE, self.place.task_id, {**self._attributes, **how})
        count = {"connections": str(self.total)}
        return _note(FORWARD_END, self.place.task_id, {**self._attributes, **count})


class StreamNotes:
    """Writes the notes. `spawn` runs what is written later as long as this manager leads: how a use
    ended that outlives its leader is not known to the next one."""

    def __init__(self, store: Store, spawn: Spawn) -> None:
        self._store, self._spawn = store, spawn
        self._ports: dict[tuple[str, ...], Use] = {}

    async def begin(self, ask: TaskStreamAsk, place: Place, use_id: str) -> Use:
        """Return once the use is in the swarm's history. Raises NotLeaderError where nothing was
        written, UnavailableError where it cannot be: then there is to be no use."""
        use = Use(ask, place, use_id)
        while (known := self._ports.get(use.key)) is not None:
            if await self._has_joined(known):
                return known
        if not use.is_exec:
            self._ports[use.key] = use
        use.open = use.total = 1
        try:
            await self._store.commit([use.started()])
            use.is_noted = True
        except SwarmError as problem:
            use.failure = problem
            if isinstance(problem, OutcomeUnknownError | DiskFullError):
                raise _not_written(problem) from problem
            raise
        finally:  # also where the caller has left meanwhile
            if not use.is_noted:
                self._ports.pop(use.key, None)
            use.is_decided.set()
        return use

    def end(self, use: Use, exit_code: int, problem: str) -> None:
        """A program has ended, or one connection to a port has."""
        use.open -= 1
        if use.is_exec:
            self._spawn(self._write(use.ended(exit_code, problem)))
        elif use.open == 0:
            self._spawn(self._end_later(use))

    async def _has_joined(self, use: Use) -> bool:
        """One more connection of a use that is written, or being written; False where whoever
        wrote it has left before it was."""
        use.open += 1
        use.total += 1
        try:
            await use.is_decided.wait()
        except BaseException:
            self.end(use, 0, "")
            raise
        if use.failure is not None:
            raise _not_written(use.failure)
        return use.is_noted

    async def _end_later(self, use: Use) -> None:
        seen = use.total
        await asyncio.sleep(PAUSE_S)
        if use.open == 0 and use.total == seen:
            del self._ports[use.key]
            await self._write(use.ended(0, ""))

    async def _write(self, note: Note) -> None:
        try:
            await self._store.commit([note])
        except SwarmError as problem:
            extra = {"task_id": note.id, "action": note.action, "cause": problem.message}
            log.warning("stream.end_not_noted", extra=extra)


def _not_written(problem: SwarmError) -> SwarmError:
    if isinstance(problem, NotLeaderError):
        return problem
    return UnavailableError(
        f"The use could not be written to the swarm's history, so it was refused: "
        f"{problem.message}",
        remedy=problem.remedy or "Try again in a moment.",
    )


def _subject(ask: TaskStreamAsk) -> str:
    return str(ask.request.port) if isinstance(ask.request, DialRequest) else ""


def _described(request: ExecRequest | DialRequest, use_id: str) -> dict[str, str]:
    """Of a program its arguments but for what looks like a secret, and never its environment."""
    if isinstance(request, DialRequest):
        return {"port": str(request.port)}
    command = redact_arguments(request.argv)[:COMMAND_LENGTH_MAX]
    as_whom = {"user": request.user[:WHO_LENGTH_MAX]} if request.user else {}
    return {"command": command, "execID": use_id, **as_whom}


def _note(action: str, task_id: str, attributes: dict[str, str]) -> Note:
    """What people gave has no line ends: nobody writes an event of somebody else's into his own."""
    told = sorted((name, in_one_line(text)) for name, text in attributes.items())
    return Note(kind=KIND, action=action, id=task_id, attributes=tuple(told))
