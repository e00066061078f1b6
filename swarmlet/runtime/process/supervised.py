"""One started task as the daemon sees it: waits for its shim without asking again and again, and
tells its end once, whoever wrote it."""

import asyncio
import contextlib
import logging
import os
import signal
from typing import Final

import msgspec

from swarmlet.env.base import Clock
from swarmlet.runtime.base import Exit, Started, TemporaryProblemError
from swarmlet.runtime.process.bundle import Bundle
from swarmlet.runtime.process.failures import StartFailedError, describe_step
from swarmlet.runtime.process.plan import TASK_ID
from swarmlet.runtime.process.ports import Port
from swarmlet.runtime.process.processes import ProcessIdentity, bury, has_ended, left_of
from swarmlet.runtime.process.spawn import (
    ANSWER_SIZE_MAX_B,
    KEPT_NAME,
    encode_config,
    memory_file,
    spawn_shim,
)
from swarmlet.runtime.process.supervisor import KEPT_FD, NOT_FORWARDED

log = logging.getLogger("swarmlet.runtime")

ANSWER_TIMEOUT_S: Final = 30.0  # for a shim to start its task, on a crowded host
KILL_TIMEOUT_S: Final = 10.0  # for a killed task to end; longer is a process stuck in the kernel
SETTLE_PERIOD_S: Final = 0.01  # between looks at a bundle whose daemon died while it started
LOST_EXIT_CODE: Final = 128 + signal.SIGKILL
FIRST_END_MAX_MS: Final = 500  # for a process that has nothing left to do but to end
DYING_MAX_MS: Final = 500
KILL_ROUNDS_MAX: Final = 100  # against what multiplies while it is killed
SHIM_LOST: Final = "task: its supervisor was killed, and the task with it"


