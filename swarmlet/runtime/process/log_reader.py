"""Reading what log_writer wrote: the last lines without the rest, and on, across rotation."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Final

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import NS_PER_S
from swarmlet.wire.messages import LogLine, LogOptions

CHUNK_B: Final = 65_536  # read and parsed at a time, about 1 ms; the loop may turn in between
FOLLOW_PERIOD_S: Final = 0.1
CHANGED_SLACK_NS: Final = NS_PER_S  # a file's time of change lags behind by a clock tick
_STREAMS: Final = {b"stdout": 1, b"stderr": 2}


class RecordParser:
    """Turns records into lines. It knows the second it read last: most records are of the same."""

    def __init__(self, task_id: TaskID) -> None:
        self._task_id = task_id
        self._text, self._second_ns = b"", 0

    def parse(self, record: bytes) -> LogLine | None:
        """None for a torn record, as a full disk leaves them. A whole line ends with a newline."""
        stamp, _, rest = record.partition(b" ")
        name, _, rest = rest.partition(b" ")
        mark, _, data = rest.partition(b" ")
        stream = _STREAMS.get(name)
        if stream is None or mark not in (b"F", b"P") or len(stamp) != 35:
            return None
        try:
            if stamp[:19] != self._text:
                moment = datetime.fromisoformat(f"{stamp[:19].decode()}+00:00")
                self._text, self._second_ns = stamp[:19], int(moment.timestamp()) * NS_PER_S
            at_ns = self._second_ns + int(stamp[20:29])
        except ValueError:
            return None
        return LogLine(self._task_id, at_ns, stream, data + b"\n" if mark == b"F" else data)


class _LogFile:
    """One file, held open so that rotation cannot take it away."""

    def __init__(self, fd: int) -> None:
        found = os.fstat(fd)
        self.fd, self.inode = fd, found.st_ino
        self.changed_ns = found.st_mtime_ns
        self.position, self.end = 0, found.st_size

    def refresh(self) -> None:
        self.end = os.fstat(self.fd).st_size
        self.position = min(self.position, self.end)  # a torn record was cut off again

    def chunks(self) -> Iterator[list[bytes]]:
        """Whole records from `position` to `end`, which it moves along."""
        while self.position < self.end:
            data = os.pread(self.fd, min(CHUNK_B, self.end - self.position), self.position)
            whole = data.rfind(b"\n") + 1
            if not whole:
                return
            self.position += whole
            yield data[: whole - 1].split(b"\n")

    def seek_back(self, count: int, is_wanted: Callable[[bytes], bool]) -> int:
        """Move `position` to where the last `count` wanted records start; how many are missing."""
        end, rest = self.end, b""
        while end > 0:
            start = max(0, end - CHUNK_B)
            block = os.pread(self.fd, end - start, start) + rest
            lines = block.split(b"\n")
            behind = start + len(block) + 1
            rest = lines.pop(0) if start else b""
            for line in reversed(lines):
                behind -= len(line) + 1
                if line and is_wanted(line):
                    count -= 1
                    if not count:
                        self.position = behind
                        return 0
            end = start
        return count

    def close(self) -> None:
        os.close(self.fd)


async def read_log(
    folder: str, task_id: TaskID, options: LogOptions, is_over: Callable[[], bool]
) -> AsyncIterator[LogLine]:
    """Lines as the task wrote them. `is_over`: nothing more is written."""
    parser = RecordParser(task_id)
    files = _open_files(folder)
    _seek(files, parser, options)
    try:
        while True:
            is_last = not options.follow or is_over()
            while files:
                for records in files[0].chunks():
                    for line in map(parser.parse, records):
                        if line is not None and _is_wanted(line, options):
                            yield line
                    await asyncio.sleep(0)
                if len(files) == 1:
                    break
                files.pop(0).close()
            if options.follow and _look_on(folder, files):
                continue
            if is_last:
                return
            await asyncio.sleep(FOLLOW_PERIOD_S)
    finally:
        for file in files:
            file.close()


def _open_files(folder: str) -> list[_LogFile]:
    """Oldest first. Opened from the newest on, as they move: one met twice was rotated between."""
    found: dict[int, _LogFile] = {}
    for number in sorted(_numbers(folder)):
        path = f"{folder}/log.{number}" if number else f"{folder}/log"
        try:
            file = _LogFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            continue
        if found.setdefault(file.inode, file) is not file:
            file.close()
    return list(reversed(found.values()))


def _numbers(folder: str) -> Iterator[int]:
    yield 0
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in names:
        head, _, number = name.partition(".")
        if head == "log" and number.isdecimal():
            yield int(number)
            yield int(number) + 1  # it may move there meanwhile


def _seek(files: list[_LogFile], parser: RecordParser, options: LogOptions) -> None:
    """Put every file where reading has to begin."""
    for file in files:
        if file.changed_ns + CHANGED_SLACK_NS < options.since_ns:
            file.position = file.end
    if options.tail < 0:
        return

    def is_wanted(record: bytes) -> bool:
        line = parser.parse(record)
        return line is not None and _is_wanted(line, options)

    missing = options.tail
    for file in reversed(files):
        if missing and file.position < file.end:
            missing = file.seek_back(missing, is_wanted)
        else:
            file.position = file.end


def _is_wanted(line: LogLine, options: LogOptions) -> bool:
    return (
        (options.stdout if line.stream == 1 else options.stderr)
        and line.at_ns >= options.since_ns
        and (not options.until_ns or line.at_ns <= options.until_ns)
    )


def _look_on(folder: str, files: list[_LogFile]) -> bool:
    """Take in what was written and rotated meanwhile; whether there is any of it."""
    current = files[-1] if files else None
    newer = _newer_than(current, folder)
    files.extend(newer)
    if current is None:
        return bool(newer)
    seen = current.end
    current.refresh()  # after the look for newer ones: what was rotated does not grow any more
    return bool(newer) or current.end != seen


def _newer_than(current: _LogFile | None, folder: str) -> list[_LogFile]:
    if current is not None:
        try:
            if os.stat(f"{folder}/log").st_ino == current.inode:
                return []
        except FileNotFoundError:  # being rotated, or removed
            return []
    found = _open_files(folder)
    inodes = [file.inode for file in found]
    known = inodes.index(current.inode) + 1 if current and current.inode in inodes else 0
    for file in found[:known]:
        file.close()
    return found[known:]
