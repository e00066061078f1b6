"""This command's terminal while a program somewhere else has it: raw, and as large as it is."""

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def size_of(*descriptors: int) -> list[int]:
    """Rows and columns of the first of them that is a terminal; empty where none is."""
    for descriptor in descriptors:
        with suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return [size.lines, size.columns]
    return []


def descriptor_of(stream: object) -> int:
    """-1 where the process was started without it."""
    fileno = getattr(stream, "fileno", None)
    try:
        return -1 if fileno is None else int(fileno())
    except (OSError, ValueError):
        return -1


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Every key is passed on, until the block ends, however it does: by a signal too."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = termios.tcgetattr(descriptor)
    handlers = [(number, signal.signal(number, end)) for number in _ENDING]
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        with suppress(termios.error):  # the terminal itself is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers:
            signal.signal(number, handler)


@contextmanager
def told_of_sizes() -> Iterator[int]:
    """A descriptor that can be read whenever the terminal has another size."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def tell(_number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):  # it will be read, once is enough
            os.write(write, b"s")

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield read
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(write)
        os.close(read)
