"""The mounts of one task, made in its own mount namespace before it is executed. Stdlib only: see
shim.py. Loaded only by the child that becomes a task with mounts.

Linux 5.12's calls, which take descriptors: what was looked at is what is mounted, and no link that
somebody swaps in is followed. Order: volumes are opened while the data directory is still seen,
what binds name only once it is hidden, and with the task's own rights; all of it before the first
target is covered, so that a source is what the host has there.
"""

import ctypes
import errno
import os
import struct

from swarmlet.runtime.process.kernel import MS_PRIVATE, Step, libc

OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 428, 429, 430, 431, 432  # of every machine
OPENAT2, MOUNT_SETATTR = 437, 442
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 2, 4


class Mount:
    """One of the task's: `kind` is b"KIND ATTRIBUTES IS_RECURSIVE"."""

    def __init__(self, index: int, kind: bytes, source: bytes, target: bytes) -> None:
        self.index, self.source, self.target = index, source, target
        self.kind, attributes, recursive = kind.split()
        self.attributes, self.is_recursive = int(attributes), recursive == b"1"
        self.made = -1

    def step(self, name: str) -> Step:
        return Step(f"{name}:{self.index}")


class Mounts:
    """All of a task's, in the order given, in which no target is covered by a later one."""

    def __init__(self, kinds: list[bytes], sources: list[bytes], targets: list[bytes]) -> None:
        places = zip(kinds, sources, targets, strict=True)
        self._all = [Mount(index, *place) for index, place in enumerate(places)]

    def open_volumes(self) -> None:
        """Before anything is hidden."""
        for mount in self._all:
            if mount.kind == b"volume":
                with mount.step("source"):
                    mount.made = clone(open_path(mount.source), is_recursive=False)

    def open_rest(self, uid: int, gid: int, groups: list[int]) -> None:
        """Once the data directory is hidden: binds only of what the task may reach by itself."""
        for mount in self._all:
            if mount.kind == b"bind":
                with mount.step("source"):
                    fd = _open_as(mount.source, uid, gid, groups)
                with mount.step("mount"):
                    mount.made = clone(fd, is_recursive=mount.is_recursive)
            elif mount.kind == b"tmpfs":
                with mount.step("mount"):
                    mount.made = make_tmpfs(mount.source)

    def attach(self) -> None:
        """At last."""
        for mount in self._all:
            with mount.step("mount"):
                set_attributes(mount.made, mount.attributes)
            with mount.step("target"):
                move_to(mount.made, mount.target)


def _call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    found: int = libc.syscall(ctypes.c_long(number), *words)
    if found < 0:
        raise OSError(ctypes.get_errno(), "")
    return found


def move_to(made: int, target: bytes) -> None:
    """Attach what was made there."""
    place = open_path(target)
    _call(MOVE_MOUNT, made, b"", place, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    os.close(place)
    os.close(made)


def open_path(path: bytes) -> int:
    """A path that was resolved before: a link in it is a stranger's."""
    resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, resolve)  # struct open_how
    return _call(OPENAT2, AT_FDCWD, path, how, len(how))


def _open_as(path: bytes, uid: int, gid: int, groups: list[int]) -> int:
    """With the rights of the task; root's own come back with uid 0."""
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        return open_path(path)
    finally:
        os.seteuid(0)
        os.setegid(0)


def clone(fd: int, *, is_recursive: bool) -> int:
    """What is mounted there, to be mounted elsewhere."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH
    try:
        return _call(OPEN_TREE, fd, b"", flags | (AT_RECURSIVE if is_recursive else 0))
    finally:
        os.close(fd)


def make_tmpfs(options: bytes, *, is_in_memory: bool = False) -> int:
    """`options` are `name=value` with commas between. `is_in_memory`: never swapped where the
    kernel can do that (Linux 6.4)."""
    context = _call(FSOPEN, b"tmpfs", 1)
    try:
        _call(FSCONFIG, context, FSCONFIG_SET_STRING, b"source", b"tmpfs", 0)
        for option in options.split(b","):
            name, _, value = option.partition(b"=")
            _call(FSCONFIG, context, FSCONFIG_SET_STRING, name, value, 0)
        if is_in_memory:
            _set_flag(context, b"noswap")
        _call(FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(FSMOUNT, context, 1, 0)
    finally:
        os.close(context)


def _set_flag(context: int, name: bytes) -> None:
    try:
        _call(FSCONFIG, context, FSCONFIG_SET_FLAG, name, None, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:  # an older kernel does not know it
            raise


def set_attributes(fd: int, attributes: int) -> None:
    """For the mount and all below it."""
    attr = struct.pack("=QQQQ", attributes, 0, MS_PRIVATE, 0)  # struct mount_attr
    _call(MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH | AT_RECURSIVE, attr, len(attr))
