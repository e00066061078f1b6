"""Global services over real daemons: one task on every node, through what happens to nodes."""

import tempfile
import time
from contextlib import ExitStack

import pytest

from tests.daemon.harness import (
    ApiError,
    pid_of,
    running,
    running_daemon,
    service,
    tasks_of,
    wait_for,
    wait_running,
)
from tests.docker.cli import NEEDS_CLI, Docker

pytestmark = pytest.mark.timeout(180)


class Swarm:
    """A manager and workers, by number; a node that joins has a label that says its number."""

    def __init__(self, stack: ExitStack, workers: int) -> None:
        self.stack = stack
        self.manager = stack.enter_context(running_daemon())
        self.client = self.manager.init()
        self.daemons, self.ids = [self.manager], [self.client.get("/info")["Swarm"]["NodeID"]]
        for _ in range(workers):
            self.join()

    def join(self) -> str:
        worker = self.stack.enter_context(running_daemon())
        worker.client().post(
            "/swarm/join",
            {
                "ListenAddr": worker.listen,
                "RemoteAddrs": [self.manager.listen],
                "JoinToken": self.client.get("/swarm")["JoinTokens"]["Worker"],
            },
        )
        self.daemons.append(worker)
        self.ids.append(worker.client().get("/info")["Swarm"]["NodeID"])
        return self.ids[-1]

    def set_node(self, number: int, **spec: object) -> None:
        """Again where the dispatcher's word on the node came in between."""
        for _ in range(20):
            node = self.client.get(f"/nodes/{self.ids[number]}")
            url = f"/nodes/{self.ids[number]}/update?version={node['Version']['Index']}"
            try:
                self.client.post(url, {**node["Spec"], **spec})
            except ApiError as error:
                if "sequence" not in error.message:
                    raise
            else:
                return
            time.sleep(0.05)

    def create(self, name: str = "web", **template: object) -> None:
        body = service(name)
        body["TaskTemplate"].update(template)
        body["UpdateConfig"] = {"Parallelism": 1, "Monitor": 500_000_000}
        self.client.post("/services/create", {**body, "Mode": {"Global": {}}})

    def update(self, name: str = "web", **template: object) -> None:
        found = self.client.get(f"/services/{name}")
        spec = found["Spec"]
        spec["TaskTemplate"].update(template)
        url = f"/services/{found['ID']}/update?version={found['Version']['Index']}"
        self.client.post(url, spec)

    def on(self, name: str = "web") -> list[int]:
        """The nodes, by number, where a task runs."""
        return sorted(self.ids.index(task["NodeID"]) for task in running(self.client, name))

    def wait_on(self, *numbers: int, name: str = "web") -> None:
        wait_for(lambda: self.on(name) == sorted(numbers), what=f"tasks on nodes {numbers}")

    def update_state(self, name: str = "web") -> str:
        return self.client.get(f"/services/{name}").get("UpdateStatus", {}).get("State", "")

    def wait_updated(self, name: str = "web") -> None:
        wait_for(lambda: self.update_state(name) == "completed", what="the update's end")


@pytest.fixture
def swarm():
    with ExitStack() as stack:
        yield Swarm(stack, 2)


def test_service_follows_nodes_that_join_drain_pause_and_come_back(swarm):
    swarm.create()
    swarm.wait_on(0, 1, 2)
    assert {task.get("Slot") for task in tasks_of(swarm.client, "web")} == {None}
    swarm.join()
    swarm.wait_on(0, 1, 2, 3)
    swarm.set_node(1, Availability="drain")
    swarm.wait_on(0, 2, 3)
    swarm.set_node(2, Availability="pause")
    swarm.set_node(1, Availability="active")
    swarm.wait_on(0, 1, 2, 3)
    status = swarm.client.get("/services?status=true")[0]["ServiceStatus"]
    assert (status["RunningTasks"], status["DesiredTasks"]) == (4, 4)


def test_paused_node_is_left_out_of_an_update_and_catches_up_through_it(swarm):
    swarm.create()
    swarm.wait_on(0, 1, 2)
    swarm.set_node(1, Availability="pause")
    before = {task["ID"] for task in running(swarm.client, "web")}
    swarm.update(ForceUpdate=1)
    swarm.wait_updated()
    after = {task["ID"]: task["NodeID"] for task in running(swarm.client, "web")}
    assert [after[task] for task in before & after.keys()] == [swarm.ids[1]]
    assert len(after) == 3
    swarm.set_node(1, Availability="active")
    wait_for(lambda: not before & {t["ID"] for t in running(swarm.client, "web")}, what="a new one")
    swarm.wait_updated()
    swarm.wait_on(0, 1, 2)


