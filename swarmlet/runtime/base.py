"""The Runtime protocol: the agent calls it, each adapter implements it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec

from swarmlet.core.errors import SwarmError
from swarmlet.core.ids import TaskID
from swarmlet.model.base import hidden
from swarmlet.model.service import PortConfig, Resources
from swarmlet.wire.messages import AssignedTask, ExecRequest, LogLine, LogOptions


class RuntimeProblemError(SwarmError):
    """The runtime could not do it; the sentence becomes the task's error."""

    code = "runtime"


class TemporaryProblemError(RuntimeProblemError):
    """It may work in a second: the agent keeps the state and tries again."""

    code = "runtime-temporary"


class NotExecutedError(RuntimeProblemError):
    """A program could not be started in a task. `exit_code` as a shell says it: 127 where it is not
    found, 126 where it cannot be executed."""

    code = "runtime-not-executed"

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 126) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A started task: its id in the runtime, its first process and the host ports it was given."""

    container_id: str
    pid: int
    ports: tuple[PortConfig, ...] = ()


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended. `exit_code` 128+N where signal N ended it; `problem` where it never ran."""

    exit_code: int
    at_ms: int
    problem: str = ""
    was_oom: bool = False


UNHEALTHY: Final = "unhealthy container"
"""Docker's words for a task that fails its health check."""
NEVER_STARTED: Final = "The task was never started."


class RuntimeTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime has of a task: `exit` is None while it runs; `started` None before start."""

    task_id: TaskID
    started: Started | None = None
    exit: Exit | None = None


class RuntimeDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What this node can do, for its description. `limits`: those it holds a task to, of cpu,
    memory, pids and swap; None where it is not known yet."""

    name: str
    engine_version: str
    resources: Resources
    architecture: str
    os: str
    plugins: tuple[tuple[str, str], ...] = ()  # (type, name)
    limits: tuple[str, ...] | None = None


class TaskFile(msgspec.Struct, frozen=True, kw_only=True):
    """A secret or config as one task gets it: `name` where it appears (a path below /run/secrets
    or / where it is not absolute), its owner and mode; `data` is never on a disk."""

    kind: str  # secret or config
    name: str
    data: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0o444

    __repr__ = hidden


class ExecProcess(Protocol):
    """A program run beside a task. Whoever has it closes it: one that still runs then is killed,
    and hung up before if it has a terminal. One caller reads, one writes at a time."""

    async def read(self) -> tuple[int, bytes] | None:
        """What it wrote: 1 stdout (a terminal's all), 2 stderr; None at the end of both."""
        ...

    async def write(self, data: bytes) -> None:
        """To its input; waits while it does not read; what a program that ended does not read is
        let go."""
        ...

    async def end_input(self) -> None: ...

    async def resize(self, rows: int, columns: int) -> None:
        """Of its terminal; nothing without one."""
        ...

    async def wait(self) -> int:
        """Its exit code, 128+N where signal N ended it. Raises RuntimeProblemError where the
        runtime lost it."""
        ...

    async def close(self) -> None: ...


class Dialed(Protocol):
    """A connection to a port of a task."""

    async def read(self) -> bytes:
        """b"" when the task sends no more. Raises RuntimeProblemError where it broke off."""
        ...

    async def write(self, data: bytes) -> None:
        """Raises RuntimeProblemError."""
        ...

    async def end_input(self) -> None: ...

    async def close(self) -> None: ...


class Condition:
    """Why a runtime can run nothing now, in one sentence; "" while all is well."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self._changed = asyncio.Event()

    def set(self, problem: str) -> None:
        """Another problem, or "" for none."""
        if problem != self.problem:
            self.problem = problem
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, seen: str) -> str:
        """The problem as soon as it is another than `seen`."""
        while self.problem == seen:
            await self._changed.wait()
        return self.problem


class TaskAccess(Protocol):
    """What is done in a task from outside, while it runs."""

    async def exec(self, task_id: TaskID, request: ExecRequest) -> ExecProcess:
        """Run a program as the task sees the world; it runs when this returns. Cancelled, it leaves
        none behind. Raises NotExecutedError, and RuntimeProblemError where the task does not run or
        the request cannot be met."""
        ...

    async def dial(self, task_id: TaskID, port: int) -> Dialed:
        """Connect to a TCP port that the task's service declares (`port`: the target port). Raises
        RuntimeProblemError where the task does not run or nothing listens there."""
        ...


class Runtime(TaskAccess, Protocol):
    """Every verb may raise RuntimeProblemError or TemporaryProblemError, and is safe to repeat."""

    condition: Condition

    @property
    def name(self) -> str: ...

    async def run(self) -> None:
        """What the runtime does by itself, as watching its engine, for as long as the daemon lives.
        Cancelling lets go of the runtime; its tasks run on."""
        ...

    def describe(self) -> RuntimeDescription: ...

    def check(self, task: AssignedTask) -> None:
        """Raise RuntimeProblemError where this runtime can never run the task (its image, an
        option)."""
        ...

    async def prepare(self, task: AssignedTask) -> None:
        """Fetch the image and make ready what start needs; done already is success."""
        ...

    async def start(self, task: AssignedTask, files: Sequence[TaskFile] = ()) -> Started:
        """Start it, once: started already is success with the same answer. `files` are there for
        the task before it runs, in memory, and gone once it has ended."""
        ...

    async def healthy(self, task: AssignedTask) -> Exit | None:
        """Return once a started task is healthy, at once where nothing checks its health; how it
        ended where that came first. Raises RuntimeProblemError where it became unhealthy."""
        ...

    async def wait(self, task_id: TaskID) -> Exit:
        """Return when it has ended (at once where it has); cancelling leaves the task alone.

        Raises RuntimeProblemError where it runs but became unhealthy: whoever waits stops it.
        """
        ...

    async def stop(self, task_id: TaskID, signal: str, grace_s: float) -> Exit:
        """Signal, wait `grace_s`, then kill; return how it ended."""
        ...

    async def remove(self, task_id: TaskID) -> None:
        """Kill what still runs, forget it and its files; unknown is success."""
        ...

    async def list_tasks(self) -> list[RuntimeTask]:
        """All this runtime still knows, for adoption after a restart."""
        ...

    def logs(self, task_id: TaskID, options: LogOptions) -> AsyncIterator[LogLine]:
        """Lines so far by `tail` and `since`; with `follow` on until it ended."""
        ...


@runtime_checkable
class Registries(Protocol):
    """What a runtime that pulls images can do besides: ask a registry about one."""

    async def distribution(self, name: str, auth: str) -> bytes:
        """The Docker Engine API's answer to `GET /distribution/{name}/json`; `auth` as for
        AssignedTask.registry_auth. Raises SwarmError with the engine's words and status."""
        ...
