"""`service exec`, `task exec` and `port-forward`: which task is meant, what is asked, what is
refused before anything is sent. The streams themselves: tests/daemon/test_streams.py."""

import socket

import pytest

from swarmlet.cli.service.port_forward import Way, _way
from tests.cli import recorded

SERVICE_ID = "yca8lu1gsnal3oef52s1xf3gu"
IDS = {name: f"{name}{'0' * 24}"[:25] for name in ("first", "second", "done", "gone")}


def task(name: str, slot: int, state: str = "running", node: str = recorded.NODE_ID) -> dict:
    status = {"State": state}
    return {
        "ID": IDS[name],
        "ServiceID": SERVICE_ID,
        "Slot": slot,
        "NodeID": node,
        "Status": status,
    }


@pytest.fixture
def swarm(daemon):
    web = recorded.service(SERVICE_ID, "web", {"Replicated": {"Replicas": 2}})
    web["Spec"]["EndpointSpec"]["Ports"] = [
        {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "host"},
        {"Protocol": "udp", "TargetPort": 53, "PublishMode": "host"},
    ]
    refused = (400, {"message": "It is refused.", "remedy": "another day"})
    tasks = [task("second", 2, node="n2"), task("first", 1), task("done", 0, "complete")]
    daemon.script = {
        "GET /services/web": (200, web),
        f"GET /services/{SERVICE_ID}": (200, web),
        "GET /tasks": (200, tasks),
        f"GET /tasks/{IDS['gone']}": (200, task("gone", 3)),
        f"GET /nodes/{recorded.NODE_ID}": (200, recorded.NODE),
        "GET /nodes/w2": (200, {"ID": "n2"}),
        **{f"POST /swarmlet/v1/tasks/{one}/exec": refused for one in IDS.values()},
    }
    for path in ("services/web.2", "services/web.w2", "services/web.9", "services/web.nix"):
        daemon.script[f"GET /{path}"] = (404, {"message": "no such service"})
    for path in (f"services/{IDS['gone']}", "nodes/nix", "tasks/nix", "services/nix"):
        daemon.script[f"GET /{path}"] = (404, {"message": "not found"})
    return daemon


def asked_of(swarm) -> str:
    """Which task the command was for."""
    (request,) = [one for one in swarm.requests if one.method == "POST"]
    return request.path.split("/")[-2]


@pytest.mark.parametrize(
    ("ref", "name"),
    [("web", "first"), ("web.2", "second"), ("web.w2", "second"), (IDS["gone"], "gone")],
)
def test_task_is_the_lowest_slots_or_the_one_that_is_named(swarmlet, swarm, ref, name):
    result = swarmlet("service", "exec", ref, "true")
    assert asked_of(swarm) == IDS[name]
    assert (result.code, result.err) == (1, "Error: It is refused.\n  Try: another day\n")


def test_task_exec_is_the_same_of_an_id(swarmlet, swarm):
    assert swarmlet("task", "exec", IDS["gone"], "true").code == 1
    assert asked_of(swarm) == IDS["gone"]


def test_what_is_asked_is_what_was_written(swarmlet, swarm, monkeypatch):
    monkeypatch.setenv("OWN", "mine")
    monkeypatch.delenv("MISSING", raising=False)
    words = ("-e", "A=1", "-e", "OWN", "-e", "MISSING", "-u", "www", "-w", "/srv", "web")
    swarmlet("service", "exec", *words, "--", "sh", "-c", "-e", "--tty")
    (request,) = [one for one in swarm.requests if one.method == "POST"]
    assert request.body == {
        "Cmd": ["sh", "-c", "-e", "--tty"],
        "Env": ["A=1", "OWN=mine"],
        "User": "www",
        "WorkingDir": "/srv",
        "Tty": False,
        "AttachStdin": False,
        "ConsoleSize": [],
    }
    assert request.headers["Upgrade"] == "tcp"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("web.9", "true"), 1, "No task of web.9 is running."),
        (("web.nix", "true"), 1, "No task of web.nix is running."),
        (("nix", "true"), 1, "There is no service and no task 'nix'."),
        (("web",), 2, "Missing argument 'COMMAND...'"),
        (("web", "--"), 2, "Missing argument 'COMMAND...'"),
        (("-e", "=x", "web", "true"), 2, "'=x' has no name"),
    ],
)
def test_what_cannot_be_is_said_and_not_sent(swarmlet, swarm, words, code, said):
    result = swarmlet("service", "exec", *words)
    assert result.code == code
    assert said in result.err
    assert not [one for one in swarm.requests if one.method == "POST"]


def test_daemon_that_does_not_switch_is_named(swarmlet, swarm):
    swarm.script[f"POST /swarmlet/v1/tasks/{IDS['first']}/exec"] = (200, None)
    result = swarmlet("service", "exec", "web", "true")
    assert result.code == 1
    assert "does not switch protocols" in result.err


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("80", Way(80, 80)),
        ("8080:80", Way(8080, 80)),
        ("0:80", Way(0, 80)),
        (":80", Way(0, 80)),
        ("65535:65535", Way(65535, 65535)),
    ],
)
def test_ports_are_a_local_one_and_the_tasks(text, way):
    assert _way(text) == way


@pytest.mark.parametrize(
    "text", ["", "x", "80:", "80:0", "0", "-1:80", "70000:80", "1:2:3", "²:80"]
)
def test_ports_that_are_none_are_wrong_usage(swarmlet, swarm, text):
    result = swarmlet("service", "port-forward", "web", "--", text)
    assert result.code == 2
    assert "Invalid value" in result.err


def test_local_port_that_is_taken_is_said_with_what_to_try(swarmlet, swarm):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = swarmlet("service", "port-forward", "web", "0:80", f"{port}:80")
    assert result.code == 1
    assert f"127.0.0.1:{port} cannot be listened on" in result.err
    assert "0:80" in result.err


@pytest.mark.parametrize("address", ["192.0.2.1", "no-such-host.invalid"])
def test_address_of_another_host_is_said_with_what_to_try(swarmlet, swarm, address):
    result = swarmlet("service", "port-forward", "--address", address, "web", "0:80")
    assert result.code == 1
    assert f"{address}:0 cannot be listened on" in result.err
    assert "Try: an --address of this host" in result.err


@pytest.mark.parametrize("port", ["81", "53"])
def test_port_that_the_service_does_not_declare_is_refused_before_anybody_connects(
    swarmlet, swarm, port
):
    result = swarmlet("service", "port-forward", "web", f"0:{port}")
    assert result.code == 1
    assert f"Service web does not declare port {port}; its TCP ports: 80." in result.err
    assert f"target={port} web` declares it" in result.err
    assert "Forwarding" not in result.err
