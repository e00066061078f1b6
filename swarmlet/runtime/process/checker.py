"""One probe of a task's health, run alone as a shim is (see shim.py), but for a moment only.

Given: stdin, the configuration; stdout, a pipe for the answer: `exit N`, `timeout` or `failed STEP
ERRNO`, a newline, and the last of what the probe wrote; descriptor 3, the reading end of a pipe the
daemon holds: when that goes, the probe and all it started are killed.

In an isolated task's world a second process does the work there, as the nearest reaper of what the
probe leaves. Only a mount namespace that the shim made is entered: a task that went on to a user
namespace of its own could show root files of its making.
"""

import os
import select
import time

from swarmlet.runtime.process.kernel import (
    PR_SET_CHILD_SUBREAPER,
    Step,
    StepError,
    libc_call,
    prctl,
    start_time,
)
from swarmlet.runtime.process.sandbox import Config, become_task
from swarmlet.runtime.process.supervisor import kill_rest

LIFE_FD = 3
OUTPUT_MAX_B = 4096  # Docker's maxOutputLen
READ_MAX_B = 65_536
DRAIN_MAX_B = 1_048_576


def check(config: Config) -> None:
    """Run the probe and answer. Raises StepError where it could not be run."""
    os.setsid()
    os.chdir("/")
    os.set_inheritable(LIFE_FD, False)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    if enter := config.text(b"enter"):
        with Step("enter"):
            pid, _, start = enter.partition(b" ")
            enter_world(pid.decode(), start)
            inside = os.fork()
        if inside:
            os.waitpid(inside, 0)
            return
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    verdict, output = _Run(config, null).verdict()
    os.write(1, verdict + b"\n" + output)


def enter_world(pid: str, start: bytes) -> None:
    """The namespaces of exactly this process. Raises OSError, StepError."""
    doors = [
        os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        for name in ("uts", "pid", "mnt")
    ]
    theirs, ours = os.stat(f"/proc/{pid}/ns/user"), os.stat("/proc/self/ns/user")
    is_same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    if start_time(pid) != start:
        raise ProcessLookupError
    if not is_same:
        raise StepError("own_users", 0)
    for door in doors:
        libc_call("enter", "setns", door, 0)
        os.close(door)


class _Run:
    """A probe from its start to the burial of all it left."""

    def __init__(self, config: Config, null: int) -> None:
        self._timeout_s = config.number(b"timeout_ms") / 1000
        self._output = b""
        self._out, out_end = os.pipe()
        made, made_end = os.pipe()
        with Step("fork"):
            self._pid = os.fork()
        if self._pid == 0:
            os.close(made)
            become_task(config, made_end, (null, out_end, out_end))
        os.close(out_end)
        os.close(made_end)
        problem = os.read(made, 200).split()  # nothing but the end, once it has been executed
        os.close(made)
        if problem:
            raise StepError(problem[0].decode(), int(problem[1]))

    def verdict(self) -> tuple[bytes, bytes]:
        """What to answer, and the last of the output."""
        code = self._wait()
        if _has_children():
            kill_rest(0)
        os.set_blocking(self._out, False)
        left_b = DRAIN_MAX_B
        try:
            while left_b > 0 and (size_b := self._read()):
                left_b -= size_b
        except BlockingIOError:  # what it left in a session of its own may still hold the pipe
            pass
        return b"timeout" if code is None else b"exit %d" % code, self._output

    def _wait(self) -> int | None:
        """Its exit code; None where its time was over, or the daemon gone."""
        deadline_s = time.monotonic() + self._timeout_s
        poll = select.poll()
        pidfd = os.pidfd_open(self._pid)
        poll.register(self._out, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        poll.register(LIFE_FD, 0)  # a pipe whose writer is gone is told in any case
        while (left_s := deadline_s - time.monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(left_s * 1000)]
            if pidfd in ready:
                code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                return code if code >= 0 else 128 - code
            if LIFE_FD in ready:
                return None
            if self._out in ready and not self._read():
                poll.unregister(self._out)
        return None

    def _read(self) -> int:
        data = os.read(self._out, READ_MAX_B)
        self._output = (self._output + data)[-OUTPUT_MAX_B:]
        return len(data)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True
