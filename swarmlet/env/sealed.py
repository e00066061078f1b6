"""Sealed files: encrypted, checksummed, whole after a crash (byte by byte: docs/design/raft.md).

`SealedLog` grows at its end and repairs a torn last write; `SealedWriter` and `read_sealed` replace
and read a file as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.ids import Entropy
from swarmlet.env.base import Disk, File
from swarmlet.env.frames import (
    FILE_HEADER_B,
    LOG_MAGIC,
    WHOLE_MAGIC,
    Sealer,
    Source,
    file_header,
    key_ring,
)
from swarmlet.env.frames import SealKey as SealKey
from swarmlet.env.frames import SealKeys as SealKeys
from swarmlet.env.frames import new_seal_key as new_seal_key
from swarmlet.env.frames import seal_key as seal_key

RESERVE_STEP_B: Final = 4 * 1024 * 1024  # room is taken ahead in steps; a log has 4-8 MiB of it
REWRITE_FRAME_B: Final = 1024 * 1024  # records of a rewritten log are gathered to about this size
_MORE, _LAST = b"\x00", b"\x01"  # open each chunk of a whole file

_encode = msgspec.msgpack.Encoder().encode
_records_of = msgspec.msgpack.Decoder(list[bytes]).decode


class Sealed(NamedTuple):
    """A frame that is not written yet, and its checksum."""

    frame: bytes
    crc: int


class SealedLog:
    """An append-only file of records. All methods block: call them where blocking is allowed.

    `replay` comes first. What `append` returned from survives a power cut; DiskFullError means that
    nothing of the call was kept; after any other OSError the content is unknown and the log must be
    closed. Records of one `append` are kept together or not at all.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        key: SealKey | SealKeys,
        *,
        purpose: bytes,
        entropy: Entropy,
        reserve_step_b: int = RESERVE_STEP_B,
    ) -> None:
        self.path, self._step_b = path, reserve_step_b
        self._keys = key_ring(key)
        self._disk, self._purpose, self._entropy = disk, purpose, entropy
        self._file: File | None = None
        self._session = self._reserved_b = 0

    @property
    def exists(self) -> bool:
        return self._disk.exists(self.path)

    @property
    def free_b(self) -> int:
        """Bytes that the next appends are sure to find room for."""
        return 0 if self._file is None else self._reserved_b - self._file.size_b

    def replay(self) -> list[bytes]:
        """All records in order; a file that is not there is made. A torn last write is cut off.

        Raises DamagedError for a wrong key, another format, or damage that no crash explains.
        """
        records: list[bytes] = []
        self.replay_into(records.extend)
        return records

    def replay_into(self, take: Callable[[Sequence[bytes]], None]) -> None:
        """As `replay`, handing over what was appended together, piece by piece."""
        self._disk.remove(self.path + ".new")
        if not self.exists:
            self.rewrite(())
            return
        source = Source(self.path, self._disk.read(self.path))
        sealer = source.sealer(LOG_MAGIC, self._keys, self._purpose)
        used, at = source.used_b(), FILE_HEADER_B
        while at < used:
            frame = source.frame_at(at)
            if frame is None:
                source.check_torn(at, used, sealer.number)
                break
            take(_records_of(source.open_frame(sealer, at, frame)))
            at = frame.end
        self._continue_at(sealer, at)

    def append(self, records: Sequence[bytes]) -> None:
        """Durable on return."""
        self.write(self.seal(records))

    def seal(self, records: Sequence[bytes]) -> Sealed:
        """The next frame, for `write`: the half of `append` that does not block."""
        return Sealed(*self._sealer.seal(_encode(list(records)), self._session))

    def write(self, sealed: Sealed) -> None:
        """The other half: as `append`. Of what was sealed last, and of nothing else; where it fails
        it is sealed anew."""
        file = self._open_file()
        try:
            if len(sealed.frame) > self.free_b:
                self.make_room(len(sealed.frame))
            file.write(sealed.frame)
        except BaseException:
            self._draw_session()  # the frame's number comes again, with another body
            raise
        file.sync()
        self._sealer.advance(sealed.crc)

    def make_room(self, size_b: int) -> None:
        """Let at least `size_b` bytes be free, in steps. On DiskFullError nothing changed."""
        file = self._open_file()
        if self.free_b >= size_b:
            return
        reserved_b = self._ahead(file.size_b + size_b)
        file.reserve(reserved_b)
        self._reserved_b = reserved_b

    def use(self, keys: SealKeys) -> None:
        """Seal with another key from the next `rewrite` on."""
        self._keys = keys

    @property
    def is_current(self) -> bool:
        """Whether the open file is sealed by the key that is written with now."""
        return self._file is not None and self._sealer.key_id == self._keys.current.key_id

    def rewrite(self, records: Iterable[bytes]) -> None:
        """Atomically replace all records by these; on DiskFullError the old file goes on."""
        beside, file_id = self.path + ".new", self._entropy(16)
        key = self._keys.current
        sealer, session = Sealer(key, self._purpose, file_id), self._new_session()
        file = self._disk.create(beside)
        try:
            file.write(file_header(LOG_MAGIC, key, file_id))
            for batch in _gathered(records):
                frame, crc = sealer.seal(_encode(batch), session)
                file.write(frame)
                sealer.advance(crc)
            reserved_b = self._ahead(file.size_b)
            file.reserve(reserved_b)
            file.sync()
            self._disk.rename(beside, self.path)
        except Exception:
            file.close()
            self._disk.remove(beside)
            raise
        self.close()
        self._file, self._sealer, self._session = file, sealer, session
        self._reserved_b = reserved_b

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _continue_at(self, sealer: Sealer, end: int) -> None:
        file = self._disk.open(self.path)
        file.truncate(end)
        file.sync()  # a torn tail is gone before something is written over it
        self._file, self._sealer, self._reserved_b = file, sealer, end
        self._draw_session()

    def _ahead(self, size_b: int) -> int:
        return (size_b // self._step_b + 2) * self._step_b

    def _open_file(self) -> File:
        assert self._file is not None, "replay comes first"
        return self._file

    def _draw_session(self) -> None:
        self._session = self._new_session()

    def _new_session(self) -> int:
        return int.from_bytes(self._entropy(4), "little")


def _gathered(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size_b = 0
    for record in records:
        batch.append(record)
        size_b += len(record)
        if size_b >= REWRITE_FRAME_B:
            yield batch
            batch, size_b = [], 0
    if batch:
        yield batch


class SealedWriter:
    """Writes a whole file beside the old one; it takes the place at `finish`, or never."""

    def __init__(
        self, disk: Disk, path: str, key: SealKey, *, purpose: bytes, entropy: Entropy
    ) -> None:
        self._disk, self._path, self.key_id = disk, path, key.key_id
        file_id = entropy(16)
        self._sealer = Sealer(key, purpose, file_id)
        self._session = int.from_bytes(entropy(4), "little")
        self._file = disk.create(path + ".new")
        self._is_open = True
        self._file.write(file_header(WHOLE_MAGIC, key, file_id))

    @property
    def size_b(self) -> int:
        return self._file.size_b

    def add(self, chunk: bytes) -> None:
        self._add(_MORE + chunk)

    def sync(self) -> None:
        """Bring what was added so far to the disk, so that `finish` has little to wait for."""
        self._file.sync()

    def finish(self) -> None:
        """Replace the old file, durably."""
        self._add(_LAST)
        self._file.sync()
        self._close()
        self._disk.rename(self._path + ".new", self._path)

    def abort(self) -> None:
        """Leave the old file as it is; nothing where the new one has taken its place."""
        self._close()
        self._disk.remove(self._path + ".new")

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False  # the kernel gives the number to another file at once
            self._file.close()

    def _add(self, body: bytes) -> None:
        frame, crc = self._sealer.seal(body, self._session)
        self._file.write(frame)
        self._sealer.advance(crc)


def is_sealed_by(disk: Disk, path: str, key: SealKey) -> bool:
    """Whether a whole file names this key. Raises FileNotFoundError, DamagedError."""
    return Source(path, disk.read(path)).key_id(WHOLE_MAGIC) == key.key_id


def read_sealed(
    disk: Disk, path: str, key: SealKey | SealKeys, *, purpose: bytes
) -> Iterator[bytes]:
    """The chunks of a whole file, each verified; the last step verifies that none is missing.

    Raises FileNotFoundError, DamagedError.
    """
    source = Source(path, disk.read(path))
    sealer = source.sealer(WHOLE_MAGIC, key_ring(key), purpose)
    at = FILE_HEADER_B
    while True:
        frame = source.frame_at(at)
        if frame is None:
            raise source.damaged(at, "a chunk is cut off or its checksum is wrong")
        body = source.open_frame(sealer, at, frame)
        at = frame.end
        if body[:1] == _LAST:
            break
        yield body[1:]
    if at != len(source.data):
        raise source.damaged(at, "something follows the end")
