"""A node's key file, open and locked, byte by byte."""

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ca.key_file import decode_keys, encode_keys, new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.unlock_key import UNLOCKED, Kek, WrongKeyError
from swarmlet.core.errors import DamagedError, LockedError
from swarmlet.env.sealed import seal_key

TLS_KEY = new_key(lambda size_b: bytes(range(1, size_b + 1)))
BARE = new_node_keys(TLS_KEY, b"r" * 32, b"n" * 32)
LOCKING = Kek(key=b"k" * 32, version=12)
PATH = "/data/certificates/swarm-node.key"
SECRETS = st.binary(min_size=32, max_size=32)
FULL = st.builds(
    replace,
    st.just(BARE),
    raft_dek=SECRETS,
    raft_dek_pending=st.one_of(st.just(b""), SECRETS),
    join_dek=st.one_of(st.just(b""), SECRETS),
    raft_dek_needs_rotation=st.booleans(),
    tls_key_needs_rotation=st.booleans(),
)
KEKS = st.builds(
    Kek, key=st.one_of(st.just(b""), SECRETS), version=st.integers(min_value=0, max_value=2**63)
)


@given(FULL, KEKS)
def test_keys_come_back_as_written_with_what_locks_them(keys, kek):
    raw = encode_keys(keys, kek)
    assert decode_keys(raw, PATH, kek.key) == (keys, kek)
    assert encode_keys(keys, kek) == raw  # the same bytes: nothing is written twice


@given(FULL, SECRETS)
def test_locked_file_shows_its_version_alone(keys, unlock_key):
    raw = encode_keys(keys, Kek(key=unlock_key, version=12))
    lines = raw.decode().splitlines()
    assert lines[0] == "-----BEGIN SWARMLET LOCKED KEYS-----"
    assert lines[1] == "kek-version: 12"
    body = base64.b64decode("".join(lines[4:-1]))
    for secret in (keys.raft_dek, keys.node_dek, b"PRIVATE", keys.tls_key_pem[40:80]):
        assert secret not in raw
        assert base64.b64encode(secret) not in raw
        assert secret not in body


def test_open_file_is_a_pem_block_that_others_read():
    raw = encode_keys(BARE, UNLOCKED)
    assert raw.startswith(b"-----BEGIN PRIVATE KEY-----\nraft-dek: ")
    assert b"\nkek-version: 0\n\n" in raw
    assert b"pending" not in raw
    assert b"needs-rotation" not in raw
    assert b"join-dek" not in raw


def test_locked_file_without_a_key_and_with_a_wrong_one_are_told_apart():
    raw = encode_keys(BARE, LOCKING)
    with pytest.raises(LockedError, match="Swarm is encrypted and needs to be unlocked"):
        decode_keys(raw, PATH, b"")
    with pytest.raises(WrongKeyError, match="invalid key provided"):
        decode_keys(raw, PATH, b"x" * 32)


def test_locked_file_with_any_byte_changed_is_never_taken_for_another():
    raw = encode_keys(BARE, LOCKING)
    for at in range(len(raw)):
        for key in (LOCKING.key, b""):
            with pytest.raises(DamagedError):
                decode_keys(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], PATH, key)


def test_version_of_a_locked_file_cannot_be_set_back():
    raw = encode_keys(BARE, LOCKING)
    body = base64.b64decode(raw.split(b"\n\n")[1].partition(b"-----")[0])
    old, new = b"kek-version: 12", b"kek-version: 11"
    crcs = [b"%08x" % zlib.crc32(old + body), b"%08x" % zlib.crc32(new + body)]
    assert crcs[0] in raw
    raw = raw.replace(old, new).replace(*crcs)
    with pytest.raises(WrongKeyError):
        decode_keys(raw, PATH, LOCKING.key)


def test_unlock_key_does_not_matter_where_nothing_is_locked():
    assert decode_keys(encode_keys(BARE, Kek(version=5)), PATH, b"k" * 32)[1] == Kek(version=5)


@pytest.mark.parametrize(
    "line", [b"raft-dek-needs-rotation: yes\n", b"raft-dek-pending: !\n", b"color: green\n"]
)
def test_header_that_is_not_understood_is_damage(line):
    raw = encode_keys(BARE, UNLOCKED).replace(b"kek-version", line + b"kek-version")
    with pytest.raises(DamagedError, match=r"swarm-node\.key"):
        decode_keys(raw, PATH, b"")


def test_log_is_written_with_the_pending_key_and_read_with_both():
    present, pending = seal_key(b"r" * 32), seal_key(b"p" * 32)
    assert BARE.raft_seal_keys().current == present
    ring = replace(BARE, raft_dek_pending=b"p" * 32).raft_seal_keys()
    assert (ring.current, ring.older) == (pending, (present,))
    assert str(BARE) == "NodeKeys(***)"
