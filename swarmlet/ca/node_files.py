"""What a node keeps of its identity: `certificates/` with root, certificate and the one key file.

`swarm-node.key` (0600) has the TLS key and the keys that seal the node's data at rest; where the
swarm locks its managers it is sealed with the unlock key (`key_file` says how).

`swarm-node.key.pending` has the same form: the key of a certificate that is asked for. It is
durable before the request leaves. Replacing `swarm-node.crt` is what makes it the node's key, so a
crash at any point leaves a certificate whose key is in one of the two files. While the node is
locked on, both files are locked: every change of the lock replaces the pending one first. Of what a
pending file says only the TLS key counts, until `write_renewed` puts the present DEKs beside it.
"""

import enum
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from swarmlet.ca.identity import check_self_signed, verify_chain
from swarmlet.ca.key_file import (
    KEY_FILE,
    PENDING_FILE,
    REMEDY,
    KeyFiles,
    NodeKeys,
    decode_keys,
    encode_keys,
)
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.unlock_key import UNLOCKED, Kek, WrongKeyError, is_newer
from swarmlet.core.errors import DamagedError, LockedError
from swarmlet.core.identity import Identity
from swarmlet.env.base import write_atomic
from swarmlet.wire.credentials import Credentials

ROOT_FILE: Final = "swarm-root-ca.crt"
CERT_FILE: Final = "swarm-node.crt"


class LockChange(enum.Enum):
    """What another unlock key made of the key file."""

    NONE = "none"
    LOCKED = "locked"
    ROTATED = "rotated"
    UNLOCKED = "unlocked"


