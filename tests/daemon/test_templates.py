"""Templates on a real daemon: each task has its own text in its environment."""

import socket
from pathlib import Path

from tests.daemon.harness import pid_of, service, wait_running


def environment(task: dict) -> dict[str, str]:
    content = Path(f"/proc/{pid_of(task)}/environ").read_text()
    return dict(entry.partition("=")[::2] for entry in content.split("\0") if entry)


def test_each_task_gets_its_own_environment(swarm):
    client = swarm.client()
    env = ["NAME={{.Task.Name}}", "SLOT={{.Task.Slot}}", "ON={{.Node.Hostname}}", "PLAIN=$HOME"]
    spec = service("web", replicas=2, Env=[*env, "TEAM={{.Service.Labels.team}}"])
    client.post("/services/create", {**spec, "Labels": {"team": "a"}})
    for task in wait_running(client, "web", 2):
        found = environment(task)
        assert found["NAME"] == f"web.{task['Slot']}.{task['ID']}"
        assert found["SLOT"] == str(task["Slot"])
        assert found["ON"] == socket.gethostname()
        assert (found["PLAIN"], found["TEAM"]) == ("$HOME", "a")
        assert task["Spec"]["ContainerSpec"]["Env"][0] == "NAME={{.Task.Name}}"
