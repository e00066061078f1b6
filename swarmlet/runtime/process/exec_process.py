"""The daemon's side of programs beside tasks (executor.py runs one), from their start to their end.

Nothing here waits in the loop's way: a program's ends are read and written when the loop says that
they are ready, only as far as somebody asks, so a program that writes faster than it is read waits.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from typing import Final

from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.exec_ends import close_all, open_ends, set_size, take
from swarmlet.runtime.process.failures import StartFailedError
from swarmlet.runtime.process.processes import bury
from swarmlet.runtime.process.spawn import ANSWER_SIZE_MAX_B, spawn_shim
from swarmlet.wire.messages import ExecRequest

EXECS_MAX: Final = 256  # at once, of all tasks: each costs about 5 MiB
START_TIMEOUT_S: Final = 30.0
CLOSE_TIMEOUT_S: Final = 15.0  # for a killed program; longer is one stuck in the kernel
KILLED: Final = 137
END_OF_INPUT: Final = b"\x04"  # what a person types at a terminal


class Execution:
    """One program (ExecProcess). One caller reads, one writes; all else may come at any time."""

    def __init__(self, config: bytes, request: ExecRequest) -> None:
        """Spawns. Raises OSError."""
        self.on_gone: Callable[[], None] = lambda: None
        self._answer, self._exit_code = b"", KILLED
        self._answered, self._gone = asyncio.Event(), asyncio.Event()
        self._bells: list[asyncio.Event] = []  # of those who wait for a descriptor
        self._is_closed = False
        self._spawn(config, request)
        self._fds = self._ends.ours()
        self._input, self._outputs = self._ends.input, list(self._ends.outputs)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._reader, self._read_answer)
        loop.add_reader(self._pidfd, self._end)

    def _spawn(self, config: bytes, request: ExecRequest) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            life, self._life = os.pipe()
            given.callback(os.close, life)
            undo.callback(os.close, self._life)
            self._ends = open_ends(request)
            given.callback(close_all, set(self._ends.given))
            undo.callback(close_all, self._ends.ours())
            self._pid, self._reader = spawn_shim(config, life, self._ends.given)
            undo.callback(os.close, self._reader)
            undo.callback(_end_at_once, self._pid)
            os.set_blocking(self._reader, False)
            self._pidfd = os.pidfd_open(self._pid)  # a child not waited for: its pid is its own
            undo.pop_all()

    async def started(self) -> None:
        """When it runs. Raises StartFailedError, RuntimeProblemError; then, or cancelled, nothing
        is left of it."""
        with contextlib.ExitStack() as unless_it_runs:
            unless_it_runs.callback(self.let_go)
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await self._answered.wait()
            except TimeoutError:
                raise RuntimeProblemError(
                    f"The program did not start within {START_TIMEOUT_S:.0f} s.",
                    remedy="The node is overloaded: try again.",
                ) from None
            if not self._answer.startswith(b"started"):
                raise self._failure()
            unless_it_runs.pop_all()

    async def read(self) -> tuple[int, bytes] | None:
        await asyncio.sleep(0)  # who reads a flood lets others have their turn
        while self._outputs and not self._is_closed:
            was_gone = self._gone.is_set()
            for fd, stream in tuple(self._outputs):
                data = take(fd)
                if data:
                    self._outputs.append(self._outputs.pop(0))  # the other comes first next time
                    return stream, data
                if data == b"" or was_gone:  # what is not there now never comes
                    self._outputs.remove((fd, stream))
            if self._outputs and not self._gone.is_set():
                loop = asyncio.get_running_loop()
                fds = [fd for fd, _ in self._outputs]
                await self._ready(loop.add_reader, loop.remove_reader, fds)
        return None

    async def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._input >= 0 and not (self._is_closed or self._gone.is_set()):
            try:
                left = left[os.write(self._input, left) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._ready(loop.add_writer, loop.remove_writer, [self._input])
            except OSError:  # it has closed its input, or has ended
                return

    async def end_input(self) -> None:
        if self._input < 0 or self._is_closed:
            return
        if self._ends.is_tty:
            await self.write(END_OF_INPUT)
            return
        self._fds.discard(self._input)
        os.close(self._input)
        self._input = -1

    async def resize(self, rows: int, columns: int) -> None:
        if self._ends.is_tty and not self._is_closed:
            set_size(self._ends.outputs[0][0], rows, columns)

    async def wait(self) -> int:
        await self._gone.wait()
        return self._exit_code

    async def close(self) -> None:
        """Also for one that never started. A terminal is hung up a second before the kill."""
        self.let_go()
        with contextlib.suppress(TimeoutError):  # whenever it ends, it is buried
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._gone.wait()

    def let_go(self) -> None:
        """Have it killed, without waiting."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._life)
            self._ring()
            self._release()

    # Its ends ------------------------------------------------------------------------------------

    async def _ready(
        self,
        watch: Callable[[int, Callable[[], None]], object],
        unwatch: Callable[[int], object],
        fds: Iterable[int],
    ) -> None:
        """When one of the descriptors is ready, it has ended, or was let go of."""
        bell = asyncio.Event()
        self._bells.append(bell)
        for fd in fds:
            watch(fd, bell.set)
        try:
            await bell.wait()
        finally:
            for fd in fds:
                unwatch(fd)
            self._bells.remove(bell)
            self._release()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.set()

    def _release(self) -> None:
        """Close what was let go of, once the loop watches none of it: its numbers may be used
        again."""
        if self._is_closed and not self._bells:
            close_all(self._fds)
            self._fds = set()

    # Its life ------------------------------------------------------------------------------------

    def _read_answer(self) -> None:
        """Up to the first line: the last is read when all is over."""
        with contextlib.suppress(BlockingIOError):
            part = os.read(self._reader, ANSWER_SIZE_MAX_B)
            self._answer += part
            if not part or b"\n" in self._answer:
                asyncio.get_running_loop().remove_reader(self._reader)
                self._answered.set()

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        loop.remove_reader(self._reader)
        self._answer += take(self._reader) or b""
        for line in self._answer.splitlines():
            word, _, rest = line.partition(b" ")
            if word == b"exit":
                self._exit_code = int(rest)
        bury(self._pid)
        os.close(self._pidfd)
        os.close(self._reader)
        self._answered.set()
        self._gone.set()
        self._ring()
        self.on_gone()

    def _failure(self) -> StartFailedError:
        words = self._answer.split()
        if words[:1] == [b"failed"] and len(words) == 3:
            return StartFailedError(words[1].decode(), int(words[2]), "")
        text = self._answer.decode(errors="replace").strip().rpartition("\n")[2]
        return StartFailedError("supervisor", 0, text)


def _end_at_once(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Executions:
    """All programs beside this runtime's tasks."""

    def __init__(self) -> None:
        self._all: list[Execution] = []

    async def begin(self, config: bytes, request: ExecRequest) -> Execution:
        """Raises OSError, StartFailedError, RuntimeProblemError."""
        if len(self._all) >= EXECS_MAX:
            raise RuntimeProblemError(
                f"This node runs {EXECS_MAX} programs in its tasks already.",
                remedy="Try again when some have ended.",
            )
        execution = Execution(config, request)
        self._all.append(execution)
        execution.on_gone = lambda: self._all.remove(execution)
        await execution.started()
        return execution

    async def close(self) -> None:
        """End all of them, together."""
        left = list(self._all)
        for execution in left:
            execution.let_go()
        for execution in left:
            await execution.close()
