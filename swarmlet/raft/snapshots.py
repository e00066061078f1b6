"""The state machine on disk, whole: sealed, checksummed, replaced at once or not at all.

The file's first chunk says what it is; the others are the state machine's own.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError
from swarmlet.core.ids import Entropy
from swarmlet.env.base import Blocking, Disk
from swarmlet.env.frames import REMEDY
from swarmlet.env.sealed import SealedWriter, SealKeys, read_sealed
from swarmlet.raft.membership import Members

PURPOSE: Final = b"swarmlet raft snapshot"
SYNC_STEP_B: Final = 4 * 1024 * 1024  # small syncs in between keep the journal's own short


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The last entry a snapshot holds, its term, and the configuration as of it."""

    index: int
    term: int
    members: Members


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SnapshotFacts).decode


class SnapshotFile:
    """The newest snapshot, in one file."""

    def __init__(self, disk: Disk, path: str, keys: SealKeys, entropy: Entropy) -> None:
        self.path = path
        self._disk, self._keys, self._entropy = disk, keys, entropy

    def read(self) -> tuple[SnapshotFacts, Iterator[bytes]] | None:
        """Facts and the state's chunks, None if there is none. Raises DamagedError, also midway."""
        self._disk.remove(self.path + ".new")
        if not self._disk.exists(self.path):
            return None
        chunks = read_sealed(self._disk, self.path, self._keys, purpose=PURPOSE)
        try:
            return _decode(next(chunks, b"")), chunks
        except msgspec.DecodeError as error:
            raise DamagedError(
                f"{self.path} cannot be trusted: its first part cannot be read: {error}.",
                remedy=REMEDY,
            ) from error

    async def write(self, facts: SnapshotFacts, chunks: Iterable[bytes], blocking: Blocking) -> int:
        """Replace the file, chunk by chunk, off the loop; its size in bytes.

        Each chunk is taken on the loop, which goes on in between. Raises DiskFullError: the old
        snapshot stays; OSError.
        """
        writer = await blocking(self._begin)
        try:
            await blocking(partial(writer.add, _encode(facts)))
            synced_b = 0
            for chunk in chunks:
                await blocking(partial(writer.add, chunk))
                if writer.size_b - synced_b >= SYNC_STEP_B:
                    await blocking(writer.sync)
                    synced_b = writer.size_b
            await blocking(writer.finish)
        except BaseException:
            await blocking(writer.abort)
            raise
        return writer.size_b

    def _begin(self) -> SealedWriter:
        return SealedWriter(
            self._disk, self.path, self._keys.current, purpose=PURPOSE, entropy=self._entropy
        )
