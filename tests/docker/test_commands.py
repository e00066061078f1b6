"""A test a command of the docker CLI, against a whole daemon: with the process runtime anywhere,
with the docker runtime where an engine is. docs/compatibility.md lists them."""

import json
import os
import re

import pytest

from tests.daemon.harness import running_daemon, wait_for, wait_running
from tests.docker.cli import NEEDS_CLI, docker_of
from tests.docker.engine import IMAGE, VARIABLE

pytestmark = [*NEEDS_CLI, pytest.mark.timeout(180)]

ENGINE = os.environ.get(VARIABLE, "")
FOREVER = ("sleep", "100000")


def options(runtime: str) -> tuple[str, ...]:
    if runtime == "process":
        return ("--runtime", "process")
    if not ENGINE:
        pytest.skip(f"{VARIABLE} names no Docker Engine")
    return ("--runtime", "docker", "--docker-host", ENGINE)


@pytest.fixture(scope="module", params=["process", "docker"])
def daemon(request):
    with running_daemon(*options(request.param)) as daemon:
        daemon.image = "host" if request.param == "process" else IMAGE
        daemon.init()
        yield daemon


@pytest.fixture(scope="module")
def docker(daemon):
    with docker_of(daemon.socket) as docker:
        yield docker


@pytest.fixture
def empty():
    """A daemon in no swarm, and its CLI."""
    with running_daemon("--runtime", "process") as daemon, docker_of(daemon.socket) as docker:
        yield daemon, docker


@pytest.fixture
def web(daemon, docker, request):
    """A service of one task that ends at once when told to, named after the test."""
    name = "s" + str(abs(hash(request.node.name)) % 10**9)
    create(docker, daemon, name)
    wait_running(daemon.client(), name, 1)
    yield name
    docker("service", "rm", name)


def create(docker, daemon, name, *flags, command=FOREVER):
    words = ("service", "create", "-d", "--stop-grace-period", "1s", "--name", name, *flags)
    return docker(*words, daemon.image, *command).split()[-1]


def tasks_of(daemon, name, **filters):
    return daemon.client().get("/tasks", {"service": [name], **filters})


# swarm -------------------------------------------------------------------------------------------


def test_swarm_init(empty):
    daemon, docker = empty
    said = docker("swarm", "init", "--listen-addr", daemon.listen, "--task-history-limit", "3")
    assert "is now a manager" in said
    assert "docker swarm join --token SWMTKN-1-" in said
    assert "already part of a swarm" in docker("swarm", "init", code=1)


def test_swarm_leave(empty):
    daemon, docker = empty
    assert "not part of a swarm" in docker("swarm", "leave", code=1)
    docker("swarm", "init", "--listen-addr", daemon.listen)
    assert "Removing the last manager erases all" in docker("swarm", "leave", code=1)
    assert "Node left the swarm." in docker("swarm", "leave", "--force")
    assert "inactive" in docker("info", "--format", "{{.Swarm.LocalNodeState}}")


def test_swarm_join_is_refused_in_a_swarm(docker):
    token = "SWMTKN-1-" + "0" * 50 + "-" + "0" * 25
    words = ("swarm", "join", "--token", token, "127.0.0.1:1")
    assert "already part of a swarm" in docker(*words, code=1)


def test_swarm_update(docker):
    flags = ("--task-history-limit", "4", "--cert-expiry", "48h", "--dispatcher-heartbeat", "7s")
    assert "Swarm updated." in docker("swarm", "update", *flags)
    said = docker("info")
    assert "Task History Retention Limit: 4" in said
    assert "Expiry Duration: 2 days" in said
    assert "Heartbeat Period: 7 seconds" in said


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_swarm_join_token(docker, role):
    before = docker("swarm", "join-token", "-q", role).strip()
    assert before in docker("swarm", "join-token", role)
    after = docker("swarm", "join-token", "--rotate", "-q", role).strip()
    assert before != after
    assert before[:60] == after[:60]  # the root's digest


