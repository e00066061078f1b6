"""A task's secrets and configs, on tmpfs made in its own mount namespace before it is executed.
Stdlib only: see shim.py. Loaded only by the child that becomes a task with some.

Their bytes are in the configuration, in memory, and then in these file systems alone, which end
with the last process of the task. Never swapped, where the kernel can (Linux 6.4).
"""

import binascii
import os

from swarmlet.runtime.process.kernel import Step
from swarmlet.runtime.process.mounting import (
    clone,
    make_tmpfs,
    move_to,
    open_path,
    set_attributes,
)
from swarmlet.runtime.process.sandbox import Config

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8  # MOUNT_ATTR_* of mount_setattr(2)
ATTRIBUTES = {
    b"/run/secrets": READ_ONLY | NO_SUID | NO_DEVICES | NO_EXEC,
    b"/run/configs": READ_ONLY | NO_SUID | NO_DEVICES,  # a script may be one
}
SLACK_B = 65_536  # folders, and the rest of each file's last page
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class File:
    """One of the task's: `owner` is b"UID GID MODE", `path` lies below a folder of ATTRIBUTES."""

    def __init__(self, owner: bytes, path: bytes, data: bytes, target: bytes) -> None:
        self.uid, self.gid, self.mode = map(int, owner.split())
        self.path, self.target = path, target
        self.data = binascii.a2b_base64(data)


def deliver(config: Config) -> None:
    """Behind all other mounts, which may have covered what is above these."""
    parts = (b"file", b"file_path", b"file_data", b"file_target")
    files = [File(*one) for one in zip(*map(config.all, parts), strict=True)]
    for folder in ATTRIBUTES:
        inside = [file for file in files if file.path.startswith(folder + b"/")]
        if inside:
            with Step("files"):
                _fill(folder, inside)
    for index, file in enumerate(files):
        if file.target:
            with Step(f"file:{index}"):
                _cover(file)


def _fill(folder: bytes, files: list[File]) -> None:
    size_b = sum(len(file.data) + SLACK_B for file in files)
    made = make_tmpfs(b"mode=755,size=%d" % size_b, is_in_memory=True)
    for file in files:
        _write(made, file.path[len(folder) + 1 :], file)
    set_attributes(made, ATTRIBUTES[folder])
    os.makedirs(folder, 0o755, exist_ok=True)
    move_to(made, folder)


def _write(top: int, path: bytes, file: File) -> None:
    above = b""
    for name in path.split(b"/")[:-1]:
        above = os.path.join(above, name)
        try:
            os.mkdir(above, 0o755, dir_fd=top)
        except FileExistsError:
            continue
    fd = os.open(path, WRITE, 0o600, dir_fd=top)
    left = file.data
    while left:
        left = left[os.write(fd, left) :]
    os.fchown(fd, file.uid, file.gid)
    os.fchmod(fd, file.mode)
    os.close(fd)


def _cover(file: File) -> None:
    """Over a file of the node's, for this task alone."""
    folder = next(folder for folder in ATTRIBUTES if file.path.startswith(folder + b"/"))
    made = clone(open_path(file.path), is_recursive=False)
    set_attributes(made, ATTRIBUTES[folder])
    move_to(made, file.target)
