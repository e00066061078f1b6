"""`node drain`: what it sends, says and ends with."""

import pytest

from swarmlet.cli import node_drain

PATH = "/swarmlet/v1/nodes/w1/drain"


def move(slot, **fields):
    known = {"Way": "start-first", "Reason": "", "NodeID": "n2", "Hostname": "w2", "Problem": ""}
    return {"TaskID": f"t{slot}", "ServiceName": "web", "Slot": slot, **known, **fields}


def left(slot, waits_for="it is being stopped", *, is_stuck=False):
    return {
        "TaskID": f"t{slot}",
        "ServiceName": "web",
        "Slot": slot,
        "WaitsFor": waits_for,
        "IsStuck": is_stuck,
    }


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes only while the command sleeps."""
    now = [0.0]
    monkeypatch.setattr(node_drain, "mono_s", lambda: now[0])

    def sleep(duration_s):
        now[0] += duration_s

    monkeypatch.setattr(node_drain, "sleep_s", sleep)
    return now


def script(daemon, *looks):
    daemon.script = {
        f"POST {PATH}": (200, {"NodeID": "n1", "Moves": []}),
        f"GET {PATH}": [(200, {"Left": list(tasks)}) for tasks in looks] or (200, {"Left": []}),
    }


def test_drain_without_wait_says_the_name_and_returns(swarmlet, daemon):
    script(daemon)
    result = swarmlet("node", "drain", "--deadline", "90s", "w1")
    assert (result.code, result.out) == (0, "w1\n")
    assert [request.body for request in daemon.posted()] == [{"DeadlineNs": 90 * 10**9}]
    assert len(daemon.requests) == 1


def test_wait_says_what_changes_and_ends_when_the_node_is_empty(swarmlet, daemon):
    starting = left(1, "its replacement t9 on w2 is starting")
    script(daemon, [starting, left(2)], [starting], [left(1)], [])
    result = swarmlet("node", "drain", "--wait", "w1")
    assert result.code == 0
    assert result.out.splitlines() == [
        "web.1: its replacement t9 on w2 is starting",
        "web.2: it is being stopped",
        "web.2: gone, 1 left",
        "web.1: it is being stopped",
        "web.1: gone, 0 left",
        "Node w1 is empty.",
    ]


def test_wait_ends_with_3_where_what_is_left_finds_no_place(swarmlet, daemon, clock):
    stuck = left(1, "its replacement t9 waits for a place: no suitable node", is_stuck=True)
    script(daemon, [stuck])
    result = swarmlet("node", "drain", "--wait", "w1")
    assert result.code == 3
    assert 30 <= clock[0] < 31
    assert "1 task left on w1 cannot be placed elsewhere: web.1: its replacement" in result.err
    assert "--deadline" in result.err


@pytest.mark.parametrize(
    ("flags", "waits_s"), [(("--deadline", "2m"), 180), (("--timeout", "45s"), 45), ((), 600)]
)
def test_wait_ends_with_5_when_its_time_is_over(swarmlet, daemon, clock, flags, waits_s):
    script(daemon, [left(slot) for slot in range(1, 13)])
    result = swarmlet("node", "drain", "--wait", *flags, "w1")
    assert result.code == 5
    assert waits_s <= clock[0] < waits_s + 1
    assert "w1 is not empty: web.1: it is being stopped" in result.err
    assert "; and 2 more" in result.err


def test_deadline_ends_what_finds_no_place_and_so_it_is_waited_for(swarmlet, daemon, clock):
    script(daemon, *[[left(1, is_stuck=True)]] * 150, [])
    assert swarmlet("node", "drain", "--wait", "--deadline", "40s", "w1").code == 0
    assert clock[0] > 40


def test_dry_run_lists_the_moves_and_ends_with_3_where_one_has_no_place(swarmlet, daemon):
    late = move(2, Way="stop-first", Reason="its update order is stop-first", Hostname="")
    script(daemon)
    daemon.script[f"POST {PATH}"] = (200, {"NodeID": "n1", "Moves": [move(1), late]})
    result = swarmlet("node", "drain", "--dry-run", "w1")
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()] == [
        ["TASK", "WAY", "TO", "NOTE"],
        ["web.1", "start-first", "w2"],
        ["web.2", "stop-first", "n2", *["its", "update", "order", "is", "stop-first"]],
    ]
    assert daemon.posted()[0].query == {"dry-run": "1"}
    homeless = move(1, NodeID=None, Hostname="", Problem="no suitable node")
    daemon.script[f"POST {PATH}"] = (200, {"NodeID": "n1", "Moves": [homeless]})
    result = swarmlet("node", "drain", "--dry-run", "w1")
    assert result.code == 3
    assert "1 of 1 tasks of w1 find no place" in result.err
    daemon.script[f"POST {PATH}"] = (200, {"NodeID": "n1", "Moves": []})
    assert swarmlet("node", "drain", "--dry-run", "w1").out == "Nothing runs on w1.\n"


def test_interrupted_wait_leaves_the_drain_going(swarmlet, daemon, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    script(daemon, [left(1)])
    monkeypatch.setattr(node_drain, "sleep_s", interrupted)
    result = swarmlet("node", "drain", "--wait", "w1")
    assert result.code == 130
    assert "The drain goes on." in result.err


# on-disconnect ---------------------------------------------------------------------------------
def test_on_disconnect_is_a_label_beside_the_others(swarmlet, daemon):
    daemon.script = {"POST /services/create": (201, {"ID": "s1"})}
    for rule in ("keep", "never-replace", "stop-after 30s"):
        flags = ("--detach", "--no-resolve-image", "--label", "a=b", "--on-disconnect", rule)
        assert swarmlet("service", "create", *flags, "host", "sleep", "9").code == 0
        assert daemon.posted()[-1].body["Labels"] == {"a": "b", "swarmlet.on-disconnect": rule}


def test_on_disconnect_changes_one_label_of_a_service(swarmlet, daemon):
    spec = {
        "Name": "web",
        "Labels": {"a": "b"},
        "TaskTemplate": {"ContainerSpec": {"Image": "host"}},
        "Mode": {"Replicated": {"Replicas": 1}},
    }
    daemon.script = {
        "GET /services/web": (200, {"ID": "s1", "Version": {"Index": 4}, "Spec": spec}),
        "POST /services/s1/update": (200, {}),
    }
    flags = ("--detach", "--label-add", "c=d", "--on-disconnect", "stop-after 1m")
    assert swarmlet("service", "update", *flags, "web").code == 0
    sent = daemon.posted()[-1].body["Labels"]
    assert sent == {"a": "b", "c": "d", "swarmlet.on-disconnect": "stop-after 1m"}


@pytest.mark.parametrize("rule", ["maybe", "stop-after", "stop-after 1ms"])
def test_on_disconnect_that_is_none_is_wrong_usage(swarmlet, daemon, rule):
    result = swarmlet("service", "create", "--on-disconnect", rule, "host", "sleep")
    assert result.code == 2
    assert "--on-disconnect" in result.err
    assert "never-replace" in result.err
    assert not daemon.posted()
