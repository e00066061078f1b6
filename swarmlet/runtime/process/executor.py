"""One program beside a task, run alone as a checker is (see checker.py).

Given: stdin, the configuration; stdout, a pipe for the answer: `started` or `failed STEP ERRNO`,
and after the first `exit N`; descriptor 3, the reading end of a pipe the daemon holds: when that
goes, the program and all it started are killed, and so they are when the task ends; 4 to 6, the
program's input, output and errors, each the same terminal where it has one.

In an isolated task's world a second process does the work there, as the nearest reaper of what the
program leaves; that is killed before the exit is told.
"""

import errno
import os
import select

from swarmlet.runtime.process.checker import LIFE_FD, enter_world, has_children
from swarmlet.runtime.process.kernel import (
    PR_SET_CHILD_SUBREAPER,
    SIGKILL,
    Step,
    StepError,
    prctl,
    start_time,
)
from swarmlet.runtime.process.sandbox import Config, become_task
from swarmlet.runtime.process.supervisor import EXEC_FDS, kill_rest

HANGUP_GRACE_MS = 1000  # for a program whose terminal was taken away


def execute(config: Config) -> None:
    """Run the program and tell its end. Raises StepError where it could not be run."""
    os.setsid()
    os.chdir("/")
    for fd in (LIFE_FD, *EXEC_FDS):
        os.set_inheritable(fd, False)
    with Step("enter"):
        task = open_task(config)
        if enter := config.text(b"enter"):
            pid, _, start = enter.partition(b" ")
            enter_world(pid.decode(), start)
            inside = os.fork()
            if inside:
                _close_streams()
                os.waitpid(inside, 0)
                return
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        _Program(config, task).run()
    except (OSError, StepError):
        raise
    except Exception as error:  # noqa: BLE001 - a traceback shows, as root, what is mounted
        raise StepError(type(error).__name__, errno.EIO) from None


def open_task(config: Config) -> int:
    """A pidfd of the task's main process. Raises OSError where it is gone."""
    pid, _, start = config.text(b"beside").partition(b" ")
    task = os.pidfd_open(int(pid))
    if start_time(pid.decode()) != start:
        raise ProcessLookupError(errno.ESRCH, "")
    return task


class _Program:
    """From its start to the burial of all it left."""

    def __init__(self, config: Config, task: int) -> None:
        self._task, self._is_tty = task, config.number(b"tty")
        if self._is_tty and (uid := config.number(b"uid")):
            os.fchown(EXEC_FDS[0], uid, -1)  # else it could not open its terminal by name
        made, made_end = os.pipe()
        with Step("fork"):
            self._pid = os.fork()
        if self._pid == 0:
            os.close(made)
            become_task(config, made_end, EXEC_FDS)
        os.close(made_end)
        _close_streams()
        problem = os.read(made, 200).split()  # nothing but the end, once it has been executed
        os.close(made)
        if problem:
            raise StepError(problem[0].decode(), int(problem[1]))

    def run(self) -> None:
        _tell(b"started\n")
        code = self._wait()
        if has_children():
            kill_rest(0)
        _tell(b"exit %d\n" % code)

    def _wait(self) -> int:
        """Its exit code, that of a killed one where it must not go on."""
        poll, pidfd = select.poll(), os.pidfd_open(self._pid)
        poll.register(pidfd, select.POLLIN)
        poll.register(self._task, select.POLLIN)
        poll.register(LIFE_FD, 0)  # a pipe whose writer is gone is told in any case
        ready = [fd for fd, _ in poll.poll()]
        if pidfd not in ready and LIFE_FD in ready and self._is_tty:
            poll.unregister(LIFE_FD)
            ready = [fd for fd, _ in poll.poll(HANGUP_GRACE_MS)]
        if pidfd not in ready:
            return 128 + SIGKILL
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return code if code >= 0 else 128 - code


def _close_streams() -> None:
    for fd in EXEC_FDS:
        os.close(fd)


def _tell(line: bytes) -> None:
    try:
        os.write(1, line)
    except BrokenPipeError:  # the daemon is gone, and its end of our life with it
        return
