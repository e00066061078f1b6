"""Drains and disconnects on real hosts: what runs is counted on the machine, nobody is asked."""

import os
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from tests.cluster.hosts import network
from tests.cluster.swarms import (
    form_managers,
    leader_of,
    node_id,
    spread,
    state_of,
    update_swarm,
    wait_state,
)
from tests.daemon.harness import running, service, tasks_of, wait_for, wait_running

pytestmark = pytest.mark.timeout(240)

TASKS = 30
LABEL = "swarmlet.on-disconnect"


class Counted:
    """A service whose processes are known by the length of their sleep, and how many there were,
    at least and at most, while somebody looked."""

    def __init__(self, name: str, seconds: int) -> None:
        self.name, self.seconds = name, str(seconds)
        self.least, self.most = 1 << 30, 0

    def spec(self, replicas: int = 1, rule: str = "") -> dict:
        made = service(self.name, "/bin/sleep", self.seconds, replicas=replicas)
        return {**made, "Labels": {LABEL: rule} if rule else {}}

    def pids(self) -> set[int]:
        found = set()
        wanted = f"/bin/sleep\0{self.seconds}\0".encode()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if file.read(64) == wanted:
                        found.add(int(name))
            except OSError:  # it ended meanwhile
                continue
        return found

    def look(self) -> int:
        count = len(self.pids())
        self.least, self.most = min(self.least, count), max(self.most, count)
        return count

    @contextmanager
    def watched(self):
        """Looked at all the time; what was seen counts from here."""
        self.least, self.most = 1 << 30, 0
        is_over = threading.Event()

        def look_on() -> None:
            while not is_over.wait(0.02):
                self.look()

        watcher = threading.Thread(target=look_on)
        watcher.start()
        try:
            yield self
        finally:
            is_over.set()
            watcher.join()


def form(net, manager="m1", **changes) -> None:
    """As `form_swarm`; the swarm is changed before others join."""
    net[manager].start().init()
    if changes:
        update_swarm(net[manager], changes)
    for name, host in net.hosts.items():
        if name != manager:
            host.start().join(net[manager])


def test_no_task_is_missing_while_every_worker_is_drained_in_turn():
    with network("m1", "w1", "w2", "w3") as net:
        form(net)
        manager, counted = net["m1"], Counted("web", 86_391)
        manager.client().post("/services/create", counted.spec(TASKS))
        wait_running(manager.client(), "web", TASKS, limit_s=40)
        with counted.watched():
            for name in ("w1", "w2", "w3"):
                identity = node_id(net[name])
                preview = manager.swarmlet("node", "drain", "--dry-run", name)
                assert preview.returncode == 0, preview.stderr
                assert preview.stdout.count("start-first") == spread(manager, "web")[identity]
                drained = manager.swarmlet("node", "drain", "--wait", name)
                assert drained.returncode == 0, drained.stdout + drained.stderr
                assert drained.stdout.endswith(f"Node {name} is empty.\n")
                assert identity not in spread(manager, "web")
                activate = ("node", "update", "--availability", "active", name)
                assert manager.swarmlet(*activate).returncode == 0
        assert counted.least >= TASKS, f"only {counted.least} tasks ran"
        wait_for(lambda: counted.look() == TASKS, what="no task too many")
        slots = Counter(task["Slot"] for task in running(manager.client(), "web"))
        assert sorted(slots) == list(range(1, TASKS + 1))
        assert set(slots.values()) == {1}


def test_task_without_a_place_runs_on_and_is_stopped_at_the_deadline():
    with network("m1", "w1") as net:
        form(net)
        manager, counted = net["m1"], Counted("pinned", 86_392)
        spec = counted.spec(1)
        spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.hostname==w1"]}
        manager.client().post("/services/create", spec)
        wait_running(manager.client(), "pinned", 1)
        assert manager.swarmlet("node", "drain", "--dry-run", "w1").returncode == 3
        with counted.watched():
            late = manager.swarmlet("node", "drain", "--wait", "--timeout", "3s", "w1")
            assert late.returncode in (3, 5)
            assert "waits for a place" in late.stdout
            assert counted.least == 1
        drained = manager.swarmlet("node", "drain", "--wait", "--deadline", "2s", "w1")
        assert drained.returncode == 0, drained.stdout + drained.stderr
        assert counted.look() == 0


def test_leader_that_is_drained_hands_over_and_its_tasks_run_elsewhere_first():
    with network("m1", "m2", "m3") as net:
        form_managers(net)
        leader, counted = leader_of(net), Counted("web", 86_393)
        client = net[leader].client()
        client.post("/services/create", counted.spec(6))
        wait_running(client, "web", 6)
        other = next(name for name in net.hosts if name != leader)
        with counted.watched():
            drained = net[other].swarmlet("node", "drain", "--wait", leader)
            assert drained.returncode == 0, drained.stdout + drained.stderr
        assert counted.least >= 6
        assert leader_of(net) != leader


CUTS = {
    "both ways": lambda net, name: net.cut(name),
    "it is not heard": lambda net, name: net.cut_one_way(name, "m1"),
    "it hears nothing": lambda net, name: net.cut_one_way("m1", name),
}


@pytest.mark.parametrize("how", sorted(CUTS))
def test_stop_after_task_never_runs_twice_whichever_way_its_host_is_cut_off(how):
    second = {"HeartbeatPeriod": 1_000_000_000}
    with network("m1", "w1", "w2") as net:
        form(net, Dispatcher=second)
        client = net["m1"].client()
        guarded, bound = Counted("guarded", 86_394), Counted("bound", 86_395)
        for counted, rule in ((guarded, "stop-after 4s"), (bound, "never-replace")):
            spec = counted.spec(1, rule=rule)
            spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.role==worker"]}
            client.post("/services/create", spec)
            wait_running(client, counted.name, 1)
        hosts = {node_id(net[name]): name for name in ("w1", "w2")}
        (home,) = {running(client, "guarded")[0]["NodeID"]}
        pinned = running(client, "bound")[0]
        (first,) = guarded.pids()
        with guarded.watched(), bound.watched():
            CUTS[how](net, hosts[home])
            wait_for(lambda: guarded.pids() - {first}, what="a successor", limit_s=60.0)
            assert state_of(net["m1"], home) == "down"
            net.heal()
            wait_state(net["m1"], home, "ready", limit_s=40.0)
            wait_for(
                lambda: any(
                    task["Status"]["State"] == "shutdown" for task in tasks_of(client, "guarded")
                ),
                what="the word of its node",
            )
            time.sleep(1)
        assert guarded.most == 1
        assert bound.most == bound.least == 1
        assert [task["ID"] for task in running(client, "bound")] == [pinned["ID"]]
        assert running(client, "bound")[0]["Status"].get("Err", "") == ""
        words = [task["Status"].get("Err", "") for task in tasks_of(client, "guarded")]
        assert any("had heard no manager for 4 s" in text for text in words)
