"""How docker writes tables, ages and sizes."""

import re
from collections.abc import Sequence
from typing import Final

CELL_WIDTH_MIN: Final = 10  # characters with padding; docker's tabwriter
CELL_PADDING: Final = 3
SHORT_ID_LENGTH: Final = 12
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_DAYS_OF_400_YEARS: Final = 146_097
_DAYS_TO_1970: Final = 719_468  # from 0000-03-01, where the count of days begins


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with every column but the last padded to its widest cell and three spaces."""
    columns = list(zip(*rows, strict=True))[:-1]
    widths = [max(CELL_WIDTH_MIN, max(map(len, cells)) + CELL_PADDING) for cells in columns]
    lines: list[str] = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join([*padded, row[-1]]))
    return lines


def short_id(object_id: str, *, no_trunc: bool = False) -> str:
    return object_id if no_trunc else object_id[:SHORT_ID_LENGTH]


def natural(text: str) -> list[str | int]:
    """A sort key that puts web.2 before web.10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)]


def capital(text: str) -> str:
    """The first letter in upper case, as docker prints states."""
    return text[:1].upper() + text[1:]


def without_digest(image: str, *, no_trunc: bool = False) -> str:
    """name:tag of name:tag@sha256:..."""
    return image if no_trunc else image.partition("@")[0]


def one_line(text: str) -> str:
    """`text` without what would break a table or a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def ago(stamp: str, now_s: float) -> str:
    """ "3 minutes ago" of an RFC 3339 stamp, as docker says it; "" for none."""
    if not stamp or stamp.startswith("0001-"):
        return ""
    return f"{human_duration(now_s - epoch_s(stamp))} ago"


def expiry(stamp: str, now_s: float) -> str:
    """ "in 89 days", "in 5 hours" or "2 days ago" of an RFC 3339 stamp; "" for none."""
    if not stamp:
        return ""
    left_s = epoch_s(stamp) - now_s
    for unit, unit_s in (("days", _DAY_S), ("hours", _HOUR_S), ("minutes", _MINUTE_S)):
        if (count := int(abs(left_s) / unit_s)) > 1:
            return f"in {count} {unit}" if left_s > 0 else f"{count} {unit} ago"
    return "within 2 minutes" if left_s > 0 else "just now"


def human_duration(duration_s: float) -> str:
    """Docker's words (go-units HumanDuration)."""
    seconds, minutes = int(duration_s), int(duration_s / _MINUTE_S)
    hours = int(duration_s / _HOUR_S + 0.5)
    for limit, text in (
        (seconds < 1, "Less than a second"),
        (seconds == 1, "1 second"),
        (seconds < _MINUTE_S, f"{seconds} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    ):
        if limit:
            return text
    return f"{int(duration_s / _HOUR_S) // 24 // 365} years"


def epoch_s(stamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 stamp in UTC; datetime would cost a tenth of a listing."""
    date, _, clock = stamp.rstrip("Z").partition("T")
    year, month, day = (int(part) for part in date.split("-"))
    hour, minute, second = clock.split("+")[0].split(":")
    return _days(year, month, day) * 86_400 + int(hour) * 3_600 + int(minute) * 60 + float(second)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar (Hinnant's days_from_civil)."""
    year -= month <= 2  # years begin in March, so that the leap day is the last
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    of_days = of_era * 365 + of_era // 4 - of_era // 100 + of_year
    return era * _DAYS_OF_400_YEARS + of_days - _DAYS_TO_1970


def long_time(stamp: str) -> str:
    """`2026-11-22 18:02:40.8 +0000 utc`, as docker's --pretty prints a stamp."""
    return f"{stamp.rstrip('Z').replace('T', ' ', 1)} +0000 utc"


def human_size(size_b: float) -> str:
    """23.54GiB: four digits and a binary unit (go-units BytesSize)."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size_b < 1024 or unit == "PiB":
            break
        size_b /= 1024
    return f"{size_b:.4g}{unit}"
