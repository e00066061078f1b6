"""Programs in containers: a stream of the engine for each, frames where it has no terminal."""

import asyncio
import contextlib
import logging
import struct
from typing import Final

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.env.base import Blocking
from swarmlet.runtime.base import NotExecutedError, RuntimeProblemError
from swarmlet.runtime.docker.client import EngineClient
from swarmlet.runtime.docker.hijack import Switched
from swarmlet.runtime.docker.killing import HANGUP, KILL, signal_program
from swarmlet.wire.messages import STREAM_DATA_MAX_B, ExecRequest

log = logging.getLogger("swarmlet.runtime")

START_TIMEOUT_S: Final = 60.0
LOOK_FIRST_S, LOOK_LAST_S = 0.01, 0.25  # between looks whether it runs: nothing tells of it
END_LOOK_S: Final = 2.0  # whether it has ended, while nobody reads to its end
HANGUP_GRACE_S: Final = 1.0  # for a program whose terminal was taken away
KILL_TIMEOUT_S: Final = 10.0
KILLED: Final = 137
NOT_EXECUTABLE, NOT_FOUND = 126, 127
SYSTEM_ERROR: Final = 3
END_OF_INPUT: Final = b"\x04"  # what a person types at a terminal
REASON_SIZE_MAX_B: Final = 16 * 1024
_HEADER: Final = struct.Struct(">BxxxI")
_IS_MISSING: Final = ("executable file not found", "no such file or directory")  # runc's words


