"""The one file of a node's keys, byte by byte.

Unlocked it is a PKCS#8 PEM block whose headers carry the keys that seal the node's data at rest
(SwarmKit ca/keyreadwriter.go keeps the DEK there too):

    raft-dek: <base 64>                    seals journal and snapshots
    raft-dek-pending: <base 64>            takes its place as soon as nothing is sealed by the other
    raft-dek-needs-rotation: true          it was on the disk in the clear once
    node-dek: <base 64>                    seals what the agent keeps
    join-dek: <base 64>                    seals the record of the join, where node-dek is newer
    tls-key-needs-rotation: true           the TLS key was on the disk in the clear once
    kek-version: 17                        of the cluster's row that unlocked it

Locked it is that very text, encrypted as a whole with AES-256-SIV (RFC 5297, made for wrapping
keys) under HKDF-SHA512(unlock key), and bound to its `kek-version`. The same keys under the same
lock are the same bytes; nobody learns more from that, and no nonce can ever be used twice. The
`crc32` tells damage from a wrong key. The unlock key is 32 random bytes, so there is nothing for a
slow key derivation to protect.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmlet.ca.identity import belongs_to
from swarmlet.ca.keys import key_from_pem, key_to_pem
from swarmlet.ca.unlock_key import UNLOCKED, Kek, wrong_key
from swarmlet.core.errors import DamagedError, UnauthorizedError, swarm_locked
from swarmlet.env.base import Disk, write_atomic
from swarmlet.env.sealed import SealKeys, seal_key
from swarmlet.model.base import hidden

REMEDY: Final = (
    "Restore the data directory from a backup, or start with an empty one and join the swarm again."
)
KEY_FILE: Final = "swarm-node.key"
PENDING_FILE: Final = "swarm-node.key.pending"
_SIV_KEY_B: Final = 64  # AES-256-SIV has two keys of 32 bytes
_LINE_B: Final = 64
_TRUE: Final = b"true"
_PLAIN: Final = re.compile(
    rb"-----BEGIN PRIVATE KEY-----\n((?:[a-z-]+: [^\n]*\n)*)\n?([A-Za-z0-9+/=\n]+)"
    rb"-----END PRIVATE KEY-----\n"
)
_SEALED: Final = re.compile(
    rb"-----BEGIN SWARMLET LOCKED KEYS-----\nkek-version: ([0-9]{1,19})\ncrc32: ([0-9a-f]{8})\n\n"
    rb"([A-Za-z0-9+/=\n]+)-----END SWARMLET LOCKED KEYS-----\n"
)


class NodeKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets of a node; the DEKs are raw bytes. A `raft_dek_pending` is written with already;
    the `raft_dek` may still be needed for reading then."""

    tls_key_pem: bytes
    raft_dek: bytes
    node_dek: bytes
    raft_dek_pending: bytes = b""
    join_dek: bytes = b""
    raft_dek_needs_rotation: bool = False
    tls_key_needs_rotation: bool = False

    __repr__ = hidden

    def raft_seal_keys(self) -> SealKeys:
        """What the Raft log opens its files with. Raises DamagedError."""
        if not self.raft_dek_pending:
            return SealKeys(current=seal_key(self.raft_dek))
        pending, present = seal_key(self.raft_dek_pending), seal_key(self.raft_dek)
        return SealKeys(current=pending, older=(present,))


class KekHolder:
    """The unlock key while this process has it. One a data directory: every `NodeFiles` of it must
    know what the files are locked with now."""

    def __init__(self) -> None:
        self.kek = UNLOCKED

    def forget(self) -> None:
        """The key is not this process's any more."""
        self.kek = UNLOCKED


def new_node_keys(key: ec.EllipticCurvePrivateKey, raft_dek: bytes, node_dek: bytes) -> NodeKeys:
    return NodeKeys(tls_key_pem=key_to_pem(key), raft_dek=raft_dek, node_dek=node_dek)


def encode_keys(keys: NodeKeys, kek: Kek) -> bytes:
    """The file's content, locked where `kek` locks."""
    plain = _plain(keys, kek.version)
    if not kek.locks:
        return plain
    sealed = _siv(kek.key).encrypt(plain, [_bound(kek.version)])
    head = b"kek-version: %d\ncrc32: %08x\n\n" % (kek.version, _checksum(sealed, kek.version))
    return (
        b"-----BEGIN SWARMLET LOCKED KEYS-----\n"
        + head
        + _wrapped(sealed)
        + b"-----END SWARMLET LOCKED KEYS-----\n"
    )


def decode_keys(raw: bytes, path: str, unlock_key: bytes) -> tuple[NodeKeys, Kek]:
    """The keys, and what they were locked with. Raises LockedError where an unlock key is needed
    and none is given, WrongKeyError where it is not the one, DamagedError."""
    sealed = _SEALED.fullmatch(raw)
    if sealed is None:
        keys, version = _decode_plain(raw, path)
        return keys, Kek(version=version)
    version, body = int(sealed[1]), _unwrapped(sealed[3], path)
    if _checksum(body, version) != int(sealed[2], 16):
        raise DamagedError(f"{path} is damaged: its checksum is wrong.", REMEDY)
    if not unlock_key:
        raise swarm_locked()
    try:
        plain = _siv(unlock_key).decrypt(body, [_bound(version)])
    except InvalidTag:
        raise wrong_key() from None
    keys, _ = _decode_plain(plain, path)
    return keys, Kek(key=unlock_key, version=version)


def _siv(unlock_key: bytes) -> AESSIV:
    derived = HKDF(SHA512(), _SIV_KEY_B, salt=None, info=b"swarmlet key file").derive(unlock_key)
    return AESSIV(derived)


def _bound(version: int) -> bytes:
    return b"kek-version: %d" % version


