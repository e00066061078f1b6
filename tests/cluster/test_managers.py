"""Several managers: each has the swarm's state, any minority of them may go."""

import json
import shutil

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    config,
    configs_of,
    first_write,
    leader_of,
    leave,
    managers_seen_by,
    node_id,
    spread,
    state_of,
    token_of,
    wait_state,
)
from tests.daemon.harness import ApiError, service, wait_for, wait_running

pytestmark = pytest.mark.timeout(180)
NEEDS_CLI = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI")


@pytest.fixture(scope="module")
def net():
    """Three managers by the CLI's `join`, and a worker."""
    with network("m1", "m2", "m3", "w1") as found:
        for host in found.hosts.values():
            host.start()
        found["m1"].init()
        for name in ("m2", "m3"):
            said = found[name].swarmlet("join", token_of(found["m1"], "Manager"), "m1.test")
            assert said.returncode == 0, said.stderr
            assert "This node joined a swarm as a manager." in said.stdout
        found["w1"].join(found["m2"])
        yield found


def managers(net: Network) -> list[Host]:
    return [host for name, host in net.hosts.items() if name.startswith("m")]


def is_whole(net: Network) -> bool:
    try:
        seen = [managers_seen_by(host) for host in managers(net)]
    except (ApiError, OSError):
        return False
    return all(
        set(one) == {"m1", "m2", "m3"}
        and all(status["Reachability"] == "reachable" for status in one.values())
        and sum(status.get("Leader", False) for status in one.values()) == 1
        for one in seen
    )


@pytest.fixture(autouse=True)
def _settled(net: Network):
    """Every test begins and ends with three managers that vote and a ready worker."""
    wait_for(lambda: is_whole(net), what="three managers", limit_s=30.0)
    yield
    net.heal()
    for host in net.hosts.values():
        host.thaw()
        if host.process.poll() is not None:
            host.start()
    wait_for(lambda: is_whole(net), what="three managers", limit_s=30.0)
    wait_state(net["m1"], node_id(net["w1"]), "ready")


def test_every_manager_lists_the_same_nodes_and_the_same_leader(net):
    listings = [host.client().get("/nodes") for host in managers(net)]
    assert listings[0] == listings[1] == listings[2]
    assert {row["ManagerStatus"]["Addr"] for row in listings[0] if "ManagerStatus" in row} == {
        f"{host.address}:2377" for host in managers(net)
    }


def test_write_through_one_manager_is_read_at_once_through_every_other(net):
    for turn in range(20):
        for writer in managers(net):
            name = f"seen-{turn}-{writer.name}"
            writer.client().post("/configs/create", config(name))
            for reader in managers(net):
                assert reader.client().get(f"/configs/{name}")["Spec"]["Name"] == name


@pytest.mark.docker_cli
@NEEDS_CLI
@pytest.mark.parametrize("asked", ["m1", "m2", "m3"])
def test_docker_cli_rules_the_swarm_at_any_manager(net, asked):
    def docker(*words: str) -> str:
        done = net[asked].docker(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = [json.loads(line) for line in docker("node", "ls", "--format", "json").splitlines()]
    assert {row["Hostname"] for row in rows} == {"m1", "m2", "m3", "w1"}
    assert [row["Hostname"] for row in rows if row["Self"]] == [asked]
    statuses = sorted(row["ManagerStatus"] for row in rows)
    assert statuses == ["", "Leader", "Reachable", "Reachable"]
    assert f"{net[asked].address}:2377" in docker("swarm", "join-token", "worker")
    docker("service", "create", "-d", "--name", "web", "--replicas", "8", "host", "sleep", "999")
    wait_running(net[asked].client(), "web", 8)
    assert set(spread(net[asked], "web").values()) == {2}
    docker("service", "logs", "web")
    docker("service", "rm", "web")


def test_leader_killed_and_writes_go_on_through_both_others(net):
    net["m1"].client().post("/services/create", service("web", replicas=4))
    before = {task["ID"] for task in wait_running(net["m1"].client(), "web", 4)}
    leader = leader_of(net, "m1", "m2", "m3")
    rest = [host for host in managers(net) if host.name != leader]
    net[leader].kill()
    for host in rest:
        assert first_write(host, f"after-kill-{host.name}") < 5.0
    assert leader_of(net, *(host.name for host in rest)) != leader
    net[leader].start()
    wait_for(lambda: is_whole(net), what="it is back", limit_s=30.0)
    assert {f"after-kill-{host.name}" for host in rest} <= set(configs_of(net[leader]))
    assert {task["ID"] for task in wait_running(net["m1"].client(), "web", 4)} == before
    net["m1"].client().delete("/services/web")


def test_leader_whose_host_falls_silent_is_replaced(net):
    leader = leader_of(net, "m1", "m2", "m3")
    rest = [host for host in managers(net) if host.name != leader]
    net.cut(leader)
    assert first_write(rest[0], "after-silence") < 5.0
    with pytest.raises(ApiError) as found:
        net[leader].client().post("/configs/create", config("from-the-minority"))
    assert found.value.status == 503
    net.heal()
    wait_for(lambda: is_whole(net), what="it is back", limit_s=30.0)
    assert "after-silence" in configs_of(net[leader])


def test_leader_that_stops_in_order_hands_over_before_it_goes(net):
    leader = leader_of(net, "m1", "m2", "m3")
    rest = [host for host in managers(net) if host.name != leader]
    net[leader].stop()
    assert first_write(rest[0], "after-stop") < 1.5
    worker = node_id(net["w1"])
    assert state_of(rest[0], worker) in ("unknown", "ready")  # until it has found the new leader
    wait_for(lambda: state_of(rest[0], worker) == "ready", what="the worker has found it")


def test_all_managers_killed_at_once_come_back_with_everything(net):
    net["m2"].client().post("/configs/create", config("before-the-cut"))
    for host in managers(net):
        host.kill()
    for host in managers(net):
        host.start()
    wait_for(lambda: is_whole(net), what="three managers", limit_s=30.0)
    assert all("before-the-cut" in configs_of(host) for host in managers(net))


def test_manager_that_leaves_by_force_takes_itself_out_and_may_come_back(net):
    gone = next(host for host in managers(net) if host.name != leader_of(net, "m1", "m2", "m3"))
    rest = [host for host in managers(net) if host is not gone]
    with pytest.raises(ApiError, match="participating as a manager"):
        gone.client().post("/swarm/leave")
    identity = node_id(gone)
    gone.client().post("/swarm/leave?force=1")
    row = rest[0].client().get(f"/nodes/{identity}")
    assert "ManagerStatus" not in row or row["ManagerStatus"]["Reachability"] != "reachable"
    assert first_write(rest[1], "with-two") < 1.0
    leave(gone, None)
    wait_for(lambda: state_of(rest[0], identity) == "down", what="it is down", limit_s=30.0)
    rest[0].client().delete(f"/nodes/{identity}?force=1")
    gone.join(rest[0], "Manager")
    assert node_id(gone) != identity
