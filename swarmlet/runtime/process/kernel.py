"""The few system calls Python has no name for, as the shim needs them. Stdlib only: see shim.py."""

import ctypes
import errno
import os
import select

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x20000
CLONE_NEWUTS = 0x4000000
CLONE_NEWPID = 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
KEYCTL = {"x86_64": 250, "aarch64": 219}  # syscall numbers; the C library has no name for it
KEYCTL_JOIN_SESSION_KEYRING = 1
SIGKILL = 9

libc = ctypes.CDLL(None, use_errno=True)


class StepError(Exception):
    """Setting up a task failed at `step` with this errno; the daemon makes the sentence."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(step, number)
        self.step, self.number = step, number

    def line(self) -> bytes:
        return f"{self.step} {self.number}".encode()


class Step:
    """`with Step(name):` a part of the set-up, whose OSError becomes a StepError of this name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, OSError):
            raise StepError(self._name, error.errno or errno.EIO) from error


def libc_call(step_name: str, function: str, *arguments: object) -> None:
    if getattr(libc, function)(*arguments) != 0:
        raise StepError(step_name, ctypes.get_errno())


def prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_ulong(value) if isinstance(value, int) else value
    none = ctypes.c_ulong(0)
    libc_call("prctl", "prctl", option, argument, none, none, none)


def unshare(flags: int) -> None:
    libc_call("namespaces", "unshare", flags)


def die_with_parent(parent: int) -> None:
    """Be killed when the shim dies, or now if it did: then `parent`, a pipe, has no reader."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    poll = select.poll()
    poll.register(parent, 0)
    if poll.poll(0):
        os._exit(128 + SIGKILL)


def leave_keyring() -> None:
    """A session keyring of our own: root's may hold keys that were not given to tasks."""
    number = KEYCTL.get(os.uname().machine)
    if number is not None:  # where it fails the kernel has no keyrings, or forbids their use
        libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)


def start_time(pid: str) -> bytes:
    """Field 22 of /proc/PID/stat, in clock ticks since boot. A name may hold anything, even ')'."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19]


def leave_mounts(hostname: bytes) -> None:
    """Own mounts, private; own host name if one is given."""
    unshare(CLONE_NEWNS | (CLONE_NEWUTS if hostname else 0))
    libc_call("namespaces", "mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if hostname:
        libc_call("hostname", "sethostname", hostname, len(hostname))


def hide(paths: list[bytes]) -> None:
    """Cover these paths, and the host's /proc by the pid namespace's own."""
    for path in paths:
        _hide(path)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    libc_call("proc", "mount", b"proc", b"/proc", b"proc", flags, None)


def _hide(path: bytes) -> None:
    """Cover a folder by an empty one, a file or socket by /dev/null; a missing path needs none."""
    if os.path.isdir(path):
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        libc_call("hide", "mount", b"tmpfs", path, b"tmpfs", flags, b"size=4k,mode=000")
    elif os.path.exists(path):
        libc_call("hide", "mount", b"/dev/null", path, None, MS_BIND, None)
