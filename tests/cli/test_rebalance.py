"""`node rebalance`, and `--rebalance` of services and of the swarm."""

import pytest

PATH = "/swarmlet/v1/rebalance"


def move(slot, hindrance="", **fields):
    known = {"NodeID": "n1", "Hostname": "w1", "ToNodeID": "n2", "ToHostname": "w2"}
    return {
        "ServiceName": "web",
        "Slot": slot,
        "Way": "start-first",
        "Reason": "4 of its tasks run on w1, 0 on w2",
        "Hindrance": hindrance,
        **known,
        **fields,
    }


def test_dry_run_lists_what_moves_and_what_does_not_and_why(swarmlet, daemon):
    stays = move(1, "it is being updated", ServiceName="db")
    daemon.script = {f"POST {PATH}": (200, {"Moves": [move(2, ToHostname=""), stays]})}
    result = swarmlet("node", "rebalance", "--dry-run")
    assert result.code == 0
    assert result.out.splitlines() == [
        "These would move:",
        "TASK      FROM      TO        WAY           WHY",
        "web.2     w1        n2        start-first   4 of its tasks run on w1, 0 on w2",
        "",
        "Not moved:",
        "TASK      FROM      TO        WAY           WHY",
        "db.1      w1        w2        start-first   it is being updated",
    ]
    assert [request.query for request in daemon.posted()] == [{"dry-run": "1"}]


def test_without_dry_run_it_is_asked_for(swarmlet, daemon):
    daemon.script = {f"POST {PATH}": (200, {"Moves": [move(2)]})}
    result = swarmlet("node", "rebalance")
    assert result.out.startswith("These move, a few a minute:\n")
    assert [request.query for request in daemon.posted()] == [{}]


def test_even_swarm_is_told_so(swarmlet, daemon):
    daemon.script = {f"POST {PATH}": (200, {"Moves": []})}
    result = swarmlet("node", "rebalance", "--dry-run")
    assert result.out == "No task would make the swarm more even by moving.\n"


@pytest.mark.parametrize("way", ["on-join", "continuous even-single", "off"])
def test_rebalance_is_a_label_of_the_service(swarmlet, daemon, way):
    daemon.script = {"POST /services/create": (201, {"ID": "s1"})}
    flags = ("--detach", "--no-resolve-image", "--rebalance", way)
    assert swarmlet("service", "create", *flags, "host", "sleep", "9").code == 0
    assert daemon.posted()[-1].body["Labels"] == {"swarmlet.rebalance": way}


def test_rebalance_that_is_none_is_wrong_usage(swarmlet, daemon):
    result = swarmlet("service", "create", "--rebalance", "maybe", "host", "sleep")
    assert result.code == 2
    assert "on-join, continuous and off" in " ".join(result.err.split())
    assert not daemon.posted()


def test_swarm_update_sets_the_swarms_label_beside_others(swarmlet, daemon):
    swarm = {"Version": {"Index": 7}, "Spec": {"Labels": {"a": "b"}}}
    daemon.script = {"GET /swarm": (200, swarm), "POST /swarm/update": (200, {})}
    assert swarmlet("swarm", "update", "--rebalance", "on-join").code == 0
    sent = daemon.posted()[-1].body["Labels"]
    assert sent == {"a": "b", "swarmlet.rebalance": "on-join"}
