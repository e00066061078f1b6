"""The data directory: one daemon at a time, one format, and where each thing lies in it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError, SwarmStateError
from swarmlet.core.ids import Entropy, new_id
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
        """This host's engine id, made once."""
        name = f"{self.path}/engine-id"
        if not self._disk.exists(name):
            write_atomic(self._disk, name, [new_id(entropy).encode()], 0o600)
        return self._disk.read(name).decode()

    def swarm_file(self) -> SwarmFile | None:
        """This node's place in a swarm, or None. Raises DamagedError."""
        if not self._disk.exists(self._state):
            return None
        try:
            return msgspec.json.decode(self._disk.read(self._state), type=SwarmFile)
        except msgspec.MsgspecError as error:
            raise DamagedError(
                f"{self._state} cannot be read: {error}.",
                remedy="Restore the data directory from a backup, or start with an empty one.",
            ) from error

    def enter_swarm(self, file: SwarmFile) -> None:
        """From now on this node is in the swarm, whatever happens to the process."""
        self._disk.make_dir(self._swarm, 0o700)
        write_atomic(self._disk, self._state, [msgspec.json.encode(file)], 0o600)

    def leave_swarm(self) -> None:
        """Forget the swarm: the state first, so that a crash leaves nothing half there."""
        self._disk.remove(self._state)
        for path in (self._swarm, self.raft, self.agent, self.certificates):
            self._disk.remove_tree(path)


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
