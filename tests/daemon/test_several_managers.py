"""Three real daemons as managers of one swarm: every one answers, one is killed, all restart."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.harness import (
    ApiError,
    Client,
    pid_of,
    running,
    running_daemon,
    service,
    wait_for,
    wait_running,
)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def managers():
    """Three of one swarm, the first one leads."""
    with ExitStack() as stack:
        daemons = [stack.enter_context(running_daemon()) for _ in range(3)]
        daemons[0].init()
        for daemon in daemons[1:]:
            join(daemon, daemons[0])
        yield daemons


def join(daemon, manager, role="Manager"):
    token = manager.client().get("/swarm")["JoinTokens"][role]
    body = {"ListenAddr": daemon.listen, "RemoteAddrs": [manager.listen], "JoinToken": token}
    daemon.client().post("/swarm/join", body)


def swarm_of(daemon):
    return daemon.client().get("/info")["Swarm"]


def nodes(daemon):
    """Reachability by node id, and who leads, as this daemon answers."""
    rows = daemon.client().get("/nodes")
    seen = {row["ID"]: row["ManagerStatus"]["Reachability"] for row in rows}
    return seen, [row["ID"] for row in rows if row["ManagerStatus"].get("Leader")]


def leader_of(daemons):
    """The daemon that leads; waits for one."""

    def found():
        for daemon in daemons:
            try:
                _, leaders = nodes(daemon)
            except ApiError:
                continue
            return next((one for one in daemons if [swarm_of(one)["NodeID"]] == leaders), None)
        return None

    return wait_for(found, what="a leader among those that run")


def whole(daemons):
    """Wait until each of these sees all as reachable."""
    ids = {swarm_of(daemon)["NodeID"] for daemon in daemons}

    def seen():
        try:
            return all(nodes(one)[0] == dict.fromkeys(ids, "reachable") for one in daemons)
        except ApiError:
            return False

    wait_for(seen, what="every manager to see all the others")


def config(name):
    return {"Name": name, "Data": "eA=="}


class Writer:
    """Makes one config after the other on any manager that answers, and remembers which were
    acknowledged."""

    def __init__(self, daemons):
        self._daemons, self.acknowledged, self.longest_s = daemons, [], 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        number, last_s = 0, time.monotonic()
        while not self._stop.is_set():
            number += 1
            name = f"c{number}"
            try:
                Client(self._daemons[number % len(self._daemons)].socket, 10.0).post(
                    "/configs/create", config(name)
                )
            except (ApiError, OSError):
                continue
            self.acknowledged.append(name)
            self.longest_s = max(self.longest_s, time.monotonic() - last_s)
            last_s = time.monotonic()


def test_every_manager_lists_all_and_takes_changes(managers):
    whole(managers)
    for number, daemon in enumerate(managers):
        daemon.client().post("/configs/create", config(f"from-{number}"))
        for other in managers:
            assert other.client().get(f"/configs/from-{number}")["Spec"]["Name"]
        assert Path(daemon.data, "raft", "journal").exists()
        metrics = daemon.client().get("/metrics").decode()
        assert "swarmlet_raft_members 3" in metrics


def test_writes_go_on_when_the_leader_is_killed_and_none_is_lost(managers):
    whole(managers)
    client = managers[0].client()
    client.post("/services/create", service("web", replicas=3))
    pids = {pid_of(task) for task in wait_running(client, "web", 3)}
    with Writer(managers) as writer:
        for _ in range(2):
            time.sleep(1)
            leader = leader_of(managers)
            leader.kill()
            rest = [one for one in managers if one is not leader]
            count = len(writer.acknowledged)
            wait_for(
                lambda count=count: len(writer.acknowledged) > count + 5,
                what="writes after the leader's end",
            )
            assert leader_of(rest) is not leader
            leader.start()
            whole(managers)
    for daemon in managers:
        there = {row["Spec"]["Name"] for row in daemon.client().get("/configs")}
        assert set(writer.acknowledged) <= there
    assert writer.longest_s < 5
    wait_for(
        lambda: {pid_of(task) for task in running(client, "web")} == pids,
        what="the same processes as before",
    )


def test_all_managers_killed_at_once_go_on_where_they_were(managers):
    managers[1].client().post("/configs/create", config("kept"))
    for daemon in managers:
        daemon.kill()
    for daemon in managers:
        daemon.start()
    whole(managers)
    assert managers[2].client().get("/configs/kept")["Spec"]["Name"] == "kept"


def test_demoted_leader_keeps_its_tasks_and_is_promoted_again(managers):
    whole(managers)
    leader = leader_of(managers)
    rest = [one for one in managers if one is not leader]
    client, node_id = rest[0].client(), swarm_of(leader)["NodeID"]
    client.post("/services/create", service("web", replicas=3))
    pids = {pid_of(task) for task in wait_running(client, "web", 3)}
    set_role(client, node_id, "worker")
    wait_for(lambda: not swarm_of(leader)["ControlAvailable"], what="the leader is a worker")
    wait_for(lambda: not Path(leader.data, "raft").exists(), what="its copy of the state is gone")
    set_role(client, node_id, "manager")
    whole(managers)
    assert {pid_of(task) for task in running(client, "web")} == pids


def test_manager_that_was_demoted_and_promoted_while_it_was_off_gets_another_certificate(managers):
    """Whoever missed the promotion tells it by that from one that was demoted for good."""
    whole(managers)
    leader = leader_of(managers)
    off = next(one for one in managers if one is not leader)
    client, node_id = leader.client(), swarm_of(off)["NodeID"]
    certificate = Path(off.data, "certificates/swarm-node.crt")
    before = certificate.read_bytes()
    off.kill()
    set_role(client, node_id, "worker")
    wait_for(lambda: "ManagerStatus" not in client.get(f"/nodes/{node_id}"), what="it is out")
    set_role(client, node_id, "manager")
    off.start()
    whole(managers)
    wait_for(lambda: certificate.read_bytes() != before, what="another certificate")


def set_role(client, node_id, role):
    """The row may change meanwhile."""

    def is_set():
        row = client.get(f"/nodes/{node_id}")
        path = f"/nodes/{node_id}/update?version={row['Version']['Index']}"
        try:
            client.post(path, {**row["Spec"], "Role": role})
        except ApiError as problem:
            if "out of sequence" in problem.message:
                return False
            raise
        return True

    wait_for(is_set, what=f"the role {role} is wanted")


def test_survivor_of_three_becomes_a_swarm_of_its_own(managers):
    whole(managers)
    managers[0].client().post("/configs/create", config("kept"))
    survivor = managers[2]
    for daemon in managers[:2]:
        daemon.kill()
    wait_for(lambda: loses_quorum(survivor), what="the lost majority is said")
    survivor.client().post("/swarm/init", {"ForceNewCluster": True, "ListenAddr": "0.0.0.0:2377"})
    assert survivor.client().get("/configs/kept")["Spec"]["Name"] == "kept"
    assert swarm_of(survivor)["Managers"] == 1
    survivor.client().post("/configs/create", config("new"))


def loses_quorum(daemon):
    try:
        daemon.client().get("/nodes")
    except ApiError as problem:
        return "1 of 3 managers answers" in problem.message
    return False


def test_manager_that_is_stopped_hands_over_at_once(managers):
    whole(managers)
    leader = leader_of(managers)
    rest = [one for one in managers if one is not leader]
    began_s = time.monotonic()
    assert leader.stop() == 0
    assert time.monotonic() - began_s < 6
    rest[0].client().post("/configs/create", config("after"))
    assert leader_of(rest) in rest
    leader.start()
    whole(managers)
