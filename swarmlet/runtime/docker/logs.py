"""The engine's log stream: frames, or a terminal's bytes, to lines."""

import struct
from collections.abc import AsyncIterator, Iterator
from typing import Final

import aiohttp

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import NS_PER_S
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker.sight import time_ns
from swarmlet.wire.messages import LogLine, LogOptions

FRAME_SIZE_MAX_B: Final = 1024 * 1024  # an engine's are 16 KiB and a stamp
PART_SIZE_B: Final = 16 * 1024  # moby daemon/logger: a longer line comes in such parts
STDOUT: Final = 1
SYSTEM_ERROR: Final = 3
_HEADER: Final = struct.Struct(">BxxxI")
_STAMP_SIZE_B: Final = len("2006-01-02T15:04:05.000000000Z ")


def log_query(options: LogOptions) -> dict[str, str]:
    query = {
        "stdout": str(int(options.stdout)),
        "stderr": str(int(options.stderr)),
        "follow": str(int(options.follow)),
        "timestamps": "1",
        "tail": "all" if options.tail < 0 else str(options.tail),
    }
    for name, at_ns in (("since", options.since_ns), ("until", options.until_ns)):
        if at_ns > 0:
            query[name] = f"{at_ns // NS_PER_S}.{at_ns % NS_PER_S:09}"
    return query


class _Stamps:
    """Reads the time before a line; most lines are of the same second as the one before."""

    def __init__(self) -> None:
        self._text, self._second_ns = b"", 0

    def take(self, payload: bytes) -> tuple[int, bytes]:
        """(ns, the rest). What bears no time is passed on whole, at 0."""
        if payload[_STAMP_SIZE_B - 2 : _STAMP_SIZE_B] != b"Z ":
            return 0, payload
        if payload[:19] != self._text:
            second_ns = time_ns(payload[:19].decode(errors="replace") + "Z")
            if not second_ns:
                return 0, payload
            self._text, self._second_ns = payload[:19], second_ns
        decimals = payload[20:29]
        nanos = int(decimals) if decimals.isdigit() else 0
        return self._second_ns + nanos, payload[_STAMP_SIZE_B:]


class FrameParser:
    """Docker's multiplexed stream: a frame a line or part of one."""

    def __init__(self, task_id: TaskID) -> None:
        self._task_id, self._stamps, self._rest = task_id, _Stamps(), b""

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """Raises RuntimeProblemError for the engine's own error and for what is no frame."""
        data, at = self._rest + data, 0
        while len(data) - at >= _HEADER.size:
            stream, size_b = _HEADER.unpack_from(data, at)
            if size_b > FRAME_SIZE_MAX_B or stream > SYSTEM_ERROR:
                raise RuntimeProblemError("The Docker Engine's log stream is damaged.")
            end = at + _HEADER.size + size_b
            if end > len(data):
                break
            payload, at = data[at + _HEADER.size : end], end
            if stream == SYSTEM_ERROR:
                raise RuntimeProblemError(payload.decode(errors="replace").strip())
            at_ns, line = self._stamps.take(payload)
            yield LogLine(self._task_id, at_ns, stream or STDOUT, line)
        self._rest = data[at:]

    def finish(self) -> Iterator[LogLine]:
        """Half a frame is nothing."""
        return iter(())


class TerminalParser:
    """A terminal's output: no frames; each line, and each part of a long one, bears its time."""

    def __init__(self, task_id: TaskID) -> None:
        self._task_id, self._stamps, self._rest = task_id, _Stamps(), b""

    def feed(self, data: bytes) -> Iterator[LogLine]:
        data, at = self._rest + data, 0
        whole = _STAMP_SIZE_B + PART_SIZE_B
        while at < len(data):
            newline = data.find(b"\n", at, at + whole + 1)
            if newline >= 0 and newline < at + whole:
                end = newline + 1
            elif len(data) - at > whole:
                end = at + whole
            else:
                break
            yield self._line(data[at:end])
            at = end
        self._rest = data[at:]

    def finish(self) -> Iterator[LogLine]:
        if self._rest:
            rest, self._rest = self._rest, b""
            yield self._line(rest)

    def _line(self, data: bytes) -> LogLine:
        at_ns, line = self._stamps.take(data)
        return LogLine(self._task_id, at_ns, STDOUT, line)


async def read_log(
    reader: aiohttp.StreamReader, task_id: TaskID, *, is_tty: bool
) -> AsyncIterator[LogLine]:
    """Lines until the engine ends the stream."""
    parser = TerminalParser(task_id) if is_tty else FrameParser(task_id)
    async for data in reader.iter_any():
        for line in parser.feed(data):
            yield line
    for line in parser.finish():
        yield line
