"""The ends of a program's pipes, or of its terminal."""

import contextlib
import os
import termios
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarmlet.wire.messages import STREAM_DATA_MAX_B, ExecRequest

OUTPUT, ERRORS = 1, 2
SIZE_MAX: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Of a program's pipes or terminal: ours, and those it is given (closed once it has them).
    `input` -1: none."""

    input: int
    outputs: tuple[tuple[int, int], ...]  # (descriptor, stream)
    given: tuple[int, int, int]
    is_tty: bool

    def ours(self) -> set[int]:
        return {fd for fd, _ in self.outputs} | ({self.input} - {-1})


def open_ends(request: ExecRequest) -> Ends:
    """Raises OSError."""
    with contextlib.ExitStack() as undo:
        ends = (_open_terminal if request.is_tty else _open_pipes)(request, undo)
        undo.pop_all()
    return ends


def _open_terminal(request: ExecRequest, undo: contextlib.ExitStack) -> Ends:
    ours, given = _kept(os.openpty(), undo)
    os.set_blocking(ours, False)
    if request.rows and request.columns:
        set_size(ours, request.rows, request.columns)
    return Ends(
        input=ours if request.has_stdin else -1,
        outputs=((ours, OUTPUT),),
        given=(given, given, given),
        is_tty=True,
    )


def _open_pipes(request: ExecRequest, undo: contextlib.ExitStack) -> Ends:
    if request.has_stdin:
        in_end, to_program = _kept(os.pipe(), undo)
        os.set_blocking(to_program, False)
    else:
        to_program = -1
        in_end = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, in_end)
    out, out_end = _kept(os.pipe(), undo)
    err, err_end = _kept(os.pipe(), undo)
    os.set_blocking(out, False)
    os.set_blocking(err, False)
    return Ends(
        input=to_program,
        outputs=((out, OUTPUT), (err, ERRORS)),
        given=(in_end, out_end, err_end),
        is_tty=False,
    )


def _kept(pair: tuple[int, int], undo: contextlib.ExitStack) -> tuple[int, int]:
    for fd in pair:
        undo.callback(os.close, fd)
    return pair


def set_size(fd: int, rows: int, columns: int) -> None:
    termios.tcsetwinsize(fd, (min(rows, SIZE_MAX), min(columns, SIZE_MAX)))


def take(fd: int) -> bytes | None:
    """What is there; b"" at its end, None where nothing is there now."""
    try:
        return os.read(fd, STREAM_DATA_MAX_B)
    except BlockingIOError:
        return None
    except OSError:  # EIO: nobody has the terminal any more
        return b""


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
