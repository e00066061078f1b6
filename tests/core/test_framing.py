"""Frames between the daemon and its client, wherever they are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.framing import EXIT, PAYLOAD_SIZE_MAX_B, Frame, FramingError, Unpacker, pack

FRAMES = st.lists(st.builds(Frame, st.integers(0, EXIT), st.binary(max_size=300)), max_size=8)


@given(FRAMES, st.lists(st.integers(0, 3000), max_size=10))
def test_frames_come_out_as_they_went_in_wherever_they_are_cut(frames, cuts):
    raw = b"".join(pack(*frame) for frame in frames)
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    unpacker = Unpacker()
    pieces = [raw[start:end] for start, end in pairwise(edges)]
    assert [frame for piece in pieces for frame in unpacker.feed(piece)] == frames
    assert unpacker.is_empty()


def test_head_is_dockers():
    assert pack(1, b"abc") == b"\x01\0\0\0\0\0\0\x03abc"


@pytest.mark.parametrize(
    "head",
    [b"\x07\0\0\0\0\0\0\x01", b"\x01\0\0\0" + (PAYLOAD_SIZE_MAX_B + 1).to_bytes(4, "big")],
)
def test_what_is_no_frame_is_refused_by_its_head(head):
    unpacker = Unpacker()
    assert list(unpacker.feed(head[:7])) == []
    with pytest.raises(FramingError):
        list(unpacker.feed(head[7:]))
