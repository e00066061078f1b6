"""A disk with two sides: what programs see, and what survives a power cut.

Every change is one numbered operation; `fail_at` ends the world before, within, or after one.
"""

import copy
import errno
import os.path
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from swarmlet.core.errors import DiskFullError

SECTOR_B = 512
ROOMY_B = 1 << 40
WHERES = ("before", "half", "after")


class SimCrash(BaseException):
    """The power is gone; nothing may catch this but the test."""


@dataclass
class Inode:
    """`seen` is what reads return (then zeros up to `reserved_b`), `kept` what surely survives."""

    mode: int = 0o600
    seen: bytes = b""
    reserved_b: int = 0
    kept: bytes = b""
    kept_reserved_b: int = 0

    def visible(self) -> bytes:
        return self.seen.ljust(self.reserved_b, b"\0")

    @property
    def size_b(self) -> int:
        return max(len(self.seen), self.reserved_b)

    def sync(self) -> None:
        self.kept, self.kept_reserved_b = self.seen, self.reserved_b

    def power_cut(self, rng: Random) -> None:
        """Choose among all that the platters may hold now."""
        old, new = self.kept, self.seen
        self.reserved_b = rng.choice((self.kept_reserved_b, self.reserved_b))
        if old.startswith(new) and old != new:  # a cut not yet synced: either
            self.seen = rng.choice((old, new))
        elif new.startswith(old):
            self.seen = old + _torn(new[len(old) :], len(old), rng)
        else:  # cut and grown again
            self.seen = rng.choice((old, new, new[: rng.randrange(len(new) + 1)]))
        self.sync()


def _torn(written: bytes, start: int, rng: Random) -> bytes:
    """Nothing, all, a piece from the front, or some sectors only."""
    kind = rng.randrange(4)
    if kind < 2 or not written:
        return written if kind else b""
    if kind == 2:
        return written[: rng.randrange(len(written) + 1)]
    torn = bytearray(written)
    first = SECTOR_B - start % SECTOR_B
    edges = [0, *range(first, len(torn), SECTOR_B), len(torn)]
    for low, high in pairwise(edges):
        if rng.random() < 0.5:
            torn[low:high] = bytes(high - low)
    return bytes(torn)


@dataclass
class Plan:
    """Where the world ends, or which operation answers with an error."""

    operation: int = -1
    where: str = "before"
    error: Exception | None = None


Image = tuple[dict[str, Inode], dict[str, Inode]]


