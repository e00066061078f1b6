"""The data directory: one daemon at a time, one format, and where each thing lies in it."""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError, SwarmStateError
from swarmlet.core.ids import Entropy, is_id, new_id
from swarmlet.daemon.settings import RUNTIMES
from swarmlet.env.base import Disk, write_atomic

FORMAT: Final = "swarmlet data 1\n"
"""Content of the file `format`; another one means another version wrote the directory."""


class SwarmFile(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm/state.json`: this node's place in its swarm; there exactly while it is in one."""

    node_id: str
    cluster_id: str
    raft_id: int
    listen_addr: str
    advertise_addr: str
    runtime: str
    data_path_addr: str  # of the tasks' traffic, for networks to come; "" where none is given
    checksum: int = 0  # crc32 of this very file with a zero here; only on disk


def _checked(file: SwarmFile) -> SwarmFile:
    """The same with its checksum."""
    plain = msgspec.structs.replace(file, checksum=0)
    return msgspec.structs.replace(plain, checksum=zlib.crc32(msgspec.json.encode(plain)))


class DataDir:
    """Paths and small files of a data directory."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk, self.path = disk, path
        self.certificates = f"{path}/certificates"
        self.raft = f"{path}/raft"
        self.agent = f"{path}/agent"
        self.tasks = f"{path}/tasks"
        self._swarm = f"{path}/swarm"
        self._state = f"{self._swarm}/state.json"
        self._unsettled = f"{self._swarm}/unsettled.json"  # it, while this node enters or leaves
        self._leftover = f"{path}/leftover-runtime"

    def open(self) -> None:
        """Make it, or check that this version can read it. Raises DamagedError."""
        self._disk.make_dir(self.path, 0o700)
        name = f"{self.path}/format"
        if not self._disk.exists(name):
            strangers = [n for n in self._disk.list_dir(self.path) if n not in _EMPTY_ENOUGH]
            if strangers:
                raise DamagedError(
                    f"{self.path} is not a swarmlet data directory: it has {strangers[0]!r}"
                    " and no file `format`.",
                    remedy="Name an empty or new directory with --data-dir.",
                )
            write_atomic(self._disk, name, [FORMAT.encode()], 0o600)
        found = self._disk.read(name).decode(errors="replace")
        if found != FORMAT:
            raise DamagedError(
                f"{self.path} was written by another version of swarmlet:"
                f" its format is {found.strip()!r}, this one reads {FORMAT.strip()!r}.",
                remedy="Start the version that wrote it, or name another --data-dir.",
            )

    def engine_id(self, entropy: Entropy) -> str:
        """This host's engine id, made once. Raises DamagedError."""
        name = f"{self.path}/engine-id"
        if not self._disk.exists(name):
            write_atomic(self._disk, name, [new_id(entropy).encode()], 0o600)
        found = self._disk.read(name).decode(errors="replace")
        if not is_id(found):
            raise DamagedError(
                f"{name} is damaged: it does not hold an id.",
                remedy="Remove this file: a new id is made. The swarm does not depend on it.",
            )
        return found

    def swarm_file(self) -> SwarmFile | None:
        """This node's place in a swarm, or None. Raises DamagedError: also where it is lost, and
        something of a swarm is there that no interrupted init or leave explains.
        """
        if not self._disk.exists(self._state):
            self._check_no_swarm()
            return None
        try:
            file = msgspec.json.decode(self._disk.read(self._state), type=SwarmFile)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DamagedError(f"{self._state} cannot be read: {error}.", _RESTORE) from error
        if file != _checked(file):
            raise DamagedError(f"{self._state} is damaged: its checksum is wrong.", _RESTORE)
        return msgspec.structs.replace(file, checksum=0)

    def prepare_swarm(self, file: SwarmFile) -> None:
        """Say that what comes now into the directory belongs to a swarm that does not count yet."""
        self._disk.make_dir(self._swarm, 0o700)
        write_atomic(self._disk, self._unsettled, [msgspec.json.encode(_checked(file))], 0o600)

    def enter_swarm(self) -> None:
        """From now on this node is in the swarm it prepared, whatever happens to the process."""
        self._disk.rename(self._unsettled, self._state)

    def leave_swarm(self) -> None:
        """Forget the swarm, durably; after a crash on the way, the next call goes on. Needs no room
        on the disk.
        """
        if self._disk.exists(self._state):
            self._disk.rename(self._state, self._unsettled)
        for path in (self.raft, self.agent, self.certificates, self._swarm):
            self._disk.remove_tree(path)  # what says that the rest may go, last

    def leftover_runtime(self) -> str:
        """The kind of the runtime that may still have tasks of a swarm this node left, or ""."""
        if self._disk.exists(self._unsettled):  # a leave was interrupted, or an init
            try:
                return msgspec.json.decode(self._disk.read(self._unsettled), type=SwarmFile).runtime
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return ""
        if not self._disk.exists(self._leftover):
            return ""
        found = self._disk.read(self._leftover).decode(errors="replace").strip()
        return found if found in RUNTIMES else ""

    def note_leftover(self, runtime: str) -> None:
        """Remember that tasks are still to be removed; "" that none are any more."""
        if runtime:
            write_atomic(self._disk, self._leftover, [f"{runtime}\n".encode()], 0o600)
        else:
            self._disk.remove(self._leftover)

    def _check_no_swarm(self) -> None:
        """Raises DamagedError where a swarm's data lack the file that says whose they are."""
        if self._disk.exists(self._unsettled):
            return
        for path in (self.raft, self.certificates):
            if self._disk.list_dir(path):
                raise DamagedError(f"{self._state} is missing, but {path} is there.", _RESTORE)


_RESTORE: Final = "Restore the data directory from a backup, or start with an empty one."
_EMPTY_ENOUGH: Final = ("lock", "daemon.log", "lost+found", "swarmlet.sock", "format.new")


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the directory for this process. Raises SwarmStateError where another daemon has it."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    descriptor = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SwarmStateError(
            f"Another swarmlet daemon is using {path}.",
            remedy="Stop it with `swarmlet daemon stop`, or name another --data-dir.",
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)
