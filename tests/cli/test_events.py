"""`events`: lines as docker prints them, json, templates, and what is asked."""

import json
import time

import pytest

from swarmlet.cli.errors import CommandError
from swarmlet.cli.events import event_line, lines_of

SERVICE_ID = "tt3nfkdvx0xxvtfwnmsyslliu"
AT_S = 1_795_384_800  # 2026-11-22T22:00:00Z


def event(action, **attributes):
    return {
        "Type": "service",
        "Action": action,
        "Actor": {"ID": SERVICE_ID, "Attributes": {"name": "web", **attributes}},
        "scope": "swarm",
        "time": AT_S,
        "timeNano": AT_S * 1_000_000_000,
    }


CREATED = event("create")
SCALED = event("update", **{"replicas.old": "1", "replicas.new": "3"})


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def told(daemon, utc):
    raw = b"".join(json.dumps(one).encode() + b"\n" for one in (CREATED, SCALED))
    daemon.script = {
        "GET /info": (200, {"Swarm": {"ControlAvailable": True}}),
        "GET /events": (200, [raw[:70], raw[70:]]),
    }
    return daemon


def test_events_print_dockers_lines(swarmlet, told):
    result = swarmlet("events")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        f"2026-11-22T22:00:00.000000000Z service create {SERVICE_ID} (name=web)\n"
        f"2026-11-22T22:00:00.000000000Z service update {SERVICE_ID} "
        "(name=web, replicas.new=3, replicas.old=1)\n"
    )
    assert told.requests[-1].query == {}


def test_node_that_is_no_manager_is_not_waited_for(swarmlet, told):
    told.script["GET /info"] = (200, {"Swarm": {"ControlAvailable": False, "Error": "Locked."}})
    result = swarmlet("events")
    assert (result.code, result.out) == (1, "")
    assert "tells no events. Locked.\n" in result.err


@pytest.mark.parametrize(("words", "said"), [((), "Warning: No majority.\n"), (("1h",), "")])
def test_manager_without_a_majority_is_waited_for_and_says_so(swarmlet, told, words, said):
    told.script["GET /info"] = (200, {"Swarm": {"ControlAvailable": True, "Error": "No majority."}})
    result = swarmlet("events", *(("--since", *words) if words else ()))
    assert (result.code, result.err) == (0, said)
    assert len(result.out.splitlines()) == 2


def test_times_are_in_this_hosts_zone(monkeypatch, utc):
    monkeypatch.setenv("TZ", "XYZ-05:30")
    time.tzset()
    assert event_line(CREATED).startswith("2026-11-23T03:30:00.000000000+05:30 service create ")


def test_event_without_attributes_has_no_brackets(utc):
    bare = {**CREATED, "Actor": {"ID": "x"}, "timeNano": AT_S * 1_000_000_000 + 5}
    assert event_line(bare) == "2026-11-22T22:00:00.000000005Z service create x"


def test_events_as_json_are_the_daemons_own_lines(swarmlet, told):
    out = swarmlet("events", "--format", "json").out
    assert [json.loads(line) for line in out.splitlines()] == [CREATED, SCALED]


def test_events_through_a_template(swarmlet, told):
    form = "{{.Action}} {{.Actor.Attributes.name}} {{.Scope}} {{.TimeNano}}"
    assert swarmlet("events", "--format", form).out.splitlines() == [
        f"{action} web swarm {AT_S}000000000" for action in ("create", "update")
    ]


def test_bounds_and_filters_are_sent_as_docker_sends_them(swarmlet, told):
    swarmlet(
        *("events", "--since", "2026-11-22T22:00:00Z", "--until", "1795384801"),
        *("--filter", "type=service", "--filter", "type=node", "-f", "event=create"),
    )
    _, request = told.requests
    assert request.query["since"] == f"{AT_S}.000000000"
    assert request.query["until"] == "1795384801"
    assert json.loads(request.query["filters"]) == {
        "type": {"service": True, "node": True},
        "event": {"create": True},
    }


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--filter", "type")])
def test_bad_flag_is_a_usage_error_before_anything_is_asked(swarmlet, told, arguments):
    assert swarmlet("events", *arguments).code == 2
    assert told.requests == []


@pytest.mark.parametrize(
    "words", [("--tasks",), ("--filter", "type=task"), ("--filter", "task=36jqlceqj6tj")]
)
def test_tasks_are_asked_for_by_their_own_path(swarmlet, told, words):
    told.script["GET /swarmlet/v1/events"] = told.script["GET /events"]
    assert len(swarmlet("events", *words, "--since", "1h").out.splitlines()) == 2
    assert told.requests[-1].path == "/swarmlet/v1/events"


def test_past_is_what_this_manager_knows_where_a_majority_is_lost(swarmlet, told):
    lost = (
        503,
        {"message": "There is no majority.", "code": "quorum-lost", "remedy": "Start them."},
    )
    told.script["GET /events"] = [lost, told.script["GET /events"]]
    result = swarmlet("events", "--since", "1h")
    assert len(result.out.splitlines()) == 2
    assert result.err.splitlines()[0] == "Warning: There is no majority."
    assert [one.query.get("stale") for one in told.requests if one.path == "/events"] == [
        None,
        "1",
    ]


def test_half_a_line_at_the_end_is_said():
    pieces = iter([b'{"a"', b':1}\n{"b', b'":2}'])
    found = lines_of(pieces)
    assert next(found) == b'{"a":1}'
    with pytest.raises(CommandError, match="broke off"):
        next(found)