class Supervised:
    """A bundle whose task was started. `spawn` or `adopt` comes first, once."""

    def __init__(self, bundle: Bundle, clock: Clock, ports: tuple[Port, ...]) -> None:
        self.bundle, self.ports = bundle, ports
        self._clock = clock
        self._answer = b""
        self._answered, self._gone = asyncio.Event(), asyncio.Event()
        self._burying = asyncio.Lock()
        self._end: Exit | None = None
        self._watched: dict[int, int] = {}  # pidfd: pid, of children that may be ours to bury
        self._pidfd = self._reader = -1

    # Beginning -----------------------------------------------------------------------------------

    def spawn(self, config: bytes, lock_fd: int, kept: bytes) -> None:
        """Start the shim and return; `started` tells how it went. `kept`: see `read_kept`. Raises
        TemporaryProblemError."""
        try:
            with memory_file(kept) as fd:
                first, self._reader = spawn_shim(config, lock_fd, (fd,))
            os.set_blocking(self._reader, False)
            asyncio.get_running_loop().add_reader(self._reader, self._read_answer)
            self._bury_when_dead(first)
        except OSError as error:
            raise TemporaryProblemError(
                f"No process could be started: {error.strerror}.",
                remedy="The node is short of processes, memory or open files; it is tried again.",
            ) from error

    async def adopt(self, *, is_this_boot: bool) -> None:
        """Take over a bundle that an earlier daemon started. Raises TemporaryProblemError."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while is_this_boot and not self._is_settled():  # noqa: ASYNC110 - files do not wake us
                    await asyncio.sleep(SETTLE_PERIOD_S)
        except TimeoutError:
            raise _no_answer() from None
        self._answered.set()
        if is_this_boot:
            self._watch()
        else:
            self._gone.set()

    def _is_settled(self) -> bool:
        """Whether the shim has said all it says at a start, or is gone."""
        bundle = self.bundle
        return (
            bundle.identity("task.pid") is not None
            or bundle.exit() is not None
            or not bundle.has_shim()
        )

    def _read_answer(self) -> None:
        try:
            part = os.read(self._reader, ANSWER_SIZE_MAX_B)
        except BlockingIOError:
            return
        self._answer = (self._answer + part)[:ANSWER_SIZE_MAX_B]
        if part:
            return
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        self._reader = -1
        self._watch()
        self._answered.set()

    async def answered(self) -> None:
        """When it is known how the start went. Raises TemporaryProblemError."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._answered.wait()
        except TimeoutError:
            raise _no_answer() from None

    async def started(self) -> Started:
        """When it runs. Raises StartFailedError where it was not executed."""
        await self.answered()
        found = self.known_start()
        if found is None:
            raise self._failure()
        return found

    def known_start(self) -> Started | None:
        task = self.bundle.identity("task.pid")
        if task is None:
            return None
        return Started(
            container_id=self.bundle.task_id,
            pid=task.pid,
            ports=tuple(port.config() for port in self.ports),
        )

    def _failure(self) -> StartFailedError:
        words = self._answer.split()
        status = self.bundle.status()
        if status is None and words[:1] == [b"failed"] and len(words) == 3:
            status = words[1].decode(), int(words[2])
        text = self._answer.decode(errors="replace").strip().rpartition("\n")[2]
        return StartFailedError(*(status or ("supervisor", 0)), text)

    # Life ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the loop tell when the shim ends; a pidfd needs no polling."""
        shim = self.bundle.identity("shim.pid")
        self._pidfd = shim.open() if shim is not None else -1
        if self._pidfd < 0:
            self._gone.set()
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._shim_ended)
        if has_ended(self._pidfd):
            self._shim_ended()

    def _shim_ended(self) -> None:
        self._unwatch()
        shim = self.bundle.identity("shim.pid")
        if shim is not None:
            bury(shim.pid)
        self._gone.set()

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    @property
    def is_over(self) -> bool:
        """Whether the shim is gone: nothing more is written."""
        return self._gone.is_set()

    async def ended(self) -> Exit:
        """When nothing of the task lives any more."""
        await self._gone.wait()
        async with self._burying:
            if self._end is None:  # kept, for the bundle may be removed before all have asked
                self._end = self._told_end() or await self._bury_lost()
            return self._end

    def _told_end(self) -> Exit | None:
        """What the shim wrote down."""
        end, status = self.bundle.exit(), self.bundle.status()
        if end is None or status is None:
            return end
        return msgspec.structs.replace(end, problem=describe_step(*status))

    def send(self, number: int) -> None:
        """A signal for the task's process group, by way of the shim, which cannot miss it; those a
        shim does not pass on go to the main process alone."""
        if number in NOT_FORWARDED:
            self._send_main(number)
        elif self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> Exit:
        """Kill the task, or its shim where that does not help. Raises TemporaryProblemError."""
        self._send_main(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIMEOUT_S):
                return await self.ended()
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIMEOUT_S):
                return await self.ended()
        raise TemporaryProblemError(
            f"Task {self.bundle.task_id} was killed and does not end.",
            remedy="A process stuck in the kernel (state D) ends when its disk or mount answers.",
        )

    def close(self) -> None:
        """Let go; the task runs on."""
        loop = asyncio.get_running_loop()
        self._unwatch()
        for pidfd, pid in self._watched.items():
            loop.remove_reader(pidfd)
            if has_ended(pidfd, FIRST_END_MAX_MS):  # at once, but for a crowded host
                bury(pid)
            os.close(pidfd)
        self._watched.clear()
        if self._reader >= 0:
            loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    # Death ---------------------------------------------------------------------------------------

    def _send_main(self, number: int) -> None:
        task = self.bundle.identity("task.pid")
        if task is not None:
            task.send(number)

    async def _bury_lost(self) -> Exit:
        """The shim is gone and told no end: make sure that the task is dead, and write it down."""
        task, init = self.bundle.identity("task.pid"), self.bundle.identity("init.pid")
        if task is not None:
            await self._see_dead(task)
        if init is None:
            await self._see_rest_dead(task)
        else:  # the kernel kills the rest with it, once the task, which is not its child, is buried
            init.send(signal.SIGKILL)
            if not bury(init.pid):
                await self._see_dead(init)
        end = Exit(exit_code=LOST_EXIT_CODE, at_ms=self._clock.wall_ms(), problem=SHIM_LOST)
        log.warning("task.supervisor_lost", extra={"task_id": self.bundle.task_id})
        try:
            self.bundle.put_exit(end)
        except OSError as error:  # a full disk must not hide the end
            log.warning("task.end_not_written", extra={"problem": error.strerror})
        return end

    async def _see_rest_dead(self, task: ProcessIdentity | None) -> None:
        entry = f"{TASK_ID}={self.bundle.task_id}"
        for _ in range(KILL_ROUNDS_MAX):
            orphans = left_of(task, entry)
            if not orphans:
                return
            for orphan in orphans:
                await self._see_dead(orphan)

    async def _see_dead(self, task: ProcessIdentity) -> None:
        pidfd = task.open()
        if pidfd < 0:
            bury(task.pid)
            return
        dead = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, dead.set)
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await dead.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        bury(task.pid)

    def _bury_when_dead(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)  # our own child, not waited for yet: the pid is its own
        self._watched[pidfd] = pid
        asyncio.get_running_loop().add_reader(pidfd, self._bury_first, pidfd)

    def _bury_first(self, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        bury(self._watched.pop(pidfd))


def read_kept(known: Supervised) -> bytes:
    """What a program that goes beside the task is told (plan.kept_config), from the shim's memory;
    empty where there is no shim any more."""
    shim = known.bundle.identity("shim.pid")
    if shim is None:
        return b""
    path = f"/proc/{shim.pid}/fd/{KEPT_FD}"
    try:
        if not os.readlink(path).startswith(f"/memfd:{KEPT_NAME}"):
            return b""
        with open(path, "rb") as file:
            found = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except PermissionError:
        if not shim.is_dead(within_ms=DYING_MAX_MS):  # what dies gives up its memory first
            raise
        return b""
    return found if shim.is_current() else b""


def way_into(known: Supervised) -> bytes:
    """Where what goes beside the task has to go: into an isolated task's namespaces, else
    nowhere."""
    task = known.bundle.identity("task.pid")
    if task is None or known.bundle.identity("init.pid") is None:
        return b""
    return encode_config([("enter", f"{task.pid} {task.start}")])


def _no_answer() -> TemporaryProblemError:
    return TemporaryProblemError(
        f"The task's supervisor did not start within {ANSWER_TIMEOUT_S:.0f} s.",
        remedy="The node is overloaded; it is tried again.",
    )
