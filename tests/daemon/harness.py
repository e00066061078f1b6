"""A real daemon in a directory of its own, and a plain client of its API."""

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

ANSWERS_WITHIN_S = 20.0
NO_LEADER = 503


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as trial:
            try:
                trial.bind((host, port))
            except OSError:
                continue
        return port


class ApiError(Exception):
    """An answer of 400 or more: status, message and remedy."""

    def __init__(self, status: int, body: bytes) -> None:
        answer = json.loads(body) if body.startswith(b"{") else {"message": body.decode()}
        super().__init__(f"{status}: {answer.get('message')}")
        self.status, self.message = status, answer.get("message", "")
        self.remedy = answer.get("remedy", "")


class UnixConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: str, timeout_s: float = 60.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """A connection a call, so that nothing is left open."""

    def __init__(self, path: str, timeout_s: float = 30.0) -> None:
        self.path, self.timeout_s = path, timeout_s

    def call(self, method: str, url: str, body: object = None, *, raw: bytes | None = None):
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        with closing(UnixConnection(self.path, self.timeout_s)) as connection:
            connection.request(method, url, data, headers)
            response = connection.getresponse()
            answer = response.read()
        if response.status >= 400:
            raise ApiError(response.status, answer)
        return json.loads(answer) if answer[:1] in (b"{", b"[", b'"') else answer

    def get(self, url: str, filters: dict[str, list[str]] | None = None):
        return self.call("GET", f"{url}?filters={quote(json.dumps(filters))}" if filters else url)

    def post(self, url: str, body: object = None):
        return self.call("POST", url, body)

    def delete(self, url: str):
        return self.call("DELETE", url)


class Daemon:
    """Start, kill and restart `swarmlet daemon` on one data directory. It has the process runtime
    unless the options say otherwise, whatever Docker Engine the machine has."""

    def __init__(self, directory: str, *options: str, prefix: tuple[str, ...] = ()) -> None:
        self.directory, self.options, self.prefix = directory, options, prefix
        self.data, self.socket = f"{directory}/data", f"{directory}/s.sock"
        self.log_path = f"{directory}/daemon.log"
        self.listen = f"127.0.0.1:{free_port()}"  # its node port, once it is a manager
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        says = any(option in ("--runtime", "--docker-host") for option in self.options)
        return [
            *self.prefix,
            sys.executable,
            "-m",
            "swarmlet.daemon",
            "--data-dir",
            self.data,
            "--host",
            f"unix://{self.socket}",
            *(self.options if says else ("--runtime", "process", *self.options)),
        ]

    def start(self) -> "Daemon":
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.answers, what="the daemon's first answer")
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.log()}"
        try:
            Client(self.socket, 2.0).call("GET", "/_ping")
        except OSError:
            return False
        return True

    def client(self) -> Client:
        return Client(self.socket)

    def kill(self) -> None:
        """kill -9, and no goodbye."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(ANSWERS_WITHIN_S)

    def log(self) -> str:
        return Path(self.log_path).read_text()

    def init(self) -> Client:
        client = self.client()
        client.post("/swarm/init", {"AdvertiseAddr": "127.0.0.1", "ListenAddr": self.listen})
        return client


@contextmanager
def running_daemon(*options: str, prefix: tuple[str, ...] = ()) -> Iterator[Daemon]:
    """A daemon that is gone, tasks and all, at the end."""
    directory = tempfile.mkdtemp(prefix="swt-", dir="/tmp")
    os.chmod(directory, 0o755)
    daemon = Daemon(directory, *options, prefix=prefix)
    try:
        daemon.start()
        yield daemon
    finally:
        clean_up(daemon)
        shutil.rmtree(directory, ignore_errors=True)


def clean_up(daemon: Daemon) -> None:
    if daemon.process is None:
        return
    if daemon.process.poll() is None:
        try:
            Client(daemon.socket).post("/swarm/leave?force=1")
        except (ApiError, OSError):
            sys.stderr.write(daemon.log())
        daemon.stop()
    for bundle in Path(daemon.data, "tasks").glob("*/shim.pid"):
        pid = int(bundle.read_text().split()[0])
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def wait_for(
    condition: Callable[[], object], *, what: str, limit_s: float = ANSWERS_WITHIN_S
) -> object:
    """The first true answer of `condition`; fails with `what` after the limit. That a swarm has no
    leader right now, as after an election, is no answer."""
    end, problem = time.monotonic() + limit_s, ""
    while True:
        try:
            answer = condition()
        except ApiError as error:
            if error.status != NO_LEADER:
                raise
            answer, problem = None, f" ({error})"
        if answer:
            return answer
        assert time.monotonic() < end, f"waited {limit_s:g} s for {what}{problem}"
        time.sleep(0.02)


def service(name: str, *command: str, replicas: int = 1, **container: object) -> dict:
    """A replicated service of the host's own files."""
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "host",
                "Command": list(command or ("/bin/sleep", "100000")),
                "StopGracePeriod": 1_000_000_000,
                **container,
            },
            "RestartPolicy": {"Condition": "any", "Delay": 200_000_000},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def tasks_of(client: Client, name: str) -> list[dict]:
    return client.get("/tasks", {"service": [name]})


def running(client: Client, name: str) -> list[dict]:
    return [
        task
        for task in tasks_of(client, name)
        if task["Status"]["State"] == "running" and task["DesiredState"] == "running"
    ]


def wait_running(client: Client, name: str, count: int, limit_s: float = 20.0) -> list[dict]:
    wait_for(
        lambda: len(running(client, name)) == count,
        what=f"{count} running tasks of {name}",
        limit_s=limit_s,
    )
    return running(client, name)


def pid_of(task: dict) -> int:
    return task["Status"]["ContainerStatus"]["PID"]
