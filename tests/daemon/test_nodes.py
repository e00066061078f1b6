"""Several daemons on one host make a swarm of several nodes: joins, work, leaving, loss."""

import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.daemon.harness import (
    ApiError,
    UnixConnection,
    free_port,
    running,
    running_daemon,
    service,
    tasks_of,
    wait_for,
    wait_running,
)

pytestmark = pytest.mark.timeout(120)

WORKER_TEXT = "Worker nodes can't be used to view or modify cluster state."


@pytest.fixture
def hosts():
    """Makes daemons."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(running_daemon())


@pytest.fixture
def manager(hosts):
    daemon = hosts()
    daemon.init()
    return daemon


def token(manager, role="Worker"):
    return manager.client().get("/swarm")["JoinTokens"][role]


def body(daemon, manager, role="Worker", **more):
    return {
        "ListenAddr": daemon.listen,
        "RemoteAddrs": [manager.listen],
        "JoinToken": token(manager, role),
        **more,
    }


def join(daemon, manager, role="Worker", **more):
    daemon.client().post("/swarm/join", body(daemon, manager, role, **more))


def swarm_of(daemon):
    return daemon.client().get("/info")["Swarm"]


def node_of(manager, daemon):
    return manager.client().get(f"/nodes/{swarm_of(daemon)['NodeID']}")


def state_of(manager, daemon_id):
    return manager.client().get(f"/nodes/{daemon_id}")["Status"]["State"]


def left_behind(daemon):
    """What of a swarm is in the data directory."""
    names = ("swarm", "certificates", "raft", "agent")
    return [name for name in names if list(Path(daemon.data, name).glob("*"))]


def refused(daemon, request):
    with pytest.raises(ApiError) as found:
        daemon.client().post("/swarm/join", request)
    return found.value


# A swarm of several nodes ----------------------------------------------------------------------


def test_services_are_spread_over_workers_that_joined(hosts, manager):
    workers = [hosts(), hosts()]
    for worker in workers:
        join(worker, manager)
        assert node_of(manager, worker)["Status"]["State"] == "ready"
    client = manager.client()
    client.post("/services/create", service("web", replicas=6))
    counts = Counter(task["NodeID"] for task in wait_running(client, "web", 6))
    assert sorted(counts.values()) == [2, 2, 2]
    assert client.get("/info")["Swarm"]["Nodes"] == 3


def test_worker_answers_dockers_sentence_and_shows_itself(hosts, manager):
    worker = hosts()
    join(worker, manager, Availability="drain")
    client = worker.client()
    for path in ("/nodes", "/services", "/swarm", "/tasks", "/secrets", "/configs"):
        with pytest.raises(ApiError) as found:
            client.get(path)
        assert (found.value.status, WORKER_TEXT in found.value.message) == (503, True)
    swarm = swarm_of(worker)
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("active", False)
    leader = swarm_of(manager)["NodeID"]
    assert swarm["RemoteManagers"] == [{"NodeID": leader, "Addr": manager.listen}]
    certificate = client.get("/swarmlet/v1/daemon")["Certificate"]
    assert certificate["Subject"].startswith(f"CN={swarm['NodeID']},OU=swarm-worker,O=")
    row = manager.client().get(f"/swarmlet/v1/nodes/{swarm['NodeID']}")["Certificate"]
    assert (row["State"], row["Subject"]) == ("issued", certificate["Subject"])
    node = node_of(manager, worker)
    assert (node["Spec"]["Role"], node["Spec"]["Availability"]) == ("worker", "drain")
    root = manager.client().get("/swarm")["TLSInfo"]["TrustRoot"]
    assert node["Description"]["TLSInfo"]["TrustRoot"] == root


def test_worker_leaves_without_force_and_takes_its_tasks_along(hosts, manager):
    worker = hosts()
    join(worker, manager)
    node_id, client = swarm_of(worker)["NodeID"], manager.client()
    client.post("/services/create", service("web", replicas=4))
    wait_running(client, "web", 4)
    worker.client().post("/swarm/leave")
    assert swarm_of(worker)["LocalNodeState"] == "inactive"
    assert left_behind(worker) == []
    assert not list(Path(worker.data, "tasks").glob("*"))
    wait_for(lambda: state_of(manager, node_id) == "down", what="the node that left is down")
    wait_for(
        lambda: (
            {task["NodeID"] for task in running(client, "web")} == {swarm_of(manager)["NodeID"]}
            and len(running(client, "web")) == 4
        ),
        what="all tasks on the node that stayed",
    )
    join(worker, manager)
    assert swarm_of(worker)["NodeID"] != node_id


def test_restarted_and_killed_worker_comes_back_with_its_tasks(hosts, manager):
    worker = hosts()
    join(worker, manager)
    node_id, client = swarm_of(worker)["NodeID"], manager.client()
    client.post("/services/create", service("web", replicas=2))
    ids = {task["ID"] for task in wait_running(client, "web", 2)}
    for end in (worker.stop, worker.kill):
        end()
        worker.start()
        wait_for(lambda: swarm_of(worker)["LocalNodeState"] == "active", what="the worker is back")
        wait_for(lambda: state_of(manager, node_id) == "ready", what="the manager sees it")
    assert swarm_of(worker)["NodeID"] == node_id
    assert {task["ID"] for task in wait_running(client, "web", 2)} == ids


def all_ready_anew(client, before):
    """Not as they were when the manager stopped: a new leader knows of nobody at first."""
    return all(
        node["Status"]["State"] == "ready" and node["Version"]["Index"] > before[node["ID"]]
        for node in client.get("/nodes")
    )


def test_workers_find_a_restarted_manager_again(hosts, manager):
    worker = hosts()
    join(worker, manager)
    client = manager.client()
    for end in (manager.stop, manager.kill):
        before = {node["ID"]: node["Version"]["Index"] for node in client.get("/nodes")}
        end()
        manager.start()
        wait_for(partial(all_ready_anew, client, before), what="both nodes are ready again")
    client.post("/services/create", service("web", replicas=2))
    assert len({task["NodeID"] for task in wait_running(client, "web", 2)}) == 2


def test_both_stop_and_start_and_the_worker_remembers_whom_to_ask(hosts, manager):
    worker = hosts()
    join(worker, manager)
    wait_for(Path(worker.data, "swarm/managers.json").exists, what="managers written down")
    manager.stop()
    worker.stop()
    worker.start()
    assert swarm_of(worker)["LocalNodeState"] == "pending"
    wait_for(lambda: manager.listen in swarm_of(worker)["Error"], what="the worker says why")
    manager.start()
    wait_for(lambda: swarm_of(worker)["LocalNodeState"] == "active", what="the worker is back")
    assert swarm_of(worker)["Error"] == ""


def test_removed_node_is_cut_off_and_says_so(hosts, manager):
    worker = hosts()
    join(worker, manager)
    node_id = swarm_of(worker)["NodeID"]
    manager.client().delete(f"/nodes/{node_id}?force=1")
    wait_for(lambda: swarm_of(worker)["LocalNodeState"] == "error", what="the node knows")
    assert "removed" in swarm_of(worker)["Error"]
    again = refused(worker, body(worker, manager))
    assert "already part of a swarm" in again.message
    worker.client().post("/swarm/leave")
    join(worker, manager)
    assert swarm_of(worker)["NodeID"] != node_id


def test_logs_of_a_task_on_a_worker_are_read_on_the_manager(hosts, manager):
    worker = hosts()
    join(worker, manager)
    leader = swarm_of(manager)["NodeID"]
    client = manager.client()
    version = client.get(f"/nodes/{leader}")
    spec = {**version["Spec"], "Availability": "drain"}
    client.post(f"/nodes/{leader}/update?version={version['Version']['Index']}", spec)
    client.post("/services/create", service("hi", "/bin/sh", "-c", "echo hello; exec sleep 1000"))
    wait_running(client, "hi", 1)
    wait_for(lambda: b"hello" in client.call("GET", "/services/hi/logs?stdout=1"), what="the line")


# A second manager --------------------------------------------------------------------------------


def test_second_manager_answers_reads_and_passes_changes_on(hosts, manager):
    second = hosts()
    join(second, manager, "Manager")
    client = second.client()
    service_id = client.post("/services/create", service("web"))["ID"]
    wait_running(client, "web", 1)
    assert manager.client().get("/services/web")["ID"] == service_id
    with pytest.raises(ApiError) as found:
        client.get("/services/nope")
    assert (found.value.status, found.value.message) == (404, "service nope not found")
    assert client.get("/services", {"name": ["web"]})[0]["ID"] == service_id
    swarm = client.get("/info")["Swarm"]
    assert (swarm["ControlAvailable"], swarm["Nodes"], swarm["Managers"]) == (True, 2, 2)
    assert swarm["Cluster"]["ID"] == manager.client().get("/swarm")["ID"]
    wait_for(
        lambda: node_of(manager, second)["ManagerStatus"]["Reachability"] == "reachable",
        what="the second manager is heard",
    )
    with pytest.raises(ApiError, match="leaves 1 managers out of 2"):
        client.post("/swarm/leave")
    client.post("/swarm/leave?force=1")
    assert left_behind(second) == []
    assert manager.client().get("/info")["Swarm"]["Managers"] == 1
    manager.client().post("/services/create", service("again"))


def test_logs_are_followed_through_the_second_manager(hosts, manager):
    second = hosts()
    join(second, manager, "Manager")
    words = ("/bin/sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.2; done; exec sleep 1000")
    second.client().post("/services/create", service("hi", *words))
    wait_running(second.client(), "hi", 1)
    with closing(UnixConnection(second.socket, 20.0)) as connection:
        connection.request("GET", "/services/hi/logs?stdout=1&follow=1")
        response, seen = connection.getresponse(), b""
        while b"line 3" not in seen:
            seen += response.read1(4096)


def test_worker_joins_through_the_second_manager(hosts, manager):
    second, worker = hosts(), hosts()
    join(second, manager, "Manager")
    join(worker, manager, RemoteAddrs=[second.listen])
    assert node_of(manager, worker)["Status"]["State"] == "ready"
    known = swarm_of(worker)["RemoteManagers"]
    assert {one["Addr"] for one in known} == {manager.listen, second.listen}


def test_second_manager_without_a_leader_says_so(hosts, manager):
    second = hosts()
    join(second, manager, "Manager")
    manager.stop()
    with pytest.raises(ApiError, match="1 of 2 managers answers, and 2 are needed") as found:
        second.client().get("/nodes")
    assert (found.value.status, manager.listen in found.value.message) == (503, True)


def test_manager_whose_port_is_taken_does_not_join(hosts, manager):
    second = hosts()
    request = body(second, manager, "Manager", ListenAddr=manager.listen)
    assert "already in use" in refused(second, request).message
    assert swarm_of(second)["LocalNodeState"] == "inactive"
    assert left_behind(second) == []


# Joins that fail ---------------------------------------------------------------------------------


def test_wrong_token_is_refused_and_leaves_nothing(hosts, manager):
    worker = hosts()
    right = token(manager)
    digest, secret = right.rsplit("-", 1)
    other = f"{digest}-{'0' * 25}"
    foreign = f"SWMTKN-1-{'1' * 50}-{secret}"
    for wrong, text in ((other, "not"), (foreign, "another swarm"), (right[:-3], "invalid join")):
        error = refused(worker, body(worker, manager, JoinToken=wrong))
        assert text in error.message
        assert wrong not in error.message
        assert swarm_of(worker)["LocalNodeState"] == "inactive"
        assert left_behind(worker) == []
    join(worker, manager)


def test_node_in_a_swarm_joins_no_other(hosts, manager):
    assert "already part of a swarm" in refused(manager, body(manager, manager)).message


def test_join_by_host_name_and_default_listen_address(hosts, manager):
    worker = hosts()
    port = manager.listen.rpartition(":")[2]
    listen = f"0.0.0.0:{manager.listen.rpartition(':')[2]}"  # a worker opens no port
    join(worker, manager, RemoteAddrs=[f"localhost:{port}"], ListenAddr=listen)
    assert node_of(manager, worker)["Status"]["State"] == "ready"


def test_nodes_meet_over_ipv6(hosts):
    if not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this host has no IPv6")
    manager, worker = hosts(), hosts()
    manager.listen = f"[::1]:{free_port('127.0.0.1')}"
    manager.client().post("/swarm/init", {"ListenAddr": manager.listen})
    join(worker, manager)
    node = node_of(manager, worker)
    assert (node["Status"]["State"], node["Status"]["Addr"]) == ("ready", "::1")
    assert swarm_of(worker)["RemoteManagers"][0]["Addr"] == manager.listen


# Joins that take long ----------------------------------------------------------------------------


def pending(daemon):
    wait_for(lambda: swarm_of(daemon)["LocalNodeState"] == "pending", what="the join is under way")


def in_background(daemon, request):
    def ask():
        try:
            daemon.client().post("/swarm/join", request)
        except (ApiError, OSError) as problem:
            answers.append(problem)

    answers = []
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    return asking, answers


def test_join_interrupted_by_kill_goes_on_after_a_restart(hosts, manager):
    worker = hosts()
    request = body(worker, manager)
    manager.stop()
    asking, _ = in_background(worker, request)
    pending(worker)
    wait_for(Path(worker.data, "swarm/joining").exists, what="the join is written down")
    worker.kill()
    asking.join()
    assert request["JoinToken"].encode() not in Path(worker.data, "swarm/joining").read_bytes()
    worker.start()
    assert swarm_of(worker)["LocalNodeState"] == "pending"
    manager.start()
    wait_for(lambda: swarm_of(worker)["LocalNodeState"] == "active", what="the join goes on")
    assert len(manager.client().get("/nodes")) == 2
    assert not Path(worker.data, "swarm/joining").exists()


@pytest.mark.parametrize("round", range(4))
def test_join_killed_at_any_moment_makes_one_node(hosts, manager, round):
    worker = hosts()
    asking, _ = in_background(worker, body(worker, manager))
    time.sleep(0.03 + 0.04 * round)
    worker.kill()
    asking.join()
    worker.start()
    if swarm_of(worker)["LocalNodeState"] == "inactive":  # nothing was written down yet
        join(worker, manager)
    wait_for(lambda: swarm_of(worker)["LocalNodeState"] == "active", what="the join is done")
    assert len(manager.client().get("/nodes")) == 2
    assert node_of(manager, worker)["Status"]["State"] == "ready"


def test_join_that_is_under_way_is_given_up_by_leaving(hosts, manager):
    worker = hosts()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        asking, answers = in_background(worker, body(worker, manager, RemoteAddrs=[address]))
        pending(worker)
        assert "already part of a swarm" in refused(worker, body(worker, manager)).message
        worker.client().post("/swarm/leave")
        asking.join(5)
    assert "given up" in str(answers[0])
    assert swarm_of(worker)["LocalNodeState"] == "inactive"
    assert left_behind(worker) == []
    join(worker, manager)


def test_join_that_is_under_way_goes_on_after_the_daemon_was_stopped(hosts, manager):
    worker = hosts()
    request = body(worker, manager)
    manager.stop()
    asking, answers = in_background(worker, request)
    pending(worker)
    wait_for(lambda: swarm_of(worker)["Error"], what="the join has been tried")
    assert worker.stop() == 0
    asking.join(5)
    assert "goes on with the join when it starts again" in str(answers[0])
    manager.start()
    worker.start()
    wait_for(lambda: swarm_of(worker)["LocalNodeState"] == "active", what="the worker is in")


def test_four_nodes_join_at_once(hosts, manager):
    workers = [hosts() for _ in range(4)]
    threads = [in_background(worker, body(worker, manager)) for worker in workers]
    for asking, answers in threads:
        asking.join()
        assert answers == []
    states = [node["Status"]["State"] for node in manager.client().get("/nodes")]
    assert states == ["ready"] * 5


def test_gauges_count_the_ports_connections(hosts, manager):
    worker = hosts()
    join(worker, manager)
    port = int(manager.listen.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert stranger.recv(10) == b""
    text = manager.client().call("GET", "/metrics").decode()
    numbers = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
    assert float(numbers["swarmlet_port_connections"]) >= 1
    assert float(numbers["swarmlet_port_failed_handshakes_total"]) >= 1


def test_lost_worker_is_replaced_and_brings_no_task_back_twice(hosts, manager):
    worker = hosts()
    join(worker, manager)
    client = manager.client()
    client.post("/services/create", service("web", replicas=2))
    wait_running(client, "web", 2)
    worker.kill()
    node_id = next(n["ID"] for n in client.get("/nodes") if "ManagerStatus" not in n)
    wait_for(lambda: state_of(manager, node_id) == "down", what="the lost node is down")
    wait_running(client, "web", 2)
    worker.start()
    wait_for(lambda: state_of(manager, node_id) == "ready", what="it is back")
    wait_for(
        lambda: len([t for t in tasks_of(client, "web") if t["Status"]["State"] == "running"]) == 2,
        what="the old task is stopped",
    )
