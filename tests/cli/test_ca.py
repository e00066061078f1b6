"""`ca`: the root, its rotation, and certificates wherever they are shown."""

import copy
import json
import re
import sys
from datetime import UTC, datetime, timedelta

import pytest

from swarmlet.ca.root import new_root
from swarmlet.cli import rotation
from swarmlet.cli.rotation import progress_of
from tests.ca.fixtures import seeded
from tests.cli import recorded

ROOT = recorded.TLS_INFO["TrustRoot"]
NEW = {**recorded.TLS_INFO, "CertIssuerPublicKey": "bmV3"}
DONE = {**NEW, "TrustRoot": ROOT.replace("MIIB", "MIIC")}


def node(name, tls_info, state="ready"):
    found = copy.deepcopy(recorded.NODE)
    found["ID"] = name * 5
    found["Description"] |= {"Hostname": name, "TLSInfo": tls_info}
    found["Status"]["State"] = state
    return found


def cluster(tls_info, *, rotates, index=11):
    return {
        "Version": {"Index": index},
        "Spec": {"Name": "default", "CAConfig": {"NodeCertExpiry": 1, "ForceRotate": 4}},
        "TLSInfo": tls_info,
        "RootRotationInProgress": rotates,
    }


@pytest.fixture
def rotating(swarm, monkeypatch):
    """A swarm of two nodes whose rotation takes three looks."""
    monkeypatch.setattr(rotation, "POLL_PERIOD_S", 0.001)
    old = recorded.TLS_INFO
    swarm.script["GET /swarm"] = [
        (200, cluster(old, rotates=False)),
        (200, cluster(NEW, rotates=True)),
        (200, cluster(NEW, rotates=True)),
        (200, cluster(DONE, rotates=False)),
    ]
    swarm.script["GET /nodes"] = [
        (200, [node("m1", old), node("w1", old)]),
        (200, [node("m1", NEW), node("w1", old, "down")]),
        (200, [node("m1", DONE), node("w1", DONE)]),
    ]
    return swarm


def test_ca_prints_the_root_and_nothing_else(swarmlet, swarm):
    for command in (["ca"], ["swarm", "ca"]):
        result = swarmlet(*command)
        assert (result.code, result.out, result.err) == (0, ROOT, "")


def test_ca_shows_people_whose_it_is_and_how_long_it_lasts(swarmlet, swarm, monkeypatch):
    root_pem = new_root(1_795_370_400_000, seeded()).cert_pem.decode()
    known = cluster({**recorded.TLS_INFO, "TrustRoot": root_pem}, rotates=False)
    swarm.script["GET /swarm"] = (200, known)
    own = {"Subject": "CN=m1", "Issuer": "CN=swarm-ca", "NotAfter": stamp_in(days=80.5)}
    swarm.script["GET /swarmlet/v1/daemon"] = (200, {"Certificate": own})
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    result = swarmlet("ca")
    assert result.out == root_pem
    assert "Root: sha256:" in result.err
    assert re.search(
        r" Subject: CN=swarm-ca\n Issuer: CN=swarm-ca\n Expires: in \d+ days", result.err
    )
    assert "This node's certificate:\n Subject: CN=m1\n" in result.err
    assert " Expires: in 80 days (" in result.err


