"""Programs beside tasks and ports of tasks, through real daemons: the command on a manager that
does not lead, the task on a worker."""

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.daemon.harness import (
    ApiError,
    Client,
    Daemon,
    UnixConnection,
    free_port,
    pid_of,
    running,
    running_daemon,
    service,
    wait_for,
    wait_running,
)

pytestmark = pytest.mark.timeout(120)

PYTHON = "/usr/bin/python3"
ECHO = """
import socket, sys, threading
def serve(one):
    while data := one.recv(65536):
        one.sendall(data)
    one.shutdown(socket.SHUT_WR)
    one.close()
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],)).start()
"""


class Swarm(NamedTuple):
    """Two managers, the first leads; a worker with the task of `web`, which declares `port`."""

    leader: Daemon
    follower: Daemon
    worker: Daemon
    port: int

    def command(self, *arguments: str, at: Daemon | None = None) -> list[str]:
        host = f"unix://{(at or self.follower).socket}"
        program = "import sys; from swarmlet.cli.main import run; run()"
        return [sys.executable, "-c", program, "--host", host, *arguments]

    def run(self, *arguments: str, at: Daemon | None = None, **more):
        return subprocess.run(
            self.command(*arguments, at=at), capture_output=True, timeout=40, check=False, **more
        )

    def exec(self, *arguments: str, **more):
        return self.run("service", "exec", *arguments, **more)

    @contextmanager
    def started(self, *arguments: str, **more) -> Iterator[subprocess.Popen]:
        with subprocess.Popen(self.command(*arguments), **more) as process:
            try:
                yield process
            finally:
                process.kill()


def join(daemon: Daemon, manager: Daemon, role: str) -> None:
    token = manager.client().get("/swarm")["JoinTokens"][role]
    body = {"ListenAddr": daemon.listen, "RemoteAddrs": [manager.listen], "JoinToken": token}
    daemon.client().post("/swarm/join", body)


def node_id(daemon: Daemon) -> str:
    return daemon.client().get("/info")["Swarm"]["NodeID"]


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with ExitStack() as stack:
        leader, follower, worker = (stack.enter_context(running_daemon()) for _ in range(3))
        client = leader.init()
        join(follower, leader, "Manager")
        join(worker, leader, "Worker")
        port = free_port()
        body = service("web", PYTHON, "-c", ECHO, str(port))
        body["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id=={node_id(worker)}"]}
        published = {"Protocol": "tcp", "TargetPort": port, "PublishedPort": port}
        body["EndpointSpec"] = {"Ports": [{**published, "PublishMode": "host"}]}
        client.post("/services/create", body)
        wait_running(client, "web", 1)
        wait_for(lambda: listens(port), what="the echo server")
        yield Swarm(leader, follower, worker, port)


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def count(pattern: str) -> int:
    """Processes whose command line begins so."""
    found = subprocess.run(["pgrep", "-fc", f"^{pattern}"], capture_output=True, check=False)
    return int(found.stdout)


def notes(client: Client, action: str) -> list[dict]:
    """What the leader's history has of it, oldest first."""
    with closing(UnixConnection(client.path)) as connection:
        connection.request("GET", f"/swarmlet/v1/events?since=0&until={time.time():.3f}")
        lines = connection.getresponse().read()
    events = [json.loads(line) for line in lines.splitlines() if line.strip()]
    return [one["Actor"]["Attributes"] for one in events if one.get("Action") == action]


