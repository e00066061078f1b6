"""Amounts of memory and CPU as people write them: `64M`, `1.5GiB`, `0.5` CPUs (Docker's units)."""

import re
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import UINT63_MAX

_NANO: Final = 1_000_000_000
_FACTORS_B: Final[dict[str, int]] = {
    unit: 1024**power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))
}
_SIZE: Final = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,19}))? ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_CPUS: Final = re.compile(r"([0-9]{0,10})(?:\.([0-9]{1,9}))?")


def parse_size(text: str) -> int:
    """Bytes; units are powers of 1024, as Docker counts memory. Raises InvalidArgumentError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(
            f"invalid size {text[:64]!r}", remedy="Write a number with a unit, such as 64M or 1.5G."
        )
    factor, fraction = _FACTORS_B[found[3].lower()], found[2] or ""
    share: int = 10 ** len(fraction)
    size_b = int(found[1]) * factor + int(fraction or "0") * factor // share
    if size_b > UINT63_MAX:
        raise InvalidArgumentError(f"invalid size {text!r}: it does not fit 63 bits")
    return size_b


def parse_cpus(text: str) -> int:
    """Nano CPUs of a decimal number of CPUs, exactly. Raises InvalidArgumentError."""
    found = _CPUS.fullmatch(text)
    if found is None or not (found[1] or found[2]):
        raise InvalidArgumentError(
            f"invalid number of CPUs {text[:64]!r}",
            remedy="Write a decimal number with at most nine decimals, such as 0.5 or 2.",
        )
    nano = int(found[1] or "0") * _NANO + int((found[2] or "").ljust(9, "0"))
    if nano > UINT63_MAX:
        raise InvalidArgumentError(f"invalid number of CPUs {text!r}: it does not fit 63 bits")
    return nano
