"""Real daemons through root rotations: by the docker CLI, with nodes away and removed, to a user's
root, to an external CA and back."""

import time
from contextlib import ExitStack

import pytest

from tests.ca.external_signer import Authority, external_ca
from tests.ca.fixtures import DAY_MS, key_of_kind, seeded, users_root
from tests.daemon.harness import ApiError, running_daemon, wait_for
from tests.docker.cli import NEEDS_CLI, docker_of

pytestmark = pytest.mark.timeout(120)
docker_cli, skip_without_cli = NEEDS_CLI


@pytest.fixture
def hosts():
    """A manager and workers, as many as are asked for."""
    with ExitStack() as stack:

        def make(workers):
            manager, *others = [stack.enter_context(running_daemon()) for _ in range(1 + workers)]
            manager.init()
            token = swarm_of(manager)["JoinTokens"]["Worker"]
            for other in others:
                join(other, manager, token)
            for daemon in (manager, *others):
                wait_for(lambda d=daemon: shows_tls(manager, d), what="a node's report")
            return manager, *others

        yield make


def join(daemon, manager, token):
    body = {"ListenAddr": daemon.listen, "RemoteAddrs": [manager.listen], "JoinToken": token}
    daemon.client().post("/swarm/join", body)


def swarm_of(manager):
    return manager.client().get("/swarm")


def node_id_of(daemon):
    return daemon.client().get("/info")["Swarm"]["NodeID"]


def tls_of(manager, node_id):
    return manager.client().get(f"/nodes/{node_id}")["Description"]["TLSInfo"]


def shows_tls(manager, daemon):
    return "CertIssuerPublicKey" in tls_of(manager, node_id_of(daemon))


def rotate(manager, **config):
    swarm = swarm_of(manager)
    spec = swarm["Spec"]
    spec["CAConfig"].update(config or {"ForceRotate": spec["CAConfig"].get("ForceRotate", 0) + 1})
    manager.client().post(f"/swarm/update?version={swarm['Version']['Index']}", spec)


def is_over(manager):
    return not swarm_of(manager)["RootRotationInProgress"]


def agrees(manager, node_id):
    """Whether the node's trust and signer are the swarm's."""
    return tls_of(manager, node_id) == swarm_of(manager)["TLSInfo"]


def has_signer(manager, node_id):
    shown, wanted = tls_of(manager, node_id), swarm_of(manager)["TLSInfo"]
    return shown["CertIssuerPublicKey"] == wanted["CertIssuerPublicKey"]


@docker_cli
@skip_without_cli
def test_docker_cli_rotates_the_root_and_sees_it_end(hosts):
    manager, *workers = hosts(2)
    before = swarm_of(manager)
    with docker_of(manager.socket) as docker:
        said = docker("swarm", "ca", "--rotate")
        assert docker("swarm", "ca").strip() in said
    after = swarm_of(manager)
    assert after["TLSInfo"]["TrustRoot"] != before["TLSInfo"]["TrustRoot"]
    assert after["JoinTokens"] != before["JoinTokens"]
    for daemon in (manager, *workers):
        assert agrees(manager, node_id_of(daemon))


def test_rotation_waits_for_a_node_that_is_away_and_then_for_no_other(hosts):
    manager, away, asleep = hosts(2)
    away_id, asleep_id = node_id_of(away), node_id_of(asleep)
    old = swarm_of(manager)
    away.kill()
    rotate(manager)
    wait_for(lambda: has_signer(manager, asleep_id), what="the new signer on a node")
    asleep.stop()  # it knows nothing of the rotation's end
    assert not is_over(manager)
    assert swarm_of(manager)["JoinTokens"] == old["JoinTokens"]
    away.start()
    wait_for(lambda: is_over(manager) and agrees(manager, away_id), what="the first end")
    assert swarm_of(manager)["TLSInfo"]["TrustRoot"] != old["TLSInfo"]["TrustRoot"]
    rotate(manager)
    wait_for(lambda: has_signer(manager, away_id), what="the next signer on a node")
    assert not is_over(manager)
    asleep.start()
    wait_for(lambda: is_over(manager) and agrees(manager, asleep_id), what="the second end")


def test_removing_a_node_ends_the_wait_for_it_and_old_tokens_let_nobody_in(hosts):
    manager, gone, late = hosts(2)
    gone_id, late_id, old = node_id_of(gone), node_id_of(late), swarm_of(manager)
    late.client().post("/swarm/leave?force=1")
    manager.client().delete(f"/nodes/{late_id}?force=1")
    gone.kill()
    rotate(manager)
    wait_for(lambda: has_signer(manager, node_id_of(manager)), what="the manager's renewal")
    assert not is_over(manager)
    manager.client().delete(f"/nodes/{gone_id}?force=1")
    wait_for(lambda: is_over(manager), what="the end")
    with pytest.raises(ApiError):
        join(late, manager, old["JoinTokens"]["Worker"])
    join(late, manager, swarm_of(manager)["JoinTokens"]["Worker"])
    assert agrees(manager, node_id_of(manager))


def test_users_root_an_external_ca_and_the_way_back(hosts, tmp_path):
    manager, worker = hosts(1)
    now_ms = int(time.time() * 1000)
    entropy = seeded()
    theirs = users_root(key_of_kind("rsa", entropy), entropy, begins_ms=now_ms - DAY_MS)
    given = {"SigningCACert": theirs.cert_pem.decode(), "SigningCAKey": theirs.key_pem.decode()}
    rotate(manager, **given)
    ends(manager, worker, theirs.cert_pem)
    assert "SigningCAKey" not in swarm_of(manager)["Spec"]["CAConfig"]
    outside = users_root(key_of_kind("P-384", entropy), entropy, begins_ms=now_ms - DAY_MS)
    with external_ca(Authority(outside, now_ms), tmp_path) as url:
        external = {"Protocol": "cfssl", "URL": url, "CACert": outside.cert_pem.decode()}
        with pytest.raises(ApiError, match="reachable external CA"):
            rotate(manager, SigningCACert=outside.cert_pem.decode())
        rotate(manager, SigningCACert=outside.cert_pem.decode(), ExternalCAs=[external])
        ends(manager, worker, outside.cert_pem)
        rotate(manager)
        wait_for(lambda: is_over(manager), what="the way back to a root of its own")
    assert swarm_of(manager)["TLSInfo"]["TrustRoot"] != outside.cert_pem.decode()
    wait_for(lambda: agrees(manager, node_id_of(worker)), what="the worker's report")


def ends(manager, worker, root_pem):
    wait_for(lambda: is_over(manager), what="the end of the rotation")
    assert swarm_of(manager)["TLSInfo"]["TrustRoot"] == root_pem.decode()
    wait_for(lambda: agrees(manager, node_id_of(worker)), what="the worker's report")
