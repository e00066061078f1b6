"""Logs and events of a swarm of five hosts, through each of its managers, while hosts come and
go."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import leader_of, managers_seen_by, node_id, state_of, wait_state
from tests.daemon.harness import ApiError, service, tasks_of, wait_for, wait_running

pytestmark = pytest.mark.timeout(180)
NEEDS_CLI = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI")
MANAGERS, WORKERS = ("m1", "m2", "m3"), ("w1", "w2")
COUNTING = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done"
GREETING = "echo hello; echo oops >&2; exec sleep 100000"
ON_WORKERS = {"Constraints": ["node.role==worker"]}


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network(*MANAGERS, *WORKERS) as found:
        first = found["m1"].start()
        first.init()
        for name in ("m2", "m3"):
            found[name].start().join(first, "Manager")
        for name in WORKERS:
            found[name].start().join(first)
        yield found


def is_whole(net: Network) -> bool:
    try:
        seen = [managers_seen_by(net[name]) for name in MANAGERS]
    except (ApiError, OSError):
        return False
    return all(
        len(one) == len(MANAGERS)
        and all(status["Reachability"] == "reachable" for status in one.values())
        and sum(status.get("Leader", False) for status in one.values()) == 1
        for one in seen
    )


@pytest.fixture(autouse=True)
def _settled(net: Network) -> Iterator[None]:
    """Every test begins with all hosts and without services."""
    net.heal()
    for host in net.hosts.values():
        host.thaw()
        if host.process.poll() is not None:
            host.start()
    wait_for(lambda: is_whole(net), what="three managers", limit_s=30.0)
    for name in WORKERS:
        wait_state(net["m1"], node_id(net[name]), "ready")
    yield
    net.heal()
    leader = net[leader_of(net, *(name for name in MANAGERS if net[name].process.poll() is None))]
    for row in leader.client().get("/services"):
        leader.client().delete(f"/services/{row['ID']}")


def follower_of(net: Network) -> Host:
    leader = leader_of(net, *MANAGERS)
    return net[next(name for name in MANAGERS if name != leader)]


def on_workers(name: str, script: str, replicas: int = 2) -> dict:
    spec = service(name, "/bin/sh", "-c", script, replicas=replicas)
    spec["TaskTemplate"]["Placement"] = ON_WORKERS
    return spec


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return sorted((done.stdout + done.stderr).splitlines())


@contextmanager
def following(host: Host, *words: str) -> Iterator[list[str]]:
    """The lines a command prints while it runs, as they come."""
    command = (sys.executable, "-u", "-m", "swarmlet", "--host", f"unix://{host.socket}", *words)
    process = subprocess.Popen(
        host.inside(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []

    def read_each() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)  # noqa: PERF402 - each is looked at as it comes

    reader = threading.Thread(target=read_each)
    reader.start()
    try:
        yield lines
    finally:
        process.terminate()
        reader.join(10)
        process.communicate(timeout=10)


def numbers_of(lines: list[str]) -> dict[str, list[int]]:
    """The numbers each task counted, by its label."""
    found: dict[str, list[int]] = {}
    for line in lines:
        label, _, text = line.partition("|")
        match = re.fullmatch(r"\s*line (\d+)\s*", text)
        if match:
            found.setdefault(label.strip(), []).append(int(match[1]))
    return found


def assert_whole(counted: list[int]) -> None:
    """Nothing is missing, and nothing is there twice."""
    assert counted == list(range(counted[0], counted[0] + len(counted)))


@pytest.mark.parametrize("asked", MANAGERS)
def test_logs_of_all_nodes_are_read_through_every_manager(net: Network, asked: str) -> None:
    client = net["m1"].client()
    client.post("/services/create", service("all", "/bin/sh", "-c", GREETING, replicas=10))
    tasks = wait_running(client, "all", 10)
    assert {task["NodeID"] for task in tasks} == {node_id(host) for host in net.hosts.values()}
    host = net[asked]
    wait_for(lambda: len(lines_of(host.swarmlet("service", "logs", "all"))) == 20, what="20 lines")
    said = host.swarmlet("service", "logs", "--no-trunc", "all")
    assert {line.split("|")[1].strip() for line in said.stdout.splitlines()} == {"hello"}
    assert {line.split("|")[1].strip() for line in said.stderr.splitlines()} == {"oops"}
    for task in tasks:
        assert f".{task['Slot']}.{task['ID']}@" in said.stdout
    alone = host.swarmlet("task", "logs", "--raw", tasks[0]["ID"])
    assert (alone.stdout, alone.stderr) == ("hello\n", "oops\n")


@pytest.mark.docker_cli
@NEEDS_CLI
@pytest.mark.parametrize("flags", [(), ("--raw",), ("--no-trunc", "--tail", "1"), ("-t",)])
def test_docker_cli_at_a_follower_prints_what_ours_prints(net: Network, flags: tuple) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("both", GREETING))
    wait_running(client, "both", 2)
    host = follower_of(net)
    wait_for(lambda: len(lines_of(host.swarmlet("service", "logs", "both"))) == 4, what="4 lines")
    ours = lines_of(host.swarmlet("service", "logs", *flags, "both"))
    assert ours == lines_of(host.docker("service", "logs", *flags, "both"))


@pytest.mark.parametrize("how", ["killed", "cut off", "frozen"])
def test_dead_node_is_named_in_one_line_and_holds_up_nobody(net: Network, how: str) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("half", GREETING, replicas=4))
    wait_running(client, "half", 4)
    host, gone = follower_of(net), node_id(net["w2"])
    wait_for(lambda: len(lines_of(host.swarmlet("service", "logs", "half"))) == 8, what="8 lines")
    if how == "killed":
        net["w2"].kill()
    elif how == "cut off":
        net.cut("w2")
    else:
        net["w2"].freeze()
    began_s = time.monotonic()
    done = host.swarmlet("service", "logs", "--raw", "half")
    took_s = time.monotonic() - began_s
    assert done.stdout.splitlines() == ["hello"] * 2
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("swarmlet: "))
    assert re.fullmatch(r"swarmlet: node w2 .*: the logs of 2 tasks are out of reach", said)
    assert took_s < 8.0
    if how != "frozen":  # the leader sees it; then nobody waits for it any more
        wait_for(lambda: state_of(net["m1"], gone) != "ready", what="it is missed", limit_s=6.0)
    began_s = time.monotonic()
    host.swarmlet("service", "logs", "--raw", "half")
    assert time.monotonic() - began_s < (8.0 if how == "frozen" else 2.0)


def test_following_goes_on_when_a_node_is_back_and_misses_nothing(net: Network) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("count", COUNTING))
    wait_running(client, "count", 2)
    with following(follower_of(net), "service", "logs", "-f", "count") as lines:
        wait_for(lambda: len(numbers_of(lines)) == 2, what="both tasks' lines")
        net["w2"].kill()
        wait_for(lambda: any("node w2" in line for line in lines), what="w2 named")
        before = len(on_w2(lines)[0])
        time.sleep(3)
        net["w2"].start()  # its task ran on meanwhile; by now another has its place
        wait_for(
            lambda: any(len(one) > before + 40 for one in on_w2(lines)),
            what="what w2's task wrote meanwhile",
        )
        said = [line for line in lines if "swarmlet: " in line]
        counted = numbers_of(lines)
    assert len(said) == 1, said
    for one in counted.values():
        assert_whole(one)


def on_w2(lines: list[str]) -> list[list[int]]:
    return [one for label, one in numbers_of(lines).items() if "@w2" in label]


def test_following_through_a_follower_outlives_the_leader_without_loss_or_doubling(
    net: Network,
) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("count", COUNTING, replicas=4))
    wait_running(client, "count", 4)
    leader, host = net[leader_of(net, *MANAGERS)], follower_of(net)
    with following(host, "service", "logs", "-f", "--tail", "3", "count") as lines:
        wait_for(lambda: len(numbers_of(lines)) == 4, what="lines of all tasks")
        leader.kill()
        before = {label: len(one) for label, one in numbers_of(lines).items()}
        wait_for(
            lambda: all(
                len(one) > before.get(label, 0) + 30 for label, one in numbers_of(lines).items()
            ),
            what="lines by the new leader",
            limit_s=40.0,
        )
        said = [line for line in lines if "|" in line and "line " not in line]
        counted = numbers_of(lines)
    assert said == []
    assert len(counted) == 4
    for one in counted.values():
        assert_whole(one)


def test_leader_that_loses_its_office_goes_on_with_the_log_it_prints(net: Network) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("count", COUNTING))
    wait_running(client, "count", 2)
    leader = leader_of(net, *MANAGERS)
    with following(net[leader], "service", "logs", "-f", "count") as lines:
        wait_for(lambda: len(numbers_of(lines)) == 2, what="both tasks' lines")
        net[leader].freeze()
        rest = [name for name in MANAGERS if name != leader]
        wait_for(lambda: leader_of(net, *rest) != leader, what="another leader", limit_s=30.0)
        net[leader].thaw()
        before = {label: len(one) for label, one in numbers_of(lines).items()}
        wait_for(
            lambda: all(
                len(one) > before.get(label, 0) + 30 for label, one in numbers_of(lines).items()
            ),
            what="lines by the new leader",
            limit_s=40.0,
        )
        counted = numbers_of(lines)
    for one in counted.values():
        assert_whole(one)


def test_events_of_the_past_are_told_alike_by_every_manager_after_the_leader_died(
    net: Network,
) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("told", GREETING))
    task_ids = {task["ID"] for task in wait_running(client, "told", 2)}
    leader = net[leader_of(net, *MANAGERS)]
    leader.kill()
    rest = [net[name] for name in MANAGERS if net[name] is not leader]
    wait_for(lambda: leader_of(net, *(host.name for host in rest)) != leader.name, what="another")

    def past(host: Host, *words: str) -> list[dict]:
        since = ("events", "--since", "1h", "--until", "0s", "--format", "json")
        done = host.swarmlet(*since, *words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    told = ("--tasks", "--filter", "service=told")
    wait_for(lambda: past(rest[0], *told) == past(rest[1], *told), what="the same of both")
    first = past(rest[0], *told)
    assert (first[0]["Type"], first[0]["Action"]) == ("service", "create")
    states = [one["Actor"]["Attributes"].get("state.new") for one in first if one["Type"] == "task"]
    assert states.count("running") == 2
    assert {one["Actor"]["ID"] for one in first if one["Type"] == "task"} == task_ids
    leader.start()
    wait_for(lambda: is_whole(net), what="it is back", limit_s=30.0)
    assert past(leader, *told)[: len(first)] == first
    assert {one["Type"] for one in past(leader)} <= {"node", "service", "network"}


@pytest.mark.docker_cli
@NEEDS_CLI
def test_docker_events_since_work_at_a_follower(net: Network) -> None:
    net["m1"].client().post("/services/create", on_workers("seen", GREETING))
    time.sleep(1.1)  # docker sends whole seconds
    words = ("events", "--since", "1h", "--until", "0s", "--filter", "service=seen")
    done = follower_of(net).docker(*words)
    assert " service create " in done.stdout, done.stderr
    assert "(name=seen)" in done.stdout


def memory_kib(host: Host) -> int:
    with open(f"/proc/{host.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_reader_that_does_not_read_costs_bounded_memory_everywhere(net: Network) -> None:
    client = net["m1"].client()
    client.post("/services/create", on_workers("flood", "exec yes $(seq 1 20)", replicas=1))
    (task,) = wait_running(client, "flood", 1)
    on = next(host for host in net.hosts.values() if node_id(host) == task["NodeID"])
    leader, host = net[leader_of(net, *MANAGERS)], follower_of(net)
    watched = {"leader": leader, "follower": host, "node": on}
    before = {name: memory_kib(one) for name, one in watched.items()}
    command = host.inside(
        *("env", sys.executable, "-m", "swarmlet", "--host", f"unix://{host.socket}"),
        *("service", "logs", "-f", "flood"),
    )
    stuck = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(10)
    ]
    try:
        time.sleep(6)
        grown = {name: memory_kib(one) - before[name] for name, one in watched.items()}
        assert tasks_of(client, "flood")[0]["Status"]["State"] == "running"
    finally:
        for one in stuck:
            one.kill()
            one.communicate()
    assert all(kib < 40 * 1024 for kib in grown.values()), grown
