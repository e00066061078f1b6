"""Findings as text and JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.doctor.catalogue import ALL, chosen, names
from swarmlet.doctor.finding import Finding
from swarmlet.doctor.report import as_json, is_well, lines, summary

VERDICTS = ("ok", "warn", "fail", "unknown", "skipped")


def finding(verdict: str = "ok", **fields: object) -> Finding:
    given = {
        "name": "clock",
        "group": "host",
        "found": "It ticks.",
        "matters_for": "certificates",
        "remedy": "" if verdict == "ok" else "wind it",
        "took_ms": 3,
    }
    return Finding(verdict=verdict, **(given | fields))


def test_report_explains_all_but_what_is_ok():
    found = [
        finding(),
        finding("warn", name="vxlan", group="network", found="It failed."),
        finding("skipped", name="swarm", group="network", found="None.", remedy=""),
    ]
    assert list(lines(found, is_coloured=False)) == [
        "host",
        "  ok      clock             It ticks.",
        "",
        "network",
        "  warn    vxlan             It failed.",
        "            for: certificates",
        "            try: wind it",
        "  skipped swarm             None.",
        "            for: certificates",
    ]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_colour_is_added_where_it_is_asked_for_alone(verdict):
    plain = "\n".join(lines([finding(verdict)], is_coloured=False))
    coloured = "\n".join(lines([finding(verdict)], is_coloured=True))
    assert "\x1b" not in plain
    assert coloured.count("\x1b[0m") == 2


@given(st.text(), st.text())
def test_report_holds_no_control_character_whatever_was_found(found, remedy):
    told = lines([finding("warn", found=found, remedy=remedy)], is_coloured=False)
    assert all(line.isprintable() for line in told)


def test_json_has_the_fields_of_a_finding_in_order():
    (told,) = json.loads(as_json([finding("fail")]))
    assert list(told) == [
        "name",
        "group",
        "verdict",
        "found",
        "matters_for",
        "remedy",
        "took_ms",
    ]
    assert json.loads(as_json([])) == []


@pytest.mark.parametrize(
    ("verdicts", "words", "well"),
    [
        ((), "Nothing was looked at.", True),
        (("ok", "ok", "warn"), "2 ok, 1 warning.", True),
        (("warn", "warn", "unknown", "skipped"), "2 warnings, 1 unknown, 1 skipped.", True),
        (("fail",), "1 failure.", False),
        (("ok", "fail", "fail"), "1 ok, 2 failures.", False),
    ],
)
def test_summary_counts_and_only_failures_are_unwell(verdicts, words, well):
    found = [finding(verdict) for verdict in verdicts]
    assert summary(found) == words
    assert is_well(found) == well


def test_every_probe_has_a_name_of_its_own_and_a_purpose():
    probes = [probe for group in ALL.values() for probe in group]
    assert len({probe.name for probe in probes}) == len(probes)
    assert all(probe.matters_for and probe.deadline_s > 0 for probe in probes)


def test_probes_are_chosen_by_name_and_by_group_in_the_order_of_the_report():
    assert [probe.name for _, probe in chosen(["vxlan", "clock"])] == ["clock", "vxlan"]
    assert {group for group, _ in chosen(["disk"])} == {"disk"}
    assert len(chosen([])) + len(ALL) == len(names())
