"""Keys, and the frames that sealed files are made of.

Each file has an AES-256-GCM key of its own, HKDF-SHA256(key, salt = file id, info = purpose), and
every frame a nonce that is used once: a number drawn when the file was opened, then the frame's own
number. A frame is bound to its predecessor's checksum, so none can be dropped, doubled or moved.
"""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmlet.core.errors import DamagedError
from swarmlet.core.ids import Entropy

FORMAT: Final = 1  # of both kinds of file; another one is refused
KEY_SIZE_B: Final = 32  # AES-256
KEY_ID_SIZE_B: Final = 8
REMEDY: Final = "Restore the data directory from a backup of this node, or start with an empty one."

LOG_MAGIC: Final = b"swlt-log"
WHOLE_MAGIC: Final = b"swlt-dat"
_FILE_HEADER: Final = struct.Struct("<8sH8s16s")  # magic, format, key id, file id; a crc32 follows
_FRAME_HEADER: Final = struct.Struct("<IQII")  # length, number, session, body's crc32; a crc32
_CRC: Final = struct.Struct("<I")
FILE_HEADER_B: Final = _FILE_HEADER.size + _CRC.size
_FRAME_HEADER_B: Final = _FRAME_HEADER.size + _CRC.size
_END: Final = b"\xa5"  # closes a frame, so that an intact one never ends in a zero
_BLOCK_B: Final = 64 * 1024
_ZEROS: Final = bytes(_BLOCK_B)
_SECTOR_B: Final = 512  # what a disk writes whole or not at all


@dataclass(frozen=True, slots=True)
class SealKey:
    """A key of 32 bytes, and the id by which files name it. Its repr hides the secret."""

    key_id: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealKeys:
    """`current` seals what is written; what an `older` one sealed can still be read."""

    current: SealKey
    older: tuple[SealKey, ...] = ()

    def named(self, key_id: bytes) -> SealKey | None:
        return next((key for key in (self.current, *self.older) if key.key_id == key_id), None)


def key_ring(key: SealKey | SealKeys) -> SealKeys:
    """A key alone is a ring of one."""
    return key if isinstance(key, SealKeys) else SealKeys(current=key)


def new_seal_key(entropy: Entropy) -> bytes:
    """A fresh secret; `seal_key` makes the key of it."""
    return entropy(KEY_SIZE_B)


def seal_key(secret: bytes) -> SealKey:
    """The key of a stored secret; its id is derived, so the secret is all there is to keep."""
    if len(secret) != KEY_SIZE_B:
        raise DamagedError(
            f"A sealing key has {len(secret)} bytes; {KEY_SIZE_B} are needed.",
            remedy="Restore the node's key file from a backup of this node.",
        )
    key_id = HKDF(SHA256(), KEY_ID_SIZE_B, salt=None, info=b"swarmlet key id").derive(secret)
    return SealKey(key_id=key_id, secret=secret)


@dataclass(frozen=True, slots=True)
class Frame:
    number: int
    session: int
    crc: int
    sealed: bytes
    end: int  # offset behind it


class Sealer:
    """The frames of one file, in order."""

    def __init__(self, key: SealKey, purpose: bytes, file_id: bytes) -> None:
        derived = HKDF(SHA256(), KEY_SIZE_B, salt=file_id, info=purpose).derive(key.secret)
        self.key_id, self._aead, self._file_id = key.key_id, AESGCM(derived), file_id
        self.number = self._previous_crc = 0

    def seal(self, body: bytes, session: int) -> tuple[bytes, int]:
        """The next frame and its checksum; it counts once `advance` is told so."""
        nonce, bound = self._nonce(self.number, session)
        sealed = self._aead.encrypt(nonce, body, bound) + _END
        crc = zlib.crc32(sealed)
        header = _FRAME_HEADER.pack(len(sealed), self.number, session, crc)
        return b"".join((header, _CRC.pack(zlib.crc32(header)), sealed)), crc

    def open(self, frame: Frame) -> bytes:
        """Raises InvalidTag where this is not the next frame, sealed with this key, unaltered."""
        nonce, bound = self._nonce(frame.number, frame.session)
        body = self._aead.decrypt(nonce, frame.sealed[: -len(_END)], bound)
        self.advance(frame.crc)
        return body

    def advance(self, crc: int) -> None:
        self.number, self._previous_crc = self.number + 1, crc

    def _nonce(self, number: int, session: int) -> tuple[bytes, bytes]:
        nonce = struct.pack("<IQ", session, number)
        return nonce, self._file_id + nonce + _CRC.pack(self._previous_crc)


def file_header(magic: bytes, key: SealKey, file_id: bytes) -> bytes:
    header = _FILE_HEADER.pack(magic, FORMAT, key.key_id, file_id)
    return header + _CRC.pack(zlib.crc32(header))


