"""The unmodified docker CLI drives a real daemon."""

import json

import pytest

from tests.daemon.harness import wait_running
from tests.docker.cli import NEEDS_CLI, docker_of

pytestmark = [*NEEDS_CLI, pytest.mark.timeout(120)]


@pytest.fixture
def docker(daemon):
    with docker_of(daemon.socket) as docker:
        yield docker


def test_docker_cli_drives_a_swarm_from_init_to_leave(daemon, docker):
    assert "inactive" in docker("info", "--format", "{{.Swarm.LocalNodeState}}")
    said = docker("swarm", "init", "--listen-addr", daemon.listen)
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


def test_docker_service_create_waits_until_converged(swarm, docker):
    said = docker("service", "create", "--name", "web", "host", "sleep", "1000")
    assert "converged" in said


def test_docker_configs_secrets_and_logs(swarm, docker):
    for kind in ("config", "secret"):
        docker(kind, "create", "one", "-", stdin="payload")
        assert "one" in docker(kind, "ls")
        (found,) = json.loads(docker(kind, "inspect", "one"))
        assert found["Spec"]["Name"] == "one"
        docker(kind, "rm", "one")
        assert "not found" in docker(kind, "inspect", "one", code=1)
    docker("service", "create", "-d", "--name", "hi", "host", "sh", "-c", "echo hi; sleep 1000")
    wait_running(swarm.client(), "hi", 1)
    assert "hi.1." in docker("service", "logs", "hi")


def test_docker_node_update_and_version(swarm, docker):
    assert "swarmlet" in docker("version").lower()
    docker("node", "update", "--label-add", "zone=a", swarm.client().get("/nodes")[0]["ID"])
    (node,) = json.loads(docker("node", "inspect", "self"))
    assert node["Spec"]["Labels"] == {"zone": "a"}


def test_docker_says_the_reason_of_a_refusal(daemon, docker):
    assert "not a swarm manager" in docker("node", "ls", code=1)
    docker("swarm", "init", "--listen-addr", daemon.listen)
    said = docker("swarm", "init", "--advertise-addr", "127.0.0.1", code=1)
    assert "already part of a swarm" in said