def _checksum(sealed: bytes, version: int) -> int:
    return zlib.crc32(sealed, zlib.crc32(_bound(version)))


def _wrapped(body: bytes) -> bytes:
    text = base64.b64encode(body)
    return b"".join(text[at : at + _LINE_B] + b"\n" for at in range(0, len(text), _LINE_B))


def _unwrapped(text: bytes, path: str) -> bytes:
    try:
        return base64.b64decode(text.replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise DamagedError(f"{path} is not a node's key file.", REMEDY) from error


def _plain(keys: NodeKeys, version: int) -> bytes:
    lines = keys.tls_key_pem.splitlines(keepends=True)
    headers = {
        b"raft-dek": base64.b64encode(keys.raft_dek),
        b"raft-dek-pending": base64.b64encode(keys.raft_dek_pending),
        b"raft-dek-needs-rotation": _TRUE if keys.raft_dek_needs_rotation else b"",
        b"node-dek": base64.b64encode(keys.node_dek),
        b"join-dek": base64.b64encode(keys.join_dek),
        b"tls-key-needs-rotation": _TRUE if keys.tls_key_needs_rotation else b"",
        b"kek-version": b"%d" % version,
    }
    head = [name + b": " + value + b"\n" for name, value in headers.items() if value]
    return b"".join((lines[0], *head, b"\n", *lines[1:]))


def _decode_plain(raw: bytes, path: str) -> tuple[NodeKeys, int]:
    found = _PLAIN.fullmatch(raw)
    if found is None:
        raise DamagedError(f"{path} is not a node's key file.", REMEDY)
    headers = dict(line.split(b": ", 1) for line in found[1].splitlines())
    pem = b"-----BEGIN PRIVATE KEY-----\n" + found[2] + b"-----END PRIVATE KEY-----\n"
    try:
        keys = NodeKeys(
            tls_key_pem=pem,
            raft_dek=_dek(headers.pop(b"raft-dek")),
            node_dek=_dek(headers.pop(b"node-dek")),
            raft_dek_pending=_dek(headers.pop(b"raft-dek-pending", b"")),
            join_dek=_dek(headers.pop(b"join-dek", b"")),
            raft_dek_needs_rotation=_flag(headers.pop(b"raft-dek-needs-rotation", b"")),
            tls_key_needs_rotation=_flag(headers.pop(b"tls-key-needs-rotation", b"")),
        )
        version = int(headers.pop(b"kek-version"))
    except (KeyError, ValueError) as error:
        raise DamagedError(f"{path} lacks the keys that seal this node's data.", REMEDY) from error
    if headers or version < 0:  # a key whose name was damaged is a key that is lost
        raise DamagedError(f"{path} has headers that nobody here understands.", REMEDY)
    return keys, version


def _dek(text: bytes) -> bytes:
    return base64.b64decode(text, validate=True)


def _flag(text: bytes) -> bool:
    if text not in (b"", _TRUE):
        raise ValueError("neither set nor left out")
    return bool(text)


class KeyFiles:
    """Where key files lie, and what is written there under which lock. Whatever reads keys raises
    LockedError where the unlock key is needed first, WrongKeyError where `holder` has another one,
    DamagedError."""

    def __init__(self, disk: Disk, directory: str, holder: KekHolder | None = None) -> None:
        self._disk, self._directory = disk, directory
        self._holder = holder or KekHolder()

    def write_pending(self, keys: NodeKeys, kek: Kek | None = None) -> None:
        """Make a key durable before a certificate is asked for it. `kek`: what this node will be
        locked with, where it has no key file yet."""
        if kek is not None:
            self._holder.kek = kek
        self._disk.make_dir(self._directory, 0o700)
        self._write_keys(PENDING_FILE, keys)

    def pending(self) -> NodeKeys | None:
        """The key of a request that may have left."""
        found = self._pending_in_lock(self._holder.kek.key)
        return None if found is None else found[0]

    def drop_pending(self) -> None:
        """Nothing will come of that request."""
        self._disk.remove(self._path(PENDING_FILE))

    # Inside

    def _pending_in_lock(self, unlock_key: bytes) -> tuple[NodeKeys, Kek] | None:
        if not self._disk.exists(self._path(PENDING_FILE)):
            return None
        path = self._path(PENDING_FILE)
        found = decode_keys(self._read(PENDING_FILE), path, unlock_key)
        with self._readable(PENDING_FILE):
            key_from_pem(found[0].tls_key_pem)
        return found

    def _keys_in(self, name: str) -> NodeKeys:
        return decode_keys(self._read(name), self._path(name), self._holder.kek.key)[0]

    def _is_for(self, chain_pem: bytes, keys: NodeKeys, name: str) -> bool:
        with self._readable(name):
            return belongs_to(chain_pem, key_from_pem(keys.tls_key_pem))

    def _drop_torn(self) -> None:
        """What a crash left of writes under another lock."""
        for name in (KEY_FILE, PENDING_FILE):
            self._disk.remove(f"{self._path(name)}.new")

    def _promote_pending(self) -> None:
        self._disk.rename(self._path(PENDING_FILE), self._path(KEY_FILE))

    def _write_keys(self, name: str, keys: NodeKeys) -> None:
        content = encode_keys(keys, self._holder.kek)
        write_atomic(self._disk, self._path(name), [content], 0o600)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except UnauthorizedError as error:
            raise DamagedError(f"{self._path(name)} is damaged: {error}.", REMEDY) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise DamagedError(f"{self._path(name)} is damaged.", REMEDY) from error

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _read(self, name: str) -> bytes:
        try:
            return self._disk.read(self._path(name))
        except FileNotFoundError as error:
            raise DamagedError(f"{self._path(name)} is missing.", REMEDY) from error