@dataclass(frozen=True, slots=True)
class Source:
    """A file's bytes, and how to complain about them."""

    path: str
    data: bytes

    def damaged(self, at: int, what: str) -> DamagedError:
        return DamagedError(f"{self.path} is damaged at byte {at}: {what}.", remedy=REMEDY)

    def used_b(self) -> int:
        """Where the zeros at the end begin. They are many, so they are compared in blocks."""
        end = len(self.data)
        while end and self.data[max(0, end - _BLOCK_B) : end] == _ZEROS[:end]:
            end -= min(end, _BLOCK_B)
        return max(0, end - _BLOCK_B) + len(self.data[max(0, end - _BLOCK_B) : end].rstrip(b"\0"))

    def sealer(self, magic: bytes, keys: SealKeys, purpose: bytes) -> Sealer:
        """Check the header, find its key. Raises DamagedError: cut, altered, of another kind or
        format, or sealed with a key that is not there."""
        key_id, file_id = self._header(magic)
        key = keys.named(key_id)
        if key is None:
            raise DamagedError(
                f"{self.path} is sealed with key {key_id.hex()}, "
                f"but this node has key {keys.current.key_id.hex()}.",
                remedy="Restore the key file that belongs to this data directory.",
            )
        return Sealer(key, purpose, file_id)

    def key_id(self, magic: bytes) -> bytes:
        """Of the key it is sealed by, says its header. Raises DamagedError."""
        return self._header(magic)[0]

    def _header(self, magic: bytes) -> tuple[bytes, bytes]:
        header = self.data[: _FILE_HEADER.size]
        if len(self.data) < FILE_HEADER_B:
            raise self.damaged(len(self.data), "its header is cut off")
        found, version, key_id, file_id = _FILE_HEADER.unpack(header)
        if found != magic:
            raise self.damaged(0, "it does not begin as a file of this kind does")
        if _CRC.unpack_from(self.data, _FILE_HEADER.size)[0] != zlib.crc32(header):
            raise self.damaged(0, "its header's checksum is wrong")
        if version != FORMAT:
            raise DamagedError(
                f"{self.path} has format {version}; this swarmlet reads format {FORMAT}.",
                remedy="Start the version of swarmlet that wrote it.",
            )
        return key_id, file_id

    def header_at(self, at: int) -> tuple[int, int, int, int] | None:
        """Length, number, session and checksum of a frame here, if its header is intact."""
        header = self.data[at : at + _FRAME_HEADER.size]
        if len(self.data) < at + _FRAME_HEADER_B:
            return None
        if _CRC.unpack_from(self.data, at + _FRAME_HEADER.size)[0] != zlib.crc32(header):
            return None
        length, number, session, crc = _FRAME_HEADER.unpack(header)
        return length, number, session, crc

    def frame_at(self, at: int) -> Frame | None:
        """The frame that begins here, if it is whole."""
        header = self.header_at(at)
        if header is None:
            return None
        length, number, session, crc = header
        end = at + _FRAME_HEADER_B + length
        sealed = self.data[at + _FRAME_HEADER_B : end]
        if len(sealed) < length or zlib.crc32(sealed) != crc or sealed[-1:] != _END:
            return None
        return Frame(number=number, session=session, crc=crc, sealed=sealed, end=end)

    def open_frame(self, sealer: Sealer, at: int, frame: Frame) -> bytes:
        if frame.number != sealer.number:
            raise self.damaged(at, f"frame {sealer.number} is missing, {frame.number} follows")
        try:
            return sealer.open(frame)
        except InvalidTag as error:
            raise self.damaged(at, "a frame was altered, or is not of this file") from error

    def check_torn(self, at: int, used: int, number: int) -> None:
        """Raise DamagedError unless what lies at `at` can only be the last write, torn by a crash.

        A write is durable before the next begins, so nothing may follow it; a torn one lacks its
        end or whole sectors, which read as zeros, while a damaged one is complete and wrong.
        """
        later = self._frame_after(at, used, number)
        if later is not None:
            raise self.damaged(at, f"a frame is unreadable, and intact ones follow at byte {later}")
        header = self.header_at(at)
        end = at + _FRAME_HEADER_B + (header[0] if header is not None else 0)
        is_cut = used < end
        if (header is not None and used > end) or not (is_cut or self._lacks_sector(at, end)):
            raise self.damaged(at, "the last frame is complete, but its checksum is wrong")

    def _lacks_sector(self, at: int, end: int) -> bool:
        starts = [at, *range(at - at % _SECTOR_B + _SECTOR_B, end, _SECTOR_B)]
        return any(
            not any(self.data[start:stop])
            for start, stop in zip(starts, [*starts[1:], end], strict=True)
        )

    def _frame_after(self, at: int, used: int, number: int) -> int | None:
        # The upper bytes of a frame's number hardly change: look where they stand, not everywhere.
        for upper in (number >> 24, (number >> 24) + 1):
            pattern = upper.to_bytes(5, "little")
            found = self.data.find(pattern, at + 8, used)
            while found >= 0:
                start = found - 7  # length (4 bytes) and the number's lower 3
                frame = self.frame_at(start)
                if frame is not None and frame.number > number:
                    return start
                found = self.data.find(pattern, found + 1, used)
        return None
