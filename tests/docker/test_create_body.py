"""What the create body asks for is what an engine of API 1.41 says the container has."""

import base64
import http.client
import json
import os
from itertools import count

import pytest

from swarmlet.runtime.docker.create import container_name, create_body
from tests.daemon.harness import UnixConnection
from tests.docker.engine import IMAGE, VARIABLE
from tests.runtime.test_docker_create import task

pytestmark = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"no Docker Engine: {VARIABLE} is not set"
)

API = "/v1.41"
NUMBERS = count()
PROFILE = base64.b64encode(b'{"defaultAction":"SCMP_ACT_ALLOW"}').decode()
FULL = {
    "Command": ["sleep"],
    "Args": ["100"],
    "Env": ["A=1"],
    "Hostname": "h",
    "User": "0:0",
    "Dir": "/tmp",
    "TTY": True,
    "OpenStdin": True,
    "StopSignal": "SIGINT",
    "StopGracePeriod": 1_500_000_000,
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 5},
    "Labels": {"a": "b"},
    "Groups": ["5"],
    "Init": False,
    "ReadOnly": True,
    "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
    "CapabilityAdd": ["CAP_NET_ADMIN"],
    "CapabilityDrop": ["CAP_CHOWN"],
    "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
    "OomScoreAdj": 5,
    "Hosts": ["1.2.3.4 a b", "::1 c"],
    "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["x"], "Options": ["ndots:1"]},
    "Privileges": {
        "NoNewPrivileges": True,
        "Seccomp": {
            "Mode": "custom",
            "Profile": PROFILE,
        },
        "AppArmor": {"Mode": "disabled"},
    },
    "Mounts": [
        {
            "Type": "bind",
            "Source": "/etc",
            "Target": "/bound",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rslave", "NonRecursive": True},
        },
        {
            "Type": "volume",
            "Source": "full-test",
            "Target": "/volume",
            "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}},
        },
        {"Type": "volume", "Target": "/anonymous"},
        {
            "Type": "tmpfs",
            "Target": "/memory",
            "TmpfsOptions": {"SizeBytes": 65536, "Mode": 0o1777},
        },
    ],
}


def call(method: str, path: str, body: object = None) -> tuple[int, dict]:
    connection = UnixConnection(os.environ[VARIABLE].removeprefix("unix://"))
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, API + path, content, {"Content-Type": "application/json"})
        answer: http.client.HTTPResponse = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


@pytest.fixture
def made():
    """Creates a container of a body; it is gone after the test."""
    names = []

    def make(container: dict, template: dict | None = None, **fields: object):
        one = task({"Args": ["true"], **container, "Image": IMAGE}, template, **fields)
        body = create_body(one, engine_id="engine1", api_version="1.41")
        names.append(f"{container_name(one)}.{next(NUMBERS)}")
        status, answer = call("POST", f"/containers/create?name={names[-1]}", body)
        return body, status, answer

    yield make
    for name in names:
        call("DELETE", f"/containers/{name}?force=1&v=1")


def differences(body: dict, answer: dict) -> dict:
    """Fields that the engine shows otherwise than they were asked for."""
    _, shown = call("GET", f"/containers/{answer['Id']}/json")
    asked = {**body, **body["HostConfig"]}
    found = {**shown["Config"], **shown["HostConfig"]}
    for bindings in (found["PortBindings"] or {}).values():
        for binding in bindings:
            assert binding.pop("HostIp") == ""  # on every address
    for name in ("HostConfig", "RestartPolicy"):
        asked.pop(name)
    return {
        name: (asked[name], found.get(name)) for name in asked if found.get(name) != asked[name]
    }


def test_engine_shows_every_field_as_it_was_asked_for(made):
    resources = {"Limits": {"NanoCPUs": 50_000_000, "MemoryBytes": 64 << 20, "Pids": 50}}
    body, status, answer = made(
        FULL,
        {"Resources": resources, "LogDriver": {"Name": "local", "Options": {"max-size": "1m"}}},
        ports=(("", "tcp", 80, 8080), ("dns", "udp", 53, 0)),
    )
    assert (status, differences(body, answer)) == (201, {})
    call("DELETE", "/volumes/full-test?force=1")


@pytest.mark.parametrize(
    "container",
    [
        {"Healthcheck": {"Test": ["NONE"]}},
        {"Privileges": {"Seccomp": {"Mode": "unconfined"}}},
        {"Privileges": {"SELinuxContext": {"Disable": True}}},
        {"Init": True},
        {"StopGracePeriod": 0},
    ],
    ids=str,
)
def test_engine_takes_other_values_too(container, made):
    body, status, answer = made(container)
    assert (status, differences(body, answer)) == (201, {})


def test_engine_joins_the_nodes_own_network(made):
    body, status, answer = made({}, network_mode="host")
    assert (status, differences(body, answer)) == (201, {})


def test_bind_source_that_is_not_there_is_refused_in_dockers_words(made):
    mount = {"Type": "bind", "Source": "/nowhere/at/all", "Target": "/x"}
    _, status, answer = made({"Mounts": [mount]})
    assert status == 400
    assert answer["message"] == (
        'invalid mount config for type "bind": bind source path does not exist: /nowhere/at/all'
    )
