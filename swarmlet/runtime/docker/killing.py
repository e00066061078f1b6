"""Signals to programs in containers, past the engine: it has no request for that.

A pid the engine tells is of its own host. It counts only where a process of that number here is in
a control group that bears the container's whole id; then this is the engine's host.
"""

import contextlib
import os
import signal
from typing import Final

HANGUP, KILL = int(signal.SIGHUP), int(signal.SIGKILL)
ROUNDS_MAX: Final = 50  # against what multiplies while it is killed


def signal_program(pid: int, container_id: str, number: int) -> str:
    """Signal the program and, to kill it, all of its session. Blocks. "" where it was found, or is
    gone; else why not."""
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        if not _is_in(pid, container_id):
            return "the engine's processes are not to be seen from here"
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return "" if pid else "it has no process"
    except OSError as error:
        return f"the signal was not sent: {error.strerror}"
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    if number == KILL:
        for _ in range(ROUNDS_MAX):
            if not _kill_session(pid, container_id):
                break
    return ""


def _is_in(pid: int, container_id: str) -> bool:
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/cgroup") as file:
        return container_id in file.read()
    return False


def _kill_session(leader: int, container_id: str) -> int:
    """How many were left of it."""
    found = 0
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, PermissionError):
            if _session(name) != leader or not _is_in(int(name), container_id):
                continue
            pidfd = os.pidfd_open(int(name))
            try:
                if _session(name) == leader:  # looked up after opening: the descriptor is of it
                    signal.pidfd_send_signal(pidfd, KILL)
                    found += 1
            finally:
                os.close(pidfd)
    return found


def _session(name: str) -> int:
    """Of a process that lives; -1 of a dead one that is not buried yet."""
    with open(f"/proc/{name}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return -1 if fields[0] == b"Z" else int(fields[3])
