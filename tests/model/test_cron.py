"""When schedules come due: expressions, time zones, clock changes, and what is none of them."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.cron import COUNT_MAX, LENGTH_MAX, NICKNAMES, Cron, Due, parse_cron

BERLIN = "Europe/Berlin"
ZONES = ("UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo")
EXPRESSIONS = (
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "*/20 2 * * *",
    "0 */6 * * *",
    "15 0,2,3 * * *",
    "0 9 * * MON-FRI",
    "0 0 L * *",
    "59 23 29 2 *",
)
HOUR_MS = 3_600_000


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def fires(cron: Cron, after: str, count: int) -> list[str]:
    """On the wall, with the offset, since an hour may come twice."""
    after_ms, found = ms(after, cron.zone), []
    for _ in range(count):
        after_ms = cron.next_after(after_ms)
        wall = datetime.fromtimestamp(after_ms / 1000, ZoneInfo(cron.zone))
        found.append(wall.isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 */6 * * *", "2026-11-23T05:59", ["2026-11-23T06:00+00:00", "2026-11-23T12:00+00:00"]),
        ("30 2 * * *", "2026-11-23T02:30", ["2026-11-24T02:30+00:00"]),
        ("0 9 * * mon-fri", "2026-11-27T09:00", ["2026-11-30T09:00+00:00"]),
        ("0 0 13 * fri", "2026-11-23T00:00", ["2026-11-27T00:00+00:00", "2026-12-04T00:00+00:00"]),
        ("0 0 L 2 *", "2027-01-01T00:00", ["2027-02-28T00:00+00:00", "2028-02-29T00:00+00:00"]),
        ("@daily", "2026-11-23T00:00", ["2026-11-24T00:00+00:00"]),
        (" 0   4 * *  7 ", "2026-11-23T00:00", ["2026-11-29T04:00+00:00"]),
    ],
)
def test_a_schedule_comes_due_at_the_minutes_it_names(expression, after, expected):
    assert fires(parse_cron(expression), after, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "30 2 * * *",
            ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
        ),
        (
            "0 2,3 * * *",
            ["2026-03-28T02:00+01:00", "2026-03-28T03:00+01:00", "2026-03-29T03:00+02:00"],
        ),
        (
            "*/30 2 * * *",
            ["2026-03-28T02:00+01:00", "2026-03-28T02:30+01:00", "2026-03-30T02:00+02:00"],
        ),
        (
            "0 3 * * *",
            ["2026-03-28T03:00+01:00", "2026-03-29T03:00+02:00", "2026-03-30T03:00+02:00"],
        ),
    ],
)
def test_a_time_that_the_clock_jumps_over_comes_due_after_the_gap(expression, expected):
    assert fires(parse_cron(expression, BERLIN), "2026-03-28T00:00", 3) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "30 2 * * *",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00", "2026-10-27T02:30+01:00"],
        ),
        (
            "30 * 25 10 *",
            [
                "2026-10-25T00:30+02:00",
                "2026-10-25T01:30+02:00",
                "2026-10-25T02:30+02:00",
                "2026-10-25T02:30+01:00",
                "2026-10-25T03:30+01:00",
            ],
        ),
    ],
)
def test_a_time_that_comes_twice_comes_due_once_and_every_hour_in_both(expression, expected):
    assert fires(parse_cron(expression, BERLIN), "2026-10-24T22:00", len(expected)) == expected


def test_a_daily_time_in_the_second_of_two_equal_hours_is_not_due_again():
    cron = parse_cron("30 2 * * *", BERLIN)
    second = ms("2026-10-25T00:30") + HOUR_MS - 60_000  # 02:29 again
    assert cron.next_after(second) == ms("2026-10-26T01:30")


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.integers(ms("2024-01-01"), ms("2030-01-01")),
)
@settings(max_examples=150, deadline=None)
def test_fires_follow_each_other_and_are_whole_minutes(expression, zone, after_ms):
    cron, before_ms = parse_cron(expression, zone), after_ms
    for _ in range(6):
        fire_ms = cron.next_after(before_ms)
        assert fire_ms > before_ms
        assert fire_ms % 60_000 == 0
        before_ms = fire_ms


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.integers(ms("2025-01-01"), ms("2027-01-01")),
    st.integers(0, 3 * 24 * HOUR_MS),
)
@settings(max_examples=100, deadline=None)
def test_what_came_due_is_what_came_after_one_another(expression, zone, after_ms, span_ms):
    cron, now_ms = parse_cron(expression, zone), after_ms + span_ms
    found, fire_ms = [], cron.next_after(after_ms)
    while fire_ms <= now_ms:
        found.append(fire_ms)
        fire_ms = cron.next_after(fire_ms)
    due = cron.due(after_ms, now_ms)
    if not found:
        assert due is None
    elif len(found) <= COUNT_MAX:
        assert due == Due(first_ms=found[0], last_ms=found[-1], fires=len(found))
    else:
        assert due == Due(first_ms=found[0], last_ms=found[-1], fires=COUNT_MAX + 1)


@pytest.mark.parametrize(
    ("expression", "last"),
    [
        ("* * * * *", "2026-11-23T12:34"),
        ("0 0 * * *", "2026-11-23T00:00"),
        ("0 0 1 1 *", "2026-01-01T00:00"),
        ("0 0 29 2 *", "2024-02-29T00:00"),
    ],
)
def test_the_last_fire_of_a_century_is_found_at_once(expression, last):
    due = parse_cron(expression).due(ms("1926-01-01"), ms("2026-11-23T12:34:56"))
    assert due.last_ms == ms(last)


def test_nicknames_are_schedules_and_case_does_not_matter():
    for name, meaning in NICKNAMES.items():
        assert parse_cron(name) == parse_cron(meaning) == parse_cron(name.upper())


@pytest.mark.parametrize(
    ("expression", "fact"),
    [
        ("", "it has 0 fields, and must have 5"),
        ("* * * *", "it has 4 fields, and must have 5"),
        ("0 * * * * *", "it has 6 fields, and must have 5"),
        ("60 * * * *", "its minute is not valid"),
        ("* 24 * * *", "its hour is not valid"),
        ("* * 0 * *", "its day-of-month is not valid"),
        ("* * * 13 *", "its month is not valid"),
        ("* * * * 8", "its day-of-week is not valid"),
        ("*/0 * * * *", "its minute is not valid"),
        ("5-1 * * * *", "its minute is not valid"),
        ("0 0 31 2 *", "its day-of-month is not valid"),
        ("0 0 */31 2 MON#5", "it never comes due"),
        ("@reboot", "that name is not known"),
        ("@every 5m", "that name is not known"),
        ("CRON_TZ=UTC 0 0 * * *", "a time zone is no part of it"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_is_wrong(expression, fact):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_cron(expression)
    assert caught.value.message == f"invalid schedule {expression!r}: {fact}"
    assert caught.value.remedy


def test_a_very_long_schedule_is_refused():
    with pytest.raises(InvalidArgumentError, match=f"{LENGTH_MAX}"):
        parse_cron("0," * LENGTH_MAX + "0 * * * *")


@given(st.text(alphabet="0123456789*/-,LW#@ MONJAN²\n", max_size=24))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_schedule_that_comes_due_or_is_refused(text):
    try:
        cron = parse_cron(text)
    except InvalidArgumentError:
        return
    assert cron.next_after(ms("2026-01-01")) is not None


@pytest.mark.parametrize(
    ("zone", "remedy"),
    [
        ("Europe/berlin", "Did you mean Europe/Berlin?"),
        ("Berlin", "Did you mean Europe/Berlin?"),
        ("America/New York", "Did you mean America/New_York?"),
        ("Europe", None),
        ("localtime", None),
        ("right/UTC", None),
        ("../../etc/passwd", None),
        ("/etc/localtime", None),
        ("UTC\x00", None),
        ("", None),
    ],
)
def test_what_is_no_time_zone_is_refused_and_the_one_meant_is_named(zone, remedy):
    with pytest.raises(InvalidArgumentError) as caught:
        parse_cron("* * * * *", zone)
    assert caught.value.message == f"unknown time zone {zone!r}"
    if remedy is not None:
        assert caught.value.remedy == remedy


def test_utc_comes_due_as_a_walk_over_all_minutes_finds():
    cron = parse_cron("*/17 3-5 * * *")
    at, found = datetime(2026, 3, 29, tzinfo=UTC), []
    while len(found) < 20:
        at += timedelta(minutes=1)
        if at.minute % 17 == 0 and at.hour in (3, 4, 5):
            found.append(int(at.timestamp() * 1000))
    assert list(islice(walk(cron, ms("2026-03-29")), 20)) == found


def walk(cron: Cron, after_ms: int):
    while True:
        after_ms = cron.next_after(after_ms)
        yield after_ms
