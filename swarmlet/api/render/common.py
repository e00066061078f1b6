"""What all objects share: versions and times."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from swarmlet.model.base import ApiStruct

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""What Go prints for a time that never was."""


class ObjectVersion(ApiStruct, frozen=True, kw_only=True):
    index: int = 0


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(at_ms: int) -> str:
    """A wall time as RFC 3339 in UTC, the fraction's last zeros trimmed; 0 is `ZERO_TIME`."""
    if not at_ms:
        return ZERO_TIME
    seconds, ms = divmod(at_ms, 1000)
    if not ms:
        return _to_the_second(seconds) + "Z"
    return f"{_to_the_second(seconds)}.{ms:03d}".rstrip("0") + "Z"


def rfc3339_fixed(at_ns: int) -> str:
    """A wall time with all nine digits of the fraction, as log lines have it."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{ns:09d}Z"
