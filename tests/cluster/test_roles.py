"""Every node in turn is promoted, demoted, drained, let go, removed and taken in again, by the
commands people type, while a service of 30 tasks keeps 30 running."""

import os
import subprocess
import sys
import time

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import (
    leader_of,
    managers_seen_by,
    node_id,
    row_of,
    state_of,
    swarm_of,
    token_of,
)
from tests.daemon.harness import ApiError, running, service, wait_for, wait_running

pytestmark = [pytest.mark.timeout(300), pytest.mark.namespaces]
TASKS = 30
MANAGERS, WORKERS = ("m1", "m2", "m3"), ("w1", "w2")


@pytest.fixture(scope="module")
def net():
    with network(*MANAGERS, *WORKERS) as found:
        found["m1"].start().init()
        for name in (*MANAGERS[1:], *WORKERS):
            found[name].start().join(found["m1"], "Manager" if name in MANAGERS else "Worker")
        wait_for(lambda: is_whole(found), what="five nodes", limit_s=30.0)
        found["m1"].client().post("/services/create", service("web", replicas=TASKS))
        wait_running(found["m1"].client(), "web", TASKS)
        yield found


@pytest.fixture(autouse=True)
def _whole(net: Network):
    wait_for(lambda: is_whole(net), what="five nodes", limit_s=30.0)
    wait_running(net["m1"].client(), "web", TASKS, limit_s=30.0)


def is_whole(net: Network) -> bool:
    """Three managers that vote, five nodes that are ready."""
    try:
        seen = [managers_seen_by(net[name]) for name in MANAGERS]
        rows = net["m1"].client().get("/nodes")
    except (ApiError, OSError):
        return False
    return (
        len([row for row in rows if row["Status"]["State"] == "ready"]) == len(rows) == 5
        and all(set(one) == set(MANAGERS) for one in seen)
        and all(one["Reachability"] == "reachable" for each in seen for one in each.values())
    )


def another(net: Network, name: str) -> Host:
    """A manager that is not this one."""
    return next(net[other] for other in MANAGERS if other != name)


def say(host: Host, *words: str) -> str:
    done = host.swarmlet(*words)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def ids(host: Host) -> set[str]:
    """Of the tasks that run."""
    return {task["ID"] for task in running(host.client(), "web")}


def on(host: Host, identity: str) -> set[str]:
    return {task["ID"] for task in running(host.client(), "web") if task["NodeID"] == identity}


def manager_status(host: Host, identity: str) -> dict:
    return row_of(host, identity).get("ManagerStatus") or {}


def raft_files(host: Host) -> list[str]:
    """What of the swarm's state is on the host's disk, as a manager has it."""
    return [path for path, _, files in os.walk(f"{host.data}/raft") if files]


def promote(by: Host, host: Host, identity: str) -> None:
    assert "promoted to a manager" in say(by, "node", "promote", host.name)
    wait_for(
        lambda: manager_status(by, identity).get("Reachability") == "reachable",
        what=f"{host.name} votes",
        limit_s=30.0,
    )
    wait_for(lambda: swarm_of(host)["ControlAvailable"], what="it rules")
    assert raft_files(host)


def demote(by: Host, host: Host, identity: str) -> None:
    assert "demoted in the swarm" in say(by, "node", "demote", host.name)
    wait_for(lambda: not manager_status(by, identity), what="out of the group", limit_s=30.0)
    wait_for(lambda: not swarm_of(host)["ControlAvailable"], what="a worker", limit_s=30.0)
    wait_for(lambda: not raft_files(host), what="its raft data is wiped", limit_s=30.0)
    with pytest.raises(ApiError, match="This node is not a swarm manager"):
        host.client().get("/nodes")


