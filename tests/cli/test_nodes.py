"""`swarmlet node`: labels as docker changes them, other writers, several names, warnings."""

import copy

import pytest

from tests.cli import recorded
from tests.cli.recorded import NODE_ID

NODE = f"/nodes/{NODE_ID}"
STALE = (500, {"message": "update out of sequence", "code": "out-of-sequence"})


def node_with(**spec):
    found = copy.deepcopy(recorded.NODE)
    found["Spec"] |= spec
    return found


@pytest.fixture
def labelled(swarm):
    """A node with two labels; what is sent back is remembered."""
    found = node_with(Labels={"zone": "eu", "ssd": ""})
    swarm.script |= {f"GET {NODE}": (200, found), f"POST {NODE}/update": (200, None)}
    return swarm


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ([], {"zone": "eu", "ssd": ""}),
        (["--label-add", "rack=1"], {"zone": "eu", "ssd": "", "rack": "1"}),
        (["--label-add", "zone=us"], {"zone": "us", "ssd": ""}),
        (["--label-add", "a=b=c", "--label-rm", "ssd"], {"zone": "eu", "a": "b=c"}),
        (["--label-add", "x", "--label-rm", "x"], {"zone": "eu", "ssd": ""}),
    ],
)
def test_labels_are_added_then_removed_as_docker_does(swarmlet, labelled, words, labels):
    result = swarmlet("node", "update", *words, NODE_ID)
    assert (result.code, result.out) == (0, f"{NODE_ID}\n")
    (sent,) = labelled.posted()
    assert sent.body["Labels"] == labels


def test_label_that_is_not_there_cannot_be_removed(swarmlet, labelled):
    result = swarmlet("node", "update", "--label-rm", "zoen", NODE_ID)
    assert result.code == 1
    assert result.err.startswith("Error: key zoen doesn't exist in node's labels\n  Try: ")
    assert labelled.posted() == []


def test_label_without_a_value_is_shown_by_its_key(swarmlet, labelled):
    out = swarmlet("node", "inspect", "--pretty", NODE_ID).out
    assert "Labels:\n - ssd\n - zone=eu\n" in out


def test_change_is_made_again_where_somebody_wrote_meanwhile(swarmlet, swarm):
    before, after = node_with(Labels={}), node_with(Labels={"by": "other"})
    after["Version"]["Index"] = 99
    swarm.script |= {
        f"GET {NODE}": [(200, before), (200, after)],
        f"POST {NODE}/update": [STALE, (200, None)],
    }
    result = swarmlet("node", "update", "--label-add", "a=b", NODE_ID)
    assert result.code == 0, result.err
    assert [one.query["version"] for one in swarm.posted()] == ["23", "99"]
    assert swarm.posted()[-1].body["Labels"] == {"by": "other", "a": "b"}


def test_change_that_is_always_overtaken_fails_in_the_end(swarmlet, swarm):
    swarm.script |= {f"GET {NODE}": (200, node_with()), f"POST {NODE}/update": STALE}
    result = swarmlet("node", "update", "--availability", "drain", NODE_ID)
    assert (result.code, len(swarm.posted())) == (1, 5)


def test_other_refusals_are_not_tried_again(swarmlet, swarm):
    refused = (400, {"message": "attempting to demote the last manager of the swarm"})
    swarm.script |= {f"GET {NODE}": (200, node_with()), f"POST {NODE}/update": refused}
    assert swarmlet("node", "demote", NODE_ID).code == 1
    assert len(swarm.posted()) == 1


def managers(count: int):
    return [node_with(Role="manager") for _ in range(count)] + [node_with(Role="worker")]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, ""),
        (2, "the loss of either one stops all changes"),
        (3, ""),
        (4, "survives the loss of no more managers than 3 do"),
        (7, ""),
        (8, "8 managers are more than 7: every write waits for more of them"),
    ],
)
@pytest.mark.parametrize(
    "verb", [["promote"], ["demote"], ["update", "--role", "manager"]], ids=lambda v: v[0]
)
def test_number_of_managers_is_warned_of_when_it_changes(swarmlet, swarm, count, words, verb):
    role = "manager" if verb == ["demote"] else "worker"
    swarm.script |= {
        f"GET {NODE}": (200, node_with(Role=role)),
        f"POST {NODE}/update": (200, None),
        "GET /nodes": (200, managers(count)),
    }
    result = swarmlet("node", *verb, NODE_ID)
    assert result.code == 0
    assert (words in result.err) if words else (result.err == "")
    assert "WARNING" not in result.out


def test_nothing_is_warned_of_where_no_role_changed(swarmlet, swarm):
    swarm.script |= {f"GET {NODE}": (200, node_with()), "GET /nodes": (200, managers(2))}
    assert swarmlet("node", "promote", NODE_ID).err == ""


def test_tasks_of_the_nodes_that_are_there_are_listed_and_then_it_fails(swarmlet, swarm):
    swarm.script |= {
        f"GET {NODE}": (200, node_with()),
        "GET /tasks": (200, recorded.tasks()),
        "GET /services": (200, recorded.services()),
        "GET /nodes/nobody": (404, {"message": "node nobody not found"}),
    }
    result = swarmlet("node", "ps", NODE_ID, "nobody")
    assert result.code == 1
    assert "api-web.1" in result.out
    assert result.err == "Error: node nobody not found\n"


def test_ids_of_tasks_are_cut_as_docker_cuts_them(swarmlet, swarm):
    swarm.script |= {
        f"GET {NODE}": (200, node_with()),
        "GET /tasks": (200, recorded.tasks()),
        "GET /services": (200, recorded.services()),
    }
    short = swarmlet("node", "ps", "-q", NODE_ID).out.split()
    assert [len(each) for each in short] == [12] * 3
    whole = swarmlet("node", "ps", "-q", "--no-trunc", NODE_ID).out.split()
    assert [each[:12] for each in whole] == short
    assert {len(each) for each in whole} == {25}


def test_what_is_wrong_with_a_node_has_a_column_where_there_is_something(swarmlet, swarm):
    lost = node_with()
    lost["ID"] = "b" * 25
    lost["Status"] = {"State": "disconnected", "Message": "the connection to the node was lost"}
    swarm.script["GET /nodes"] = (200, [recorded.NODE, lost])
    head, first, second = swarmlet("node", "ls").out.splitlines()
    assert head.endswith("ENGINE VERSION   MESSAGE")
    assert first.endswith("29.8.0-dev       the connection to the node was lost")
    assert second.rstrip().endswith("29.8.0-dev")
    shown = swarmlet("node", "ls", "--format", "{{.Hostname}}: {{.Message}}").out.splitlines()
    assert shown == ["vm: the connection to the node was lost", "vm: "]
