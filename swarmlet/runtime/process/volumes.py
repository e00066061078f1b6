"""The folders of volumes: `DATA/volumes/NAME/_data` of those with a name, which stay until somebody
removes them; those without one lie in their task's bundle and go with it.

The folder itself is open to all (0777) within one that only the daemon enters (0700): a task
reaches it by its mount alone.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlet.env.base import Disk, write_atomic
from swarmlet.runtime.process.mounts import MountPlan

CONTENT: Final = "_data"
OWN: Final = "volumes"  # in a bundle
REMOVED_AT_ONCE: Final = 500  # entries of a folder, before others get their turn


class _VolumeFile(msgspec.Struct, frozen=True, kw_only=True):
    """`volume.json`: what there is to know of a volume."""

    driver: str
    labels: dict[str, str]
    created_ms: int


class Volumes:
    """All volumes of a node."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk, self._folder = disk, folder

    def place(self, bundle_path: str, index: int, name: str) -> str:
        """The folder a task gets to see."""
        above = f"{self._folder}/{name}" if name else f"{bundle_path}/{OWN}/{index}"
        return f"{above}/{CONTENT}"

    def make(self, place: str, plan: MountPlan, now_ms: int) -> None:
        """Make it on first use; labels are those of the first. Raises OSError, DiskFullError."""
        if self._disk.exists(place):
            return
        above = os.path.dirname(place)
        self._disk.make_dir(os.path.dirname(above), 0o700)
        self._disk.make_dir(above, 0o700)
        file = _VolumeFile(driver="local", labels=dict(plan.labels), created_ms=now_ms)
        write_atomic(self._disk, f"{above}/volume.json", [msgspec.json.encode(file)])
        fresh = place + ".new"
        self._disk.make_dir(fresh, 0o700)
        os.chmod(fresh, 0o777)  # noqa: S103 - whoever has it mounted, and nobody else gets there
        self._disk.rename(fresh, place)


def remove_content(folder: str) -> Iterator[None]:
    """Remove what tasks left in a folder of ours, a part with each step.

    Every folder found is moved to the top first, so that none is too deep for a path, a stack or
    the open files, however a task may have laid them out.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        waiting = [name for name, is_folder in _entries(top, ".") if is_folder]
        taken = frozenset(waiting)  # also what an interrupted removal moved
        free = (name for name in map("removed-{}".format, itertools.count()) if name not in taken)
        done = 0
        while waiting:
            name = waiting.pop()
            for entry, is_folder in _entries(top, name):
                path = f"{name}/{entry}"
                if is_folder:
                    waiting.append(next(free))
                    os.rename(path, waiting[-1], src_dir_fd=top, dst_dir_fd=top)
                else:
                    os.unlink(path, dir_fd=top)
                done += 1
                if done % REMOVED_AT_ONCE == 0:
                    yield
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _entries(top: int, name: str) -> list[tuple[str, bool]]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        with os.scandir(fd) as found:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    finally:
        os.close(fd)
