"""Processes that are not mistaken for others of the same number, and the burial of dead ones."""

import os
import select
import signal
from dataclasses import dataclass
from typing import Final

ENVIRONMENT_MAX_B: Final = 6 * 1024 * 1024  # of arguments and environment together (execve(2))


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that is not mistaken for a later one of the same number."""

    pid: int
    start: str

    def is_current(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return _fields(file.read())[19].decode() == self.start
        except (FileNotFoundError, ProcessLookupError):
            return False

    def uid(self) -> int:
        """As whom it runs now; -1 where it is gone."""
        try:
            with open(f"/proc/{self.pid}/status", "rb") as file:
                (uids,) = [line.split() for line in file if line.startswith(b"Uid:")]
        except (FileNotFoundError, ProcessLookupError):
            return -1
        return int(uids[2]) if self.is_current() else -1

    def open(self) -> int:
        """A pidfd of exactly this process; -1 where it is gone."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return -1
        if self.is_current():  # looked up after opening, so the descriptor is of this one
            return pidfd
        os.close(pidfd)
        return -1

    def is_dead(self, within_ms: int = 0) -> bool:
        """Whether it is gone, or dead and unburied; waits at most `within_ms`, blocking."""
        pidfd = self.open()
        if pidfd < 0:
            return True
        try:
            return has_ended(pidfd, within_ms)
        finally:
            os.close(pidfd)

    def send(self, number: int) -> None:
        """Signal it, if it is still there."""
        pidfd = self.open()
        if pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:  # dead, not buried yet
            return
        finally:
            os.close(pidfd)


def _fields(stat: bytes) -> list[bytes]:
    """/proc/PID/stat from its third field on: a name may hold anything, even ')' (proc(5))."""
    return stat.rpartition(b")")[2].split()


def has_ended(pidfd: int, within_ms: int = 0) -> bool:
    """Whether it is dead, buried or not; waits at most `within_ms`, blocking."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within_ms))


def bury(pid: int) -> bool:
    """Take a dead process's status if it is a child of ours, as all orphans are of a pid 1; whether
    nothing is left for us to bury."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def left_of(leader: ProcessIdentity | None, entry: str) -> list[ProcessIdentity]:
    """What a dead leader left: its session, unless its number is another's by now, and whatever
    was started with `entry` in its environment, however far it went."""
    session = -1
    if leader is not None and (leader.is_current() or not os.path.exists(f"/proc/{leader.pid}")):
        session = leader.pid
    wanted = b"\0" + entry.encode() + b"\0"
    found: list[ProcessIdentity] = []
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = _fields(file.read())
            is_of_it = int(fields[3]) == session or wanted in b"\0" + _environment(name)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_of_it and fields[0] != b"Z" and int(name) != session:
            found.append(ProcessIdentity(int(name), fields[19].decode()))
    return found


def _environment(pid: str) -> bytes:
    """As it was given at the start; nothing where that is not ours to see. A process may afterwards
    call all of its memory its environment (PR_SET_MM)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read(ENVIRONMENT_MAX_B)
    except PermissionError:
        return b""