class _Created(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str


class ExecSight(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """GET /exec/ID/json. `pid` is the engine's host's; 0 until it runs, and where it never did."""

    running: bool = False
    exit_code: int | None = None
    pid: int = 0

    @property
    def was_tried(self) -> bool:
        return self.pid > 0 or (not self.running and self.exit_code is not None)

    @property
    def has_ended(self) -> bool:
        return not self.running and self.exit_code is not None


class ContainerExec:
    """One program (ExecProcess). One caller reads, one writes; all else may come at any time."""

    def __init__(
        self, client: EngineClient, blocking: Blocking, task_id: TaskID, container_id: str
    ) -> None:
        self._client, self._blocking = client, blocking
        self._task_id, self._container_id = task_id, container_id
        self._id, self._is_tty = "", False
        self._switched: Switched | None = None
        self._left_b = self._stream = 0  # of the frame that is being read
        self._is_over = asyncio.Event()
        self._is_closed = self._was_asked = self._is_broken = self._has_ended = False

    async def begin(self, request: ExecRequest) -> None:
        """Raises NotExecutedError, EngineRefusedError, EngineDownError; then, or cancelled, nothing
        is left of it."""
        self._is_tty = request.is_tty
        path = f"/containers/{self._container_id}/exec"
        answer = await self._client.call("POST", path, body=exec_body(request))
        try:
            self._id = msgspec.json.decode(answer, type=_Created).id
        except msgspec.DecodeError as error:
            raise self._client.down(f"what it says to an exec is odd ({error})") from error
        try:
            await self._start(request)
        except BaseException:
            await self.close()
            raise

    async def _start(self, request: ExecRequest) -> None:
        body: dict[str, object] = {"Detach": False, "Tty": request.is_tty}
        if has_size := request.is_tty and request.rows > 0 and request.columns > 0:
            body["ConsoleSize"] = (request.rows, request.columns)  # of API 1.42: nothing before
        self._was_asked = True
        self._switched = await self._client.switch(f"/exec/{self._id}/start", body)
        sight = await self._until_tried(START_TIMEOUT_S)
        if sight is None:
            raise self._client.down(f"a program did not start within {START_TIMEOUT_S:.0f} s")
        if not sight.pid:
            raise await self._failure()
        if has_size:
            await self.resize(request.rows, request.columns)

    async def read(self) -> tuple[int, bytes] | None:
        await asyncio.sleep(0)  # who reads a flood lets others have their turn
        try:
            found = await self._next()
        except asyncio.IncompleteReadError as end:
            found, self._is_broken = None, bool(end.partial)
        except OSError:
            found, self._is_broken = None, True
        if found is None:
            self._is_over.set()
        return found

    async def write(self, data: bytes) -> None:
        if self._switched is None or self._has_ended or self._is_over.is_set():
            return
        if self._switched.writer.is_closing():  # uvloop raises RuntimeError of a closed one
            return
        with contextlib.suppress(OSError):  # it has ended: reading tells
            self._switched.writer.write(data)
            while not await self._drained(self._switched.writer):
                if (await self._look()).has_ended:  # the engine reads no more, and does not say so
                    return

    async def end_input(self) -> None:
        if self._switched is None or self._switched.writer.is_closing():
            return
        if self._is_tty:
            await self.write(END_OF_INPUT)
        else:
            with contextlib.suppress(OSError):
                self._switched.writer.write_eof()

    async def resize(self, rows: int, columns: int) -> None:
        """Nothing where it has ended."""
        if self._is_tty and not self._is_closed:
            query = {"h": str(rows), "w": str(columns)}
            with contextlib.suppress(RuntimeProblemError):  # a size is not worth its program
                await self._client.call("POST", f"/exec/{self._id}/resize", query)

    async def wait(self) -> int:
        """Raises RuntimeProblemError where the engine, or the connection to it, was lost."""
        period_s = LOOK_FIRST_S
        while not (sight := await self._look()).has_ended:
            if self._is_broken:
                raise self._client.down("the connection to a program broke off")
            if self._is_over.is_set():
                await asyncio.sleep(period_s)
                period_s = min(period_s * 1.5, LOOK_LAST_S)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_LOOK_S):
                        await self._is_over.wait()
        return KILLED if sight.exit_code is None else sight.exit_code

    async def close(self) -> None:
        """The engine has no way to end one of its programs, so it is signalled past the engine,
        which works where that is on this host."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._switched is not None:
            self._switched.close()
        try:
            await self._kill()
        except RuntimeProblemError as problem:
            log.warning("exec.not_killed", extra=self._facts(problem.message))
        finally:
            self._is_over.set()

    # One program's beginning and end -------------------------------------------------------------

    async def _look(self) -> ExecSight:
        sight = await self._client.ask(ExecSight, f"/exec/{self._id}/json")
        self._has_ended = sight.has_ended
        return sight

    async def _drained(self, writer: asyncio.StreamWriter) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_LOOK_S):
                await writer.drain()
                return True
        return False

    async def _until_tried(self, within_s: float) -> ExecSight | None:
        """What became of its start; None where nothing did in time."""
        period_s = LOOK_FIRST_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (sight := await self._look()).was_tried:
                    await asyncio.sleep(period_s)
                    period_s = min(period_s * 1.5, LOOK_LAST_S)
                return sight
        return None

    async def _failure(self) -> NotExecutedError:
        """The engine writes why where the program's output would be."""
        reason = b""
        while len(reason) < REASON_SIZE_MAX_B and (found := await self.read()):
            reason += found[1]
        text = reason.decode(errors="replace").strip() or "The engine did not start the program."
        is_missing = any(words in text for words in _IS_MISSING)
        return NotExecutedError(text, exit_code=NOT_FOUND if is_missing else NOT_EXECUTABLE)

    async def _next(self) -> tuple[int, bytes] | None:
        assert self._switched is not None, "begun"
        reader = self._switched.reader
        if self._is_tty:
            data = await reader.read(STREAM_DATA_MAX_B)
            return (1, data) if data else None
        while not self._left_b:
            self._stream, self._left_b = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        data = await reader.read(min(self._left_b, STREAM_DATA_MAX_B))
        self._left_b -= len(data)
        return (min(self._stream, 2) or 1, data) if data else None

    async def _kill(self) -> None:
        """Hang up a terminal, then kill what still runs of its session."""
        sight = await self._until_tried(KILL_TIMEOUT_S) if self._was_asked else None
        if sight is None or sight.has_ended:
            return
        if self._is_tty:
            await self._signal(sight, HANGUP)
            if await self._ends(HANGUP_GRACE_S):
                return
        await self._signal(sight, KILL)
        if not await self._ends(KILL_TIMEOUT_S):
            log.warning("exec.not_killed", extra=self._facts("it goes on"))

    async def _ends(self, within_s: float) -> bool:
        period_s = LOOK_FIRST_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (await self._look()).has_ended:
                    await asyncio.sleep(period_s)
                    period_s = min(period_s * 1.5, LOOK_LAST_S)
                return True
        return False

    async def _signal(self, sight: ExecSight, number: int) -> None:
        container_id = self._container_id
        problem = await self._blocking(lambda: signal_program(sight.pid, container_id, number))
        if problem:
            raise RuntimeProblemError(problem)

    def _facts(self, problem: str) -> dict[str, str]:
        return {"task_id": self._task_id, "container_id": self._container_id, "problem": problem}


def exec_body(request: ExecRequest) -> dict[str, object]:
    """POST /containers/ID/exec."""
    body: dict[str, object] = {
        "AttachStdin": request.has_stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": request.is_tty,
        "Cmd": request.argv,
    }
    optional = {"Env": request.env, "User": request.user, "WorkingDir": request.workdir}
    return body | {name: value for name, value in optional.items() if value}
