"""What a task writes, on disk: conmon's k8s log format, rotated. Stdlib only: see shim.py.

    2026-11-22T18:17:14.417904595+00:00 stdout F a whole line
    2026-11-22T18:17:14.417904596+00:00 stderr P a part of a line

The newest file is `log`, older ones are `log.1`, `log.2`, ...
"""

import errno
import os
import time

LINE_MAX_B = 16_384  # longer lines are cut into parts, as Docker does (its copier's buffer)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class LogWriter:
    """Appends to a bundle's log. A write the disk refuses loses records, never the task; the
    loss is written down as soon as the disk takes something again."""

    def __init__(self, folder: bytes, size_max_b: int, files_max: int) -> None:
        """`size_max_b` is where a file ends (0: keep nothing), `files_max` how many there are."""
        self._path = folder + b"/log"
        self._size_max_b, self._files_max = size_max_b, files_max
        self._fd, self._size_b = -1, 0
        self._rest = {b"stdout": b"", b"stderr": b""}
        self._lost = 0
        self._second, self._stamp = -1, b""

    def take(self, stream: bytes, data: bytes) -> None:
        """Write the whole lines of `data`; an unfinished one waits for its end or for 16 KiB."""
        lines = (self._rest[stream] + data).split(b"\n")
        rest = lines.pop()
        full, part = self._heads(stream)
        records = []
        for line in lines:
            while len(line) > LINE_MAX_B:
                records.append(part + line[:LINE_MAX_B])
                line = line[LINE_MAX_B:]
            records.append(full + line)
        while len(rest) >= LINE_MAX_B:
            records.append(part + rest[:LINE_MAX_B])
            rest = rest[LINE_MAX_B:]
        self._rest[stream] = rest
        self._write(records)

    def finish(self) -> None:
        """Write what was left without a line's end."""
        for stream, rest in self._rest.items():
            if rest:
                self._write([self._heads(stream)[1] + rest])

    def _heads(self, stream: bytes) -> tuple[bytes, bytes]:
        """What a whole line of this moment starts with, and what a part does."""
        second, ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        head = b"%s.%09d+00:00 %s " % (self._stamp, ns, stream)
        return head + b"F ", head + b"P "

    def _write(self, records: list[bytes]) -> None:
        """In pieces that fit a file: a burst of short lines is far longer as records."""
        if not self._size_max_b:
            return
        batch: list[bytes] = []
        size_b = 0
        for record in records:
            if batch and size_b + len(record) >= self._size_max_b:
                self._write_batch(batch)
                batch, size_b = [], 0
            batch.append(record)
            size_b += len(record) + 1
        if batch:
            self._write_batch(batch)

    def _write_batch(self, records: list[bytes]) -> None:
        count = len(records)
        if self._lost:
            note = b"swarmlet: the disk refused %d records of this log" % self._lost
            records.insert(0, self._heads(b"stderr")[0] + note)
        try:
            self._append(b"\n".join(records) + b"\n")
        except OSError:
            self._lost += count
            self._cut_back()
        else:
            self._lost = 0

    def _append(self, data: bytes) -> None:
        if self._fd >= 0 and self._size_b and self._size_b + len(data) > self._size_max_b:
            self._rotate()
        if self._fd < 0:
            self._fd = os.open(self._path, _FLAGS, 0o600)
            self._size_b = os.fstat(self._fd).st_size
        if os.write(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, "only a part was written")
        self._size_b += len(data)

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        names = [self._path, *(self._path + b".%d" % n for n in range(1, self._files_max))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if os.path.exists(newer):
                os.rename(newer, older)
        if self._files_max <= 1:
            os.unlink(self._path)

    def _cut_back(self) -> None:
        """Remove a torn record; where even that fails, readers skip it."""
        if self._fd >= 0:
            try:
                os.ftruncate(self._fd, self._size_b)
            except OSError:
                self._size_b = os.fstat(self._fd).st_size
