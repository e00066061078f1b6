"""The real world: the only room that touches clock, chance, entropy and disk."""

import asyncio
import errno
import os
import random
import shutil
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

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


class _Job(NamedTuple):
    """Work for another thread, and who waits for it in which loop."""

    work: Callable[[], object]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class WorkerThread:
    """One thread for blocking work: calls run in order, and the loop goes on meanwhile. Work that
    nobody waits for any more is not begun.

    Not an executor: each sync of the log goes through here, and the locks and the second future of
    concurrent.futures cost as much as sealing what is written.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work_off, args=(self._jobs,), name=name)
        self._thread.daemon = True  # who needs the end of a call awaits it
        self._end = weakref.finalize(self, self._jobs.put, None)

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        loop = asyncio.get_running_loop()
        if self._thread.ident is None:
            self._thread.start()
        job = _Job(work, loop.create_future(), loop)
        self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """Wait for what was asked for; then the thread ends."""
        self._end()
        if self._thread.ident is not None:
            self._thread.join()


def _work_off(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        if not job.done.cancelled():
            _run(job)
        del job  # what it holds must not stay until the next one comes


def _run(job: _Job) -> None:
    try:
        settle = partial(_answer, job.done, job.work())
    except BaseException as error:  # noqa: BLE001 - whoever waits for the work gets it
        settle = partial(_fail, job.done, error)
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        job.loop.call_soon_threadsafe(settle)


def _answer(done: asyncio.Future[Any], answer: object) -> None:
    if not done.done():
        done.set_result(answer)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


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
