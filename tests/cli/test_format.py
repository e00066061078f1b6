"""Docker's words for ages, sizes and tables."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.cli.format import ago, epoch_s, human_duration, human_size, natural, one_line, table


@pytest.mark.parametrize(
    ("duration_s", "words"),
    [
        (0.4, "Less than a second"),
        (-5, "Less than a second"),
        (1.9, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3_599, "59 minutes"),
        (3_600, "About an hour"),
        (2 * 3_600, "2 hours"),
        (47 * 3_600, "47 hours"),
        (48 * 3_600, "2 days"),
        (14 * 86_400, "2 weeks"),
        (60 * 86_400, "2 months"),
        (90 * 86_400, "3 months"),
        (3 * 365 * 86_400, "3 years"),
    ],
)
def test_durations_are_dockers_words(duration_s, words):
    assert human_duration(duration_s) == words


@pytest.mark.parametrize(
    ("size_b", "words"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (25276510208, "23.54GiB"), (2**60, "1024PiB")],
)
def test_sizes_are_dockers_words(size_b, words):
    assert human_size(size_b) == words


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2400, 1, 1)))  # noqa: DTZ001 - UTC below
def test_stamps_are_read_as_datetime_reads_them(moment):
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert epoch_s(stamp) == pytest.approx(moment.replace(tzinfo=UTC).timestamp(), abs=1e-5)


def test_stamp_of_nothing_is_empty():
    assert ago("", 0.0) == ""
    assert ago("0001-01-01T00:00:00Z", 0.0) == ""
    assert ago("1970-01-01T00:00:00Z", 3.0) == "3 seconds ago"


def test_table_pads_all_but_the_last_column():
    assert table([["A", "B"], ["123456789", ""]]) == ["A           B", "123456789   "]


def test_natural_order_counts():
    assert sorted(["web.10", "web.2", "a"], key=natural) == ["a", "web.2", "web.10"]


def test_one_line_keeps_a_terminal_whole():
    assert one_line("a\n\x1b[2Jb") == "a  [2Jb"
