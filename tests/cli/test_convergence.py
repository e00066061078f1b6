"""Waiting for a service: how it is shown, and how it ends."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import pytest

from swarmlet.cli.client import Client
from swarmlet.cli.errors import CommandError, RolledBackError
from swarmlet.cli.service import progress as progress_module
from swarmlet.cli.service.convergence import (
    NO_NODE,
    STATES,
    check_update,
    is_under_way,
    progress_of,
    rollback_cause,
)
from swarmlet.cli.service.progress import Patience, bars, wait
from tests.cli import recorded

SERVICE_ID = "j877x32im7k8b5vwj28l97tvd"


def web(replicas: int = 2, **extra):
    found = recorded.service(SERVICE_ID, "web", {"Replicated": {"Replicas": replicas}}, **extra)
    found["Spec"]["UpdateConfig"] = {"Monitor": 1}  # a nanosecond
    return found


def task(slot, state, **extra):
    return recorded.task(f"task{slot}{state}", slot, state, **extra)


def test_running_tasks_of_every_slot_converge():
    seen = progress_of(web(), [task(1, "running"), task(2, "running")], [recorded.NODE])
    assert (seen.running, seen.wanted, seen.is_converged) == (2, 2, True)
    assert seen.headline == "overall progress: 2 out of 2 tasks"


def test_task_that_is_wanted_most_and_furthest_behind_counts():
    tasks = [
        task(1, "running", DesiredState="shutdown"),
        task(1, "starting"),
        task(1, "running"),
        task(2, "running", DesiredState="shutdown"),
    ]
    seen = progress_of(web(), tasks, [recorded.NODE])
    assert [(line.name, line.state) for line in seen.lines] == [
        ("web.1", "starting"),
        ("web.2", "running"),
    ]
    assert seen.running == 0


def test_tasks_on_a_node_that_is_down_do_not_count():
    down = {**recorded.NODE, "Status": {"State": "down"}}
    assert progress_of(web(), [task(1, "running")], [down]).lines == ()


def test_unknown_states_of_a_newer_daemon_are_left_out():
    assert progress_of(web(), [task(1, "hibernating")], [recorded.NODE]).lines == ()


def test_global_service_wants_one_task_a_node_and_at_least_one():
    found = recorded.service(SERVICE_ID, "web", {"Global": {}})
    assert not progress_of(found, [], [recorded.NODE]).is_converged
    assert progress_of(found, [task(0, "running")], [recorded.NODE]).is_converged


def test_global_service_wants_what_an_update_has_yet_to_replace_too():
    found = recorded.service(SERVICE_ID, "web", {"Global": {}})
    nodes = [{**recorded.NODE, "ID": node_id} for node_id in ("n1", "n2", "n3")]
    nodes[2]["Status"] = {"State": "down"}
    done = recorded.task(SERVICE_ID, 0, "running", NodeID="n1")
    others = [recorded.task(SERVICE_ID, 0, "running", NodeID=node["ID"]) for node in nodes]
    seen = progress_of(found, [done], nodes, others)
    assert (seen.running, seen.wanted, seen.is_converged) == (1, 2, False)


def test_global_service_without_any_task_waits_for_a_node():
    found = recorded.service(SERVICE_ID, "web", {"Global": {}})
    assert progress_of(found, [], [recorded.NODE]).blocked == NO_NODE
    assert progress_of(found, [task(0, "running")], [recorded.NODE]).blocked == ""


def test_service_of_no_replicas_has_converged():
    assert progress_of(web(0), [], [recorded.NODE]).is_converged


def test_only_an_error_of_a_waiting_task_blocks():
    failed = task(1, "failed", error="exit 1")
    pending = task(2, "pending", error="no suitable node", NodeID="")
    assert progress_of(web(), [failed], [recorded.NODE]).blocked == ""
    assert progress_of(web(), [failed, pending], [recorded.NODE]).blocked == "no suitable node"


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("paused", CommandError, "service update paused: too many failed"),
        ("rollback_paused", CommandError, "service rollback paused: too many failed"),
        ("rollback_completed", RolledBackError, "was rolled back: too many failed"),
    ],
)
def test_update_that_failed_ends_the_wait(state, error, words):
    found = web(0, UpdateStatus={"State": state, "Message": "too many failed"})
    with pytest.raises(error, match=words):
        check_update(found, progress_of(found, [], []), "too many failed")


def test_rollback_that_was_asked_for_is_no_failure_once_it_has_ended():
    found = web(0, UpdateStatus={"State": "rollback_started", "Message": "asked"})
    assert (is_under_way(found), rollback_cause(found)) == (True, "asked")
    assert not check_update(found, progress_of(found, [], []), "")
    found = web(0, UpdateStatus={"State": "rollback_completed", "Message": "rollback completed"})
    assert (is_under_way(found), rollback_cause(found)) == (False, "")
    assert not check_update(found, progress_of(found, [], []), "")


def test_last_failure_is_known_though_its_replacement_says_nothing_of_it():
    tasks = [
        recorded.task("a", 1, "failed", DesiredState="shutdown", error="exit 1", ago_s=9),
        recorded.task("b", 1, "failed", DesiredState="shutdown", error="exit 2", ago_s=2),
        task(1, "ready", DesiredState="ready"),
    ]
    seen = progress_of(web(1), tasks, [recorded.NODE])
    assert seen.trouble == "web.1 failed: exit 2"
    assert bars(seen)[-1] == "last failure: web.1 failed: exit 2"
    assert progress_of(web(1), [*tasks[:2], task(1, "running")], [recorded.NODE]).trouble == ""


def test_bars_show_states_and_errors():
    tasks = [task(1, "starting"), task(2, "pending", error="no\nnode", NodeID="")]
    head, first, second = bars(progress_of(web(), tasks, [recorded.NODE]))
    assert head == "overall progress: 0 out of 2 tasks"
    assert first == "1/2: starting  [" + "=" * 43 + ">" + " " * 6 + "]"
    assert second == "2/2: no node"
    assert all(bars(progress_of(web(), [task(1, state)], [recorded.NODE])) for state in STATES)


# The wait itself --------------------------------------------------------------------------------
@pytest.fixture
def swarm(daemon, monkeypatch):
    monkeypatch.setattr(progress_module, "POLL_PERIOD_S", 0.005)
    daemon.script = {
        "POST /services/create": (201, {"ID": SERVICE_ID, "Warnings": None}),
        f"GET /services/{SERVICE_ID}": (200, web()),
        "GET /nodes": (200, [recorded.NODE]),
        "GET /tasks": [
            (200, []),
            (200, [task(1, "pending"), task(2, "pending")]),
            (200, [task(1, "running"), task(2, "starting")]),
            (200, [task(1, "running"), task(2, "failed", error="exit 1")]),
            (200, [task(1, "running"), task(2, "running")]),
        ],
    }
    return daemon


def test_create_says_one_line_a_change_where_there_is_no_terminal(swarmlet, swarm):
    result = swarmlet("service", "create", "--name", "web", "--replicas", "2", "host", "x")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == SERVICE_ID
    assert lines[1:] == [
        "overall progress: 0 out of 2 tasks",
        "web.1: pending",
        "web.2: pending",
        "web.1: running",
        "web.2: starting",
        "overall progress: 1 out of 2 tasks",
        "web.2 failed: exit 1",
        "web.2: failed (exit 1)",
        "web.2: running",
        "overall progress: 2 out of 2 tasks",
        "verify: Waiting 1 seconds to verify that tasks are stable...",
        "verify: Service web converged",
    ]


def test_create_quiet_waits_without_a_word(swarmlet, swarm):
    result = swarmlet("service", "create", "-q", "host", "x")
    assert (result.code, result.out) == (0, f"{SERVICE_ID}\n")
    assert len([r for r in swarm.requests if r.path == "/tasks"]) >= 5


def test_polling_keeps_one_connection(swarmlet, swarm):
    swarmlet("service", "create", "-q", "host", "x")
    assert swarm.connections == 1


def test_create_that_finds_no_place_ends_with_code_3_and_the_reason(swarmlet, swarm):
    blocked = task(1, "pending", error="no suitable node (1: constraint)", NodeID="")
    swarm.script["GET /tasks"] = (200, [blocked])
    result = swarmlet("service", "create", "--timeout", "30ms", "host", "x")
    assert result.code == 3
    assert "Tasks of web cannot be placed: no suitable node (1: constraint)" in result.err
    assert "`swarmlet service why web`" in result.err


def test_create_that_takes_too_long_ends_with_code_5_and_the_last_error(swarmlet, swarm):
    swarm.script["GET /tasks"] = (200, [task(1, "failed", error="exit 7")])
    result = swarmlet("service", "create", "--timeout", "30ms", "host", "x")
    assert result.code == 5
    assert "0 of 2 tasks of web run; the last failure: web.1 failed: exit 7" in result.err


def test_time_is_over_too_while_an_update_watches_tasks_that_run(swarmlet, swarm):
    found = web(1, UpdateStatus={"State": "updating", "Message": "update in progress"})
    swarm.script[f"GET /services/{SERVICE_ID}"] = (200, found)
    swarm.script["GET /services/web"] = (200, found)
    swarm.script["GET /tasks"] = (200, [task(1, "running")])
    swarm.script[f"POST /services/{SERVICE_ID}/update"] = (200, {"Warnings": None})
    result = swarmlet("service", "update", "--timeout", "30ms", "--label-add", "a=b", "web")
    assert result.code == 5
    assert "After 0 s all tasks of web run, and are still watched" in result.err


def test_rolled_back_update_ends_with_code_4(swarmlet, swarm):
    status = {"State": "rollback_completed", "Message": "rollback completed"}
    found = web(0, UpdateStatus=status)
    swarm.script[f"GET /services/{SERVICE_ID}"] = (200, found)
    swarm.script["GET /services/web"] = (200, found)
    swarm.script[f"POST /services/{SERVICE_ID}/update"] = (200, {"Warnings": None})
    swarm.script[f"GET /swarmlet/v1/services/{SERVICE_ID}/history"] = (200, [])
    assert swarmlet("service", "update", "--image", "host", "web").code == 4


def test_interrupted_wait_leaves_the_service_and_says_so(swarmlet, swarm, monkeypatch):
    def interrupted(_duration_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress_module, "sleep_s", interrupted)
    result = swarmlet("service", "create", "host", "x")
    assert result.code == 130
    assert "Operation continuing in background." in result.err


def test_terminal_gets_bars_drawn_over_themselves(swarm):
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    command = [sys.executable, "-m", "swarmlet", "--host", swarm.socket_path]
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    run = subprocess.run(
        [*command, "service", "create", "host", "x"], stdout=follower, env=env, check=False
    )
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(leader, 65_536):
            seen += piece
    os.close(leader)
    assert run.returncode == 0
    text = seen.decode()
    assert "\x1b[2K1/2: running   [====" in text
    assert "\x1b[3A" in text
    assert "Service web converged" in text
    drawn = [line.removeprefix("\x1b[2K") for line in re.split(r"\r\n", text)]
    assert max(len(re.sub(r"\x1b\[[0-9]*[A-Z]", "", line)) for line in drawn) < 40


def test_wait_starts_again_when_a_task_leaves_running(swarm):
    steady = web()
    steady["Spec"]["UpdateConfig"] = {"Monitor": 20_000_000}
    both = [task(1, "running"), task(2, "running")]
    swarm.script[f"GET /services/{SERVICE_ID}"] = (200, steady)
    swarm.script["GET /tasks"] = [(200, both), (200, both[:1]), (200, both)]
    seen: list[tuple[str, int]] = []

    class Recorder:
        def show(self, progress):
            seen.append(("running", progress.running))

        def say(self, text):
            seen.append((text.split()[1], 0))

    client = Client(swarm.socket_path)
    wait(client, SERVICE_ID, Recorder(), Patience(10, 10))
    client.close()
    assert seen[:4] == [("running", 2), ("Waiting", 0), ("running", 1), ("running", 2)]
    assert seen[-1] == ("Service", 0)
