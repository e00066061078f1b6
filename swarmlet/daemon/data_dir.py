"""The data directory: one daemon at a time, one format, and where each thing lies in it."""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec

from swarmlet.core.errors import DamagedError, SwarmStateError
from swarmlet.core.ids import Entropy, is_id, new_id
from swarmlet.daemon.settings import RUNTIMES
from swarmlet.env.base import Disk, write_atomic
from swarmlet.wire.messages import ManagerAddr

FORMAT: Final = "swarmlet data 1\n"
"""Content of the file `format`; another one means another version wrote the directory."""


class SwarmFile(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm/state.json`: this node's place in its swarm; there exactly while it is in one.

    Its role is not here: the certificate says it. `raft_id` is 0 where the node is no member of the
    Raft group; `announce`: as a manager, tell the local network.

    What is on its way, so that a start goes on with it: `is_entering`: the group gave `raft_id`,
    and this member has done nothing yet: `raft/` may be begun again. `lost_raft_id`: the member
    this node was, whose data the others refuse. `is_forced`: the group becomes this member alone.
    """

    node_id: str
    cluster_id: str
    raft_id: int
    listen_addr: str
    advertise_addr: str
    runtime: str
    data_path_addr: str  # of the tasks' traffic, for networks to come; "" where none is given
    announce: bool = False
    is_entering: bool = False
    lost_raft_id: int = 0
    is_forced: bool = False
    checksum: int = 0  # crc32 of this very file with a zero here, which comes last; only on disk


class ManagersFile(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm/managers.json`: whom this node may ask, as its last session said."""

    managers: tuple[ManagerAddr, ...]
    checksum: int = 0  # as above


_Checked = TypeVar("_Checked", SwarmFile, ManagersFile)


def _encode(file: SwarmFile | ManagersFile) -> bytes:
    """With its checksum."""
    plain = msgspec.json.encode(msgspec.structs.replace(file, checksum=0))
    return plain.removesuffix(b"0}") + b"%d}" % zlib.crc32(plain)


def _decode(raw: bytes, kind: type[_Checked]) -> _Checked | None:
    """None where the checksum is wrong; it counts for what is written, not for what this version
    knows of it. Raises MsgspecError, UnicodeDecodeError."""
    file = msgspec.json.decode(raw, type=kind)
    written = b"%d}" % file.checksum
    if not raw.endswith(written) or zlib.crc32(raw.removesuffix(written) + b"0}") != file.checksum:
        return None
    return msgspec.structs.replace(file, checksum=0)


def _read(disk: Disk, path: str, kind: type[_Checked]) -> _Checked:
    """Raises DamagedError."""
    try:
        file = _decode(disk.read(path), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} cannot be read: {error}.", _RESTORE) from error
    if file is None:
        raise DamagedError(f"{path} is damaged: its checksum is wrong.", _RESTORE)
    return file


class ManagersNote:
    """Whom this node may ask, on the disk."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk, self._path = disk, path

    def read(self) -> tuple[ManagerAddr, ...]:
        """None where nobody said so yet. Raises DamagedError."""
        if not self._disk.exists(self._path):
            return ()
        return _read(self._disk, self._path, ManagersFile).managers

    def write(self, managers: tuple[ManagerAddr, ...]) -> None:
        """Durably, in place of those before."""
        content = _encode(ManagersFile(managers=managers))
        write_atomic(self._disk, self._path, [content], 0o600)


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
        self.known_managers = ManagersNote(disk, f"{self._swarm}/managers.json")
        self.joining = f"{self._swarm}/joining"  # what an attempt to join goes on with, sealed
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

    def swarm_file(self, *, or_unsettled: bool = False) -> SwarmFile | None:
        """This node's place in a swarm, or None. Raises DamagedError: also where it is lost, and
        something of a swarm is there that no interrupted init or leave explains. `or_unsettled`: or
        in the one it is on its way into.
        """
        if self._disk.exists(self._state):
            return _read(self._disk, self._state, SwarmFile)
        self._check_no_swarm()
        if or_unsettled and self._disk.exists(self._unsettled):
            return _read(self._disk, self._unsettled, SwarmFile)
        return None

    def prepare_swarm(self, file: SwarmFile) -> None:
        """Say that what comes now into the directory belongs to a swarm that does not count yet."""
        self._disk.make_dir(self._swarm, 0o700)
        write_atomic(self._disk, self._unsettled, [_encode(file)], 0o600)

    def enter_swarm(self) -> None:
        """From now on this node is in the swarm it prepared, whatever happens to the process."""
        self._disk.rename(self._unsettled, self._state)

    def update_swarm(self, file: SwarmFile) -> None:
        """Durably, in place of what was known of this node's place in its swarm."""
        assert self._disk.exists(self._state), "this node is in a swarm"
        write_atomic(self._disk, self._state, [_encode(file)], 0o600)

    def remove_raft(self) -> None:
        """Forget the log and the state this node kept as a member of the Raft group."""
        self._disk.remove_tree(self.raft)

    def is_joining(self) -> bool:
        """Whether an attempt to join was interrupted that can go on."""
        return self._disk.exists(self.joining) and not self._disk.exists(self._state)

    def leave_swarm(self) -> None:
        """Forget the swarm, durably; after a crash on the way, the next call goes on. Needs no room
        on the disk.
        """
        if self._disk.exists(self._state):
            self._disk.rename(self._state, self._unsettled)
        self._disk.remove(self.joining)  # else the next start would go on with it
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
