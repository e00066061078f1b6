"""When a schedule comes due: cron expressions in a time zone, by the one door to `cronsim`.

Pure but for the time zone database, a table that the host (else the package `tzdata`) brings, as it
brings the letters of Unicode. Managers whose databases differ agree all the same: the one that
leads decides, and what it decided is stored.

What clock changes do is what Debian's cron does. An expression whose minute and hour are both given
(`30 2 * * *`) comes due exactly once a day that it names: where the clock jumps over its time, at
the first moment after the gap, and of a time that comes twice, the first. One whose minute or hour
begins with a star follows the clock on the wall: hours that are skipped have no fires, hours that
come twice have them twice.
"""

import difflib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import MS_PER_S

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
EXAMPLE: Final = "Say minute, hour, day of month, month and day of week, as in '0 */6 * * *'."
FIELDS: Final = 5
LENGTH_MAX: Final = 256
COUNT_MAX: Final = 100
"""Fires that went by together are counted up to here."""

_CHECKED_FROM: Final = datetime(2024, 1, 1, tzinfo=UTC)
_ZONE_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_OF_HOSTS: Final = ("localtime", "posixrules", "Factory", "posix/", "right/")
"""In many databases, and no zone: they mean the host's own, or count leap seconds."""

_DAY_MS: Final = 24 * 3600 * MS_PER_S
_LOOKS_BACK_MS: Final = tuple(int(days * _DAY_MS) for days in (1 / 24, 1, 32, 366, 3000))
"""How far back the last of very many fires is looked for, the nearest first."""


class Cron(NamedTuple):
    """A schedule that was checked. Times are wall clock in ms since 1970, fires whole minutes."""

    expression: str
    zone: str = "UTC"

    def next_after(self, after_ms: int) -> int | None:
        """The first fire after that moment; None where there is none within fifty years."""
        return next(self._after(after_ms), None)

    def due(self, after_ms: int, now_ms: int) -> "Due | None":
        """What came due after `after_ms` and by `now_ms`; None where nothing did. Its work is
        bounded, however long ago `after_ms` is."""
        fires = list(islice(self._until(after_ms, now_ms), COUNT_MAX + 1))
        if not fires:
            return None
        if len(fires) <= COUNT_MAX:
            return Due(first_ms=fires[0], last_ms=fires[-1], fires=len(fires))
        return Due(first_ms=fires[0], last_ms=self._last(fires[-1], now_ms), fires=len(fires))

    def _last(self, known_ms: int, now_ms: int) -> int:
        """The last fire by `now_ms`, of more than a list is made of. `known_ms` is one of them."""
        for back_ms in _LOOKS_BACK_MS:
            last = None
            for last in self._until(max(known_ms, now_ms - back_ms), now_ms):  # noqa: B007
                pass
            if last is not None:
                return last
        return known_ms

    def _until(self, after_ms: int, until_ms: int) -> Iterator[int]:
        for at_ms in self._after(after_ms):
            if at_ms > until_ms:
                return
            yield at_ms

    def _after(self, after_ms: int) -> Iterator[int]:
        """All fires after that moment. In an hour that the clock shows twice the library may name
        one that is over: those are left out."""
        start = datetime.fromtimestamp(after_ms // MS_PER_S, UTC).astimezone(_zone(self.zone))
        for fire in CronSim(self.expression, start):
            at_ms = int(fire.timestamp()) * MS_PER_S
            if at_ms > after_ms:
                yield at_ms


class Due(NamedTuple):
    """Fires that came due: the first, the last and how many; COUNT_MAX + 1 stands for more."""

    first_ms: int
    last_ms: int
    fires: int


def parse_cron(expression: str, zone: str = "UTC") -> Cron:
    """Raises InvalidArgumentError for what is no expression, never comes due, or no time zone."""
    words = " ".join(expression.split())
    text = NICKNAMES.get(words.lower(), words)
    _check_zone(zone)
    _check_words(expression, text)
    try:
        first = next(CronSim(text, _CHECKED_FROM), None)
    except CronSimError as error:
        raise _invalid(expression, _said(error)) from None
    if first is None:
        raise _invalid(expression, "it never comes due")
    return Cron(expression=text, zone=zone)


def _said(error: CronSimError) -> str:
    word = str(error).removeprefix("Bad ")
    return f"its {word} is not valid" if word != str(error) else str(error).lower()


def _invalid(expression: str, fact: str, remedy: str = EXAMPLE) -> InvalidArgumentError:
    return InvalidArgumentError(f"invalid schedule {expression!r}: {fact}", remedy=remedy)


def _check_words(expression: str, text: str) -> None:
    if len(expression) > LENGTH_MAX:
        raise InvalidArgumentError(
            f"invalid schedule: it has {len(expression)} characters, of at most {LENGTH_MAX}",
            remedy=EXAMPLE,
        )
    if "TZ=" in text.upper():
        zone = "Give the time zone apart from it: --schedule-timezone Europe/Berlin."
        raise _invalid(expression, "a time zone is no part of it", zone)
    if text.startswith("@"):
        known = ", ".join(sorted(NICKNAMES))
        raise _invalid(expression, "that name is not known", f"There are {known}. {EXAMPLE}")
    if len(text.split()) != FIELDS:
        raise _invalid(expression, f"it has {len(text.split())} fields, and must have {FIELDS}")


def _check_zone(name: str) -> None:
    try:
        if _ZONE_NAME.fullmatch(name) and not name.startswith(_OF_HOSTS):
            _zone(name)
            return
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass  # said below
    raise InvalidArgumentError(f"unknown time zone {name!r}", remedy=_zone_remedy(name))


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _zone_remedy(name: str) -> str:
    """Places that are called nearly so: Berlin, or europe/berlin, is Europe/Berlin."""
    places = [zone for zone in sorted(available_timezones()) if "/" in zone]
    known = {zone.rpartition("/")[2].lower(): zone for zone in places}
    known |= {zone.lower(): zone for zone in places if not zone.startswith(_OF_HOSTS)}
    close = difflib.get_close_matches(name.lower().replace(" ", "_"), known, n=1, cutoff=0.75)
    if close:
        return f"Did you mean {known[close[0]]}?"
    return "Say a name of the time zone database, such as UTC or Europe/Berlin."