def test_update_goes_on_where_a_manager_that_was_killed_left_it(swarm):
    swarm.create()
    swarm.wait_on(0, 1, 2)
    before = {task["ID"] for task in running(swarm.client, "web")}
    swarm.update(ForceUpdate=1)
    wait_for(lambda: swarm.update_state() == "updating", what="the update's beginning")
    swarm.manager.kill()
    swarm.manager.start()
    wait_for(lambda: swarm.update_state() == "completed", what="the update's end")
    swarm.wait_on(0, 1, 2)
    assert not before & {task["ID"] for task in running(swarm.client, "web")}


def test_node_that_is_lost_gets_a_new_task_when_it_is_back(swarm):
    swarm.create()
    swarm.wait_on(0, 1, 2)
    (old,) = [t for t in running(swarm.client, "web") if t["NodeID"] == swarm.ids[2]]
    swarm.daemons[2].kill()
    swarm.wait_on(0, 1)
    assert len(tasks_of(swarm.client, "web")) == 3
    swarm.daemons[2].start()
    swarm.wait_on(0, 1, 2)
    (new,) = [t for t in running(swarm.client, "web") if t["NodeID"] == swarm.ids[2]]
    assert new["ID"] != old["ID"]
    wait_for(lambda: not _is_alive(pid_of(old)), what="the end of the old task")


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_node_that_leaves_and_is_removed_takes_its_tasks_along(swarm):
    swarm.create()
    swarm.wait_on(0, 1, 2)
    gone = swarm.ids[2]
    swarm.daemons[2].client().post("/swarm/leave?force=1")
    swarm.client.call("DELETE", f"/nodes/{gone}?force=1")
    wait_for(
        lambda: all(t["NodeID"] != gone for t in tasks_of(swarm.client, "web")),
        what="the removal of its tasks",
    )
    swarm.wait_on(0, 1)


def test_labels_choose_the_nodes_and_a_lost_label_ends_a_task(swarm):
    swarm.create(Placement={"Constraints": ["node.labels.zone==eu"]})
    time.sleep(0.5)
    assert tasks_of(swarm.client, "web") == []
    swarm.set_node(1, Labels={"zone": "eu"})
    swarm.set_node(2, Labels={"zone": "eu"})
    swarm.wait_on(1, 2)
    swarm.set_node(1, Labels={})
    swarm.wait_on(2)
    (ended,) = [t for t in tasks_of(swarm.client, "web") if t["NodeID"] == swarm.ids[1]]
    assert ended["Status"]["State"] == "rejected"
    assert ended["Status"]["Err"] == "assigned node no longer meets constraints"
    swarm.update(Placement={})
    swarm.wait_on(0, 1, 2)


def test_replicated_task_moves_off_a_node_that_lost_its_label(swarm):
    for number in (1, 2):
        swarm.set_node(number, Labels={"zone": "eu"})
    body = service("db")
    body["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.zone==eu"]}
    swarm.client.post("/services/create", body)
    (first,) = wait_running(swarm.client, "db", 1)
    number = swarm.ids.index(first["NodeID"])
    swarm.set_node(number, Labels={})
    swarm.wait_on(3 - number, name="db")


@NEEDS_CLI[0]
@NEEDS_CLI[1]
def test_docker_cli_creates_updates_and_lists_a_global_service(swarm):
    with tempfile.TemporaryDirectory() as config:
        docker = Docker(f"unix://{swarm.manager.socket}", config)
        flags = ("--mode", "global", "--update-monitor", "500ms", "--stop-grace-period", "1s")
        said = docker("service", "create", "--name", "web", *flags, "host", "sleep", "1000")
        assert "overall progress: 3 out of 3 tasks" in said
        assert "converged" in said
        columns = docker("service", "ls", "--format", "{{.Mode}} {{.Replicas}}").split()
        assert columns == ["global", "3/3"]
        said = docker("service", "update", "--env-add", "A=b", "web")
        assert "converged" in said
        names = docker("service", "ps", "--format", "{{.Name}} {{.DesiredState}}", "web")
        for node_id in swarm.ids:
            assert names.count(f"web.{node_id} Running") == 1
            assert names.count(f"web.{node_id} Shutdown") == 1
        assert "Global" in docker("service", "inspect", "--pretty", "web")
        docker("service", "scale", "web=3", code=1)
        docker("node", "update", "--availability", "drain", swarm.ids[1])
        wait_for(
            lambda: docker("service", "ls", "--format", "{{.Replicas}}").strip() == "2/2",
            what="two tasks of two",
        )
        docker("service", "rm", "web")
        wait_for(lambda: swarm.client.get("/tasks") == [], what="the end of all tasks")
