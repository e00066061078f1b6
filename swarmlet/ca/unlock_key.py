"""The key that locks managers (KEK): its text, its place in the cluster's row, which one is newer.

It is 32 random bytes, one for the whole swarm. People see it as `SWMKEY-1-` and the base 64 of it
without padding. Its version is the version of the cluster's row that brought it.
"""

import base64
import binascii
import hmac
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError, InvalidArgumentError, UnauthorizedError
from swarmlet.core.ids import Entropy
from swarmlet.model.base import hidden
from swarmlet.model.cluster import Cluster, UnlockKey
from swarmlet.wire.node_api import UnlockKeyAnswer

UNLOCK_SUBSYSTEM: Final = "swarm-manager"  # SwarmKit ca.ManagerRole
UNLOCK_KEY_SIZE_B: Final = 32
_PREFIX: Final = "SWMKEY-1-"
_TEXT_LENGTH: Final = 43  # of 32 bytes in base 64, without padding


class WrongKeyError(UnauthorizedError):
    """This is not the key that the node's data are locked with; Docker's words."""

    code = "wrong-unlock-key"


class Kek(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager's key file is sealed with; an empty `key` seals nothing."""

    key: bytes = b""
    version: int = 0

    __repr__ = hidden

    @property
    def locks(self) -> bool:
        return bool(self.key)


UNLOCKED: Final = Kek()


def new_unlock_key(entropy: Entropy) -> bytes:
    return entropy(UNLOCK_KEY_SIZE_B)


def unlock_key_text(key: bytes) -> str:
    """As people get it; "" for no key."""
    return _PREFIX + base64.b64encode(key).decode().rstrip("=") if key else ""


def parse_unlock_key(text: str) -> bytes:
    """Raises InvalidArgumentError, which repeats nothing of the text."""
    said = text.strip()
    try:
        if not said.startswith(_PREFIX) or len(said) != len(_PREFIX) + _TEXT_LENGTH:
            raise ValueError("not of this form")  # noqa: TRY301 - one way out for all of it
        return base64.b64decode(said.removeprefix(_PREFIX).encode("ascii") + b"=", validate=True)
    except (ValueError, binascii.Error):
        raise InvalidArgumentError(
            "invalid key string",
            remedy=f"It begins with {_PREFIX} and has {len(_PREFIX) + _TEXT_LENGTH} characters; "
            "`swarmlet unlock-key -q` on a manager that is not locked prints it.",
        ) from None


def wrong_key() -> WrongKeyError:
    return WrongKeyError(
        "swarm could not be unlocked: invalid key provided",
        remedy="`swarmlet unlock-key -q` on another manager prints the present key. If it was "
        "rotated while this one was off, the key before is the one.",
    )


def kek_of(cluster: Cluster) -> Kek:
    """What the managers of this swarm are to be locked with."""
    found = [one.key for one in cluster.unlock_keys if one.subsystem == UNLOCK_SUBSYSTEM]
    locks = cluster.spec.encryption_config.auto_lock_managers
    return Kek(key=found[0] if locks and found else b"", version=cluster.version)


def unlock_keys_with(key: bytes) -> tuple[UnlockKey, ...]:
    """The cluster's `unlock_keys`; none for no key."""
    return (UnlockKey(subsystem=UNLOCK_SUBSYSTEM, key=key),) if key else ()


def answer_of(kek: Kek) -> UnlockKeyAnswer:
    """As a manager tells it to another."""
    return UnlockKeyAnswer(key=base64.b64encode(kek.key).decode(), version=kek.version)


def kek_in(answer: UnlockKeyAnswer) -> Kek:
    """Raises UnauthorizedError where that is no key: whoever says so is no manager of ours."""
    try:
        key = base64.b64decode(answer.key.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        key = b"?"
    if len(key) not in (0, UNLOCK_KEY_SIZE_B):
        raise UnauthorizedError("The unlock key that a manager told is none.")
    return Kek(key=key, version=answer.version)


def is_newer(candidate: Kek, present: Kek) -> bool:
    """Whether `candidate` takes the place of `present` (SwarmKit's compareKEKs).

    Raises DamagedError where both are of one version, and differ.
    """
    is_same = hmac.compare_digest(candidate.key, present.key)
    if candidate.version == present.version and not is_same:
        raise DamagedError(
            f"There are two unlock keys of version {present.version}.",
            remedy="Rotate the key: `swarmlet unlock-key --rotate`.",
        )
    return candidate.version > present.version and not is_same
