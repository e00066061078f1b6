"""Kills, cuts, loss and delay: what runs goes on, and who comes back is the same node."""

import threading
import time

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    form_swarm,
    is_active,
    leave,
    node_id,
    remove_services,
    row_of,
    spread,
    state_of,
    swarm_of,
    token_of,
    update_swarm,
    wait_state,
    was_given_up,
)
from tests.daemon.harness import (
    ApiError,
    pid_of,
    running,
    service,
    wait_for,
    wait_running,
)

pytestmark = pytest.mark.timeout(120)
WORKERS = ("w1", "w2", "w3")


@pytest.fixture(scope="module")
def net():
    with network("m1", *WORKERS) as found:
        form_swarm(found)
        yield found


@pytest.fixture
def manager(net: Network):
    return net["m1"]


@pytest.fixture(autouse=True)
def _healed(net: Network):
    """Every test leaves a swarm of four ready nodes without services."""
    yield
    net.heal()
    for host in net.hosts.values():
        if host.process is not None and host.process.poll() is not None:
            host.start()
    remove_services(net["m1"])
    wait_for(lambda: states(net["m1"]) == ["ready"] * 4, what="four ready nodes", limit_s=30)


def states(manager: Host) -> list[str]:
    return [node["Status"]["State"] for node in manager.client().get("/nodes")]


def four(manager: Host) -> dict[str, int]:
    """A service with a task on every host: process ids by task."""
    manager.client().post("/services/create", service("web", replicas=4))
    tasks = wait_running(manager.client(), "web", 4)
    assert len({task["NodeID"] for task in tasks}) == 4
    return {task["ID"]: pid_of(task) for task in tasks}


def pids(manager: Host) -> dict[str, int]:
    return {task["ID"]: pid_of(task) for task in running(manager.client(), "web")}


# Daemons -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_restarted_worker_keeps_its_tasks_and_its_name(net, manager, end):
    before, host = four(manager), net["w1"]
    own, began_s = node_id(host), time.time()
    getattr(host, end)()
    wait_for(lambda: state_of(manager, own) != "ready", what="it is missed", limit_s=2.0)
    host.start()
    wait_for(lambda: is_active(host), what="the worker is back")
    wait_state(manager, own, "ready")
    assert node_id(host) == own
    if end == "stop" or not was_given_up(manager, "w1", began_s):
        assert pids(manager) == before


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_restarted_manager_finds_all_tasks_where_they_were(net, manager, end):
    before = four(manager)
    getattr(manager, end)()
    time.sleep(1.0)
    manager.start()
    wait_for(lambda: states(manager) == ["ready"] * 4, what="four ready nodes")
    assert pids(manager) == before
    manager.client().post("/services/create", service("more", replicas=8))
    assert len(set(spread_once(manager, "more", 8))) == 4


def spread_once(manager: Host, name: str, count: int) -> list[str]:
    wait_running(manager.client(), name, count)
    return list(spread(manager, name))


def test_all_daemons_killed_at_once_come_back_with_every_task(net, manager):
    before = four(manager)
    for host in net.hosts.values():
        host.kill()
    starts = [threading.Thread(target=host.start) for host in net.hosts.values()]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    wait_for(lambda: states(manager) == ["ready"] * 4, what="four ready nodes")
    assert pids(manager) == before


# Networks ----------------------------------------------------------------------------------------


def test_cut_off_worker_is_replaced_and_healed_it_ends_what_moved_on(net, manager):
    four(manager)
    own = node_id(net["w2"])
    lost = next(task for task in running(manager.client(), "web") if task["NodeID"] == own)
    net.cut("w2")
    began_s = time.monotonic()
    wait_for(lambda: state_of(manager, own) != "ready", what="the loss is seen")
    assert time.monotonic() - began_s < 6.0  # keepalive of the session, not missed heartbeats
    wait_state(manager, own, "down")
    wait_for(lambda: own not in spread(manager, "web"), what="its task elsewhere")
    wait_running(manager.client(), "web", 4)
    assert process_lives(net["w2"], pid_of(lost))  # the worker itself ends nothing for a cut
    net.heal()
    wait_state(manager, own, "ready", limit_s=30)
    wait_for(lambda: not process_lives(net["w2"], pid_of(lost)), what="the old task's end")
    assert len(running(manager.client(), "web")) == 4


