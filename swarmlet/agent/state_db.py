"""What this node was asked to run and what became of it, sealed on disk.

Memory is the truth of the running agent; every change is noted and `flush` makes the notes durable,
many at once. Bodies hold environments and arguments, so nothing is ever written in the clear; the
key is the node's own and lives beside the file (0600) unless the daemon gives a better one.

The database is a memory, not the truth: where it is lost, damaged or sealed by a key that is gone,
the node begins with an empty one, keeps the old file aside, and its manager tells it what to run.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import msgspec

from swarmlet.core.errors import DamagedError, DiskFullError
from swarmlet.core.ids import Entropy, TaskID
from swarmlet.env.base import Blocking, Disk, Env, write_atomic
from swarmlet.env.frames import KEY_SIZE_B
from swarmlet.env.sealed import SealedLog, SealKey, new_seal_key, seal_key
from swarmlet.model.task import TaskStatus
from swarmlet.wire.messages import AssignedTask

log = logging.getLogger("swarmlet.agent")

KEY_FILE: Final = "agent.key"
TASKS_FILE: Final = "tasks.log"
ASIDE: Final = ".damaged"  # behind the name of what cannot be read
PURPOSE: Final = b"swarmlet agent tasks"
_SLACK_MIN: Final = 1_000  # superfluous notes, at least, before the file is rewritten
_FULL_RETRY_S: Final = 1.0
_NOTES_MAX: Final = 10_000  # kept while the disk is full; beyond, the whole is written anew


class _Noted(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class BodyNoted(_Noted, frozen=True):
    task: AssignedTask


class StatusNoted(_Noted, frozen=True):
    id: TaskID
    status: TaskStatus


class TaskForgotten(_Noted, frozen=True):
    id: TaskID


Note: TypeAlias = BodyNoted | StatusNoted | TaskForgotten

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode


class StateDB:
    """The tasks of this node. `tasks` and `statuses` have the same keys, in order of arrival.
    `was_tried` once the first `load` has ended, if only for want of room; `problem`: that there is
    none, or that the disk fails, "" otherwise. `set_aside` takes away what cannot be read."""

    def __init__(
        self, open_log: Callable[[], SealedLog], blocking: Blocking, set_aside: Callable[[], None]
    ) -> None:
        self._open_log, self._blocking, self._set_aside = open_log, blocking, set_aside
        self._log: SealedLog | None = None
        self._lock, self.was_tried = asyncio.Lock(), asyncio.Event()
        self._notes: list[Note] = []
        self._written = 0  # notes in the file
        self._noted = self._durable = 0  # notes taken so far, and those of them on disk
        self._must_rewrite = self._is_broken = False
        self.problem = ""
        self.tasks: dict[TaskID, AssignedTask] = {}
        self.statuses: dict[TaskID, TaskStatus] = {}

    async def load(self) -> None:
        """Read what is on disk; begin anew where that cannot be read. Raises DiskFullError, and
        DamagedError where nothing can be written either."""
        try:
            notes = await self._blocking(self._read)
        except (DamagedError, OSError) as error:
            problem = {"problem": str(error)}
            log.error("agent.state_damaged", extra=problem)  # noqa: TRY400 - it is no bug
            await self._blocking(self._begin_anew)
            notes = []
        finally:
            self.was_tried.set()
        for note in notes:
            self._take(note)
        self._written = len(notes)

    async def load_when_room(self) -> None:
        """As `load`, but waiting for room where the disk is full: a first start makes the file."""
        await self._when_room(self.load)

    async def close(self) -> None:
        """Make durable what there is room for, and let go of the file."""
        try:
            await self.flush()
        except (DiskFullError, OSError) as error:
            log.warning("agent.disk_full", extra={"problem": str(error)})
        if self._log is not None:
            await self._blocking(self._log.close)

    def put(self, task: AssignedTask) -> None:
        """Remember a task's body, new or changed; its status stays, or is the manager's where
        new."""
        self._note(BodyNoted(task))

    def set_status(self, task_id: TaskID, status: TaskStatus) -> None:
        if task_id in self.tasks:
            self._note(StatusNoted(task_id, status))

    def forget(self, task_id: TaskID) -> None:
        if task_id in self.tasks:
            self._note(TaskForgotten(task_id))

    async def flush(self) -> None:
        """Return once all that was noted before the call is durable. Raises DiskFullError, OSError;
        what was not written is kept for the next try."""
        number = self._noted
        async with self._lock:
            if self._durable >= number and not self._must_rewrite:
                return
            number = self._noted
            notes, self._notes = self._notes, []
            try:
                await self._write(notes)
            except BaseException as error:
                self._notes = notes + self._notes
                if isinstance(error, OSError):  # what the file has now is unknown
                    self._is_broken = self._must_rewrite = True
                if self._must_rewrite or len(self._notes) > _NOTES_MAX:
                    self._notes, self._must_rewrite = [], True
                raise
            self._durable = number

    async def durable(self) -> None:
        """As `flush`, but waiting for room where the disk is full, or fails."""
        await self._when_room(self.flush)

    async def _when_room(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (DiskFullError, OSError) as error:
                if not self.problem:
                    log.warning("agent.disk_full", extra={"problem": str(error)})
                self.problem = str(error)
                await asyncio.sleep(_FULL_RETRY_S)
            else:
                self.problem = ""
                return

    def _read(self) -> list[Note]:
        self._log = self._open_log()
        try:
            return [_decode(frame) for frame in self._log.replay()]
        except msgspec.DecodeError as error:
            raise DamagedError(
                f"The agent's task database holds a record that cannot be read: {error}."
            ) from error

    def _begin_anew(self) -> None:
        if self._log is not None:
            self._log.close()
        try:
            self._set_aside()
            self._log = self._open_log()
            self._log.replay()
        except OSError as error:
            raise DamagedError(
                f"The agent's task database can be neither read nor replaced: {error}.",
                remedy="Look at the disk of the data directory.",
            ) from error

    def _rewrite(self, frames: Sequence[bytes]) -> None:
        if self._is_broken and self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = self._open_log()  # makes the folder too, should it be gone
        assert self._log is not None, "load comes first"
        self._log.rewrite(frames)
        self._is_broken = False

    async def _write(self, notes: list[Note]) -> None:
        assert self._log is not None, "load comes first"
        enough = 4 * len(self.tasks) + _SLACK_MIN
        if self._must_rewrite or self._written + len(notes) > enough:
            frames = [_encode(note) for note in self._all()]
            await self._blocking(partial(self._rewrite, frames))
            self._written, self._must_rewrite = len(frames), False
        else:
            frames = [_encode(note) for note in notes]
            await self._blocking(partial(self._log.append, frames))
            self._written += len(frames)

    def _all(self) -> Iterator[Note]:
        for task_id, task in self.tasks.items():
            yield BodyNoted(task)
            yield StatusNoted(task_id, self.statuses[task_id])

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        self._noted += 1
        self._take(note)

    def _take(self, note: Note) -> None:
        match note:
            case BodyNoted(task):
                self.tasks[task.id] = task
                self.statuses.setdefault(task.id, task.status)
            case StatusNoted(task_id, status):
                self.statuses[task_id] = status
            case TaskForgotten(task_id):
                self.tasks.pop(task_id, None)
                self.statuses.pop(task_id, None)


def open_state(env: Env, directory: str, key: SealKey | None) -> SealedLog:
    """The database's file in `directory`, sealed with `key`, or with one made beside it."""
    env.disk.make_dir(directory)
    if key is None:
        key = seal_key(load_secret(env.disk, f"{directory}/{KEY_FILE}", env.entropy))
    path = f"{directory}/{TASKS_FILE}"
    return SealedLog(env.disk, path, key, purpose=PURPOSE, entropy=env.entropy)


def set_state_aside(disk: Disk, directory: str) -> None:
    """Take away a database that cannot be read, and a key that is none; the last such is kept."""
    path, key_path = f"{directory}/{TASKS_FILE}", f"{directory}/{KEY_FILE}"
    if disk.exists(path):
        disk.rename(path, path + ASIDE)
    if disk.exists(key_path) and len(disk.read(key_path)) != KEY_SIZE_B:
        disk.rename(key_path, key_path + ASIDE)


def load_secret(disk: Disk, path: str, entropy: Entropy) -> bytes:
    """The node's own secret, made on first use (0600)."""
    if not disk.exists(path):
        write_atomic(disk, path, [new_seal_key(entropy)])
    return disk.read(path)
