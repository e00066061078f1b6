"""The real docker CLI makes, uses and secures a swarm of four hosts."""

import json
import shutil
import time

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    WORKER_SENTENCE,
    certificate_text,
    lifetime_h,
    node_id,
    root_on,
    serial_of,
    spread,
    subject_of,
    swarm_of,
    token_of,
    update_swarm,
)
from tests.daemon.harness import wait_for, wait_running

pytestmark = [
    pytest.mark.docker_cli,
    pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI on PATH"),
    pytest.mark.timeout(120),
]
WORKERS = ("w1", "w2", "w3")


def docker(host: Host, *words: str, code: int = 0) -> str:
    done = host.docker(*words, limit_s=90.0)
    assert done.returncode == code, f"docker {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def net():
    """One manager and three workers, joined by the words that docker prints."""
    with network("m1", *WORKERS) as found:
        manager = found["m1"].start()
        said = docker(manager, "swarm", "init", "--advertise-addr", manager.address)
        assert "is now a manager" in said
        said = docker(manager, "swarm", "join-token", "worker")
        words = next(line.split() for line in said.splitlines() if "docker swarm join" in line)
        for name in WORKERS:
            joined = docker(found[name].start(), *words[1:])
            assert "This node joined a swarm as a worker." in joined
        yield found


@pytest.fixture
def manager(net: Network):
    return net["m1"]


def test_node_ls_shows_every_host_ready_right_after_the_joins(net: Network, manager: Host):
    rows = docker(manager, "node", "ls", "--format", "{{json .}}").splitlines()
    nodes = {row["Hostname"]: row for row in map(json.loads, rows)}
    assert set(nodes) == {"m1", *WORKERS}
    assert {row["Status"] for row in nodes.values()} == {"Ready"}
    assert nodes["m1"]["ManagerStatus"] == "Leader"
    assert all(nodes[name]["ManagerStatus"] == "" for name in WORKERS)
    for name in WORKERS:
        shown = json.loads(docker(manager, "node", "inspect", name))[0]
        assert shown["Status"]["Addr"] == net[name].address
        assert shown["Spec"]["Role"] == "worker"


def test_service_is_spread_over_all_hosts(net: Network, manager: Host):
    docker(manager, "service", "create", "--name", "web", "--replicas", "8", "host", "sleep", "999")
    assert sorted(spread(manager, "web").values()) == [2, 2, 2, 2]
    assert set(spread(manager, "web")) == {node_id(host) for host in net.hosts.values()}
    listed = docker(manager, "service", "ps", "--format", "{{.Node}}", "web").split()
    assert sorted(set(listed)) == ["m1", *WORKERS]
    docker(manager, "node", "update", "--availability", "drain", "w3")
    wait_for(
        lambda: node_id(net["w3"]) not in spread(manager, "web"), what="w3 drained", limit_s=30
    )
    wait_running(manager.client(), "web", 8)
    docker(manager, "node", "update", "--availability", "active", "w3")
    docker(manager, "service", "rm", "web")


CLUSTER_COMMANDS = (
    ("node", "ls"),
    ("node", "inspect", "self"),
    ("node", "ps"),
    ("node", "update", "--availability", "drain", "m1"),
    ("node", "rm", "m1"),
    ("node", "promote", "m1"),
    ("service", "ls"),
    ("service", "create", "host"),
    ("service", "ps", "web"),
    ("service", "rm", "web"),
    ("secret", "ls"),
    ("config", "ls"),
    ("swarm", "join-token", "worker"),
    ("swarm", "update", "--cert-expiry", "48h"),
    ("swarm", "ca"),
    ("swarm", "ca", "--rotate"),
    ("swarm", "unlock-key"),
    ("stack", "ls"),
)


@pytest.mark.parametrize("words", CLUSTER_COMMANDS, ids=" ".join)
def test_cluster_command_on_a_worker_answers_dockers_sentence(net: Network, words):
    assert WORKER_SENTENCE in docker(net["w1"], *words, code=1)


def test_worker_knows_its_swarm_by_info_alone(net: Network, manager: Host):
    shown = json.loads(docker(net["w1"], "info", "--format", "{{json .Swarm}}"))
    assert shown["LocalNodeState"] == "active"
    assert shown["ControlAvailable"] is False
    assert [one["Addr"] for one in shown["RemoteManagers"]] == [f"{manager.address}:2377"]
    assert shown["NodeAddr"] == net["w1"].address


