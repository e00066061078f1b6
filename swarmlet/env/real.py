"""The real world: the only room that touches clock, chance, entropy and disk."""

import asyncio
import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from swarmlet.core.errors import DiskFullError
from swarmlet.env.base import Env, File

T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PAGE_B = 4096
_KEY_B = 32  # what is as long as a key may be one


class RealClock:
    """`mono_s` never goes back; `wall_ms` is what the host believes."""

    def mono_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


@contextmanager
def _full_disk_named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"There is no room left on the disk for {path}; nothing was changed.",
            remedy="Free some space on that filesystem; the daemon goes on by itself.",
        ) from error


class RealFile:
    """A file descriptor with the position of its logical end."""

    def __init__(self, path: str, descriptor: int, size_b: int) -> None:
        self._path, self._fd, self._size_b = path, descriptor, size_b
        self._reserved_b = size_b

    @property
    def size_b(self) -> int:
        return self._size_b

    def write(self, data: bytes) -> None:
        start, view = self._size_b, memoryview(data)
        try:
            with _full_disk_named(self._path):
                while view:
                    done = os.pwrite(self._fd, view, self._size_b)
                    self._size_b += done
                    view = view[done:]
        except DiskFullError:
            self.truncate(start)
            raise

    def reserve(self, size_b: int) -> None:
        if size_b <= self._reserved_b:
            return
        with _full_disk_named(self._path):
            os.posix_fallocate(self._fd, self._reserved_b, size_b - self._reserved_b)
        self._reserved_b = size_b

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, size_b: int) -> None:
        os.ftruncate(self._fd, size_b)
        self._size_b = self._reserved_b = size_b

    def close(self) -> None:
        os.close(self._fd)


class RealDisk:
    """The host's filesystem."""

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list_dir(self, path: str) -> list[str]:
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def create(self, path: str, mode: int = 0o600) -> File:
        with _full_disk_named(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        return RealFile(path, descriptor, 0)

    def open(self, path: str) -> File:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        return RealFile(path, descriptor, os.fstat(descriptor).st_size)

    def rename(self, source: str, target: str) -> None:
        with _full_disk_named(target):
            os.rename(source, target)
        self.sync_dir(os.path.dirname(target))

    def remove(self, path: str) -> None:
        if os.path.lexists(path):
            os.unlink(path)

    def make_dir(self, path: str, mode: int = 0o700) -> None:
        missing, above = [], path
        while above and not os.path.exists(above):
            missing.append(above)
            above = os.path.dirname(above)
        with _full_disk_named(path):
            os.makedirs(path, mode=mode, exist_ok=True)
        for made in missing:
            self.sync_dir(os.path.dirname(made))

    def remove_tree(self, path: str) -> None:
        if os.path.isdir(path):
            shutil.rmtree(path)
            self.sync_dir(os.path.dirname(path))

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class WorkerThread:
    """One thread for blocking work: calls run in order, and the loop goes on meanwhile."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown()


class PooledEntropy:
    """The kernel's random bytes, drawn a page at a time: a system call for each id costs more than
    the rest of the id. Keys come from the kernel alone, and what was handed out is not kept. For
    any thread, in one process: nothing here forks and goes on in Python."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page, self._used_b = bytearray(), 0

    def __call__(self, size_b: int) -> bytes:
        if size_b >= _KEY_B:
            return os.urandom(size_b)
        with self._lock:
            start, end = self._used_b, self._used_b + size_b
            if end > len(self._page):
                start, end, self._page = 0, size_b, bytearray(os.urandom(_PAGE_B))
            drawn = bytes(self._page[start:end])
            self._page[start:end] = bytes(size_b)
            self._used_b = end
        return drawn


def real_env(thread_name: str = "disk") -> Env:
    """The production world; each call has a worker thread of its own."""
    return Env(
        clock=RealClock(),
        rng=random.Random(os.urandom(16)),
        entropy=PooledEntropy(),
        disk=RealDisk(),
        blocking=WorkerThread(thread_name),
    )