@pytest.mark.parametrize("name", [*WORKERS, *reversed(MANAGERS)])
def test_node_goes_through_every_role_and_back_and_thirty_tasks_run(net, name):
    host, by = net[name], another(net, name)
    identity, is_manager = node_id(host), name in MANAGERS
    before = ids(by)
    (demote if is_manager else promote)(by, host, identity)
    (promote if is_manager else demote)(by, host, identity)
    if is_manager:
        demote(by, host, identity)
    wait_for(lambda: state_of(by, identity) == "ready", what="it is ready")
    assert ids(by) == before, "a change of role moves no task"

    own = on(by, identity)
    assert own
    say(by, "node", "update", "--availability", "drain", name)
    wait_for(lambda: not on(by, identity), what=f"{name} is empty")
    wait_running(by.client(), "web", TASKS)
    assert ids(by) >= before - own, "only its own tasks moved"
    assert by.swarmlet("node", "why", name).returncode == 1

    refused = by.swarmlet("node", "rm", name)
    assert (refused.returncode, "is not down" in refused.stderr) == (1, True)
    before = ids(by)
    say(host, "leave")
    wait_for(lambda: state_of(by, identity) == "down", what="it is down")
    assert say(by, "node", "rm", name).split() == [name]
    with pytest.raises(ApiError, match="not found"):
        row_of(by, identity)
    assert ids(by) == before

    token = token_of(by, "Manager" if is_manager else "Worker")
    assert "joined a swarm" in say(host, "join", token, by.name)
    assert node_id(host) != identity
    wait_for(lambda: is_whole(net), what="five nodes", limit_s=30.0)
    assert ids(by) == before


def test_leader_that_is_demoted_hands_over_and_forgets(net):
    name = leader_of(net, *MANAGERS)
    host, by = net[name], another(net, name)
    identity, before = node_id(host), ids(by)
    demote(by, host, identity)
    others = [other for other in MANAGERS if other != name]
    assert leader_of(net, *others) in others
    assert ids(by) == before
    promote(by, host, identity)


def test_manager_is_neither_removed_nor_let_go_without_more_words(net):
    by = net["m1"]
    for words in (["rm", "m2"], ["rm", "--force", "m2"]):
        refused = by.swarmlet("node", *words)
        assert refused.returncode == 1
        assert "must be demoted to worker before removal" in refused.stderr
    left = net["m2"].swarmlet("leave")
    assert (left.returncode, "--force" in left.stderr) == (1, True)


def begin(host: Host, *words: str) -> subprocess.Popen[str]:
    """A command of the CLI on that host, which goes on."""
    command = [sys.executable, "-m", "swarmlet", "--host", f"unix://{host.socket}", *words]
    return subprocess.Popen(
        host.inside("env", *host.environment(), *command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_worker_removed_by_force_loses_its_session_and_its_streams_in_the_same_moment(net):
    by, host = net["m1"], net["w2"]
    identity = node_id(host)
    (task_id, *_) = sorted(on(by, identity))
    shell = ("task", "exec", task_id, "sh", "-c", "echo begun; sleep 100")
    shells = [begin(net[name], *shell) for name in ("m1", "m2")]
    for one in shells:
        assert one.stdout.readline() == "begun\n"
    say(by, "node", "rm", "--force", "w2")
    removed_s = time.monotonic()
    for one in shells:
        said, _ = one.communicate(timeout=5.0)
        assert (one.returncode, "has ended" in said) == (1, True), said
    wait_for(lambda: "removed" in swarm_of(host)["Error"], what="it is told", limit_s=5.0)
    assert time.monotonic() - removed_s < 3.0
    assert node_id(host) == identity
    wait_running(by.client(), "web", TASKS)
    say(host, "leave", "--force")
    say(host, "join", token_of(by), by.name)
    wait_for(lambda: is_whole(net), what="five nodes", limit_s=30.0)


def test_every_manager_says_why_the_tasks_of_a_lost_worker_do_not_run(net):
    kept = service("kept", replicas=5)
    kept["Labels"] = {"swarmlet.on-disconnect": "never-replace"}
    net["m1"].client().post("/services/create", kept)
    wait_running(net["m1"].client(), "kept", 5)
    net["w1"].crash()
    try:
        for name in MANAGERS:
            wait_for(lambda by=net[name]: is_explained(by), what=f"{name} says why", limit_s=40.0)
        wait_running(net["m1"].client(), "web", TASKS, limit_s=30.0)
        assert net["m2"].swarmlet("service", "why", "web").returncode == 0
    finally:
        net["w1"].start()
    wait_for(lambda: is_whole(net), what="five nodes", limit_s=30.0)
    wait_for(
        lambda: net["m3"].swarmlet("service", "why", "kept").returncode == 0,
        what="all is well",
        limit_s=30.0,
    )
    net["m1"].client().delete("/services/kept")


def is_explained(by: Host) -> bool:
    found = by.swarmlet("node", "why", "w1")
    service_says = by.swarmlet("service", "why", "kept")
    return (
        found.returncode == 1
        and "w1 is down for" in found.stdout
        and "last heard of" in found.stdout
        and service_says.returncode == 1
        and "nothing takes its place until the node is back" in service_says.stdout
    )
