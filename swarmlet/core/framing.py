"""The frames of a stream into a task between the daemon and its client, both ways.

Docker's own heads (kind, three zeros, size), with more kinds than Docker has: input, terminal sizes
and ends travel in the stream too, so that nothing but one connection is needed.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

INPUT: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
PROBLEM: Final = 3  # a sentence: why there will be no more
RESIZE: Final = 4  # from the client: rows and columns in decimal digits
END: Final = 5  # this side sends no more data
EXIT: Final = 6  # from the daemon, the last: the exit code in decimal digits

PAYLOAD_SIZE_MAX_B: Final = 65_536
_HEAD: Final = struct.Struct(">BxxxI")


class Frame(NamedTuple):
    """`kind` is one of the above."""

    kind: int
    payload: bytes


class FramingError(ValueError):
    """What came is no frame."""


def pack(kind: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


class Unpacker:
    """Frames wherever the pieces are cut; holds one frame at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Raises FramingError."""
        self._buffer += piece
        while len(self._buffer) >= _HEAD.size:
            kind, size_b = _HEAD.unpack_from(self._buffer)
            if kind > EXIT or size_b > PAYLOAD_SIZE_MAX_B:
                raise FramingError(f"a frame of kind {kind} and {size_b} bytes")
            end = _HEAD.size + size_b
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            yield Frame(kind, payload)

    def is_empty(self) -> bool:
        """Whether nothing is left of a frame that did not come to its end."""
        return not self._buffer
