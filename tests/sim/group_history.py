"""Whether what clients saw is what one register a key would have shown them, one call at a time.

Every value is written once, so the question has an exact and quick answer (Gibbons and Korach,
"Testing Shared Memories", 1997): the calls around one value, its write and its reads, make a
cluster. Where the first end in it is before its last begin, the register must have held that value
in all the time between (a forward zone); else there is a moment at which all of them can have been
(a backward zone). The history can be put in order exactly where no two forward zones overlap and no
backward zone lies within a forward one.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise

NEVER = float("inf")
INITIAL = None  # what a key holds before its first write


@dataclass(slots=True)
class Call:
    """A write, or a read, of one key. Moments are the order in which things happened: no two are
    equal. `end` is NEVER where nobody knows what became of a write: it may take effect at any later
    time, or never. A write that was refused and a read without an answer are not of the history."""

    key: Hashable
    value: Hashable
    is_read: bool
    begin: float
    end: float = NEVER


@dataclass(slots=True)
class _Zone:
    value: Hashable
    written: float  # when the write began
    first_end: float
    last_begin: float
    is_read: bool = False

    @property
    def is_forward(self) -> bool:
        return self.first_end < self.last_begin

    @property
    def low(self) -> float:
        return min(self.first_end, self.last_begin)

    @property
    def high(self) -> float:
        return max(self.first_end, self.last_begin)


def why_not_linearizable(calls: Iterable[Call]) -> str:
    """What is wrong, or nothing."""
    by_key: dict[Hashable, list[Call]] = {}
    for call in calls:
        by_key.setdefault(call.key, []).append(call)
    for key, of_key in by_key.items():
        wrong = _wrong_with(of_key)
        if wrong:
            return f"key {key}: {wrong}"
    return ""


def _wrong_with(calls: list[Call]) -> str:
    zones, wrong = _zones(calls)
    if wrong:
        return wrong
    forward = sorted((z for z in zones if z.is_forward), key=lambda zone: zone.low)
    for one, other in pairwise(forward):
        if other.low < one.high:
            return f"{one.value} and {other.value} must both have been there at {other.low}"
    for zone in zones:
        if not zone.is_forward:
            around = _around(forward, zone)
            if around is not None:
                return (
                    f"{zone.value} was there between {zone.low} and {zone.high}, when only "
                    f"{around.value} can have been"
                )
    return ""


def _around(forward: list[_Zone], zone: _Zone) -> _Zone | None:
    """The forward zone in which all of `zone` lies. They do not overlap: at most one can."""
    low, high = 0, len(forward)
    while low < high:
        middle = (low + high) // 2
        if forward[middle].low < zone.low:
            low = middle + 1
        else:
            high = middle
    if low and zone.high < forward[low - 1].high:
        return forward[low - 1]
    return None


def _zones(calls: list[Call]) -> tuple[list[_Zone], str]:
    zones = {INITIAL: _Zone(INITIAL, -1.0, -1.0, -2.0)}
    for call in calls:
        if not call.is_read:
            if call.value in zones:
                return [], f"{call.value} was written twice"
            zones[call.value] = _Zone(call.value, call.begin, call.end, call.begin)
    for call in calls:
        if call.is_read:
            zone = zones.get(call.value)
            if zone is None or call.end < zone.written:
                return [], f"{call.value} was read at {call.end}, and not written yet"
            zone.is_read = True
            zone.first_end = min(zone.first_end, call.end)
            zone.last_begin = max(zone.last_begin, call.begin)
    # A write of which nobody knows anything, and which nobody read, need not have happened.
    return [z for z in zones.values() if z.is_read or z.first_end < NEVER], ""