def stamp_in(**duration):
    return (datetime.now(UTC) + timedelta(**duration)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_ca_rotate_sends_what_docker_sends_waits_and_prints_the_new_root(swarmlet, rotating):
    result = swarmlet("ca", "--rotate", "--cert-expiry", "48h")
    assert (result.code, result.out) == (0, DONE["TrustRoot"])
    posted = rotating.posted()[0]
    assert posted.query["version"] == "11"
    assert posted.body["CAConfig"] == {
        "NodeCertExpiry": 48 * 3600 * 10**9,
        "SigningCACert": "",
        "SigningCAKey": "",
        "ForceRotate": 5,
    }
    lines = result.err.splitlines()
    assert lines[0] == "0 of 2 nodes have a new certificate"
    assert lines[1] == "1 of 2 nodes have a new certificate; waiting for w1 (down)"
    assert lines[-1].startswith("The swarm trusts the root sha256:")
    assert lines[-1].endswith(" now, and its join tokens are new.")


def test_ca_rotate_quietly_prints_the_root_alone(swarmlet, rotating):
    result = swarmlet("ca", "--rotate", "-q")
    assert (result.code, result.out, result.err) == (0, DONE["TrustRoot"], "")


def test_ca_rotate_detached_does_not_look(swarmlet, rotating):
    result = swarmlet("ca", "--rotate", "--detach")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert [request.path for request in rotating.requests] == ["/swarm", "/swarm/update"]


def test_ca_rotate_to_a_given_root_sends_it_with_its_key(swarmlet, rotating, tmp_path):
    (tmp_path / "root.crt").write_text(ROOT)
    (tmp_path / "root.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    files = ["--ca-cert", f"{tmp_path}/root.crt", "--ca-key", f"{tmp_path}/root.key"]
    external = "protocol=cfssl,url=https://ca/sign"
    swarmlet("ca", "--rotate", "--detach", *files, "--external-ca", external)
    config = rotating.posted()[0].body["CAConfig"]
    assert (config["SigningCACert"], config["ForceRotate"]) == (ROOT, 4)
    assert config["SigningCAKey"] == "-----BEGIN PRIVATE KEY-----\n"
    authority = {"Protocol": "cfssl", "URL": "https://ca/sign", "CACert": ROOT}
    assert config["ExternalCAs"] == [authority]


def test_interrupted_wait_leaves_the_rotation_running_and_says_where_to_look(
    swarmlet, rotating, monkeypatch
):
    def interrupted(_duration_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(rotation, "sleep_s", interrupted)
    result = swarmlet("ca", "--rotate")
    assert (result.code, result.out) == (130, "")
    assert "The rotation goes on in the background. `swarmlet ca`" in result.err


def test_wait_asks_nodes_that_stand_still_what_their_problem_is(swarmlet, rotating, monkeypatch):
    monkeypatch.setattr(rotation, "STALL_S", 0.0)
    running = [(200, cluster(NEW, rotates=True))] * 5
    start, *_, end = rotating.script["GET /swarm"]
    rotating.script["GET /swarm"] = [start, *running, end]
    nodes = [(200, [node("m1", NEW), node("w1", recorded.TLS_INFO)])] * 5
    rotating.script["GET /nodes"] = [*nodes, rotating.script["GET /nodes"][-1]]
    failed = {"State": "failed", "Err": "nobody signs"}
    rotating.script["GET /swarmlet/v1/nodes/w1w1w1w1w1"] = (200, {"Certificate": failed})
    result = swarmlet("ca", "--rotate")
    assert (
        "1 of 2 nodes have a new certificate; waiting for w1w1w1w1w1 (nobody signs)" in result.err
    )


def test_wait_does_not_stay_for_nodes_that_are_off(swarmlet, rotating):
    away = node("w1", NEW, "down")
    rotating.script["GET /nodes"] = [(200, [node("m1", DONE), away])]
    result = swarmlet("ca", "--rotate")
    assert (result.code, result.out) == (0, DONE["TrustRoot"])
    assert "Note: 1 of 2 nodes follow when they are back.\n" in result.err


def test_wait_ends_when_nodes_are_back_with_the_present_root_where_a_rotation_was_given_up(
    swarmlet, rotating
):
    old = recorded.TLS_INFO
    rotating.script["GET /swarm"] = (200, cluster(old, rotates=False))
    turned, back = node("w1", {**NEW, "TrustRoot": ROOT}), node("w1", old)
    rotating.script["GET /nodes"] = [
        (200, [node("m1", old), turned]),
        (200, [node("m1", old), back]),
    ]
    result = swarmlet("ca", "--rotate")
    first, last = result.err.splitlines()
    assert first == "1 of 2 nodes trust the swarm's root"
    assert last.startswith("The swarm keeps the root sha256:")
    assert result.out == ROOT


def test_ca_and_info_say_how_far_a_rotation_is(swarmlet, swarm):
    info = copy.deepcopy(recorded.INFO)
    info["Swarm"]["Cluster"] |= {"TLSInfo": NEW, "RootRotationInProgress": True}
    silent = node("w2", {})
    nodes = [node("m1", NEW), node("w10", recorded.TLS_INFO, "down"), silent]
    swarm.script |= {
        "GET /swarm": (200, cluster(NEW, rotates=True)),
        "GET /info": (200, info),
        "GET /nodes": (200, nodes),
    }
    text = (
        "1 of 3 nodes have a new certificate; waiting for w2 (never reported a certificate), "
        "w10 (down)"
    )
    assert swarmlet("ca").err == f"A root rotation is under way: {text}.\n"
    assert f" Root Rotation In Progress: true\n  {text}\n" in swarmlet("info").out


def test_many_nodes_that_hold_a_rotation_up_are_counted():
    nodes = [node(f"w{i}", recorded.TLS_INFO, "down") for i in range(12)]
    progress = progress_of(cluster(NEW, rotates=True), nodes)
    assert progress.sentence.endswith("w3 (down), w4 (down), 7 more")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cert-expiry", "48h"], "--cert-expiry needs --rotate"),
        (["--external-ca", "protocol=cfssl,url=https://x"], "--external-ca needs --rotate"),
        (
            ["--rotate", "--external-ca", "protocol=cfssl,url=https://x"],
            "needs --ca-cert with its certificate",
        ),
        (["--rotate", "--ca-cert", "FILE"], "--ca-cert needs --ca-key"),
        (["--rotate", "--ca-key", "FILE"], "--ca-key needs --ca-cert"),
        (["--rotate", "--ca-cert", "/nowhere"], "/nowhere: No such file"),
    ],
)
def test_ca_says_what_is_wrong_and_sends_nothing(words, sentence, swarmlet, swarm, tmp_path):
    (tmp_path / "pem").write_text(ROOT)
    words = [str(tmp_path / "pem") if word == "FILE" else word for word in words]
    result = swarmlet("ca", *words)
    assert (result.code, swarm.requests) == (2, [])
    assert sentence in result.err


# Certificates elsewhere -------------------------------------------------------------------------
def test_info_shows_this_nodes_certificate(swarmlet, swarm):
    own = {"Subject": "CN=a,OU=swarm-worker,O=b", "Issuer": "CN=swarm-ca"}
    own["NotAfter"] = stamp_in(days=30.5)
    swarm.script["GET /swarmlet/v1/daemon"] = (200, {"Certificate": own})
    out = swarmlet("info").out
    assert " Certificate:\n  Subject: CN=a,OU=swarm-worker,O=b\n  Issuer: CN=swarm-ca\n" in out
    assert "  Expires: in 30 days (" in out


def test_node_inspect_pretty_shows_a_nodes_certificate_and_what_is_wrong_with_the_next(
    swarmlet, swarm
):
    shown = {"Subject": "CN=a", "Issuer": "CN=swarm-ca", "NotAfter": stamp_in(days=-3.5)}
    shown |= {"State": "failed", "Err": "nobody signs"}
    swarm.script[f"GET /swarmlet/v1/nodes/{recorded.NODE_ID}"] = (200, {"Certificate": shown})
    out = swarmlet("node", "inspect", "--pretty", "self").out
    head = "Certificate:\n Subject: CN=a\n Issuer:  CN=swarm-ca\n Expired: 3 days ago ("
    assert out.startswith(recorded.NODE_PRETTY + head)
    assert out.endswith(" State:   failed\n Problem: nobody signs\n")
    raw = swarmlet("node", "inspect", "self").out
    assert json.loads(raw) == [recorded.NODE]
