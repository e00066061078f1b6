"""What a node keeps of its identity: `certificates/` with root, certificate and the one key file.

`swarm-node.key` (0600) is a PKCS#8 PEM block whose headers carry the keys that seal the node's data
at rest (SwarmKit ca/keyreadwriter.go keeps the DEK there too):

    raft-dek: <base 64 of key id and secret>      seals journal and snapshots
    node-dek: <the same>                          seals what the agent keeps
    kek-version: 0                                the version of the unlock key around them; 0: none

`swarm-node.key.pending` has the same form: the key of a certificate that is asked for. It is
durable before the request leaves. Replacing `swarm-node.crt` is what makes it the node's key, so a
crash at any point leaves a certificate whose key is in one of the two files.
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

from swarmlet.ca.identity import belongs_to, check_self_signed, verify_chain
from swarmlet.ca.keys import key_from_pem, key_to_pem
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import DamagedError, UnauthorizedError
from swarmlet.core.identity import Identity
from swarmlet.env.base import Disk, write_atomic
from swarmlet.wire.credentials import Credentials

ROOT_FILE: Final = "swarm-root-ca.crt"
CERT_FILE: Final = "swarm-node.crt"
KEY_FILE: Final = "swarm-node.key"
PENDING_FILE: Final = "swarm-node.key.pending"
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

    def write(self, root_pem: bytes, chain_pem: bytes, keys: NodeKeys) -> None:
        """Replace all three files, durably; the certificate comes last."""
        self.write_root(root_pem)
        self._write_keys(KEY_FILE, keys)
        write_atomic(self._disk, self._path(CERT_FILE), [chain_pem], 0o644)

    def write_root(self, root_pem: bytes) -> None:
        """Trust this bundle from now on: the present certificate must be valid under it."""
        self._disk.make_dir(self._directory, 0o700)
        write_atomic(self._disk, self._path(ROOT_FILE), [root_pem], 0o644)

    def read_root(self) -> bytes:
        """The bundle, before there is a certificate. Raises DamagedError."""
        return self._read(ROOT_FILE)

    def write_pending(self, keys: NodeKeys) -> None:
        """Make a key durable before a certificate is asked for it."""
        self._disk.make_dir(self._directory, 0o700)
        self._write_keys(PENDING_FILE, keys)

    def pending(self) -> NodeKeys | None:
        """The key of a request that may have left. Raises DamagedError."""
        if not self._disk.exists(self._path(PENDING_FILE)):
            return None
        keys = self._keys_in(PENDING_FILE)
        with self._readable(PENDING_FILE):
            key_from_pem(keys.tls_key_pem)
        return keys

    def drop_pending(self) -> None:
        """Nothing will come of that request."""
        self._disk.remove(self._path(PENDING_FILE))

    def write_renewed(self, chain_pem: bytes) -> None:
        """The certificate of the pending key: from here on both are this node's own."""
        write_atomic(self._disk, self._path(CERT_FILE), [chain_pem], 0o644)
        self._promote_pending()

    def has_certificate(self) -> bool:
        return self._disk.exists(self._path(CERT_FILE))

    def read(self) -> tuple[bytes, bytes, NodeKeys]:
        """Root bundle, certificate with what leads to the root, keys. Where a crash came between a
        new certificate and its key, this finishes the replacement.

        Raises DamagedError where a file is missing or they do not belong together.
        """
        _, root_pem, chain_pem, keys = self._verified()
        return root_pem, chain_pem, keys

    def identity(self) -> Identity:
        """Who this node is, by its own certificate, whatever its dates. Raises DamagedError."""
        return self._verified()[0]

    def own_identity(self) -> OwnIdentity:
        """What the node shows and trusts, to begin with. Raises DamagedError."""
        identity, root_pem, chain_pem, keys = self._verified()
        credentials = Credentials(root_pem=root_pem, chain_pem=chain_pem, key_pem=keys.tls_key_pem)
        return OwnIdentity(credentials, identity)

    def _verified(self) -> tuple[Identity, bytes, bytes, NodeKeys]:
        root_pem, chain_pem = self._read(ROOT_FILE), self._read(CERT_FILE)
        with self._readable(ROOT_FILE):
            check_self_signed(root_pem)
        with self._readable(CERT_FILE):
            identity = verify_chain(chain_pem, root_pem, None)
        return identity, root_pem, chain_pem, self._keys_of(chain_pem)

    def _keys_of(self, chain_pem: bytes) -> NodeKeys:
        """The keys of the certificate; a pending key that is its key becomes the key. Raises
        DamagedError."""
        if self._disk.exists(self._path(KEY_FILE)):
            keys = self._keys_in(KEY_FILE)
            if self._is_for(chain_pem, keys, KEY_FILE):
                return keys
        pending = self.pending()
        if pending is not None and self._is_for(chain_pem, pending, PENDING_FILE):
            self._promote_pending()
            return pending
        self._read(KEY_FILE)  # where it is missing, that is what to say
        raise DamagedError(
            f"{self._path(CERT_FILE)} does not belong to the key in {KEY_FILE}.", _REMEDY
        )

    def _keys_in(self, name: str) -> NodeKeys:
        return _decode_keys(self._read(name), self._path(name))

    def _is_for(self, chain_pem: bytes, keys: NodeKeys, name: str) -> bool:
        with self._readable(name):
            return belongs_to(chain_pem, key_from_pem(keys.tls_key_pem))

    def _promote_pending(self) -> None:
        self._disk.rename(self._path(PENDING_FILE), self._path(KEY_FILE))

    def _write_keys(self, name: str, keys: NodeKeys) -> None:
        write_atomic(self._disk, self._path(name), [_encode_keys(keys)], 0o600)

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
