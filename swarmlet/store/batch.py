"""Cutting many changes into entries of a size that apply finishes in a few milliseconds."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from swarmlet.core.limits import ENTRY_CHANGES_MAX, ENTRY_SIZE_MAX_B
from swarmlet.model.change import Change
from swarmlet.store.codec import encode_change

FRAME_SIZE_MAX_B: Final = 64  # an entry's array, version, proposal id, stamp and list heads


def pieces(
    changes: Iterable[Change],
    *,
    count_max: int = ENTRY_CHANGES_MAX,
    size_max_b: int = ENTRY_SIZE_MAX_B,
) -> Iterator[list[msgspec.Raw]]:
    """Encoded changes in order, in pieces within both limits; each is encoded once and lazily.

    A change that is too large by itself makes a piece of its own.
    """
    piece: list[msgspec.Raw] = []
    size_b = FRAME_SIZE_MAX_B
    for change in changes:
        raw = encode_change(change)
        if piece and (size_b + len(raw) > size_max_b or len(piece) >= count_max):
            yield piece
            piece, size_b = [], FRAME_SIZE_MAX_B
        piece.append(raw)
        size_b += len(raw)
    if piece:
        yield piece
