"""Programs and connections into tasks on another host, while hosts are cut off, removed and
killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.cluster.swarms import leader_of, managers_seen_by, node_id, wait_state
from tests.daemon.harness import ApiError, service, wait_for, wait_running

pytestmark = pytest.mark.timeout(180)
MANAGERS, WORKER = ("m1", "m2", "m3"), "w1"
PORT = 8080
ECHO = f"""
import socket, threading
def serve(one):
    while data := one.recv(65536):
        one.sendall(data)
    one.shutdown(socket.SHUT_WR)
server = socket.create_server(("0.0.0.0", {PORT}))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],)).start()
"""
ASK = """
import os, socket, sys, threading
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
data = os.urandom(1 << 20)
def send():
    one.sendall(data)
    one.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = b"".join(iter(lambda: one.recv(65536), b""))
print(got == data)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network(*MANAGERS, WORKER) as found:
        first = found["m1"].start()
        client = first.init()
        for name in ("m2", "m3"):
            found[name].start().join(first, "Manager")
        found[WORKER].start().join(first)
        spec = service("web", "/usr/bin/python3", "-c", ECHO)
        spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.role==worker"]}
        published = {"Protocol": "tcp", "TargetPort": PORT, "PublishedPort": PORT}
        spec["EndpointSpec"] = {"Ports": [{**published, "PublishMode": "host"}]}
        client.post("/services/create", spec)
        wait_running(client, "web", 1)
        yield found


@pytest.fixture(autouse=True)
def _settled(net: Network) -> None:
    """Every test begins with all hosts, and the task."""
    net.heal()
    wait_for(lambda: is_whole(net), what="three managers", limit_s=30.0)
    wait_state(net["m1"], node_id(net[WORKER]), "ready", limit_s=40.0)
    wait_running(net["m1"].client(), "web", 1, limit_s=40.0)


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


def others(net: Network) -> tuple[Host, Host]:
    """The leader, and a manager that does not lead."""
    leader = leader_of(net, *MANAGERS)
    return net[leader], net[next(name for name in MANAGERS if name != leader)]


def command(host: Host, *words: str) -> list[str]:
    own = (sys.executable, "-u", "-m", "swarmlet", "--host", f"unix://{host.socket}", *words)
    return host.inside(*own)


@contextmanager
def started(host: Host, *words: str, **more) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    with subprocess.Popen(command(host, *words), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def runs(host: Host, seconds: str) -> bool:
    """Whether `sleep SECONDS` does on this host."""
    for pid in host.pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                if line.read() == f"sleep\0{seconds}\0".encode():
                    return True
        except OSError:
            continue
    return False


@contextmanager
def asleep(net: Network, host: Host, seconds: str) -> Iterator[subprocess.Popen[str]]:
    """A program that would outlast the test, begun from `host`."""
    with started(host, "service", "exec", "web", "sleep", seconds) as process:
        wait_for(lambda: runs(net[WORKER], seconds), what="the program")
        yield process


def ends_in_words(process: subprocess.Popen[str], limit_s: float) -> str:
    """What the client says when it ends by itself."""
    assert process.wait(limit_s) == 1
    said = process.stderr.read()
    assert said.startswith("Error: ")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("asked", [0, 1], ids=["leader", "follower"])
def test_exec_reaches_a_task_on_another_host_through_any_manager(net: Network, asked: int):
    host = others(net)[asked]
    script = "hostname; cat; exit 9"
    done = host.swarmlet("service", "exec", "-i", "web", "sh", "-c", script, said="typed\n")
    assert (done.returncode, done.stdout) == (9, f"{WORKER}\ntyped\n")


def test_port_of_a_task_on_another_host_carries_a_mebibyte_each_way(net: Network):
    _, follower = others(net)
    net.delay(5)
    with started(follower, "service", "port-forward", "web.1", f"0:{PORT}") as forward:
        port = forward.stderr.readline().split()[1].rpartition(":")[2]
        asked = [
            subprocess.Popen(
                follower.inside(sys.executable, "-c", ASK, port), stdout=subprocess.PIPE, text=True
            )
            for _ in range(8)
        ]
        assert [one.communicate(timeout=60)[0] for one in asked] == ["True\n"] * 8


def test_killed_client_ends_the_program_on_the_other_host(net: Network):
    with asleep(net, others(net)[1], "98701") as process:
        process.kill()
        wait_for(lambda: not runs(net[WORKER], "98701"), what="its end", limit_s=5.0)


def test_stream_into_a_host_that_is_cut_off_ends_in_a_sentence_and_its_program(net: Network):
    with asleep(net, others(net)[1], "98702") as process:
        began = time.monotonic()
        net.cut(WORKER)
        said = ends_in_words(process, 15.0)
        assert "node" in said
        assert time.monotonic() - began < 15.0
        wait_for(lambda: not runs(net[WORKER], "98702"), what="its end", limit_s=20.0)


def test_stream_through_a_leader_that_is_cut_off_ends_and_can_be_opened_again(net: Network):
    leader, follower = others(net)
    with asleep(net, follower, "98703") as process:
        net.cut(leader.name)
        ends_in_words(process, 15.0)
        wait_for(lambda: not runs(net[WORKER], "98703"), what="its end", limit_s=20.0)

        def works() -> bool:
            return follower.swarmlet("service", "exec", "web", "true").returncode == 0

        wait_for(works, what="another stream", limit_s=30.0)


def test_stream_typed_into_while_the_leader_is_cut_off_ends_too(net: Network):
    """What was typed is not acknowledged: the kernel alone would try for minutes."""
    leader, follower = others(net)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started(follower, "service", "exec", "-i", "web", "cat", **pipes) as process:
        process.stdin.write("before\n")
        process.stdin.flush()
        assert process.stdout.readline() == "before\n"
        net.cut(leader.name)
        process.stdin.write("lost\n")
        process.stdin.flush()
        ends_in_words(process, 15.0)


def test_removed_nodes_streams_end_at_once(net: Network):
    """Last: it is none of the swarm's any more."""
    leader, follower = others(net)
    with asleep(net, follower, "98704") as process:
        removed = node_id(net[WORKER])
        began = time.monotonic()
        leader.client().delete(f"/nodes/{removed}?force=1")
        ends_in_words(process, 5.0)
        assert time.monotonic() - began < 3.0
        wait_for(lambda: not runs(net[WORKER], "98704"), what="its end", limit_s=10.0)
    done = follower.swarmlet("service", "exec", "web", "true")
    assert done.returncode == 1
    assert "No task of service web is running" in done.stderr
