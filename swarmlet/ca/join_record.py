"""What a node that joins must know after a restart, in one sealed file."""

from typing import Final

import msgspec

from swarmlet.ca.node_files import NodeFiles
from swarmlet.core.errors import DamagedError
from swarmlet.core.ids import Entropy
from swarmlet.env.base import Disk
from swarmlet.env.sealed import SealedWriter, SealKey, read_sealed, seal_key
from swarmlet.model.base import hidden

_PURPOSE: Final = b"swarmlet joining"


class JoinRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A join under way, as the user asked for it: addresses as host:port, none where managers are
    looked for on the local network. `node_id` and `manager_addr` are known once a manager has taken
    the request down."""

    token: str
    remote_addrs: tuple[str, ...] = ()
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    availability: str = ""
    announce: bool = False
    runtime: str = ""
    node_id: str = ""
    manager_addr: str = ""

    __repr__ = hidden


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JoinRecord).decode


class JoinRecordFile:
    """The record at `path`, sealed with a key that the node's own key file carries: that file
    comes first and goes last. Whatever reads or writes raises LockedError where that is locked."""

    def __init__(self, disk: Disk, path: str, files: NodeFiles, entropy: Entropy) -> None:
        self._disk, self._path, self._files, self._entropy = disk, path, files, entropy

    def exists(self) -> bool:
        return self._disk.exists(self._path)

    def write(self, joining: JoinRecord) -> None:
        """Durable on return."""
        self._disk.make_dir(self._path.rpartition("/")[0], 0o700)
        writer = SealedWriter(
            self._disk, self._path, self._key(), purpose=_PURPOSE, entropy=self._entropy
        )
        try:
            writer.add(_encode(joining))
            writer.finish()
        except Exception:
            writer.abort()
            raise

    def read(self) -> JoinRecord:
        """Raises DamagedError, FileNotFoundError."""
        raw = b"".join(read_sealed(self._disk, self._path, self._key(), purpose=_PURPOSE))
        try:
            return _decode(raw)
        except msgspec.MsgspecError as error:
            raise DamagedError(
                f"{self._path} cannot be read: {error}.",
                remedy="Leave with `swarmlet leave --force`, then join again.",
            ) from error

    def remove(self) -> None:
        self._disk.remove(self._path)

    def _key(self) -> SealKey:
        keys = self._files.pending()
        if keys is None:
            _, _, keys = self._files.read()
        return seal_key(keys.join_dek or keys.node_dek)