def process_lives(host: Host, pid: int) -> bool:
    return host.run("kill", "-0", str(pid)).returncode == 0


def test_short_cut_moves_nothing(net, manager):
    before = four(manager)
    net.cut("w1")
    time.sleep(1.5)
    net.heal()
    time.sleep(1.0)
    wait_for(lambda: states(manager) == ["ready"] * 4, what="four ready nodes")
    assert pids(manager) == before


def test_cut_off_manager_loses_no_task_and_orders_nothing_twice(net, manager):
    """Long enough that sessions break, not so long that nodes count as down."""
    before = four(manager)
    net.cut("m1")
    time.sleep(4.0)
    net.heal()
    wait_for(lambda: states(manager) == ["ready"] * 4, what="four ready nodes", limit_s=30)
    assert pids(manager) == before


@pytest.mark.parametrize("way", [("w3", "m1"), ("m1", "w3")], ids=" to ".join)
def test_one_way_cut_counts_as_a_loss_and_heals(net, manager, way):
    own = node_id(net["w3"])
    net.cut_one_way(*way)
    wait_for(lambda: state_of(manager, own) != "ready", what="the loss is seen", limit_s=25)
    for other in ("w1", "w2"):
        assert state_of(manager, node_id(net[other])) == "ready"
    net.heal()
    wait_state(manager, own, "ready", limit_s=30)


def test_lossy_and_slow_network_still_joins_runs_and_rotates(net, manager):
    leave(net["w3"], manager)
    net.lose(10)
    net.delay(50)
    net["w3"].join(manager)
    assert row_of(manager, node_id(net["w3"]))["Status"]["State"] == "ready"
    four(manager)
    old = manager.client().get("/swarm")["TLSInfo"]["TrustRoot"]
    count = manager.client().get("/swarm")["Spec"]["CAConfig"].get("ForceRotate", 0)
    update_swarm(manager, {"CAConfig": {"ForceRotate": count + 1}})
    wait_for(
        lambda: not manager.client().get("/swarm")["RootRotationInProgress"],
        what="the rotation's end",
        limit_s=60,
    )
    assert manager.client().get("/swarm")["TLSInfo"]["TrustRoot"] != old
    net.heal()


# Removal -----------------------------------------------------------------------------------------


def test_removed_worker_is_out_at_once_and_may_come_back_as_another(net, manager):
    host = net["w1"]
    own, client = node_id(host), manager.client()
    client.post("/services/create", service("web", replicas=4))
    wait_running(client, "web", 4)
    with pytest.raises(ApiError, match="not down"):
        client.delete(f"/nodes/{own}")
    began_s = time.monotonic()
    client.delete(f"/nodes/{own}?force=1")
    wait_for(lambda: swarm_of(host)["LocalNodeState"] == "error", what="the node knows")
    assert time.monotonic() - began_s < 3.0
    assert "removed" in swarm_of(host)["Error"]
    assert "Error: " in host.docker("info").stdout or "removed" in host.docker("info").stdout
    wait_running(client, "web", 4)
    assert own not in spread(manager, "web")
    host.stop()
    host.start()
    wait_for(lambda: "removed" in swarm_of(host)["Error"], what="it is told again")
    assert len(client.get("/nodes")) == 3
    leave(host)
    host.join(manager)
    assert node_id(host) != own


def test_worker_removed_while_it_was_off_is_told_when_it_is_back(net, manager):
    host = net["w2"]
    own = node_id(host)
    host.stop()
    wait_for(lambda: state_of(manager, own) != "ready", what="it is away")
    manager.client().delete(f"/nodes/{own}?force=1")
    host.start()
    wait_for(lambda: swarm_of(host)["LocalNodeState"] == "error", what="the node knows")
    leave(host)
    host.join(manager)


def test_removed_node_and_old_token_are_both_out_after_a_rotation(net, manager):
    """A stolen token, a stolen certificate: the swarm's answer to both."""
    host, stolen = net["w3"], token_of(manager)
    own = node_id(host)
    manager.client().delete(f"/nodes/{own}?force=1")
    update_swarm(manager, {}, rotateWorkerToken="true")
    leave(host)
    with pytest.raises(ApiError, match="is not"):
        host.join(manager, token=stolen)
    assert len(manager.client().get("/nodes")) == 3
    host.join(manager)
