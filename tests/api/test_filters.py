"""Filters, query parameters and the route table: pure, and strangers feed them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict, MultiDictProxy

from swarmlet.api.call import Route
from swarmlet.api.filters import (
    FILTERS_SIZE_MAX_B,
    NODE_KEYS,
    SECRET_KEYS,
    parse_filters,
    select_nodes,
    select_services,
)
from swarmlet.api.query import flag, object_version, strict_flag, tail_lines, time_ns
from swarmlet.api.router import RouteTable, path_parts
from swarmlet.api.routes import ROUTES
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.node import EngineDescription, Node, NodeDescription, NodeSpec
from swarmlet.model.service import ServiceSpec, TaskSpec
from tests.api.world import service_rows


def answer_or_none(ask):
    """None where it is a bad request; any other exception fails the test."""
    try:
        return ask()
    except InvalidArgumentError:
        return None


names = st.text(min_size=1, max_size=12)


def query(**values):
    return MultiDictProxy(MultiDict(values))


@given(st.dictionaries(st.sampled_from(sorted(SECRET_KEYS)), st.sets(names, min_size=1)))
def test_both_encodings_say_the_same(wanted):
    as_maps = {key: dict.fromkeys(sorted(values), True) for key, values in wanted.items()}
    as_lists = {key: sorted(values) for key, values in wanted.items()}
    first = parse_filters(json.dumps(as_maps), SECRET_KEYS)
    assert first == parse_filters(json.dumps(as_lists), SECRET_KEYS)
    assert {key: set(values) for key, values in first.items()} == wanted


@given(
    st.text(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)
)
def test_any_text_is_filters_or_a_bad_request(text):
    found = answer_or_none(lambda: parse_filters(text, NODE_KEYS))
    assert all(key in NODE_KEYS and values for key, values in (found or {}).items())


def selected(rows):
    return [row for row in rows if row is not None]


@pytest.mark.parametrize("text", ["", "{}", '{"name":null}', '{"name":{}}', '{"name":[]}'])
def test_no_filter_is_none(text):
    assert parse_filters(text, NODE_KEYS) == {}


def test_too_long_a_filter_is_refused():
    with pytest.raises(InvalidArgumentError):
        parse_filters(json.dumps({"name": ["x" * FILTERS_SIZE_MAX_B]}), NODE_KEYS)


BOX = Node(
    id="abc",
    spec=NodeSpec(role="manager", labels={"zone": "a"}),
    description=NodeDescription(
        hostname="box", engine=EngineDescription(labels={"gpu": "1", "disk": ""})
    ),
)


@pytest.mark.parametrize(
    ("filters", "is_found"),
    [
        ({}, True),
        ({"name": ("bo",)}, True),
        ({"name": ("ox",)}, False),
        ({"id": ("ab", "zz")}, True),
        ({"id": ("b",)}, False),
        ({"role": ("MANAGER",)}, True),
        ({"role": ("worker",)}, False),
        ({"role": ("worker", "manager")}, True),
        ({"membership": ("accepted",)}, True),
        ({"membership": ("pending",)}, False),
        ({"label": ("gpu",)}, True),
        ({"label": ("gpu=1", "disk")}, True),
        ({"label": ("gpu=2",)}, False),
        ({"label": ("zone",)}, False),
        ({"node.label": ("zone=a",)}, True),
        ({"node.label": ("zone=a",), "name": ("x",)}, False),
    ],
)
def test_nodes_are_selected_by_all_keys_and_any_value(filters, is_found):
    assert selected(select_nodes([BOX], filters)) == ([BOX] if is_found else [])


@pytest.mark.parametrize(
    ("filters", "is_found"),
    [
        ({"name": ("we",)}, True),
        ({"name": ("eb",)}, False),
        ({"id": ("ss",)}, True),
        ({"mode": ("replicated",)}, True),
        ({"mode": ("global", "replicated-job", "global-job")}, False),
        ({"runtime": ("plugin",)}, False),
        ({"label": ("a=b",)}, True),
        ({"label": ("c",)}, False),
    ],
)
def test_services_are_selected(filters, is_found):
    row = service_rows(ServiceSpec(name="web", labels={"a": "b"}))
    assert selected(select_services([row], filters)) == ([row] if is_found else [])


def test_plugin_services_are_hidden_unless_asked_for():
    row = service_rows(ServiceSpec(name="p", task_template=TaskSpec(runtime="plugin")))
    assert selected(select_services([row], {})) == []
    assert selected(select_services([row], {"runtime": ("plugin",)})) == [row]


# Query parameters --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("True", True), ("yes", True), ("x", True),
     ("", False), ("0", False), ("no", False), ("FALSE", False), ("None", False)],
)  # fmt: skip
def test_flags_are_read_as_go_reads_them(text, value):
    assert flag(query(force=text), "force") is value
    assert flag(query(), "force") is False


@pytest.mark.parametrize("text", ["yes", "2", "tRUE", " 1"])
def test_strict_flags_refuse_other_words(text):
    with pytest.raises(InvalidArgumentError, match="invalid value for status"):
        strict_flag(query(status=text), "status")


@given(st.text(max_size=30))
def test_any_query_text_is_a_value_or_a_bad_request(text):
    for read in (object_version, time_ns):
        assert (answer_or_none(lambda r=read: r(query(version=text), "version")) or 0) >= 0
    assert (answer_or_none(lambda: tail_lines(query(tail=text))) or 0) >= -1


def test_times_keep_their_nanoseconds():
    assert time_ns(query(since="1700000000.000000001"), "since") == 1_700_000_000_000_000_001
    assert time_ns(query(since="1.5"), "since") == 1_500_000_000


# Routes ------------------------------------------------------------------------------------------
TABLE = RouteTable(ROUTES)


@given(st.lists(st.text(max_size=6), min_size=1, max_size=5))
def test_any_path_finds_a_handler_or_none(parts):
    TABLE.find("GET", tuple(parts))


def test_no_two_routes_are_the_same():
    shapes = [
        (route.method, "/".join("{}" if "{" in part else part for part in route.path.split("/")))
        for route in ROUTES
    ]
    assert sorted(set(shapes)) == sorted(shapes)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_reached(route):
    path = route.path.replace("{name*}", "a/b").replace("{name}", "a").replace("{id}", "a")
    found, names = TABLE.find(route.method, path_parts(path))
    is_shadowed = found is not route
    assert not is_shadowed, f"{path} reaches {found}"
    assert len(names) == route.path.count("{")


def test_parts_are_decoded_one_by_one():
    assert path_parts("/secrets/a%2Fb%20c") == ("secrets", "a/b c")
    route = Route("GET", "/images/{name*}/json", ROUTES[0].handler)
    table = RouteTable([route])
    assert table.find("GET", path_parts("/images/r.io:5000/a/b:1/json")) == (
        route,
        ("r.io:5000/a/b:1",),
    )
    assert table.find("GET", path_parts("/images/json")) is None
