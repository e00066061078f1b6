"""Starting a shim. The configuration goes in a file in memory, never on disk or in arguments.

A memory file rather than a pipe: it takes any size at once, and is whole even if the daemon dies in
the next moment.
"""

import fcntl
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from swarmlet.runtime.process.supervisor import LOCK_FD

_SHIM: Final = str(Path(__file__).with_name("shim.py"))
_COMMAND: Final = (sys.executable, "-I", "-S", "-E", "-B", _SHIM)
KEPT_NAME: Final = "kept"  # of the memory file
_CLEAR_FD: Final = 10  # above every descriptor a shim is given
PROBE_TIMEOUT_MS: Final = 10_000
ANSWER_SIZE_MAX_B: Final = 16_384  # one line, or a traceback


def encode_config(pairs: Iterable[tuple[str, str]]) -> bytes:
    """`key NUL value NUL ...`, what sandbox.Config reads. No value holds a NUL (see plan)."""
    return b"".join(f"{key}\0{value}\0".encode(errors="surrogateescape") for key, value in pairs)


def spawn_shim(config: bytes, lock_fd: int, more_fds: Sequence[int] = ()) -> tuple[int, int]:
    """(pid, reading end of the pipe its answer comes by). Raises OSError.

    The pid is of the first process, which ends at once and is to be buried; the shim is its child.
    `more_fds` become descriptors 4 and following; the configuration tells it of the last one.
    """
    reader, writer = os.pipe()
    try:
        with ExitStack() as kept, open(os.memfd_create("shim"), "w+b", 0) as memory:
            memory.write(config)
            memory.seek(0)
            places = [(memory.fileno(), 0), (writer, 1), (writer, 2), (lock_fd, LOCK_FD)]
            for place, fd in enumerate(more_fds, LOCK_FD + 1):
                places.append((kept.enter_context(_out_of_the_way(fd)), place))
            actions = [(os.POSIX_SPAWN_DUP2, here, there) for here, there in places]
            pid = os.posix_spawn(_COMMAND[0], _COMMAND, {}, file_actions=actions, setsigmask=[])
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return pid, reader


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """What a shim keeps of a task."""
    with open(os.memfd_create(KEPT_NAME), "w+b", 0) as memory:
        memory.write(content)
        yield memory.fileno()


@contextmanager
def _out_of_the_way(fd: int) -> Iterator[int]:
    """The same as a descriptor that no other action of a spawn overwrites."""
    fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _CLEAR_FD)
    try:
        yield fd
    finally:
        os.close(fd)


def ask_shim(config: bytes) -> bytes:
    """Run a shim that only answers, and wait for it (10 s at most)."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pid, reader = spawn_shim(config, null)
    finally:
        os.close(null)
    answer = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while poll.poll(PROBE_TIMEOUT_MS) and (part := os.read(reader, ANSWER_SIZE_MAX_B)):
        answer += part
    os.close(reader)
    os.kill(pid, signal.SIGKILL)  # ours and not yet buried; it answered, or never will
    os.waitpid(pid, 0)
    return answer
