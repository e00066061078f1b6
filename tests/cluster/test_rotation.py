"""Root rotations that are watched, interrupted and joined; roots of users and of others."""

import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ca.external_signer import Authority, external_ca
from tests.ca.fixtures import DAY_MS, key_of_kind, seeded, users_root
from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    certificate_text,
    form_swarm,
    is_active,
    join_body,
    leave,
    node_id,
    refused,
    root_on,
    serial_of,
    token_of,
    update_swarm,
    wait_state,
)
from tests.daemon.harness import ApiError, pid_of, service, wait_for, wait_running

pytestmark = pytest.mark.timeout(120)
NEEDS_CLI = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI")


@pytest.fixture(scope="module")
def net():
    with network("m1", "w1", "w2") as found:
        form_swarm(found)
        yield found


@pytest.fixture
def manager(net: Network):
    return net["m1"]


@pytest.fixture(autouse=True)
def _settled(net: Network):
    """Every test leaves the three nodes ready and no rotation."""
    yield
    net.heal()
    for host in net.hosts.values():
        if host.process.poll() is not None:
            host.start()
    wait_over(net["m1"])
    for host in net.hosts.values():
        wait_state(net["m1"], node_id(host), "ready")


def swarm(manager: Host) -> dict:
    return manager.client().get("/swarm")


def rotate(manager: Host, **config) -> None:
    count = swarm(manager)["Spec"]["CAConfig"].get("ForceRotate", 0)
    update_swarm(manager, {"CAConfig": config or {"ForceRotate": count + 1}})


def is_over(manager: Host) -> bool:
    return not swarm(manager)["RootRotationInProgress"]


def wait_over(manager: Host) -> None:
    wait_for(lambda: is_over(manager), what="the rotation's end", limit_s=60)


def all_trust_it(net: Network) -> None:
    root = swarm(net["m1"])["TLSInfo"]["TrustRoot"]
    for name, host in net.hosts.items():
        wait_for(lambda host=host: root_on(host) == root, what=f"the swarm's root on {name}")


@contextmanager
def away(net: Network, name: str):
    """The host is cut off, so that no rotation can end."""
    net.cut(name)
    yield node_id(net[name])
    net.heal()


def test_rotation_under_way_survives_kills_of_everybody_and_ends(net, manager):
    client = manager.client()
    client.post("/services/create", service("web", replicas=3))
    before = sorted(pid_of(task) for task in wait_running(client, "web", 3))
    old, serial = swarm(manager), serial_of(net["w2"])
    with away(net, "w1"):
        rotate(manager)
        wait_for(lambda: serial_of(net["w2"]) != serial, what="a renewal")
        for name in ("m1", "w2"):
            net[name].kill()
            net[name].start()
        wait_for(lambda: is_active(manager), what="the manager is back")
        assert not is_over(manager)
        assert swarm(manager)["JoinTokens"] == old["JoinTokens"]
        assert root_on(net["w2"]) == old["TLSInfo"]["TrustRoot"]
    wait_over(manager)
    all_trust_it(net)
    assert swarm(manager)["TLSInfo"]["TrustRoot"] != old["TLSInfo"]["TrustRoot"]
    assert swarm(manager)["JoinTokens"] != old["JoinTokens"]
    assert sorted(pid_of(task) for task in wait_running(client, "web", 3)) == before
    client.delete("/services/web")


def test_node_that_joins_during_a_rotation_has_the_old_token_and_both_roots(net, manager):
    leave(net["w2"], manager)
    with away(net, "w1"):
        rotate(manager)
        net["w2"].join(manager)
        assert not is_over(manager)
        chain = Path(net["w2"].data, "certificates/swarm-node.crt").read_text()
        assert chain.count("BEGIN CERTIFICATE") == 2  # and the cross-signed intermediate
    wait_over(manager)
    all_trust_it(net)


def test_rotation_ends_extra_tokens(net, manager):
    made = manager.client().post("/swarmlet/v1/join-tokens", {"Role": "worker"})
    old = token_of(manager)
    rotate(manager)
    wait_over(manager)
    assert manager.client().get("/swarmlet/v1/join-tokens") == []
    leave(net["w2"], manager)
    for token in (made["Token"], old):
        error = refused(net["w2"], token, f"{manager.address}:2377")
        assert "replaced since" in error.message
    net["w2"].join(manager)


@pytest.mark.docker_cli
@NEEDS_CLI
def test_docker_cli_may_be_interrupted_and_watches_again(net, manager):
    config = f"DOCKER_CONFIG={manager.directory}"
    watch = manager.inside("env", f"DOCKER_HOST=unix://{manager.socket}", config, "docker")
    with away(net, "w1"):
        words = [*watch, "swarm", "ca", "--rotate"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
            wait_for(lambda: not is_over(manager), what="a rotation")
            time.sleep(0.5)
            running.send_signal(2)
            said = running.stdout.read().decode()
        assert re.search(r"rotated TLS certificates", said)
        assert not is_over(manager)
        said = manager.docker("swarm", "ca", "--rotate", "--detach")  # another one, unwatched
        assert said.returncode == 0, said.stderr
    wait_over(manager)
    all_trust_it(net)


def test_new_rotation_takes_the_place_of_one_under_way(net, manager):
    with away(net, "w1"):
        rotate(manager)
        serial = serial_of(net["w2"])
        wait_for(lambda: serial_of(net["w2"]) != serial, what="the first renewal")
        first = certificate_text(net["w2"])
        rotate(manager)
        wait_for(lambda: certificate_text(net["w2"]) != first, what="the second renewal")
    wait_over(manager)
    all_trust_it(net)


def test_external_ca_signs_all_and_the_swarm_takes_it_back(net, manager, tmp_path):
    now_ms = int(time.time() * 1000)
    theirs = users_root(key_of_kind("P-384", seeded()), seeded(), begins_ms=now_ms - DAY_MS)
    pem = theirs.cert_pem.decode()
    authority = Authority(theirs, now_ms)
    with signing(manager, authority, tmp_path) as url:
        rotate(manager, SigningCACert=pem, ExternalCAs=[external(url, pem)])
        wait_over(manager)
        all_trust_it(net)
        assert swarm(manager)["TLSInfo"]["TrustRoot"] == pem
        assert "O=We" in certificate_text(net["w2"]).split("Subject:")[0]
    leave(net["w2"], manager)
    body = join_body(net["w2"], token_of(manager), manager.address)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(net["w2"].client().post, "/swarm/join", body)
        wait_for(lambda: len(manager.client().get("/nodes")) == 3, what="the request")
        time.sleep(0.5)
        assert not joining.done()  # nobody signs
        with pytest.raises(ApiError, match="reachable external CA"):
            rotate(manager)  # nobody signs the next root either
        with signing(manager, authority, tmp_path) as url:
            rotate(manager, ExternalCAs=[external(url, pem)])
            joining.result()
            rotate(manager)
            wait_over(manager)
    all_trust_it(net)
    assert swarm(manager)["TLSInfo"]["TrustRoot"] != pem


def external(url: str, pem: str) -> dict:
    return {"Protocol": "cfssl", "URL": url, "CACert": pem}


@contextmanager
def signing(manager: Host, authority: Authority, tmp_path):
    """An external CA beside the manager; its URL."""
    running = external_ca(authority, tmp_path)
    with manager.network_of_this_thread():
        url = running.__enter__()
    try:
        yield url
    finally:
        running.__exit__(None, None, None)
