"""What a node may ask of the world. Implementations: `env.real`, and `tests/sim` for the
simulation."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from swarmlet.core.ids import Entropy

T = TypeVar("T")


class Clock(Protocol):
    """Monotonic time for durations; wall time only for certificates, stamps and people."""

    def mono_s(self) -> float: ...

    def wall_ms(self) -> int: ...


class File(Protocol):
    """An open file that grows at its end. Not durable before `sync` returned.

    Every method may raise DiskFullError (nothing of this call is kept: the file is cut back to
    where it was) or OSError, after which the content behind the last `sync` is unknown.
    """

    @property
    def size_b(self) -> int:
        """Bytes written (reserved space does not count)."""
        ...

    def write(self, data: bytes) -> None:
        """Append `data`."""
        ...

    def reserve(self, size_b: int) -> None:
        """Make sure that writes up to a total of `size_b` bytes find room; reads as zeros till
        written."""
        ...

    def sync(self) -> None:
        """Return when all written bytes survive a power cut."""
        ...

    def truncate(self, size_b: int) -> None:
        """Cut to `size_b` bytes; reserved space is given back."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """Files by absolute path. A rename or a new name is durable once `sync_dir` of its folder
    returned."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def exists(self, path: str) -> bool: ...

    def list_dir(self, path: str) -> list[str]:
        """Names in a folder, sorted; empty if there is no such folder."""
        ...

    def create(self, path: str, mode: int = 0o600) -> File:
        """A new, empty file; an older one of this name is replaced."""
        ...

    def open(self, path: str) -> File:
        """An existing file, to be written behind its present end."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomically replace `target` and make that durable (the folder is synced)."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        ...

    def make_dir(self, path: str, mode: int = 0o700) -> None:
        """Make a folder and its parents where missing; durable on return."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all below it, if it is there; durable on return."""
        ...

    def sync_dir(self, path: str) -> None: ...


class Blocking(Protocol):
    """Run blocking work off the event loop (inline in the simulation), in order of the calls."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Env:
    """One node's world."""

    clock: Clock
    rng: Random
    entropy: Entropy
    disk: Disk
    blocking: Blocking


def write_atomic(disk: Disk, path: str, chunks: Iterable[bytes], mode: int = 0o600) -> None:
    """Replace `path` durably: whoever looks sees the old content or the new, whole."""
    beside = path + ".new"
    file = disk.create(beside, mode)
    try:
        for chunk in chunks:
            file.write(chunk)
        file.sync()
    except BaseException:
        file.close()
        disk.remove(beside)
        raise
    file.close()
    disk.rename(beside, path)
