"""What a node keeps of its identity: `certificates/` with root, certificate and the one key file.

`swarm-node.key` (0600) is a PKCS#8 PEM block whose headers carry the keys that seal the node's data
at rest (SwarmKit ca/keyreadwriter.go keeps the DEK there too):

    raft-dek: <base 64 of key id and secret>      seals journal and snapshots
    node-dek: <the same>                          seals what the agent keeps
    kek-version: 0                                the version of the unlock key around them; 0: none
"""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.ca.identity import Identity, belongs_to, check_self_signed, identity_of
from swarmlet.ca.keys import key_from_pem, key_to_pem
from swarmlet.core.errors import DamagedError, UnauthorizedError
from swarmlet.env.base import Disk, write_atomic

ROOT_FILE: Final = "swarm-root-ca.crt"
CERT_FILE: Final = "swarm-node.crt"
KEY_FILE: Final = "swarm-node.key"
_BLOCK: Final = re.compile(
    rb"-----BEGIN PRIVATE KEY-----\n((?:[a-z-]+: [^\n]*\n)*)\n?([A-Za-z0-9+/=\n]+)"
    rb"-----END PRIVATE KEY-----\n"
)


class NodeKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets of a node. `raft_dek` and `node_dek` are raw bytes: id and secret in one."""

    tls_key_pem: bytes
    raft_dek: bytes
    node_dek: bytes

    def __repr__(self) -> str:
        return "NodeKeys(***)"


class NodeFiles:
    """The folder `certificates/` of a data directory."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk, self._directory = disk, directory

    def write(self, root_pem: bytes, cert_pem: bytes, keys: NodeKeys) -> None:
        """Replace all three files, durably; the certificate comes last."""
        self._disk.make_dir(self._directory, 0o700)
        write_atomic(self._disk, self._path(ROOT_FILE), [root_pem], 0o644)
        write_atomic(self._disk, self._path(KEY_FILE), [_encode_keys(keys)], 0o600)
        write_atomic(self._disk, self._path(CERT_FILE), [cert_pem], 0o644)

    def read(self) -> tuple[bytes, bytes, NodeKeys]:
        """Root, certificate, keys. Raises DamagedError where one is missing or they do not belong
        together."""
        root_pem, cert_pem, key_file = (
            self._read(name) for name in (ROOT_FILE, CERT_FILE, KEY_FILE)
        )
        keys = _decode_keys(key_file, self._path(KEY_FILE))
        with self._readable(KEY_FILE):
            key = key_from_pem(keys.tls_key_pem)
        with self._readable(ROOT_FILE):
            check_self_signed(root_pem)
        with self._readable(CERT_FILE):
            identity_of(cert_pem, root_pem)
        if not belongs_to(cert_pem, key):
            raise DamagedError(
                f"{self._path(CERT_FILE)} does not belong to the key in {KEY_FILE}.", _REMEDY
            )
        return root_pem, cert_pem, keys

    def identity(self) -> Identity:
        """Who this node is, by its own certificate."""
        root_pem, cert_pem, _ = self.read()
        return identity_of(cert_pem, root_pem)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except UnauthorizedError as error:
            raise DamagedError(f"{self._path(name)} is damaged: {error}.", _REMEDY) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise DamagedError(f"{self._path(name)} is damaged.", _REMEDY) from error

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _read(self, name: str) -> bytes:
        try:
            return self._disk.read(self._path(name))
        except FileNotFoundError as error:
            raise DamagedError(f"{self._path(name)} is missing.", _REMEDY) from error


_REMEDY: Final = (
    "Restore the data directory from a backup, or start with an empty one and join the swarm again."
)


def new_node_keys(key: ec.EllipticCurvePrivateKey, raft_dek: bytes, node_dek: bytes) -> NodeKeys:
    return NodeKeys(tls_key_pem=key_to_pem(key), raft_dek=raft_dek, node_dek=node_dek)


def _encode_keys(keys: NodeKeys) -> bytes:
    begin, body, end = keys.tls_key_pem.partition(b"\n")[0], *_split(keys.tls_key_pem)
    headers = (
        b"raft-dek: " + base64.b64encode(keys.raft_dek) + b"\n"
        b"node-dek: " + base64.b64encode(keys.node_dek) + b"\n"
        b"kek-version: 0\n"
    )
    return begin + b"\n" + headers + b"\n" + body + end


def _split(pem: bytes) -> tuple[bytes, bytes]:
    lines = pem.splitlines(keepends=True)
    return b"".join(lines[1:-1]), lines[-1]


def _decode_keys(raw: bytes, path: str) -> NodeKeys:
    found = _BLOCK.fullmatch(raw)
    if found is None:
        raise DamagedError(f"{path} is not a node's key file.", _REMEDY)
    headers = dict(line.split(b": ", 1) for line in found[1].splitlines())
    if headers.get(b"kek-version") != b"0":
        raise DamagedError(f"{path} is locked or damaged: its kek-version is not 0.", _REMEDY)
    pem = b"-----BEGIN PRIVATE KEY-----\n" + found[2] + b"-----END PRIVATE KEY-----\n"
    try:
        return NodeKeys(
            tls_key_pem=pem,
            raft_dek=base64.b64decode(headers[b"raft-dek"], validate=True),
            node_dek=base64.b64decode(headers[b"node-dek"], validate=True),
        )
    except (KeyError, binascii.Error) as error:
        raise DamagedError(f"{path} lacks the keys that seal this node's data.", _REMEDY) from error