def test_certificate_of_a_node_says_who_it_is(net: Network, manager: Host):
    cluster_id = manager.client().get("/swarm")["ID"]
    for name, role in (("m1", "swarm-manager"), ("w1", "swarm-worker")):
        own = node_id(net[name])
        assert subject_of(net[name]) == {"O": cluster_id, "OU": role, "CN": own}
        text = certificate_text(net[name])
        assert f"DNS:{role}" in text
        assert f"DNS:{own}" in text
        assert ("DNS:swarm-ca" in text) == (role == "swarm-manager")
        assert "TLS Web Server Authentication, TLS Web Client Authentication" in text


def test_node_inspect_shows_trust_and_issuer_as_docker_does(manager: Host):
    said = docker(manager, "node", "inspect", "--pretty", "w1")
    assert "TLS Info:" in said
    assert "BEGIN CERTIFICATE" in said
    assert "Issuer Subject:" in said


def test_cert_expiry_counts_for_the_next_certificates(net: Network, manager: Host):
    docker(manager, "swarm", "update", "--cert-expiry", "48h")
    assert "Expiry Duration: 2 days" in docker(manager, "info")
    assert manager.client().get("/swarm")["Spec"]["CAConfig"]["NodeCertExpiry"] == 48 * 3600 * 10**9
    said = docker(manager, "swarm", "update", "--cert-expiry", "30m", code=1)
    assert "minimum" in said
    docker(net["w3"], "swarm", "leave")
    docker(manager, "node", "rm", "--force", "w3")
    docker(net["w3"], "swarm", "join", "--token", token_of(manager), f"{manager.address}:2377")
    assert 47 < lifetime_h(net["w3"]) - 1 <= 48 < lifetime_h(net["w1"])  # backdated by an hour


def test_root_rotation_reaches_every_node_under_running_tasks(net: Network, manager: Host):
    docker(
        manager,
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "4",
        "host",
        "sleep",
        "999",
    )
    before = {task["ID"] for task in wait_running(manager.client(), "web", 4)}
    old_root = docker(manager, "swarm", "ca")
    old_token = token_of(manager)
    serials = {name: serial_of(host) for name, host in net.hosts.items()}
    began_s = time.monotonic()
    said = docker(manager, "swarm", "ca", "--rotate")
    took_s = time.monotonic() - began_s
    new_root = docker(manager, "swarm", "ca")
    assert new_root.strip() in said
    assert new_root != old_root
    assert took_s < 30.0
    for name, host in net.hosts.items():
        wait_for(lambda host=host: root_on(host) == new_root, what=f"the new root on {name}")
        assert serial_of(host) != serials[name]
    assert {task["ID"] for task in wait_running(manager.client(), "web", 4)} == before
    assert token_of(manager) != old_token
    nodes = docker(manager, "node", "ls", "--format", "{{.TLSStatus}}").split()
    assert nodes == ["Ready"] * 4
    docker(manager, "service", "rm", "web")


def test_tokens_are_rotated_and_the_old_one_lets_nobody_in(net: Network, manager: Host):
    old = docker(manager, "swarm", "join-token", "-q", "worker").strip()
    said = docker(manager, "swarm", "join-token", "--rotate", "worker")
    assert "Successfully rotated worker join token." in said
    new = docker(manager, "swarm", "join-token", "-q", "worker").strip()
    assert new != old
    docker(net["w2"], "swarm", "leave")
    docker(manager, "node", "rm", "--force", "w2")
    address = f"{manager.address}:2377"
    said = docker(net["w2"], "swarm", "join", "--token", old, address, code=1)
    assert "join token" in said
    assert old not in said
    assert swarm_of(net["w2"])["LocalNodeState"] == "inactive"
    docker(net["w2"], "swarm", "join", "--token", new, address)
    assert "Ready" in docker(manager, "node", "ls", "--filter", f"id={node_id(net['w2'])}")


def test_ca_takes_a_certificate_and_key_of_the_user(net, manager, tmp_path):
    words = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    key, certificate = tmp_path / "ca.key", tmp_path / "ca.crt"
    done = manager.run(
        "openssl", *words, "-keyout", str(key), "-out", str(certificate), "-days", "3650",
        "-subj", "/CN=the-users-root",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    docker(manager, "swarm", "ca", "--rotate", "--ca-cert", str(certificate), "--ca-key", str(key))
    assert docker(manager, "swarm", "ca").strip() == certificate.read_text().strip()
    for host in net.hosts.values():
        wait_for(lambda host=host: "CN=the-users-root" in certificate_text(host), what="its issuer")
    update_swarm(manager, {"CAConfig": {"NodeCertExpiry": 2160 * 3600 * 10**9}})
