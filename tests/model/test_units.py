"""Durations, sizes and CPUs as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.duration import format_duration, parse_duration
from swarmlet.model.size import parse_cpus, parse_size

S = 10**9


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("+5s", 5 * S),
        ("10s", 10 * S),
        ("1m30s", 90 * S),
        ("1h", 3_600 * S),
        ("1.5h", 5_400 * S),
        (".5s", S // 2),
        ("1.s", S),
        ("500ms", S // 2),
        ("3us", 3_000),
        ("3µs", 3_000),
        ("3μs", 3_000),
        ("7ns", 7),
        ("1s1s", 2 * S),
        ("2160h", 2_160 * 3_600 * S),
        ("0.1s", S // 10),
    ],
)
def test_duration_is_read_as_go_reads_it(text, duration_ns):
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", ".s", "-5s", "5 s", "5S", "1d", "1h 2m", "1.2.3s", "+", "9" * 40 + "h", "1h\n"],
)
def test_bad_duration_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (S // 2, "500ms"),
        (S, "1s"),
        (90 * S, "1m30s"),
        (3_600 * S, "1h0m0s"),
        (7_776_000 * S, "2160h0m0s"),
        (S + S // 4, "1.25s"),
        (61 * S + 1, "1m1.000000001s"),
        (-S, "-1s"),
    ],
)
def test_duration_is_shown_as_go_shows_it(duration_ns, text):
    assert format_duration(duration_ns) == text


@given(st.integers(0, 2**63 - 1))
def test_any_duration_is_read_back(duration_ns):
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@pytest.mark.parametrize(
    ("text", "size_b"),
    [
        ("0", 0),
        ("1000", 1_000),
        ("7b", 7),
        ("1k", 1_024),
        ("64M", 64 * 1_024**2),
        ("64 MiB", 64 * 1_024**2),
        ("64mb", 64 * 1_024**2),
        ("1.5G", 3 * 1_024**3 // 2),
        ("2t", 2 * 1_024**4),
    ],
)
def test_size_is_read_in_binary_units(text, size_b):
    assert parse_size(text) == size_b


@pytest.mark.parametrize("text", ["", "M", "-1", "1.k", "1x", "1 M B", "9" * 19 + "P", "٣", "1M\n"])
def test_bad_size_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="invalid size"):
        parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_any_size_in_bytes_is_read(size_b):
    assert parse_size(f"{size_b}B") == size_b


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0.5", 5 * 10**8), (".5", 5 * 10**8), ("2", 2 * S), ("0.000000001", 1), ("0.3", 3 * 10**8)],
)
def test_cpus_are_read_exactly(text, nano):
    assert parse_cpus(text) == nano


def test_more_cpus_than_63_bits_hold_are_refused():
    with pytest.raises(InvalidArgumentError, match="63 bits"):
        parse_cpus("9999999999")


@pytest.mark.parametrize("text", ["", ".", "-1", "1e3", "0.0000000001", "1 ", "99999999999"])
def test_bad_number_of_cpus_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="invalid number of CPUs"):
        parse_cpus(text)