def test_swarm_unlock(empty):
    daemon, docker = empty
    said = docker("swarm", "init", "--listen-addr", daemon.listen, "--autolock")
    (key,) = re.findall(r"^ {4}(SWMKEY-1-\S{43})$", said, re.MULTILINE)
    assert "swarm is not locked" in docker("swarm", "unlock", code=1)
    daemon.kill()
    daemon.start()
    assert "Swarm: locked" in docker("info")
    assert "needs to be unlocked" in docker("node", "ls", code=1)
    assert "encrypted and locked" in docker("swarm", "leave", code=1)
    assert "invalid key string" in docker("swarm", "unlock", stdin="bogus\n", code=1)
    another = f"SWMKEY-1-{'A' * 43}\n"
    assert "invalid key provided" in docker("swarm", "unlock", stdin=another, code=1)
    assert docker("swarm", "unlock", stdin=f"{key}\n").strip() == ""
    assert "Leader" in docker("node", "ls")
    daemon.kill()
    daemon.start()
    docker("swarm", "leave", "--force")
    assert "Swarm: inactive" in docker("info")


def test_swarm_unlock_key(docker):
    assert "no unlock key is set" in docker("swarm", "unlock-key", code=1)
    assert "autolock is not turned on" in docker("swarm", "unlock-key", "--rotate", code=1)
    said = docker("swarm", "update", "--autolock=true")
    first = docker("swarm", "unlock-key", "-q").strip()
    assert first in said
    assert first in docker("swarm", "unlock-key")
    assert first not in docker("swarm", "unlock-key", "--rotate")
    assert docker("swarm", "unlock-key", "-q").strip() != first
    assert docker("swarm", "update", "--autolock=false").strip() == "Swarm updated."
    assert "no unlock key is set" in docker("swarm", "unlock-key", code=1)


def test_swarm_ca(docker):
    before = docker("swarm", "ca")
    assert before.startswith("-----BEGIN CERTIFICATE-----")
    said = docker("swarm", "ca", "--rotate")  # waits until every node is over
    after = docker("swarm", "ca")
    assert after != before
    assert after.strip() in said
    nobody = ("--external-ca", "protocol=cfssl,url=https://127.0.0.1:1/")
    refused = docker(
        "swarm", "ca", "--rotate", "--ca-cert", "/dev/stdin", *nobody, stdin=after, code=1
    )
    assert "at least one valid, reachable external CA" in refused


# node --------------------------------------------------------------------------------------------


def test_node_ls(docker):
    said = docker("node", "ls", "--format", "{{.Status}} {{.Availability}} {{.ManagerStatus}}")
    assert said.split() == ["Ready", "Active", "Leader"]
    assert docker("node", "ls", "-q", "--filter", "role=worker") == ""
    assert len(docker("node", "ls", "-q", "--filter", "role=manager").split()) == 1


def test_node_inspect(docker):
    (node,) = json.loads(docker("node", "inspect", "self"))
    assert node["ManagerStatus"]["Leader"] is True
    said = docker("node", "inspect", "--pretty", "self")
    assert "State:\t\t\tReady" in said
    assert "Raft Status:\t\tReachable" in said
    assert "nope not found" in docker("node", "inspect", "nope", code=1).lower()


def test_node_update(docker):
    node = docker("node", "ls", "-q").strip()
    docker("node", "update", "--label-add", "zone=a", "--availability", "pause", node)
    spec = json.loads(docker("node", "inspect", "self"))[0]["Spec"]
    assert spec["Labels"] == {"zone": "a"}
    assert spec["Availability"] == "pause"
    docker("node", "update", "--label-rm", "zone", "--availability", "active", node)
    assert json.loads(docker("node", "inspect", "self"))[0]["Spec"]["Labels"] == {}


def test_node_promote(docker):
    node = docker("node", "ls", "-q").strip()
    assert "already a manager" in docker("node", "promote", node)


def test_node_demote(docker):
    node = docker("node", "ls", "-q").strip()
    assert "attempting to demote the last manager" in docker("node", "demote", node, code=1)


def test_node_rm(docker):
    node = docker("node", "ls", "-q").strip()
    assert "is a cluster manager" in docker("node", "rm", node, code=1)
    assert "is a cluster manager" in docker("node", "rm", "--force", node, code=1)
    assert "node nope not found" in docker("node", "rm", "nope", code=1)


def test_node_ps(docker, web):
    said = docker("node", "ps", "self", "--filter", f"name={web}", "--format", "{{.Name}}")
    assert said.split() == [f"{web}.1"]


# service -----------------------------------------------------------------------------------------


def test_service_create_shows_its_progress_to_the_end(docker, daemon):
    words = ("service", "create", "--name", "shown", "--replicas", "2", "--update-monitor", "1s")
    said = docker(*words, "--stop-grace-period", "1s", daemon.image, *FOREVER)
    assert "overall progress: 2 out of 2 tasks" in said
    assert "converged" in said
    assert "already exists" in docker(*words, daemon.image, code=1)
    docker("service", "rm", "shown")


