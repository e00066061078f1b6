"""Object ids: 25 characters of base 36, about 129 bits of entropy (SwarmKit
identity)."""

from collections.abc import Callable
from typing import Final, NewType

ClusterID = NewType("ClusterID", str)
NodeID = NewType("NodeID", str)
ServiceID = NewType("ServiceID", str)
TaskID = NewType("TaskID", str)
SecretID = NewType("SecretID", str)
ConfigID = NewType("ConfigID", str)
NetworkID = NewType("NetworkID", str)
VolumeID = NewType("VolumeID", str)
JoinTokenID = NewType("JoinTokenID", str)
RaftID = NewType("RaftID", int)

Entropy = Callable[[int], bytes]
"""`entropy(n)` returns n unpredictable bytes; seeded in the simulation."""

ID_LENGTH: Final = 25  # characters; SwarmKit identity/randomid.go
_ID_ENTROPY_B: Final = 17  # 136 bits, the lowest 129 of which survive the cut to 25 digits
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple(a + b for a in _DIGITS for b in _DIGITS)  # triples would cost 2.8 MiB


def base36(number: int, width: int) -> str:
    """`number` in base 36, lower case, left-padded with zeros to at least `width` digits."""
    parts: list[str] = []
    while number:
        number, low = divmod(number, len(_PAIRS))  # two digits at a time
        parts.append(_PAIRS[low])
    return "".join(reversed(parts)).lstrip("0").rjust(width, "0")


def new_id(entropy: Entropy) -> str:
    """A fresh object id: always exactly 25 characters of [0-9a-z]."""
    number = int.from_bytes(entropy(_ID_ENTROPY_B), "big") | (1 << (_ID_ENTROPY_B * 8 - 1))
    return base36(number, ID_LENGTH + 1)[-ID_LENGTH:]


def is_id(text: str) -> bool:
    """Whether `text` has the form of a full object id."""
    return len(text) == ID_LENGTH and all(c in _DIGITS for c in text)