@dataclass
class SimDisk:
    """Implements env.base.Disk. `capacity_b` bounds all files together, reserved space included."""

    capacity_b: int = ROOMY_B
    operations: int = 0
    log: list[str] = field(default_factory=list)
    _names: dict[str, Inode] = field(default_factory=dict)
    _kept_names: dict[str, Inode] = field(default_factory=dict)
    _plan: Plan = field(default_factory=Plan)
    _boot: int = 0
    is_dead: bool = False

    def fail_at(self, operation: int, where: str = "before") -> None:
        """Raise SimCrash around the operation of this number, counted from now (0 is the next)."""
        assert where in WHERES
        self._plan = Plan(operation=self.operations + operation, where=where)

    def error_at(self, operation: int, error: Exception | None = None) -> None:
        """Let the operation of this number, counted from now on, raise instead of being done."""
        error = error or OSError(errno.EIO, "Input/output error")
        self._plan = Plan(operation=self.operations + operation, error=error)

    def crash(self, rng: Random) -> None:
        """The power cut: what was not synced is dropped or torn, open files are dead."""
        survivors, lots = dict(self._kept_names), {}
        for path in sorted({*self._names, *self._kept_names}):
            seen = self._names.get(path)
            if seen is not survivors.get(path) and self._is_kept(path, rng, lots):
                if seen is None:
                    survivors.pop(path, None)
                else:
                    survivors[path] = seen
        inodes = {id(inode): inode for _, inode in sorted(survivors.items())}
        for inode in inodes.values():
            inode.power_cut(rng)
        self._names, self._kept_names = dict(survivors), dict(survivors)
        self.is_dead, self._boot, self._plan = False, self._boot + 1, Plan()

    def reopen(self) -> None:
        """The process ended, not the host: nothing is lost, open files are dead."""
        self.is_dead, self._boot, self._plan = False, self._boot + 1, Plan()

    def image(self) -> Image:
        """A copy of all there is, for `put_back`."""
        return copy.deepcopy((self._names, self._kept_names))

    def put_back(self, image: Image) -> None:
        """The disk is as it was."""
        self._names, self._kept_names = image

    def _is_kept(self, path: str, rng: Random, lots: dict[int, bool]) -> bool:
        """Whether this change of a name survives. A renaming is one change: both names or none."""
        inode = self._names.get(path) or self._kept_names[path]
        if all(kept is not inode for kept in self._kept_names.values()):
            return rng.random() < 0.5
        return lots.setdefault(id(inode), rng.random() < 0.5)

    def plaintext_contains(self, needle: bytes) -> list[str]:
        """The files in whose bytes, seen or kept, `needle` occurs."""
        places = [*self._names.items(), *self._kept_names.items()]
        return sorted({p for p, i in places if needle in i.seen or needle in i.kept})

    def damage(self, path: str, at: int, data: bytes) -> None:
        """Overwrite bytes of a file, as rot does."""
        inode = self._names[path]
        content = bytearray(inode.visible())
        content[at : at + len(data)] = data
        inode.seen = bytes(content)
        inode.sync()

    def cut(self, path: str, size_b: int) -> None:
        """Let a file end early."""
        inode = self._names[path]
        inode.seen, inode.reserved_b = inode.visible()[:size_b], 0
        inode.sync()

    # The Disk protocol

    def read(self, path: str) -> bytes:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return self._names[path].visible()

    def exists(self, path: str) -> bool:
        return path in self._names or any(name.startswith(path + "/") for name in self._names)

    def list_dir(self, path: str) -> list[str]:
        below = [name[len(path) + 1 :] for name in self._names if name.startswith(path + "/")]
        return sorted({name.split("/")[0] for name in below})

    def create(self, path: str, mode: int = 0o600) -> "SimFile":
        def act(half: bool) -> None:
            self._names[path] = Inode(mode=mode)

        self._do(f"create {path}", act)
        return SimFile(self, path, self._names[path], self._boot, 0)

    def open(self, path: str) -> "SimFile":
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return SimFile(self, path, inode, self._boot, inode.size_b)

    def rename(self, source: str, target: str) -> None:
        def act(half: bool) -> None:
            self._names[target] = self._names.pop(source)
            if not half:
                self._keep_names(os.path.dirname(target))

        self._do(f"rename {target}", act)

    def remove(self, path: str) -> None:
        if path in self._names:
            self._do(f"remove {path}", lambda half: void(self._names.pop(path)))

    def make_dir(self, path: str, mode: int = 0o700) -> None:
        pass  # folders are but prefixes here

    def remove_tree(self, path: str) -> None:
        for name in [n for n in self._names if n.startswith(path + "/")]:
            self.remove(name)
        self._do(f"sync-removal {path}", lambda half: None if half else self._keep_removal(path))

    def sync_dir(self, path: str) -> None:
        def act(half: bool) -> None:
            if not half:
                self._keep_names(path)

        self._do(f"sync-dir {path}", act)

    # Inner workings

    def _keep_names(self, folder: str) -> None:
        here = {n: i for n, i in self._names.items() if os.path.dirname(n) == folder}
        elsewhere = {n: i for n, i in self._kept_names.items() if os.path.dirname(n) != folder}
        self._kept_names = {**elsewhere, **here}

    def _keep_removal(self, path: str) -> None:
        kept = self._kept_names
        self._kept_names = {n: i for n, i in kept.items() if not n.startswith(path + "/")}

    def _do(self, what: str, act) -> None:
        """One operation: `act(half)` does it, or half of it where the power goes in its middle."""
        if self.is_dead:
            raise SimCrash(what)
        number, plan = self.operations, self._plan
        self.operations += 1
        self.log.append(what)
        if number != plan.operation:
            act(False)
        elif plan.error is not None:
            self._plan = Plan()
            raise plan.error
        else:
            if plan.where != "before":
                act(plan.where == "half")
            self.is_dead = True
            raise SimCrash(f"{plan.where} {what}")

    @property
    def used_b(self) -> int:
        inodes = {id(i): i for i in self._names.values()}
        return sum(inode.size_b for inode in inodes.values())

    def _check_room(self, path: str, more_b: int) -> None:
        if more_b > 0 and self.used_b + more_b > self.capacity_b:
            raise DiskFullError(
                f"There is no room left on the disk for {path}; nothing was changed."
            )


def void(_: object) -> None:
    """Swallow a value, for a lambda that must return None."""


@dataclass
class SimFile:
    """Implements env.base.File."""

    disk: SimDisk
    path: str
    inode: Inode
    boot: int
    size_b: int
    is_open: bool = True

    def write(self, data: bytes) -> None:
        self._check()
        self.disk._check_room(self.path, self.size_b + len(data) - self.inode.size_b)

        def act(half: bool) -> None:
            piece = data[: len(data) // 2] if half else data
            self.inode.seen = self.inode.seen.ljust(self.size_b, b"\0") + piece
            self.inode.reserved_b = max(self.inode.reserved_b, len(self.inode.seen))

        self.disk._do(f"write {self.path} {len(data)}", act)
        self.size_b += len(data)

    def reserve(self, size_b: int) -> None:
        self._check()
        if size_b <= self.inode.reserved_b:
            return
        self.disk._check_room(self.path, size_b - self.inode.size_b)

        def act(half: bool) -> None:
            self.inode.reserved_b = size_b

        self.disk._do(f"reserve {self.path} {size_b}", act)

    def sync(self) -> None:
        self._check()

        def act(half: bool) -> None:
            if not half:
                self.inode.sync()

        self.disk._do(f"sync {self.path}", act)

    def truncate(self, size_b: int) -> None:
        self._check()

        def act(half: bool) -> None:
            self.inode.seen = self.inode.seen[:size_b].ljust(size_b, b"\0")
            self.inode.reserved_b = size_b

        self.disk._do(f"truncate {self.path} {size_b}", act)
        self.size_b = size_b

    def close(self) -> None:
        self._check()  # a second time closes whatever got the number meanwhile
        self.is_open = False

    def _check(self) -> None:
        if self.boot != self.disk._boot:
            raise SimCrash(f"{self.path} was opened before the power cut")
        if not self.is_open:
            raise OSError(errno.EBADF, "Bad file descriptor", self.path)
