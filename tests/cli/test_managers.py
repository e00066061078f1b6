"""Several managers: roles, what `info` says of them, and what is shown while nobody leads."""

import copy

import pytest

from tests.api.group import LOST
from tests.cli import recorded
from tests.cli.daemon import Request, ScriptedDaemon
from tests.cli.recorded import NODE_ID, stamp

NODE = f"/nodes/{NODE_ID}"
PROBLEM = {"message": LOST.message, "remedy": LOST.remedy, "code": LOST.code}


def without_leader(daemon: ScriptedDaemon, *paths: str) -> None:
    """These answer only who takes what is 12 s old."""
    for path in paths:
        _, known = daemon.script[f"GET {path}"]

        def answer(request: Request, known=known):
            if request.query.get("stale") == "1":
                return 200, known, {"Swarmlet-Stale-Ms": "12400"}
            return 503, PROBLEM

        daemon.script[f"GET {path}"] = answer


@pytest.fixture
def leaderless(swarm):
    swarm.script |= {
        "GET /services": (200, recorded.services()),
        "GET /tasks": (200, recorded.tasks()),
        "GET /services/api-web": (200, recorded.services()[0]),
        "GET /secrets": (200, []),
        "GET /configs": (200, []),
        "GET /swarm/unlockkey": (200, {"UnlockKey": "SWMKEY-1-x"}),
        "GET /swarmlet/v1/join-tokens": (200, []),
    }
    paths = [each.removeprefix("GET ") for each in swarm.script if each.startswith("GET /")]
    without_leader(swarm, *(path for path in paths if path not in ("/info", "/_ping")))
    return swarm


@pytest.mark.parametrize(
    "words",
    [
        ["node", "ls"],
        ["node", "inspect", NODE_ID],
        ["node", "ps", NODE_ID],
        ["service", "ls"],
        ["service", "ps", "api-web"],
        ["service", "inspect", "api-web"],
        ["secret", "ls"],
        ["config", "ls"],
        ["ca"],
        ["unlock-key"],
        ["join-token", "ls"],
    ],
    ids=" ".join,
)
def test_what_only_looks_shows_what_is_known_and_says_how_old_it_is(swarmlet, leaderless, words):
    result = swarmlet(*words)
    assert result.code == 0
    assert result.out
    assert result.err == (
        f"Warning: {LOST.message}\n"
        "  What is shown is what this manager knew 12 seconds ago.\n"
        f"  Try: {LOST.remedy}\n"
    )


def test_table_of_what_is_known_is_the_usual_one(swarmlet, leaderless):
    assert swarmlet("node", "ls").out == recorded.NODE_LS


def test_rest_of_a_command_does_not_wait_for_a_leader_again(swarmlet, leaderless):
    swarmlet("service", "ps", "api-web")
    asked = [(one.path, one.query.get("stale")) for one in leaderless.requests]
    assert asked == [
        ("/services/api-web", None),
        ("/services/api-web", "1"),
        ("/tasks", "1"),
        ("/services", "1"),
        ("/nodes", "1"),
    ]


def test_what_changes_something_fails_with_the_sentence(swarmlet, leaderless):
    result = swarmlet("node", "update", "--availability", "drain", NODE_ID)
    assert result.code == 1
    assert result.err == f"Error: {LOST.message}\n  Try: {LOST.remedy}\n"
    assert leaderless.posted() == []


def test_other_refusals_are_not_looked_behind(swarmlet, swarm):
    swarm.script["GET /nodes"] = (503, {"message": "no", "code": "not-a-manager"})
    assert swarmlet("node", "ls").code == 1
    assert [one.path for one in swarm.requests] == ["/nodes"]


@pytest.mark.parametrize(
    ("words", "before", "after", "said"),
    [
        (["promote"], "worker", "manager", f"Node {NODE_ID} promoted to a manager in the swarm."),
        (["demote"], "manager", "worker", f"Manager {NODE_ID} demoted in the swarm."),
        (["promote"], "manager", "", f"Node {NODE_ID} is already a manager."),
        (["demote"], "worker", "", f"Node {NODE_ID} is already a worker."),
        (["update", "--role", "manager"], "worker", "manager", NODE_ID),
    ],
)
def test_role_is_changed_in_docker_s_words(swarmlet, swarm, words, before, after, said):
    node = copy.deepcopy(recorded.NODE)
    node["Spec"]["Role"] = before
    swarm.script |= {f"GET {NODE}": (200, node), f"POST {NODE}/update": (200, None)}
    result = swarmlet("node", *words, NODE_ID)
    assert (result.code, result.out) == (0, f"{said}\n")
    assert [one.body["Role"] for one in swarm.posted()] == ([after] if after else [])
    assert all(one.query == {"version": "23"} for one in swarm.posted())


def test_several_nodes_are_promoted_until_one_cannot_be(swarmlet, swarm):
    worker = copy.deepcopy(recorded.NODE)
    worker["Spec"]["Role"] = "worker"
    swarm.script |= {f"GET {NODE}": (200, worker), f"POST {NODE}/update": (200, None)}
    result = swarmlet("node", "promote", NODE_ID, "nobody", NODE_ID)
    assert result.code == 1
    assert result.out.count("promoted") == 1


def test_init_that_forces_a_new_cluster_says_so_to_the_daemon(swarmlet, swarm):
    result = swarmlet("init", "--force-new-cluster")
    assert result.code == 0, result.err
    (sent,) = swarm.posted()
    assert sent.body["ForceNewCluster"] is True
    assert "`swarmlet node promote` makes it a manager" in result.err


def member(number: int, **fields):
    named = {"NodeID": f"n{number}", "Hostname": f"host{number}", "IsLeader": False}
    found = {**recorded.GROUP["Members"][0], **named}
    return {**found, "RaftID": str(number), "Addr": f"10.0.0.{number}:2377", **fields}


def test_info_lists_the_managers_with_what_is_heard_of_them(swarmlet, swarm):
    group = {
        **recorded.GROUP,
        "Quorum": 2,
        "Answering": 1,
        "LostSince": stamp(30),
        "AsOf": stamp(30),
        "Members": [
            member(3, Hostname="", Reachability="unknown", IsVoter=False),
            member(2, Reachability="unreachable", SilentSince=stamp(40)),
            member(1, NodeID=NODE_ID),
        ],
    }
    swarm.script["GET /swarmlet/v1/members"] = (200, group)
    lines = swarmlet("info").out.splitlines()
    begin = lines.index(" Raft Group:")
    assert lines[begin + 1 : begin + 9] == [
        "  Term: 3",
        "  Applied Index: 120",
        "  Quorum: 2 of 2, 1 answer",
        "  Without A Leader Since: 30 seconds ago",
        "  State As Of: 30 seconds ago",
        f"  10.0.0.1:2377  host1  {NODE_ID}  reachable, this node",
        f"  10.0.0.2:2377  host2  {'n2':<{len(NODE_ID)}}  unreachable, silent for 40 seconds",
        f"  10.0.0.3:2377         {'n3':<{len(NODE_ID)}}  catching up",
    ]


def test_info_of_a_docker_engine_has_no_group(swarmlet, swarm):
    del swarm.script["GET /swarmlet/v1/members"]
    result = swarmlet("info")
    assert (result.code, " Raft Group:" in result.out) == (0, False)
