"""A task's folder, as the daemon reads it (shim.py says what the shim writes there).

Nothing here is synced: what it says matters only until the host's next boot, and a boot that is not
the one written down means that the task has ended.
"""

import fcntl
import os
import re
from typing import Final

import msgspec

from swarmlet.env.base import Disk
from swarmlet.runtime.base import Exit, RuntimeProblemError
from swarmlet.runtime.process.processes import ProcessIdentity

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class BundleState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """bundle.json: what adoption needs and the shim does not write. `uid` is -1 where it is not the
    task's own."""

    boot_id: str
    uid: int = -1
    ports: tuple[tuple[str, int, int], ...] = ()  # protocol, target, published


class _ExitFile(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    at_ms: int
    problem: str = ""


def is_bundle_name(text: str) -> bool:
    """Whether it may be a task's id: it becomes a folder's name."""
    return _NAME.fullmatch(text) is not None


class Bundle:
    """One task's folder under the runtime's."""

    def __init__(self, disk: Disk, state_dir: str, task_id: str) -> None:
        if not is_bundle_name(task_id):
            raise RuntimeProblemError(f"{task_id!r} is not a task id.")
        self.task_id = task_id
        self.path = f"{state_dir}/{task_id}"
        self._disk = disk

    def exists(self) -> bool:
        return self._disk.exists(self.path)

    def save(self, state: BundleState) -> None:
        self._disk.make_dir(os.path.dirname(self.path), 0o700)  # a parent would get a wider mode
        self._disk.make_dir(self.path, 0o700)
        self._put("bundle.json", msgspec.json.encode(state))

    def state(self) -> BundleState:
        """What was saved. A torn or foreign file is of a boot that is gone."""
        try:
            return msgspec.json.decode(self._get("bundle.json"), type=BundleState)
        except msgspec.DecodeError:
            return BundleState(boot_id="")

    def identity(self, name: str) -> ProcessIdentity | None:
        """Of shim.pid or task.pid; None where it was not written yet."""
        words = self._get(name).decode(errors="replace").split()
        if len(words) != 2 or not words[0].isdecimal():
            return None
        return ProcessIdentity(int(words[0]), words[1])

    def status(self) -> tuple[str, int] | None:
        """The step that failed and its errno, where the task was never executed."""
        words = self._get("status").decode(errors="replace").split()
        if len(words) != 2 or not words[1].isdecimal():
            return None
        return words[0], int(words[1])

    def exit(self) -> Exit | None:
        try:
            found = msgspec.json.decode(self._get("exit"), type=_ExitFile)
        except msgspec.DecodeError:  # not there, or torn by a power cut: then the boot is over too
            return None
        return Exit(exit_code=found.exit_code, at_ms=found.at_ms, problem=found.problem)

    def put_exit(self, end: Exit) -> None:
        file = _ExitFile(exit_code=end.exit_code, at_ms=end.at_ms, problem=end.problem)
        self._put("exit", msgspec.json.encode(file))

    def lock(self) -> int:
        """A descriptor that holds the bundle's lock; -1 where a shim has it."""
        fd = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        return fd

    def has_shim(self) -> bool:
        """Whether a shim lives. Cannot be fooled by a reused pid: it holds the lock."""
        if not self._has("lock"):
            return False
        fd = self.lock()
        if fd >= 0:
            os.close(fd)
        return fd < 0

    def was_started(self) -> bool:
        """Whether a shim was ever started here (one that only just was holds the lock already)."""
        return self.identity("shim.pid") is not None or self._has("exit") or self.has_shim()

    def forget_start(self) -> None:
        """Undo a start that failed for a passing reason, so that it can be tried again."""
        for name in ("exit", "exit.new", "status", "task.pid", "init.pid", "shim.pid"):
            self._disk.remove(f"{self.path}/{name}")

    def remove(self) -> None:
        """All but volumes, which are emptied first: they may be large."""
        self._disk.remove_tree(self.path)

    def _has(self, name: str) -> bool:
        return self._disk.exists(f"{self.path}/{name}")

    def _get(self, name: str) -> bytes:
        try:
            return self._disk.read(f"{self.path}/{name}")
        except FileNotFoundError:
            return b""

    def _put(self, name: str, content: bytes) -> None:
        path = f"{self.path}/{name}"
        fd = os.open(path + ".new", _WRITE, 0o600)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
        os.rename(path + ".new", path)
