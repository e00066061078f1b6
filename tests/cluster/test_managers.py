"""A second manager, which keeps no copy of the state: it passes on, and says so."""

import json
import shutil
import time

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    is_active,
    join_body,
    leave,
    node_id,
    root_on,
    row_of,
    serial_of,
    spread,
    state_of,
    subject_of,
    swarm_of,
    token_of,
    update_swarm,
    wait_state,
)
from tests.daemon.harness import ApiError, service, wait_for, wait_running

pytestmark = pytest.mark.timeout(120)
NEEDS_CLI = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI")


@pytest.fixture(scope="module")
def net():
    """`m2` joined with the manager's token, `w1` through `m2`; `w2` is in no swarm."""
    with network("m1", "m2", "w1", "w2") as found:
        for host in found.hosts.values():
            host.start()
        found["m1"].init()
        said = found["m2"].swarmlet("join", token_of(found["m1"], "Manager"), "m1.test")
        assert said.returncode == 0, said.stderr
        assert "This node joined a swarm as a manager." in said.stdout
        assert "keeps no copy of the swarm's state" in said.stderr
        body = join_body(found["w1"], token_of(found["m2"]), f"{found['m2'].address}:2377")
        found["w1"].client().post("/swarm/join", body)
        yield found


@pytest.fixture(autouse=True)
def _settled(net: Network):
    """Every test leaves three ready nodes."""
    yield
    net.heal()
    for name in ("m1", "m2", "w1"):
        if net[name].process.poll() is not None:
            net[name].start()
        wait_for(lambda name=name: is_active(net[name]), what=f"{name} in the swarm")
        wait_state(net["m1"], node_id(net[name]), "ready")


def test_certificate_and_row_say_manager_and_reachability_is_unknown(net):
    second = node_id(net["m2"])
    assert subject_of(net["m2"])["OU"] == "swarm-manager"
    for asked in ("m1", "m2"):
        row = row_of(net[asked], second)
        assert row["Spec"]["Role"] == "manager"
        assert row["ManagerStatus"]["Reachability"] == "unknown"
    assert [one["Addr"] for one in swarm_of(net["w1"])["RemoteManagers"]] == ["10.97.0.1:2377"]
    warnings = net["m2"].client().get("/info")["Warnings"]
    assert any("keeps no copy" in text for text in warnings)


@pytest.mark.docker_cli
@NEEDS_CLI
def test_docker_cli_on_the_second_manager_rules_the_swarm(net):
    def docker(*words: str) -> str:
        done = net["m2"].docker(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = [json.loads(line) for line in docker("node", "ls", "--format", "json").splitlines()]
    assert {row["Hostname"] for row in rows} == {"m1", "m2", "w1"}
    assert [row["Hostname"] for row in rows if row["Self"]] == ["m2"]
    docker("service", "create", "-d", "--name", "web", "--replicas", "6", "host", "sleep", "999")
    wait_running(net["m1"].client(), "web", 6)
    assert set(spread(net["m1"], "web").values()) == {2}
    assert "Running" in docker("service", "ps", "web")
    docker("swarm", "update", "--task-history-limit", "3")
    limit = net["m1"].client().get("/swarm")["Spec"]["Orchestration"]
    assert limit["TaskHistoryRetentionLimit"] == 3
    old = docker("swarm", "join-token", "-q", "worker")
    docker("swarm", "join-token", "--rotate", "worker")
    assert docker("swarm", "join-token", "-q", "worker") != old
    docker("node", "update", "--availability", "drain", "w1")
    wait_for(lambda: node_id(net["w1"]) not in spread(net["m1"], "web"), what="w1 empty")
    docker("node", "update", "--availability", "active", "w1")
    docker("service", "rm", "web")


def test_tasks_on_the_second_manager_survive_its_restart(net):
    client = net["m1"].client()
    client.post("/services/create", service("web", replicas=3))
    before = {task["ID"] for task in wait_running(client, "web", 3)}
    second = node_id(net["m2"])
    assert second in spread(net["m1"], "web")
    for end in (net["m2"].kill, net["m2"].stop):
        end()
        net["m2"].start()
        wait_for(lambda: is_active(net["m2"]), what="m2 is back")
        wait_state(net["m1"], second, "ready")
        assert net["m2"].client().get("/services/web")["Spec"]["Name"] == "web"
    assert {task["ID"] for task in wait_running(client, "web", 3)} == before
    client.delete("/services/web")


def test_second_manager_that_is_cut_off_says_whom_it_cannot_reach(net):
    assert answers(net["m2"])
    net.cut("m2")
    for _ in ("on a connection that was kept", "on a new one"):
        began_s = time.monotonic()
        with pytest.raises(ApiError) as found:
            net["m2"].client().get("/nodes")
        assert found.value.status == 503
        assert "10.97.0.1:2377" in found.value.message
        assert time.monotonic() - began_s < 15.0
    wait_for(lambda: state_of(net["m1"], node_id(net["m2"])) != "ready", what="the loss is seen")
    net.heal()
    wait_for(lambda: answers(net["m2"]), what="m2 answers again")


def answers(host: Host) -> bool:
    try:
        return bool(host.client().get("/nodes"))
    except ApiError:
        return False


def test_root_rotation_reaches_the_second_manager_and_its_port(net):
    old, serial = root_on(net["m2"]), serial_of(net["m2"])
    update_swarm(net["m2"], {"CAConfig": {"ForceRotate": 1}})
    wait_for(lambda: not net["m1"].client().get("/swarm")["RootRotationInProgress"], what="its end")
    root = net["m1"].client().get("/swarm")["TLSInfo"]["TrustRoot"]
    assert root != old
    wait_for(lambda: root_on(net["m2"]) == root, what="the new root on m2")
    assert serial_of(net["m2"]) != serial
    body = join_body(net["w2"], token_of(net["m2"]), f"{net['m2'].address}:2377")
    net["w2"].client().post("/swarm/join", body)
    assert state_of(net["m1"], node_id(net["w2"])) == "ready"
    leave(net["w2"], net["m1"])


def listens(host: Host) -> bool:
    return ":2377 " in host.run("ss", "-Hltn").stdout


def test_removed_second_manager_passes_nothing_on_any_more(net):
    host, second = net["m2"], node_id(net["m2"])
    assert listens(host)
    with pytest.raises(ApiError, match="is not down and can't be removed"):
        net["m1"].client().delete(f"/nodes/{second}")
    net["m1"].client().delete(f"/nodes/{second}?force=1")
    with pytest.raises(ApiError) as found:
        host.client().get("/nodes")
    assert found.value.status in (403, 503)
    assert "removed" in found.value.message
    wait_for(lambda: "removed" in swarm_of(host)["Error"], what="it is told")
    body = join_body(net["w2"], token_of(net["m1"]), f"{host.address}:2377")
    with pytest.raises(ApiError):
        net["w2"].client().post("/swarm/join", body)
    leave(net["w2"])
    leave(host)
    host.join(net["m1"], "Manager")
    assert node_id(host) != second