class NodeFiles(KeyFiles):
    """The folder `certificates/` of a data directory. Whatever reads keys raises LockedError where
    the unlock key is needed first, WrongKeyError where `holder` has another one, DamagedError.

    What writes is called in one thread, so that each call finds what the one before has written.
    """

    def write(self, root_pem: bytes, chain_pem: bytes, keys: NodeKeys, kek: Kek = UNLOCKED) -> None:
        """Replace all three files, durably; the certificate comes last."""
        self._holder.kek = kek
        self.write_root(root_pem)
        self._write_keys(KEY_FILE, keys)
        self._write_certificate(chain_pem)

    def write_root(self, root_pem: bytes) -> None:
        """Trust this bundle from now on: the present certificate must be valid under it."""
        self._disk.make_dir(self._directory, 0o700)
        write_atomic(self._disk, self._path(ROOT_FILE), [root_pem], 0o644)

    def read_root(self) -> bytes:
        """The bundle, before there is a certificate. Raises DamagedError."""
        return self._read(ROOT_FILE)

    def write_renewed(
        self, chain_pem: bytes, keys: NodeKeys | None = None, kek: Kek | None = None
    ) -> None:
        """The certificate of the pending key: from here on both are this node's own. `keys`, under
        the lock `kek`: of a node whose role is another one from now on."""
        if keys is None:
            keys = self.pending()
            if keys is None:
                raise DamagedError(f"{self._path(PENDING_FILE)} is missing.", REMEDY)
            if self._disk.exists(self._path(KEY_FILE)):
                keys = _renewed(self._keys_in(KEY_FILE), keys)
        if kek is None:
            kek = self._holder.kek
        else:
            self._drop_torn()
        content, path = encode_keys(keys, kek), self._path(PENDING_FILE)
        if not self._disk.exists(path) or self._disk.read(path) != content:
            write_atomic(self._disk, path, [content], 0o600)
        self._write_certificate(chain_pem)
        self._holder.kek = kek
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
        """Who this node is, by its own certificate, whatever its dates."""
        return self._verified()[0]

    def own_identity(self) -> OwnIdentity:
        """What the node shows and trusts, to begin with."""
        identity, root_pem, chain_pem, keys = self._verified()
        credentials = Credentials(root_pem=root_pem, chain_pem=chain_pem, key_pem=keys.tls_key_pem)
        return OwnIdentity(credentials, identity)

    # The lock

    def unlock(self, unlock_key: bytes) -> None:
        """Read with this key from now on. Raises WrongKeyError, and nothing changed."""
        before, self._holder.kek = self._holder.kek, Kek(key=unlock_key)
        try:
            if self.has_certificate():
                self._verified()
            elif (found := self._pending_in_lock(unlock_key)) is not None:
                self._holder.kek = found[1]
        except BaseException:
            self._holder.kek = before
            raise

    def take_kek(self, kek: Kek) -> LockChange:
        """Lock the files with this key in place of the present one, or unlock them, where it is
        newer; keys that were on the disk in the clear are marked. A worker is never locked. Raises
        DamagedError."""
        identity, _, _, keys = self._verified()
        present = self._holder.kek
        if identity.role != "manager" or not is_newer(kek, present):
            return LockChange.NONE
        change = _change(present, kek)
        if change is not LockChange.ROTATED:
            keys = _marked(keys, is_clear=kek.locks)
        self._drop_torn()
        self._relock_pending(kek, change)
        write_atomic(self._disk, self._path(KEY_FILE), [encode_keys(keys, kek)], 0o600)
        self._holder.kek = kek
        return change

    def change_keys(self, change: Callable[[NodeKeys], NodeKeys]) -> NodeKeys:
        """What `change` makes of the present keys, durable on return. It leaves the TLS key as it
        is."""
        _, _, keys = self.read()
        changed = change(keys)
        if changed != keys:
            self._write_keys(KEY_FILE, changed)
        return changed

    def _relock_pending(self, kek: Kek, change: LockChange) -> None:
        try:
            found = self._pending_in_lock(self._holder.kek.key)
        except (DamagedError, LockedError, WrongKeyError):
            self.drop_pending()  # of no use to anybody: the next request has another key
            return
        if found is not None:
            keys = found[0]
            if change is LockChange.LOCKED:
                keys = replace(keys, tls_key_needs_rotation=True)
            write_atomic(self._disk, self._path(PENDING_FILE), [encode_keys(keys, kek)], 0o600)

    # Inside

    def _verified(self) -> tuple[Identity, bytes, bytes, NodeKeys]:
        root_pem, chain_pem = self._read(ROOT_FILE), self._read(CERT_FILE)
        with self._readable(ROOT_FILE):
            check_self_signed(root_pem)
        with self._readable(CERT_FILE):
            identity = verify_chain(chain_pem, root_pem, None)
        keys, self._holder.kek = self._keys_of(chain_pem, self._holder.kek.key)
        return identity, root_pem, chain_pem, keys

    def _keys_of(self, chain_pem: bytes, unlock_key: bytes) -> tuple[NodeKeys, Kek]:
        """The keys of the certificate; a pending key that is its key becomes the key."""
        refusal: LockedError | WrongKeyError | None = None
        if self._disk.exists(self._path(KEY_FILE)):
            try:
                found = decode_keys(self._read(KEY_FILE), self._path(KEY_FILE), unlock_key)
            except (LockedError, WrongKeyError) as error:
                refusal = error  # of a node that is a worker by now, the pending key is not locked
            else:
                if self._is_for(chain_pem, found[0], KEY_FILE):
                    return found
        pending = self._pending_for(chain_pem, unlock_key, refusal)
        if pending is not None:
            self._promote_pending()
            return pending
        if refusal is not None:
            raise refusal
        self._read(KEY_FILE)  # where it is missing, that is what to say
        raise DamagedError(
            f"{self._path(CERT_FILE)} does not belong to the key in {KEY_FILE}.", REMEDY
        )

    def _pending_for(
        self, chain_pem: bytes, unlock_key: bytes, refusal: LockedError | WrongKeyError | None
    ) -> tuple[NodeKeys, Kek] | None:
        """The pending keys, where they are those of the certificate."""
        try:
            pending = self._pending_in_lock(unlock_key)
        except (DamagedError, LockedError, WrongKeyError):
            if refusal is not None:
                raise refusal from None
            raise
        if pending is not None and self._is_for(chain_pem, pending[0], PENDING_FILE):
            return pending
        return None

    def _write_certificate(self, chain_pem: bytes) -> None:
        write_atomic(self._disk, self._path(CERT_FILE), [chain_pem], 0o644)


def _renewed(present: NodeKeys, pending: NodeKeys) -> NodeKeys:
    """The present keys with the TLS key of a renewal."""
    return replace(
        present,
        tls_key_pem=pending.tls_key_pem,
        tls_key_needs_rotation=pending.tls_key_needs_rotation,
    )


def _marked(keys: NodeKeys, *, is_clear: bool) -> NodeKeys:
    return replace(keys, raft_dek_needs_rotation=is_clear, tls_key_needs_rotation=is_clear)


def _change(present: Kek, kek: Kek) -> LockChange:
    if not kek.locks:
        return LockChange.UNLOCKED
    return LockChange.ROTATED if present.locks else LockChange.LOCKED
