"""The unmodified docker CLI drives a real daemon."""

import json
import shutil
import subprocess

import pytest

from tests.daemon.harness import running_daemon, wait_running

pytestmark = [
    pytest.mark.docker_cli,
    pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI on PATH"),
    pytest.mark.timeout(120),
]


class Docker:
    def __init__(self, socket):
        self.host = f"unix://{socket}"

    def __call__(self, *words, code=0):
        done = subprocess.run(
            ["docker", "-H", self.host, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def docker(daemon):
    return Docker(daemon.socket)


def test_docker_cli_drives_a_swarm_from_init_to_leave(daemon, docker):
    assert "inactive" in docker("info", "--format", "{{.Swarm.LocalNodeState}}")
    said = docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    assert "is now a manager" in said
    assert "SWMTKN-1-" in said
    assert "Leader" in docker("node", "ls")
    service_id = docker(
        "service", "create", "-d", "--name", "web", "--replicas", "2", "host", "sleep", "1000"
    ).split()[0]
    client = daemon.client()
    wait_running(client, "web", 2)
    assert "2/2" in docker("service", "ls")
    assert docker("service", "ls", "-q").strip() == service_id[:12]
    assert docker("service", "ps", "web").count("Running") >= 2
    assert "web" in docker("service", "inspect", "--pretty", "web")
    docker("service", "scale", "-d", "web=3")
    wait_running(client, "web", 3)
    docker("service", "rm", "web")
    assert "This node is not" not in docker("swarm", "leave", "--force")


def test_docker_service_create_waits_until_converged(swarm):
    said = Docker(swarm.socket)("service", "create", "--name", "web", "host", "sleep", "1000")
    assert "converged" in said


def test_docker_configs_secrets_and_logs(swarm):
    docker = Docker(swarm.socket)
    for kind in ("config", "secret"):
        subprocess.run(
            ["docker", "-H", docker.host, kind, "create", "one", "-"],
            input=b"payload",
            check=True,
            capture_output=True,
        )
        assert "one" in docker(kind, "ls")
        (found,) = json.loads(docker(kind, "inspect", "one"))
        assert found["Spec"]["Name"] == "one"
        docker(kind, "rm", "one")
        assert "not found" in docker(kind, "inspect", "one", code=1)
    docker("service", "create", "-d", "--name", "hi", "host", "sh", "-c", "echo hi; sleep 1000")
    wait_running(swarm.client(), "hi", 1)
    assert "hi.1." in docker("service", "logs", "hi")


def test_docker_node_update_and_version(swarm):
    docker = Docker(swarm.socket)
    assert "swarmlet" in docker("version").lower()
    docker("node", "update", "--label-add", "zone=a", swarm.client().get("/nodes")[0]["ID"])
    (node,) = json.loads(docker("node", "inspect", "self"))
    assert node["Spec"]["Labels"] == {"zone": "a"}


def test_docker_says_the_reason_of_a_refusal():
    with running_daemon() as daemon:
        docker = Docker(daemon.socket)
        assert "not a swarm manager" in docker("node", "ls", code=1)
        docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        assert "already part of a swarm" in docker(
            "swarm", "init", "--advertise-addr", "127.0.0.1", code=1
        )