def test_exec_through_a_follower_passes_output_and_exit_code(swarm: Swarm):
    done = swarm.exec("web", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    for name in ("web.1", "web"):
        assert swarm.exec(name, "--", "true").returncode == 0
    done = swarm.exec("-e", "A=5", "-w", "/tmp", "web", "sh", "-c", "echo $A; pwd")
    assert done.stdout == b"5\n/tmp\n"


def test_exec_of_what_is_not_there_says_so(swarm: Swarm):
    for arguments, code, words in (
        (("web", "no-such-program"), 127, b"no-such-program"),
        (("web.9", "true"), 1, b"No task of web.9 is running"),
        (("nix", "true"), 1, b"no service and no task 'nix'"),
        (("-it", "web", "true"), 1, b"The input is no terminal"),
        (("web",), 2, b"Missing argument 'COMMAND...'"),
    ):
        done = swarm.exec(*arguments, stdin=subprocess.DEVNULL)
        assert done.returncode == code, done
        assert words in done.stderr
        assert b"Traceback" not in done.stderr
    with pytest.raises(ApiError) as refusal:
        swarm.follower.client().post("/swarmlet/v1/tasks/nix/exec", {"Cmd": ["true"]})
    assert refusal.value.status == 404
    with pytest.raises(ApiError) as refusal:
        swarm.worker.client().post("/swarmlet/v1/tasks/nix/exec", {"Cmd": ["true"]})
    assert refusal.value.status == 503


def test_input_is_piped_to_its_end_and_comes_back_whole(swarm: Swarm):
    data = os.urandom(3_000_000)
    done = swarm.exec("-i", "web", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True)
    assert swarm.exec("-i", "web", "wc", "-c", input=data).stdout == b"3000000\n"
    assert swarm.exec("web", "cat", input=b"not attached").stdout == b""


def test_output_that_is_read_slowly_is_not_cut_at_its_end(swarm: Swarm):
    with swarm.started(
        "service", "exec", "web", "sh", "-c", "seq 400000", stdout=subprocess.PIPE
    ) as process:
        time.sleep(6)  # longer than a lost host is given
        output = process.stdout.read()
        assert process.wait(20) == 0
    assert output.splitlines()[-1] == b"400000"


def test_output_that_nobody_reads_any_more_ends_the_program_quietly(swarm: Swarm):
    line = " ".join(swarm.command("service", "exec", "web", "yes", "98764")[3:])
    python, program = swarm.command()[0], swarm.command()[2]
    script = f"'{python}' -c '{program}' {line} | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == (b"98764\n", b"")
    wait_for(lambda: count("yes 98764") == 0, what="its end", limit_s=6.0)


@pytest.mark.parametrize("is_typed", [False, True])
def test_killed_client_ends_the_program(swarm: Swarm, is_typed: bool):
    """Also one that reads nothing of what is piped to it."""
    seconds = "98761" if is_typed else "98762"
    flag = ("-i",) if is_typed else ()
    stdin = subprocess.PIPE if is_typed else subprocess.DEVNULL
    with swarm.started("service", "exec", *flag, "web", "sleep", seconds, stdin=stdin) as process:
        if is_typed:
            threading.Thread(target=flood, args=(process.stdin,), daemon=True).start()
        wait_for(lambda: count(f"sleep {seconds}") == 1, what="the program")
        time.sleep(1.0)
        process.kill()
        wait_for(lambda: count(f"sleep {seconds}") == 0, what="its end", limit_s=6.0)


def flood(pipe) -> None:
    try:
        while True:
            pipe.write(b"x" * 65_536)
    except OSError:
        return


class Terminal:
    """A pseudo terminal and a client in it."""

    def __init__(self, swarm: Swarm, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        self.size(33, 77)
        self.before = termios.tcgetattr(self.slave)
        ends = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        command = ["setsid", "--ctty", "--wait", *swarm.command(*arguments)]
        self.process = subprocess.Popen(command, **ends)

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def reads(self, text: str, limit_s: float = 15.0) -> None:
        seen, end = b"", time.monotonic() + limit_s
        while text.encode() not in seen:
            assert time.monotonic() < end, seen
            if select.select([self.master], [], [], 0.1)[0]:
                seen += os.read(self.master, 65_536)

    def is_raw(self) -> bool:
        return termios.tcgetattr(self.slave) != self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(swarm: Swarm) -> Iterator[Terminal]:
    made = Terminal(swarm, "service", "exec", "-it", "web", "sh")
    yield made
    made.close()


def test_terminal_has_its_size_follows_it_and_is_given_back(terminal: Terminal):
    terminal.reads("$ ")
    assert terminal.is_raw()
    terminal.type("stty size\n")
    terminal.reads("33 77")
    terminal.size(44, 99)
    time.sleep(0.5)
    terminal.type("stty size\n")
    terminal.reads("44 99")
    terminal.type("sleep 1000\n")
    time.sleep(0.5)
    terminal.type("\x03")  # for the program, not for the client
    terminal.reads("$ ")
    terminal.type("exit 5\n")
    assert terminal.process.wait(10) == 5
    assert not terminal.is_raw()


def test_terminal_is_given_back_when_the_client_is_told_to_end(terminal: Terminal):
    terminal.reads("$ ")
    (client,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if is_client_of(path, terminal.process.pid)
    ]
    os.kill(client, signal.SIGTERM)
    terminal.process.wait(10)
    assert not terminal.is_raw()


def is_client_of(path: Path, pid: int) -> bool:
    """The client itself: setsid becomes it, or is its parent."""
    try:
        words = path.read_bytes().split(b"\0")
        parent = int(Path(path.parent, "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return pid in (parent, int(path.parent.name)) and b"-c" in words and b"setsid" not in words[0]


def test_use_is_in_the_history_of_every_manager_without_what_is_secret(swarm: Swarm):
    swarm.exec("-e", "KEY=geheim-1", "web", "true", "--password", "geheim-2")
    for daemon in (swarm.leader, swarm.follower):
        wait_for(
            lambda daemon=daemon: any(
                "<redacted>" in one["command"] for one in notes(daemon.client(), "exec_die")
            ),
            what="a note of the end",
        )
        client = daemon.client()
        begun, ended = notes(client, "exec_start")[-1], notes(client, "exec_die")[-1]
        assert begun["command"] == "true --password <redacted>"
        assert begun["service"] == "web"
        assert begun["node"] == node_id(swarm.worker)
        assert f"(uid {os.getuid()}) at " in begun["who"]
        assert ended["exitCode"] == "0"
        assert begun["execID"] == ended["execID"]
        assert "geheim" not in str((notes(client, "exec_start"), notes(client, "exec_die")))


@contextmanager
def forwarded(swarm: Swarm, *ports: str) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    arguments = ("service", "port-forward", "web", *ports)
    with swarm.started(*arguments, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stderr.readline() for _ in ports]
        assert all(line.startswith("Forwarding 127.0.0.1:") for line in lines), lines
        yield process, [int(line.split()[1].rpartition(":")[2]) for line in lines]


def echoed(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as one:

        def send() -> None:
            one.sendall(data)
            one.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = bytearray()
        while part := one.recv(65_536):
            got += part
        sender.join()
    return bytes(got)


def test_port_forward_carries_many_connections_and_their_ends(swarm: Swarm):
    with forwarded(swarm, f"0:{swarm.port}") as (process, (port,)):
        for size_b in (0, 5, 1 << 20):
            data = os.urandom(size_b)
            assert echoed(port, data) == data
        results: list[bool] = []
        data = os.urandom(100_000)
        threads = [
            threading.Thread(target=lambda: results.append(echoed(port, data) == data))
            for _ in range(80)  # more than are carried at a time
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 80
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read().strip() == ""
    begun = notes(swarm.leader.client(), "forward_start")[-1]
    assert begun["port"] == str(swarm.port)


def test_port_forward_goes_on_with_the_task_that_has_the_place(swarm: Swarm):
    client = swarm.leader.client()
    with forwarded(swarm, f"0:{swarm.port}") as (process, (port,)):
        assert echoed(port, b"one") == b"one"
        (task,) = wait_running(client, "web", 1)
        os.kill(pid_of(task), signal.SIGKILL)
        wait_for(lambda: running(client, "web")[-1:] not in ([], [task]), what="the next task")
        wait_for(lambda: listens(swarm.port), what="its port")
        assert echoed(port, b"two") == b"two"
        assert "Going on with web.1" in process.stderr.readline()


def test_port_that_is_not_declared_is_refused(swarm: Swarm):
    done = swarm.run("service", "port-forward", "web", f"0:{swarm.port + 1}")
    assert done.returncode == 1
    assert f"does not declare port {swarm.port + 1}".encode() in done.stderr
    assert b"publish-add" in done.stderr
    done = swarm.run("service", "port-forward", "web", "80:x")
    assert done.returncode == 2
    done = swarm.run("service", "port-forward", "web", f"{swarm.port}:{swarm.port}")
    assert b"cannot be listened on" in done.stderr


def test_stream_ends_in_a_sentence_when_the_nodes_daemon_is_killed(swarm: Swarm):
    """Last: the worker of the others is no more."""
    with swarm.started(
        "service", "exec", "web", "sleep", "98763", stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: count("sleep 98763") == 1, what="the program")
        swarm.worker.kill()
        assert process.wait(15) == 1
        sentence = process.stderr.read()
        assert "node" in sentence
        assert "Traceback" not in sentence
    done = swarm.exec("web", "true")
    assert done.returncode == 1
    assert b"is not connected" in done.stderr or b"No task of" in done.stderr
    swarm.worker.start()
