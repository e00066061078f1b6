"""Processes that are not mistaken for others of the same number, and the burial of dead ones."""

import os
import select
import signal
from dataclasses import dataclass


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


def has_ended(pidfd: int) -> bool:
    """Whether it is dead, buried or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def bury(pid: int) -> bool:
    """Take a dead process's status if it is a child of ours, as all orphans are of a pid 1; whether
    nothing is left for us to bury."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def session_of(leader: ProcessIdentity) -> list[ProcessIdentity]:
    """What a dead leader left of its session; nothing where its number is another's by now."""
    found: list[ProcessIdentity] = []
    if os.path.exists(f"/proc/{leader.pid}") and not leader.is_current():
        return found
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = _fields(file.read())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader.pid != int(name):
            found.append(ProcessIdentity(int(name), fields[19].decode()))
    return found
