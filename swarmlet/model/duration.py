"""Durations as people write them: `90s`, `1h30m`, `1.5m` (Go's time.ParseDuration)."""

import re
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_S, UINT63_MAX

_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
}
_LENGTH_MAX: Final = 64  # characters; every unit with nineteen digits would not fit 64 bits anyway
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises InvalidArgumentError; a negative duration is one of its reasons."""
    if text in ("0", "+0"):
        return 0
    rest = text.removeprefix("+")
    if rest.startswith("-"):
        raise InvalidArgumentError(f"invalid duration {text!r}: it must not be negative")
    total, at = 0, 0
    if not rest or len(rest) > _LENGTH_MAX:
        raise _invalid(text)
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or not (part[1] or part[2]):
            raise _invalid(text)
        total += _part_ns(part)
        at = part.end()
    if total > UINT63_MAX:
        raise InvalidArgumentError(f"invalid duration {text!r}: it is longer than 292 years")
    return total


def _part_ns(part: re.Match[str]) -> int:
    unit_ns, fraction = _UNITS_NS[part[3]], part[2] or ""
    share = int(10 ** len(fraction))
    return int(part[1] or "0") * unit_ns + int(fraction or "0") * unit_ns // share


def _invalid(text: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"invalid duration {text[:_LENGTH_MAX]!r}",
        remedy="Write numbers with units, such as 10s, 1m30s or 500ms (h, m, s, ms, us, ns).",
    )


def format_duration(duration_ns: int) -> str:
    """As Go prints it: 0s, 500ms, 1.5s, 1m30s, 2160h0m0s."""
    if duration_ns < 0:
        return "-" + format_duration(-duration_ns)
    if 0 < duration_ns < NS_PER_S:
        unit = next(u for u in ("ms", "µs", "ns") if duration_ns >= _UNITS_NS[u])
        return f"{_decimal(duration_ns, _UNITS_NS[unit])}{unit}"
    minutes, rest_ns = divmod(duration_ns, 60 * NS_PER_S)
    seconds = f"{_decimal(rest_ns, NS_PER_S)}s"
    if not minutes:
        return seconds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"
