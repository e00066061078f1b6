"""One probe of a task's health, run alone as a shim is (see shim.py), but for a moment only.

Given: stdin, the configuration; stdout, a pipe for the answer: `exit N`, `timeout` or `failed STEP
ERRNO`; descriptor 3, the reading end of a pipe the daemon holds: when that goes, the probe and all
it started are killed. What a probe writes may be secret: it is read and dropped.

In an isolated task's world a second process does the work there, as the nearest reaper of what the
probe leaves. Only a mount namespace that the shim made is entered: a task that went on to a user
namespace of its own could show root files of its making.
"""

import errno
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
POLL_MAX_S = 3600.0  # poll(2) takes no more than 24 days at once
READ_MAX_B = 65_536


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
    try:
        os.write(1, _Run(config, null).verdict())
    except (OSError, StepError):
        raise
    except Exception as error:  # noqa: BLE001 - a traceback shows, as root, what is mounted
        raise StepError(type(error).__name__, errno.EIO) from None


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

    def verdict(self) -> bytes:
        """What to answer."""
        code = self._wait()
        if has_children():
            kill_rest(0)
        return b"timeout" if code is None else b"exit %d" % code

    def _wait(self) -> int | None:
        """Its exit code; None where its time was over, or the daemon gone."""
        deadline_s = time.monotonic() + self._timeout_s
        poll = select.poll()
        pidfd = os.pidfd_open(self._pid)
        poll.register(self._out, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        poll.register(LIFE_FD, 0)  # a pipe whose writer is gone is told in any case
        while (left_s := deadline_s - time.monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(min(left_s, POLL_MAX_S) * 1000)]
            if pidfd in ready:
                code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                return code if code >= 0 else 128 - code
            if LIFE_FD in ready:
                return None
            if self._out in ready and not os.read(self._out, READ_MAX_B):
                poll.unregister(self._out)
        return None


def has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True
