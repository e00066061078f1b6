"""Real hosts that go, and come back: the right tasks run in the right places."""

import contextlib
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    form_swarm,
    remove_services,
    row_of,
    state_of,
    wait_state,
    was_given_up,
)
from tests.daemon.harness import pid_of, running, service, wait_for, wait_running

pytestmark = pytest.mark.timeout(180)
REPLICAS = 4
LINE = b"/bin/sleep\x00424242\x00"


@pytest.fixture(scope="module")
def net():
    """A manager that runs no tasks, and two workers."""
    with network("m1", "w1", "w2") as found:
        form_swarm(found)
        manager = found["m1"]
        done = manager.swarmlet("node", "update", "--availability", "drain", "m1")
        assert done.returncode == 0, done.stderr
        yield found


@pytest.fixture(autouse=True)
def _whole(net: Network):
    """Two workers that are ready, and no service."""
    net.heal()
    for name in ("w1", "w2"):
        if not is_up(net[name]):
            net[name].start()
    for name in ("w1", "w2"):
        wait_state(net["m1"], identity(net, name), "ready")
    remove_services(net["m1"])
    wait_for(lambda: processes(net) == [0, 0], what="no process left")


def is_up(host: Host) -> bool:
    return host.process is not None and host.process.poll() is None


def identity(net: Network, name: str) -> str:
    rows = net["m1"].client().get("/nodes")
    return next(row["ID"] for row in rows if row["Description"]["Hostname"] == name)


def processes(net: Network) -> list[int]:
    """How many of the service's processes each worker really runs."""
    return [sum(map(is_ours, net[name].pids())) for name in ("w1", "w2")]


def is_ours(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() == LINE
    return False


def scatter(net: Network) -> dict[str, tuple[str, int]]:
    """A service over both workers: its tasks' nodes and processes by id."""
    manager = net["m1"].client()
    manager.post("/services/create", service("web", "/bin/sleep", "424242", replicas=REPLICAS))
    wait_running(manager, "web", REPLICAS)
    wait_for(lambda: processes(net) == [2, 2], what="two processes each")
    return found(net)


def found(net: Network) -> dict[str, tuple[str, int]]:
    tasks = running(net["m1"].client(), "web")
    return {task["ID"]: (task["NodeID"], pid_of(task)) for task in tasks}


def seconds_until_elsewhere(net: Network, gone: str, limit_s: float = 20.0) -> float:
    began_s = time.monotonic()

    def is_elsewhere() -> bool:
        tasks = running(net["m1"].client(), "web")
        return len(tasks) == REPLICAS and all(task["NodeID"] != gone for task in tasks)

    wait_for(is_elsewhere, what=f"{REPLICAS} tasks elsewhere", limit_s=limit_s)
    return time.monotonic() - began_s


def once_each(net: Network, limit_s: float = 20.0) -> None:
    wait_for(
        lambda: sum(processes(net)) == REPLICAS == len(running(net["m1"].client(), "web")),
        what="each task once",
        limit_s=limit_s,
    )


def test_killed_host_has_its_tasks_elsewhere_within_five_seconds_and_none_twice_after_its_boot(net):
    before, gone = scatter(net), identity(net, "w1")
    net["w1"].crash()
    assert seconds_until_elsewhere(net, gone) < 5.0
    assert state_of(net["m1"], gone) == "down"
    kept = {task for task, (node, _) in before.items() if node != gone}
    assert kept <= set(found(net))
    net["w1"].start()
    wait_state(net["m1"], gone, "ready")
    once_each(net)
    assert processes(net) == [0, REPLICAS]


def test_host_that_was_cut_off_stops_what_was_replaced_once_it_is_back(net):
    scatter(net)
    gone = identity(net, "w1")
    net.cut("w1")
    seconds_until_elsewhere(net, gone)
    assert processes(net) == [2, REPLICAS]  # nobody can tell it to stop
    row = row_of(net["m1"], gone)["Status"]
    assert (row["State"], row["Message"]) == ("down", "heartbeat failure")
    net.heal()
    wait_state(net["m1"], gone, "ready", limit_s=30.0)
    once_each(net)
    assert processes(net) == [0, REPLICAS]


def test_daemon_stopped_for_twenty_seconds_moves_nothing(net):
    before, gone = scatter(net), identity(net, "w1")
    assert net["w1"].stop() == 0
    wait_state(net["m1"], gone, "disconnected")
    message = row_of(net["m1"], gone)["Status"]["Message"]
    assert message == "the node stopped in order and is expected back within 60 s"
    time.sleep(20)
    assert state_of(net["m1"], gone) == "disconnected"
    assert processes(net) == [2, 2]
    net["w1"].start()
    wait_state(net["m1"], gone, "ready")
    assert found(net) == before


def test_host_that_shuts_down_in_order_has_its_tasks_moved_at_once(net):
    scatter(net)
    gone = identity(net, "w1")
    done = net["w1"].swarmlet("daemon", "stop", "--host-stopping")
    assert done.returncode == 0, done.stderr
    net["w1"].crash()  # what the init system does with the rest
    assert seconds_until_elsewhere(net, gone) < 2.5
    row = row_of(net["m1"], gone)["Status"]
    assert (row["State"], row["Message"]) == ("down", "the node's host was shut down")
    net["w1"].start()
    wait_state(net["m1"], gone, "ready")
    once_each(net)


def test_killed_daemon_is_disconnected_and_its_tasks_are_adopted_if_it_is_back_in_time(net):
    before, gone = scatter(net), identity(net, "w1")
    if not was_given_up(net["m1"], "w1", restart(net, gone)):
        time.sleep(1)
        assert found(net) == before
        assert processes(net) == [2, 2]


def restart(net: Network, gone: str) -> float:
    """w1's daemon, killed; when that was."""
    began_s = time.time()
    net["w1"].kill()
    wait_for(lambda: state_of(net["m1"], gone) != "ready", what="it is missed", limit_s=2.0)
    net["w1"].start()
    wait_state(net["m1"], gone, "ready")
    return began_s


def test_daemon_killed_over_and_over_is_waited_for_longer_and_stops_what_was_replaced(net):
    before, gone = scatter(net), identity(net, "w1")
    for _ in range(2):
        if was_given_up(net["m1"], "w1", restart(net, gone)):
            once_each(net)
            before = found(net)
    net["w1"].kill()
    wait_state(net["m1"], gone, "disconnected", limit_s=2.0)
    said = row_of(net["m1"], gone)["Status"]["Message"]
    assert "times within ten minutes: it counts as down only after 30 s" in said
    time.sleep(10)
    assert found(net) == before
    seconds_until_elsewhere(net, gone, limit_s=45.0)
    net["w1"].start()
    wait_state(net["m1"], gone, "ready")
    once_each(net)
    assert processes(net) == [0, REPLICAS]
