"""Placement on a real daemon: pieces of generic resources, and services beside each other."""

from pathlib import Path

import pytest

from tests.daemon.harness import (
    ApiError,
    pid_of,
    running_daemon,
    service,
    tasks_of,
    wait_for,
    wait_running,
)


def placed(name, replicas=1, **placement):
    spec = service(name, replicas=replicas)
    spec["TaskTemplate"]["Placement"] = placement
    return spec


def err_of(task) -> str:
    return task["Status"].get("Err", "")


def variables(task) -> list[str]:
    return Path(f"/proc/{pid_of(task)}/environ").read_text().split("\0")


def test_tasks_get_pieces_of_the_node_and_are_told_which():
    options = ("gpu=GPU-1", "gpu=GPU-2", "ssd=3")
    flags = [part for text in options for part in ("--node-generic-resource", text)]
    with running_daemon(*flags) as daemon:
        client = daemon.init()
        (node,) = client.get("/nodes")
        kinds = [("NamedResourceSpec", "GPU-1"), ("NamedResourceSpec", "GPU-2")]
        listed = node["Description"]["Resources"]["GenericResources"]
        assert [(word, row[word]["Value"]) for row in listed for word in row] == [
            *kinds,
            ("DiscreteResourceSpec", 3),
        ]
        assert client.get("/info")["GenericResources"] == listed
        spec = service("train", replicas=3)
        reserved = [
            {"DiscreteResourceSpec": {"Kind": kind, "Value": count}}
            for kind, count in (("gpu", 1), ("ssd", 1))
        ]
        spec["TaskTemplate"]["Resources"] = {"Reservations": {"GenericResources": reserved}}
        client.post("/services/create", spec)
        tasks = wait_running(client, "train", 2)
        assert all("DOCKER_RESOURCE_SSD=1" in variables(task) for task in tasks)
        told = {line for task in tasks for line in variables(task) if "RESOURCE_GPU" in line}
        assert told == {"DOCKER_RESOURCE_GPU=GPU-1", "DOCKER_RESOURCE_GPU=GPU-2"}
        (waiting,) = [t for t in tasks_of(client, "train") if t["Status"]["State"] == "pending"]
        assert "insufficient resources" in waiting["Status"]["Err"]


def test_service_waits_for_the_one_it_needs_beside_it(swarm):
    client = swarm.client()
    client.post("/services/create", placed("web", Constraints=["service==db"]))
    wait_for(
        lambda: "services asked for" in "".join(map(err_of, tasks_of(client, "web"))),
        what="the reason",
    )
    client.post("/services/create", placed("db", 2, Constraints=["service!=db"]))
    wait_running(client, "web", 1)
    assert len(wait_running(client, "db", 1)) == 1


def test_task_with_a_limit_is_kept_off_a_runtime_that_cannot_hold_it(swarm):
    """The process runtime has no control groups. What it can hold, it runs."""
    client = swarm.client()
    spec = service("limited", replicas=1)
    limits = {"NanoCPUs": 500_000_000, "MemoryBytes": 1 << 30}
    spec["TaskTemplate"]["Resources"] = {"Limits": limits}
    client.post("/services/create", spec)
    wait_for(
        lambda: "".join(map(err_of, tasks_of(client, "limited"))),
        what="the reason",
    )
    (task,) = tasks_of(client, "limited")
    said = "no suitable node (no runtime that can limit cpu and memory on 1 node)"
    assert (task["Status"]["State"], err_of(task)) == ("pending", said)
    why = client.get("/swarmlet/v1/services/limited/why")
    assert "has no runtime that can limit cpu" in str(why), why
    del limits["NanoCPUs"]
    (row,) = client.get("/services")
    client.post(f"/services/{row['ID']}/update?version={row['Version']['Index']}", spec)
    wait_running(client, "limited", 1)


@pytest.mark.parametrize(
    ("constraint", "meant"),
    [
        ("node.label.zone==a", "did you mean node.labels.zone?"),
        ("hostname==a", "did you mean node.hostname?"),
        ("sevice==db", "did you mean service?"),
    ],
)
def test_unknown_key_is_refused_with_the_one_that_is_meant(swarm, constraint, meant):
    """In the message itself, which is all that docker's clients print."""
    with pytest.raises(ApiError) as refused:
        swarm.client().post("/services/create", placed("web", Constraints=[constraint]))
    assert refused.value.status == 400
    assert meant in refused.value.message


def test_daemon_refuses_resources_that_mean_nothing():
    daemon = running_daemon("--node-generic-resource", "gpu=1,gpu=2")
    with pytest.raises(AssertionError, match="generic resource 'gpu' is counted once"), daemon:
        pass
