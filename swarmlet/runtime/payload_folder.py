"""Where a host keeps the secrets and configs of tasks that get them as plain files: below a tmpfs,
in folders that only their owner enters.

A file system on a disk is refused, never used: what was written there once can be read long after.
Nothing is left of a boot that is over, and what a crash leaves is swept by the next daemon.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from swarmlet.runtime.base import RuntimeProblemError

MEMORY_TYPES: Final = ("tmpfs", "ramfs")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class PayloadFile(NamedTuple):
    """One to write: `path` below the task's folder. Owner -1: whoever runs this daemon."""

    path: str
    data: bytes
    mode: int
    uid: int = -1
    gid: int = -1


def folders_for(uid: int, env: Mapping[str, str]) -> tuple[str, ...]:
    """Where to look for a tmpfs, the first that is one: root's own, a user's own, everybody's."""
    shared = f"/dev/shm/swarmlet-{uid}"  # noqa: S108 - looked at before it is used
    if uid == 0:
        return ("/run/swarmlet/payloads", shared)
    runtime_dir = env.get("XDG_RUNTIME_DIR", "").rstrip("/") or f"/run/user/{uid}"
    return (f"{runtime_dir}/swarmlet/payloads", shared)


def file_system_of(path: str) -> str:
    """The type of the file system a folder is on, as the kernel's mounts name it; "" where no
    mount tells."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        mount, _, kind = line.partition(" - ")  # proc_pid_mountinfo(5)
        if mount.split()[2] == wanted:
            return kind.split()[0]
    return ""


class PayloadFolder:
    """One runtime's: `owner` is a text that is its alone (its state directory)."""

    def __init__(
        self, folders: Iterable[str], owner: str, *, type_of: Callable[[str], str] = file_system_of
    ) -> None:
        self._folders, self._type_of = tuple(folders), type_of
        self._name = hashlib.sha256(owner.encode()).hexdigest()[:16]

    def of(self, task_id: str) -> str:
        """The task's folder, whether it is there or not. Raises RuntimeProblemError where this
        host has no tmpfs for it."""
        return f"{self._base()}/{self._name}/{task_id}"

    def write(
        self, task_id: str, files: Iterable[PayloadFile], owner: tuple[int, int] | None = None
    ) -> str:
        """Make the task's folder anew with these files; `owner` (uid, gid) may enter it, else
        this daemon alone. Raises RuntimeProblemError, OSError."""
        place = self._above(task_id, 0o711 if owner is not None else 0o700)
        self._remove(place)
        os.mkdir(place, 0o700)
        for file in files:
            _make_between(place, os.path.dirname(file.path))
            _put(os.open(f"{place}/{file.path}", _WRITE | os.O_EXCL, 0o600), file)
        if owner is not None:
            os.chown(place, *owner)
        return place

    def make_room(self, task_id: str, names: Iterable[str]) -> str:
        """The task's folder, which this daemon alone enters, with files of these names: empty
        where they were not there. Raises RuntimeProblemError, OSError."""
        place = self._above(task_id, 0o700)
        os.makedirs(place, 0o700, exist_ok=True)
        for name in names:
            os.close(os.open(f"{place}/{name}", _WRITE, 0o600))
        return place

    def fill(self, task_id: str, files: Iterable[PayloadFile]) -> None:
        """Write what `make_room` made room for, in place: it may be mounted elsewhere."""
        place = self.of(task_id)
        for file in files:
            _put(os.open(f"{place}/{file.path}", _WRITE | os.O_TRUNC), file)

    def _above(self, task_id: str, mode: int) -> str:
        """Make what is above the task's folder; that folder."""
        place = self.of(task_id)
        above = os.path.dirname(place)
        _make_private(os.path.dirname(above), 0o711)
        _make_private(above, mode)
        return place

    def drop(self, task_id: str) -> None:
        """The task has ended: its files go. Done already is success."""
        for folder in self._folders:
            self._remove(f"{folder}/{self._name}/{task_id}")
            with suppress(OSError):  # the last one takes along what is above
                os.rmdir(f"{folder}/{self._name}")

    def keep_only(self, task_ids: Collection[str]) -> None:
        """What a crash left of other tasks goes."""
        for folder in self._folders:
            try:
                names = sorted(os.listdir(f"{folder}/{self._name}"))
            except (FileNotFoundError, PermissionError):
                continue
            for name in names:
                if name not in task_ids:
                    self._remove(f"{folder}/{self._name}/{name}")

    def _base(self) -> str:
        for folder in self._folders:
            if self._type_of(_nearest(folder)) in MEMORY_TYPES:
                return folder
        raise RuntimeProblemError(
            "This node has no place in memory for secrets and configs: none of "
            f"{', '.join(self._folders)} is on a tmpfs, and they are never written to a disk.",
            remedy="Mount one, as /dev/shm is on most systems.",
        )

    def _remove(self, place: str) -> None:
        try:
            shutil.rmtree(place)
        except FileNotFoundError:
            return


def _put(fd: int, file: PayloadFile) -> None:
    """Closes the descriptor."""
    with open(fd, "wb", 0) as target:
        left = memoryview(file.data)
        while left:
            left = left[target.write(left) :]
        if (file.uid, file.gid) != (-1, -1):
            os.fchown(fd, file.uid, file.gid)
        os.fchmod(fd, file.mode)


def _nearest(path: str) -> str:
    """The folder itself, or the next one above that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _make_private(path: str, mode: int) -> None:
    """A folder of ours that nobody else may list: in /dev/shm anybody may have made one of its
    name."""
    os.makedirs(path, 0o700, exist_ok=True)
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or os.path.islink(path):
        raise RuntimeProblemError(
            f"{path} belongs to somebody else, so no secret is put there.",
            remedy="Remove it, if it is nobody's.",
        )
    os.chmod(path, mode)


def _make_between(place: str, folders: str) -> None:
    """The folders within a task's own, open to read: the one above them is not."""
    path = place
    for name in filter(None, folders.split("/")):
        path += f"/{name}"
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)  # noqa: S103 - below a folder that only the owner enters
