"""Real processes of a node that lost its memory, one that was removed, and one that leaves."""

import os
from pathlib import Path

import pytest

from tests.daemon.harness import pid_of, running, service, wait_for, wait_running
from tests.daemon.test_nodes import hosts as hosts
from tests.daemon.test_nodes import join, node_of, state_of, swarm_of
from tests.daemon.test_nodes import manager as manager
from tests.daemon.test_payloads import TREASURE, create

pytestmark = pytest.mark.timeout(120)

STUBBORN = "trap '' TERM; touch $HOME/x 2>/dev/null; while sleep 0.2; do :; done"


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("loss", ["damaged", "deleted"])
def test_daemon_without_its_task_database_adopts_what_runs(hosts, manager, loss):
    client = manager.client()
    key = create(client, "secret", "key", TREASURE)
    client.post("/services/create", service("web", replicas=2, Secrets=[key]))
    pids = {task["ID"]: pid_of(task) for task in wait_running(client, "web", 2)}
    manager.kill()
    path = Path(manager.data, "agent", "tasks.log")
    spoil(path) if loss == "damaged" else path.unlink()
    manager.start()
    client = manager.client()
    wait_for(
        lambda: client.get("/nodes")[0]["Status"]["State"] == "ready", what="the node's session"
    )
    assert {task["ID"]: pid_of(task) for task in wait_running(client, "web", 2)} == pids
    assert ("agent.state_damaged" in manager.log()) is (loss == "damaged")
    os.kill(next(iter(pids.values())), 9)  # it is watched: another one comes
    wait_for(
        lambda: {task["ID"] for task in running(client, "web")} - set(pids), what="a replacement"
    )
    client.delete("/services/web")
    wait_for(lambda: not any(map(lives, pids.values())), what="the end of what was adopted")


def test_node_that_was_removed_while_it_was_away_ends_its_tasks_when_it_hears_of_it(hosts, manager):
    worker = hosts()
    join(worker, manager)
    client = manager.client()
    node_id = swarm_of(worker)["NodeID"]
    spec = service("web", replicas=2)
    spec["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id=={node_id}"]}
    client.post("/services/create", spec)
    pids = [pid_of(task) for task in wait_running(client, "web", 2)]
    worker.kill()
    wait_for(lambda: state_of(manager, node_id) == "down", what="the loss of the node")
    client.delete(f"/nodes/{node_id}?force=1")
    assert all(map(lives, pids))  # nobody has told it yet
    worker.start()
    assert all(map(lives, pids))
    wait_for(lambda: not any(map(lives, pids)), what="the end of its tasks", limit_s=40)
    assert "was removed" in swarm_of(worker)["Error"]
    worker.client().post("/swarm/leave?force=1")
    join(worker, manager)
    assert node_of(manager, worker)["Status"]["State"] == "ready"


def test_leaving_ends_tasks_that_do_not_want_to_end(hosts, manager):
    worker = hosts()
    join(worker, manager)
    client = manager.client()
    spec = service("web", "/bin/sh", "-c", STUBBORN, replicas=2)
    place = f"node.id=={swarm_of(worker)['NodeID']}"
    spec["TaskTemplate"]["Placement"] = {"Constraints": [place]}
    client.post("/services/create", spec)
    pids = [pid_of(task) for task in wait_running(client, "web", 2)]
    worker.client().post("/swarm/leave")
    assert not any(map(lives, pids))
    assert not list(Path(worker.data, "tasks").glob("*"))
