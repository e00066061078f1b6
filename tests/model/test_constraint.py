"""Constraints: what parses, what is refused with which words, which nodes match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import NodeID
from swarmlet.model.constraint import Constraint, check_spread, matches, parse, value_of
from swarmlet.model.node import (
    EngineDescription,
    Node,
    NodeDescription,
    NodeSpec,
    NodeStatus,
)
from swarmlet.model.service import Platform

NODE = Node(
    id=NodeID("n1"),
    role="manager",
    spec=NodeSpec(labels={"Zone": "EU-west", "empty": ""}),
    status=NodeStatus(addr="10.1.2.3"),
    description=NodeDescription(
        hostname="Alpha",
        platform=Platform(os="linux", architecture="x86_64"),
        engine=EngineDescription(labels={"storage": "ssd"}),
    ),
)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("node.role==manager", Constraint("node.role", True, "manager")),
        ("  node.role  !=  manager ", Constraint("node.role", False, "manager")),
        ("node.labels.zone == eu west", Constraint("node.labels.zone", True, "eu west")),
        ("node.labels.x!=a==b", Constraint("node.labels.x", False, "a==b")),
        ("node.labels.x==a!b", None),
        (
            "node.labels.x==*.(a|b)?+[c]\\^$/-_:",
            Constraint("node.labels.x", True, "*.(a|b)?+[c]\\^$/-_:"),
        ),
        ("NODE.ID==n1", Constraint("NODE.ID", True, "n1")),
        ("service != web", Constraint("service", False, "web")),
        ("node.ip!=2001:db8::/32", Constraint("node.ip", False, "2001:db8::/32")),
    ],
)
def test_parse_splits_at_the_operator_that_comes_first(text, parsed):
    if parsed is None:
        with pytest.raises(InvalidArgumentError):
            parse(text)
    else:
        assert parse(text) == parsed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node.role=manager", "expected one operator"),
        ("node.role", "expected one operator"),
        ("", "expected one operator"),
        ("==manager", "key '' is invalid"),
        ("1node==a", "key '1node' is invalid"),
        ("node.l\u0131bels==a", "is invalid"),
        ("node.role==", "value '' is invalid"),
        ("node.role===manager", "value '=manager' is invalid"),
        ("node.labels.x==a,b", "value 'a,b' is invalid"),
        ("node.labels.x==\u212a", "is invalid"),
        ("node.labels.==a", "unknown key"),
        ("node.ip==10.0.0.300", "neither an IP address nor a subnet"),
        ("node.ip==10.0.0.0/33", "neither an IP address nor a subnet"),
    ],
)
def test_parse_refuses_with_a_sentence_and_a_remedy(text, words):
    with pytest.raises(InvalidArgumentError, match=words) as refused:
        parse(text)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("node.rol", "node.role"),
        ("nod.hostname", "node.hostname"),
        ("node.platform.arc", "node.platform.arch"),
        ("node.label.Zone", "node.labels.Zone"),
        ("engine.label.storage", "engine.labels.storage"),
        ("node.labels", "node.labels.NAME"),
        ("role", "node.role"),
        ("node.addr", None),
        ("completely.different", None),
    ],
)
def test_parse_says_what_was_meant_when_the_key_is_unknown(key, meant):
    with pytest.raises(InvalidArgumentError, match=f"unknown key '{key}'") as refused:
        parse(f"{key}==x")
    if meant:
        assert refused.value.message.endswith(f"; did you mean {meant}?")
    assert "node.labels.NAME" in refused.value.remedy


@pytest.mark.parametrize(
    ("text", "is_match"),
    [
        ("node.id==N1", True),
        ("node.id!=n1", False),
        ("node.hostname==alpha", True),
        ("node.hostname==alph", False),
        ("node.role==MANAGER", True),
        ("node.role!=worker", True),
        ("node.platform.os==Linux", True),
        ("node.platform.arch==amd64", False),
        ("node.platform.arch==x86_64", True),
        ("node.labels.Zone==eu-WEST", True),
        ("Node.Labels.Zone==eu-west", True),
        ("node.labels.zone==eu-west", False),
        ("node.labels.zone!=eu-west", True),
        ("node.labels.absent!=a", True),
        ("node.labels.Zone==eu.*", False),
        ("engine.labels.storage==SSD", True),
        ("engine.labels.absent==ssd", False),
        ("node.ip==10.1.2.3", True),
        ("node.ip==::ffff:10.1.2.3", True),
        ("node.ip!=10.1.2.3", False),
        ("node.ip==2001:db8::7", False),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip==10.2.0.0/16", False),
        ("node.ip!=10.2.0.0/16", True),
        ("node.ip!=2001:db8::/32", True),
        ("node.ip==2001:db8::/32", False),
    ],
)
def test_matches_compares_without_case_but_exactly(text, is_match):
    assert matches(parse(text), NODE) is is_match


@pytest.mark.parametrize("operator", ["==", "!="])
def test_matches_is_never_true_for_what_cannot_be(operator):
    is_equal = operator == "=="
    assert not matches(Constraint("node.nothing", is_equal, "x"), NODE)
    assert not matches(Constraint("node.ip", is_equal, "no address"), NODE)
    nowhere = Node(id=NodeID("n2"), spec=NodeSpec())
    assert matches(parse(f"node.ip{operator}10.0.0.0/8"), nowhere) is not is_equal


def test_value_of_knows_an_absent_label_from_an_unknown_key():
    assert value_of("node.labels.absent", NODE) == ""
    assert value_of("node.nothing", NODE) is None


@given(st.text(max_size=30))
def test_parse_answers_any_text_with_a_constraint_or_a_refusal(text):
    try:
        constraint = parse(text)
    except InvalidArgumentError:
        return
    again = "==" if constraint.is_equal else "!="
    assert parse(f"{constraint.key}{again}{constraint.value}") == constraint


@given(
    st.sampled_from(["node.id", "node.labels.Zone", "engine.labels.storage", "node.role"]),
    st.text("abcZ019.-_:/ |", min_size=1).filter(lambda t: t.strip()),
)
def test_matches_is_the_opposite_for_the_opposite_operator(key, value):
    assert matches(parse(f"{key}=={value}"), NODE) != matches(parse(f"{key}!={value}"), NODE)


@pytest.mark.parametrize("text", ["service==web", "Service!=web"])
def test_row_of_a_node_does_not_answer_what_is_asked_of_services(text):
    assert matches(parse(text), NODE)


def test_misspelt_service_key_is_refused_with_the_one_that_is_meant():
    with pytest.raises(InvalidArgumentError, match="unknown key 'servise'") as caught:
        parse("servise==web")
    assert caught.value.message.endswith("; did you mean service?")


@pytest.mark.parametrize(
    "text", ["node.labels.a", " Engine.Labels.b", "service==web", "service!=web"]
)
def test_preference_is_a_label_or_a_service(text):
    check_spread(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node.label.zone", "is no label; did you mean node.labels.zone?"),
        ("node.hostname", "'node.hostname' is no label"),
        ("hostname", "'hostname' is no label"),
        ("node.labels.zone==eu", "'node.labels.zone==eu' is no label"),
        ("node.labels", "did you mean node.labels.NAME?"),
        ("node.labels.", "is no label"),
        ("zone", "'zone' is no label"),
        ("service", "is no label"),
        ("service==", "value '' is invalid"),
        ("servise==web", "is no label"),
    ],
)
def test_other_preference_is_refused_with_what_is_meant(text, words):
    with pytest.raises(InvalidArgumentError) as caught:
        check_spread(text)
    assert words in caught.value.message
    assert ("did you mean" in caught.value.message) == ("mean" in words)
    assert caught.value.remedy
