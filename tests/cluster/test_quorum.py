"""Without a majority: said at once and in full, read with its age, and recovered from."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, network
from tests.cluster.swarms import (
    are_voters,
    config,
    configs_of,
    form_managers,
    is_active,
    managers_seen_by,
    node_id,
    swarm_of,
    token_of,
)
from tests.daemon.harness import ApiError, service, wait_for, wait_running

pytestmark = pytest.mark.timeout(180)
SAID_WITHIN_S = 3.0


def wait_quorum_lost(host: Host) -> tuple[ApiError, float]:
    """What a write through this host hears once it cannot be made, and after how long it did."""
    began_s = time.monotonic()
    while True:
        try:
            host.client().post("/configs/create", config(f"q-{time.monotonic_ns()}"))
        except ApiError as error:
            if "needed" in error.message and "proposed" not in error.message:
                return error, time.monotonic() - began_s
        assert time.monotonic() - began_s < 10.0, "writes go on, or nobody says why not"


@pytest.fixture(scope="module")
def net():
    with network("m1", "m2", "m3") as found:
        form_managers(found)
        found["m1"].client().post("/configs/create", config("kept", b"of the swarm"))
        yield found


@pytest.fixture
def lost(net):
    """Two of three managers are dead."""
    wait_for(lambda: are_voters(net), what="three managers", limit_s=30.0)
    net["m2"].kill()
    net["m3"].kill()
    yield net
    for name in ("m2", "m3"):
        net[name].start()
    wait_for(lambda: are_voters(net), what="three managers", limit_s=30.0)


def test_every_call_that_needs_a_majority_says_what_is_missing_within_three_seconds(lost):
    error, took_s = wait_quorum_lost(lost["m1"])
    assert took_s < SAID_WITHIN_S
    assert error.status == 503
    assert "1 of 3 managers answers" in error.message
    assert "2 are needed" in error.message
    assert all(lost[name].address in error.message for name in ("m2", "m3"))
    assert "--force-new-cluster" in error.remedy
    for method, path in (("GET", "/nodes"), ("GET", "/services"), ("GET", "/swarm")):
        began_s = time.monotonic()
        with pytest.raises(ApiError) as found:
            lost["m1"].client().call(method, path)
        assert (found.value.status, time.monotonic() - began_s < 1.0) == (503, True)
        assert "1 of 3" in found.value.message


def test_listings_fall_back_to_what_is_here_and_say_how_old_it_is(lost):
    wait_quorum_lost(lost["m1"])
    listed = lost["m1"].swarmlet("node", "ls", "--format", "json")
    assert listed.returncode == 0, listed.stderr
    assert {json.loads(line)["Hostname"] for line in listed.stdout.splitlines()} == {
        "m1",
        "m2",
        "m3",
    }
    assert "1 of 3 managers answers" in listed.stderr
    assert "kept" in lost["m1"].swarmlet("config", "ls").stdout
    assert lost["m1"].client().get("/nodes?stale=1")
    written = lost["m1"].swarmlet("node", "update", "--label-add", "a=b", "m1")
    assert written.returncode == 1
    assert "1 of 3 managers answers" in written.stderr
    assert "--force-new-cluster" in written.stderr


def test_minority_with_a_living_host_that_is_cut_off_says_it_too(net):
    wait_for(lambda: are_voters(net), what="three managers", limit_s=30.0)
    net.cut("m2")
    error, took_s = wait_quorum_lost(net["m2"])
    assert took_s < SAID_WITHIN_S
    assert "1 of 3 managers answers" in error.message
    net["m1"].client().post("/configs/create", config("by-the-majority"))
    net.heal()
    wait_for(lambda: are_voters(net), what="three managers", limit_s=30.0)
    assert "by-the-majority" in configs_of(net["m2"])


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "just-started"])
def test_force_new_cluster_goes_on_with_everything_and_takes_managers_again(is_running):
    with network("m1", "m2", "m3") as net:
        form_managers(net)
        client = net["m1"].client()
        client.post("/configs/create", config("kept"))
        client.post("/services/create", service("web", replicas=3))
        wait_running(client, "web", 3)
        cluster, own = client.get("/swarm"), node_id(net["m1"])
        for name in ("m2", "m3"):
            net[name].kill()
        if not is_running:
            net["m1"].kill()
            net["m1"].start()
        wait_quorum_lost(net["m1"])
        said = net["m1"].swarmlet("init", "--force-new-cluster", "--advertise-addr", "10.97.0.1")
        assert said.returncode == 0, said.stderr
        assert "kept" in configs_of(net["m1"])
        assert node_id(net["m1"]) == own
        after = client.get("/swarm")
        assert (after["ID"], after["JoinTokens"]) == (cluster["ID"], cluster["JoinTokens"])
        assert managers_seen_by(net["m1"])["m1"]["Leader"]
        wait_running(client, "web", 3, limit_s=40.0)
        forget(net["m2"])
        net["m2"].start().join(net["m1"], "Manager")
        wait_for(
            lambda: managers_seen_by(net["m1"])["m2"]["Reachability"] == "reachable",
            what="the second manager",
        )
        assert configs_of(net["m2"]) == configs_of(net["m1"])


def forget(host: Host) -> None:
    """A new machine in its place."""
    for shim in Path(host.data, "tasks").glob("*/shim.pid"):
        os.kill(int(shim.read_text().split()[0]), signal.SIGKILL)
    Path(host.data).rename(f"{host.data}.old")


def test_force_new_cluster_of_a_locked_manager_whose_certificates_have_expired():
    with network("m1", "m2") as net:
        for host in net.hosts.values():
            host.start()
        said = net["m1"].swarmlet(
            "init", "--autolock", "--cert-expiry", "1h", "--advertise-addr", "10.97.0.1"
        )
        assert said.returncode == 0, said.stderr
        key = net["m1"].swarmlet("unlock-key", "-q").stdout.strip()
        assert key.startswith("SWMKEY-1-")
        net["m1"].client().post("/configs/create", config("kept"))
        net["m2"].join(net["m1"], "Manager")
        for host in net.hosts.values():
            host.kill()
        net["m1"].clock_offset_s = 5 * 3600
        net["m1"].start()
        assert swarm_of(net["m1"])["LocalNodeState"] == "locked"
        unlocked = net["m1"].swarmlet("unlock", said=f"{key}\n")
        assert unlocked.returncode == 0, unlocked.stderr
        wait_quorum_lost(net["m1"])
        said = net["m1"].swarmlet("init", "--force-new-cluster", "--advertise-addr", "10.97.0.1")
        assert said.returncode == 0, said.stderr
        wait_for(lambda: is_active(net["m1"]), what="it is in its swarm")
        assert "kept" in configs_of(net["m1"])
        assert net["m1"].swarmlet("unlock-key", "-q").stdout.strip() == key
        assert token_of(net["m1"]).startswith("SWMTKN-1-")
