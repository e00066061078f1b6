"""Real services on a real daemon: placed, healed, scaled, removed, untouched by a restart."""

import os
import signal
from pathlib import Path

import pytest

from tests.daemon.harness import (
    pid_of,
    running,
    service,
    tasks_of,
    wait_for,
    wait_running,
)


def update(client, name, change):
    found = client.get(f"/services/{name}")
    spec = found["Spec"]
    change(spec)
    client.post(f"/services/{name}/update?version={found['Version']['Index']}", spec)


def scale(client, name, replicas):
    update(client, name, lambda spec: spec["Mode"].update(Replicated={"Replicas": replicas}))


def test_service_runs_is_scaled_and_goes(swarm):
    client = swarm.client()
    client.post("/services/create", service("web", replicas=2))
    first = wait_running(client, "web", 2)
    scale(client, "web", 5)
    assert {t["ID"] for t in first} <= {t["ID"] for t in wait_running(client, "web", 5)}
    scale(client, "web", 1)
    (left,) = wait_running(client, "web", 1)
    assert left["Slot"] == 1
    client.delete("/services/web")
    wait_for(lambda: not Path(f"/proc/{pid_of(left)}").exists(), what="the end of the process")
    wait_for(lambda: client.get("/tasks") == [], what="an empty task list")


def test_killed_process_is_replaced_after_the_restart_delay(swarm):
    client = swarm.client()
    client.post("/services/create", service("web"))
    (task,) = wait_running(client, "web", 1)
    os.kill(pid_of(task), signal.SIGKILL)
    wait_for(
        lambda: [t for t in running(client, "web") if t["ID"] != task["ID"]],
        what="the replacement",
    )
    old = client.get(f"/tasks/{task['ID']}")
    assert old["Status"]["State"] == "failed"
    assert old["Status"]["ContainerStatus"]["ExitCode"] == 137


def test_daemon_restart_leaves_tasks_untouched(swarm):
    client = swarm.client()
    client.post("/services/create", service("web", replicas=3))
    before = {t["ID"]: pid_of(t) for t in wait_running(client, "web", 3)}
    for end in (swarm.kill, swarm.stop):
        end()
        assert all(Path(f"/proc/{pid}").exists() for pid in before.values())
        swarm.start()
        client = swarm.client()
        assert {t["ID"]: pid_of(t) for t in wait_running(client, "web", 3)} == before
    assert len(tasks_of(client, "web")) == 3


def test_task_that_ended_while_the_daemon_was_away_is_replaced(swarm):
    client = swarm.client()
    client.post("/services/create", service("web"))
    (task,) = wait_running(client, "web", 1)
    swarm.kill()
    os.kill(pid_of(task), signal.SIGKILL)
    swarm.start()
    client = swarm.client()
    wait_for(
        lambda: [t for t in running(client, "web") if t["ID"] != task["ID"]],
        what="the replacement",
    )


def test_unplaceable_task_says_why(swarm):
    client = swarm.client()
    spec = service("web")
    spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.zone==nowhere"]}
    client.post("/services/create", spec)
    (task,) = wait_for(
        lambda: [t for t in tasks_of(client, "web") if t["Status"].get("Err")], what="a reason"
    )
    assert task["Status"]["State"] == "pending"
    assert "constraint" in task["Status"]["Err"]
    (node,) = client.get("/nodes")
    node["Spec"]["Labels"] = {"zone": "nowhere"}
    client.post(f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", node["Spec"])
    wait_running(client, "web", 1)


def test_image_that_this_node_cannot_run_stays_pending_with_the_reason(swarm):
    client = swarm.client()
    spec = service("web")
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "busybox:1"
    client.post("/services/create", spec)
    (task,) = wait_for(
        lambda: [t for t in tasks_of(client, "web") if t["Status"].get("Err")], what="a reason"
    )
    assert "runtime" in task["Status"]["Err"]


def test_logs_have_every_line_in_order(swarm):
    client = swarm.client()
    script = "for i in 1 2 3 4 5; do echo line $i; done; exec sleep 1000"
    client.post("/services/create", service("web", "/bin/sh", "-c", script))
    wait_running(client, "web", 1)
    raw = wait_for(
        lambda: (
            (answer := client.get("/services/web/logs?stdout=1&stderr=1&tail=all")).count(b"line")
            == 5
            and answer
        ),
        what="five lines",
    )
    assert [raw.find(b"line %d\n" % n) for n in range(1, 6)] == sorted(
        raw.find(b"line %d\n" % n) for n in range(1, 6)
    )
    last = client.get("/services/web/logs?stdout=1&stderr=1&tail=2")
    assert last.count(b"line") == 2


def test_host_mode_port_is_given_and_told(swarm):
    client = swarm.client()
    spec = service("web", "/bin/sh", "-c", "echo port=$PORT; exec sleep 1000")
    spec["EndpointSpec"] = {"Ports": [{"TargetPort": 80, "PublishMode": "host"}]}
    client.post("/services/create", spec)
    (task,) = wait_running(client, "web", 1)
    (port,) = task["Status"]["PortStatus"]["Ports"]
    logs = wait_for(lambda: client.get("/services/web/logs?stdout=1"), what="a log line")
    assert f"port={port['PublishedPort']}".encode() in logs


def test_drained_node_stops_its_tasks_and_takes_them_back(swarm):
    client = swarm.client()
    client.post("/services/create", service("web", replicas=2))
    wait_running(client, "web", 2)

    def availability(word):
        (node,) = client.get("/nodes")
        node["Spec"]["Availability"] = word
        client.post(f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", node["Spec"])

    availability("drain")
    wait_for(
        lambda: all(t["Status"]["State"] != "running" for t in tasks_of(client, "web")),
        what="no running task",
    )
    availability("active")
    wait_running(client, "web", 2)


def test_leave_and_init_again_in_the_same_daemon(daemon):
    client = daemon.client()
    ids = set()
    for _ in range(int(os.environ.get("SWARMLET_LEAVES", "15"))):
        ids.add(client.post("/swarm/init", {"ListenAddr": daemon.listen}))
        client.post("/services/create", service("web"))
        client.post("/swarm/leave?force=1")
        with pytest.raises(Exception, match="not a swarm manager"):
            client.get("/nodes")
    assert len(ids) == int(os.environ.get("SWARMLET_LEAVES", "15"))
    assert not list(Path(daemon.data, "tasks").glob("*"))
