"""The state machine on disk, whole: sealed, checksummed, replaced at once or not at all.

The file's first chunk says what it is; the others are the state machine's own. A snapshot that
another member sends is gathered beside it, sealed by this member's own key, until it is whole.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError, UnavailableError
from swarmlet.core.ids import Entropy
from swarmlet.env.base import Blocking, Disk
from swarmlet.env.frames import REMEDY
from swarmlet.env.sealed import SealedWriter, SealKeys, is_sealed_by, read_sealed
from swarmlet.raft.journal import Entry
from swarmlet.raft.membership import Members

PURPOSE: Final = b"swarmlet raft snapshot"
SYNC_STEP_B: Final = 4 * 1024 * 1024  # small syncs in between keep the journal's own short


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The last entry a snapshot holds, its term, and the configuration as of it.

    `entries` are the last two of the log up to there: what a member that begins behind the snapshot
    checks the next one against. `is_received`: it came from another member, so the journal beside
    it may know nothing of it yet.
    """

    index: int
    term: int
    members: Members
    entries: tuple[Entry, ...] = ()
    is_received: bool = False


encode_facts = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(SnapshotFacts).decode

Found = tuple[SnapshotFacts, Iterator[bytes]]


class SnapshotFile:
    """The newest snapshot, in one file."""

    def __init__(self, disk: Disk, path: str, keys: SealKeys, entropy: Entropy) -> None:
        self.path, self._beside = path, path + ".received"
        self._disk, self._keys, self._entropy = disk, keys, entropy

    def clean(self) -> None:
        """Remove what a crash left unfinished. Nothing may be under way."""
        self._disk.remove(self.path + ".new")
        self._drop_received()

    def read(self) -> Found | None:
        """Facts and the state's chunks, None if there is none. Raises DamagedError, also midway."""
        return self._read(self.path) if self._disk.exists(self.path) else None

    async def write(self, facts: SnapshotFacts, chunks: Iterable[bytes], blocking: Blocking) -> int:
        """Replace the file, chunk by chunk, off the loop; its size in bytes.

        Each chunk is taken on the loop, which goes on in between. Raises DiskFullError: the old
        snapshot stays; OSError.
        """
        return await self._fill(self.path, facts, _each(chunks), blocking)

    async def gather(
        self, facts: SnapshotFacts, chunks: AsyncIterator[bytes], blocking: Blocking
    ) -> None:
        """Write down what another member sends; `install` makes it the snapshot.

        Raises DiskFullError, DamagedError (it is not what was written), UnavailableError (the key
        was changed meanwhile), OSError, and whatever ends `chunks`.
        """
        await self._fill(self._beside, facts, chunks, blocking)

    def gathered(self) -> tuple[SnapshotFacts, list[bytes]] | None:
        """What was gathered, read to its end and verified; None where a new key has ended it."""
        if not self._disk.exists(self._beside):
            return None
        facts, chunks = self._read(self._beside)
        return facts, list(chunks)

    def install(self) -> None:
        """What was gathered is the snapshot from now on, durably."""
        self._disk.rename(self._beside, self.path)

    def use(self, keys: SealKeys) -> None:
        """Seal by another key from now on. What was gathered under the old one is dropped."""
        if keys.current.key_id != self._keys.current.key_id:
            self._drop_received()
        self._keys = keys

    def is_current(self) -> bool:
        """Whether the file, if there is one, is sealed by the key that is written with now."""
        return not self._disk.exists(self.path) or is_sealed_by(
            self._disk, self.path, self._keys.current
        )

    def reseal(self) -> None:
        """Write the same snapshot under the present key. Raises DiskFullError, DamagedError."""
        found = self.read()
        assert found is not None, "a snapshot is there, and not current"
        writer = self._begin(self.path)
        try:
            writer.add(encode_facts(found[0]))
            for chunk in found[1]:
                writer.add(chunk)
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    async def _fill(
        self, path: str, facts: SnapshotFacts, chunks: AsyncIterator[bytes], blocking: Blocking
    ) -> int:
        writer = await blocking(partial(self._begin, path))
        try:
            await blocking(partial(writer.add, encode_facts(facts)))
            synced_b = 0
            async for chunk in chunks:
                await blocking(partial(writer.add, chunk))
                if writer.size_b - synced_b >= SYNC_STEP_B:
                    await blocking(writer.sync)
                    synced_b = writer.size_b
            await blocking(partial(self._finish, writer))
        except BaseException:
            await blocking(writer.abort)
            raise
        return writer.size_b

    def _begin(self, path: str) -> SealedWriter:
        return SealedWriter(
            self._disk, path, self._keys.current, purpose=PURPOSE, entropy=self._entropy
        )

    def _finish(self, writer: SealedWriter) -> None:
        if writer.key_id != self._keys.current.key_id:
            raise UnavailableError("The key was changed while a snapshot was written.")
        writer.finish()

    def _drop_received(self) -> None:
        self._disk.remove(self._beside + ".new")
        self._disk.remove(self._beside)

    def _read(self, path: str) -> Found:
        chunks = read_sealed(self._disk, path, self._keys, purpose=PURPOSE)
        try:
            return decode_facts(next(chunks, b"")), chunks
        except msgspec.DecodeError as error:
            raise DamagedError(
                f"{path} cannot be trusted: its first part cannot be read: {error}.",
                remedy=REMEDY,
            ) from error


async def _each(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