def test_service_create_with_most_flags(docker, daemon):
    flags = (
        "--label", "a=b", "--container-label", "cl=1", "--env", "A=1", "--env", "N={{.Task.Slot}}",
        "--constraint", "node.role==manager", "--placement-pref", "spread=node.labels.dc",
        "--replicas-max-per-node", "4", "--restart-condition", "any", "--restart-delay", "2s",
        "--restart-max-attempts", "3", "--restart-window", "60s", "--update-delay", "1s",
        "--update-order", "start-first", "--reserve-memory", "16M", "--limit-memory", "256M",
        "--stop-signal", "SIGTERM", "--workdir", "/", "--ulimit", "nofile=100:200",
        "--health-cmd", "true", "--health-interval", "1s", "--log-driver", "json-file",
        "--log-opt", "max-size=1m", "--init", "--network", "host", "--no-resolve-image",
    )  # fmt: skip
    create(docker, daemon, "full", *flags)
    wait_running(daemon.client(), "full", 1)
    spec = daemon.client().get("/services/full")["Spec"]
    assert spec["Labels"] == {"a": "b"}
    assert spec["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["Interval"] == 10**9
    assert spec["UpdateConfig"]["Order"] == "start-first"
    docker("service", "rm", "full")


def test_service_ls(docker, web):
    said = docker("service", "ls", "--filter", f"name={web}", "--format", "{{.Mode}} {{.Replicas}}")
    assert said.strip() == "replicated 1/1"
    assert len(docker("service", "ls", "-q", "--filter", f"name={web}").strip()) == 12


def test_service_ps(docker, web, daemon):
    shown = "{{.Name}} {{.DesiredState}} {{.CurrentState}} {{.Error}}"
    said = docker("service", "ps", "--format", shown, web)
    assert said.startswith(f"{web}.1 Running Running ")
    assert docker("service", "ps", "-q", "--filter", "desired-state=shutdown", web) == ""
    assert "no such service: nope" in docker("service", "ps", "nope", code=1)


def test_service_inspect(docker, web):
    (service,) = json.loads(docker("service", "inspect", web))
    assert service["Spec"]["Name"] == web
    said = docker("service", "inspect", "--pretty", web)
    for line in ("Service Mode:\tReplicated", "Replicas:\t1", "UpdateConfig:", "ContainerSpec:"):
        assert line in said
    assert "no such service: nope" in docker("service", "inspect", "nope", code=1)
    assert docker("service", "inspect", "--format", "{{.Spec.Name}}", web).strip() == web


def test_service_update_shows_its_progress_to_the_end(docker, web, daemon):
    flags = ("--env-add", "A=2", "--update-monitor", "1s", "--update-parallelism", "0")
    said = docker("service", "update", *flags, web)
    assert "overall progress: 1 out of 1 tasks" in said
    assert "converged" in said
    (task,) = tasks_of(daemon, web, **{"desired-state": ["running"]})
    assert task["Spec"]["ContainerSpec"]["Env"] == ["A=2"]
    assert "UpdateStatus:" in docker("service", "inspect", "--pretty", web)
    wait_for(lambda: _update_state(daemon, web) == "completed", what="the update's end")
    assert "State:\t\tcompleted" in docker("service", "inspect", "--pretty", web)


def _update_state(daemon, name):
    return daemon.client().get(f"/services/{name}").get("UpdateStatus", {}).get("State")


def test_service_update_force_replaces_every_task(docker, web, daemon):
    (before,) = tasks_of(daemon, web)
    docker("service", "update", "--force", "--update-monitor", "1s", web)
    (after,) = tasks_of(daemon, web, **{"desired-state": ["running"]})
    assert before["ID"] != after["ID"]


def test_service_update_that_fails_pauses_and_says_so(docker, web):
    flags = ("--args", "false", "--update-monitor", "5s", "--restart-condition", "none")
    if "host" in docker("service", "inspect", "--format", "{{json .Spec.TaskTemplate}}", web):
        flags = ("--args", "/bin/false", *flags[2:])
    said = docker("service", "update", *flags, web, code=1)
    assert "service update paused: update paused due to failure or early termination" in said


def test_service_rollback_returns_and_a_second_one_goes_forward_again(docker, web, daemon):
    docker("service", "update", "--env-add", "A=2", "--update-monitor", "1s", web)
    said = docker("service", "rollback", web)
    assert "manually requested rollback" in said
    assert "converged" in said
    container = "{{json .Spec.TaskTemplate.ContainerSpec.Env}}"
    assert docker("service", "inspect", "--format", container, web).strip() == "null"
    docker("service", "update", "--rollback", "-d", web)
    assert docker("service", "inspect", "--format", container, web).strip() == '["A=2"]'


def test_service_update_that_fails_is_rolled_back_and_says_so(docker, web, daemon):
    bad = ("--args", "/bin/false", "--update-failure-action", "rollback", "--update-monitor", "5s")
    docker("service", "update", "--rollback-monitor", "1s", "--env-add", "A=1", web)
    said = docker("service", "update", *bad, web)
    assert "update rolled back due to failure or early termination of task" in said
    assert "rolling back update" in said
    status = docker("service", "inspect", "--format", "{{json .UpdateStatus}}", web)
    assert '"State":"rollback_' in status
    wait_running(daemon.client(), web, 1)


def test_service_scale(docker, web, daemon):
    said = docker("service", "scale", f"{web}=3")
    assert f"{web} scaled to 3" in said
    assert "converged" in said
    wait_running(daemon.client(), web, 3)
    docker("service", "scale", "-d", f"{web}=0")
    wait_running(daemon.client(), web, 0)


def test_service_rm(docker, daemon):
    create(docker, daemon, "gone")
    assert docker("service", "rm", "gone").strip() == "gone"
    assert "service gone not found" in docker("service", "rm", "gone", code=1)


def test_service_logs(docker, daemon):
    said = "for i in 1 2 3; do echo out $i; done; echo err >&2; sleep 100000"
    create(docker, daemon, "talker", command=("sh", "-c", said))
    wait_for(lambda: "out 3" in docker("service", "logs", "talker"), what="the task's words")
    assert "talker.1." in docker("service", "logs", "talker")
    assert docker("service", "logs", "--raw", "--tail", "1", "talker").count("\n") == 1
    stamped = docker("service", "logs", "--timestamps", "--raw", "talker").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (out \d|err)$", line) for line in stamped)
    assert docker("service", "logs", "--since", "1h", "--raw", "talker").count("out") == 3
    (task,) = tasks_of(daemon, "talker")
    assert "out 1" in docker("service", "logs", "--raw", task["ID"])
    docker("service", "rm", "talker")


def test_service_logs_follows(docker, daemon):
    said = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done"
    create(docker, daemon, "teller", command=("sh", "-c", said))
    wait_running(daemon.client(), "teller", 1)
    with docker.streaming("service", "logs", "-f", "--raw", "teller") as logs:
        seen = [logs.stdout.readline() for _ in range(8)]
    assert seen[-1].startswith("line ")
    docker("service", "rm", "teller")


# what is about all of it -------------------------------------------------------------------------


def test_info(docker):
    said = docker("info")
    assert "Swarm: active" in said
    assert "Is Manager: true" in said
    assert "Managers: 1" in said


def test_version(docker):
    assert "swarmlet" in docker("version")
    assert docker("version", "--format", "{{.Server.APIVersion}}").strip()


def test_events(docker, daemon):
    flags = ("--since", "1m", "--filter", "service=seen", "--format", "{{.Type}} {{.Action}}")
    with docker.streaming("events", *flags) as events:
        create(docker, daemon, "seen")
        docker("service", "rm", "seen")
        found = [events.stdout.readline().strip() for _ in range(2)]
    assert found[0] == "service create"
    past = docker("events", "--since", "10m", "--until", "0s", "--filter", "type=service")
    assert "service remove" in past


def test_inspect_of_anything(docker, web):
    (service,) = json.loads(docker("inspect", web))
    assert service["Spec"]["Name"] == web


@pytest.mark.parametrize("kind", ["config", "secret"])
def test_config_and_secret(docker, kind):
    docker(kind, "create", "one", "-", stdin="payload")
    assert "one" in docker(kind, "ls")
    assert json.loads(docker(kind, "inspect", "one"))[0]["Spec"]["Name"] == "one"
    docker(kind, "rm", "one")
    assert "not found" in docker(kind, "inspect", "one", code=1).lower()


def test_network_ls(docker):
    assert "ingress" in docker("network", "ls", "--format", "{{.Name}}")
