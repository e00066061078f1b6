"""One daemon through its API: writes, reads, start, memory, CLI wall time, tasks to running.

    scripts/bench api                    everything, about a minute
    scripts/bench api --writes 3000      more writes
    scripts/bench api --json out.json    the figures for a program

Starts a daemon of its own in a temporary directory. The clients of `writes` are light on purpose
(raw asyncio protocols): on two cores a heavy client costs as much as the daemon. `16 threads` is
such a heavy one: http.client in threads of one process, as an ordinary script would do it.
"""

import argparse
import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
IDLE_S = 10.0


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def summary(times_s: list[float]) -> dict[str, float]:
    ms = [t * 1e3 for t in times_s]
    return {"p50_ms": round(percentile(ms, 0.5), 2), "p99_ms": round(percentile(ms, 0.99), 2)}


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection; answers must carry Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.buffer, self.waiter = transport, b"", None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, gap, rest = self.buffer.partition(b"\r\n\r\n")
        if not gap:
            return
        lower = head.lower()
        start = lower.find(b"content-length:")
        length = int(lower[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        waiter, self.waiter = self.waiter, None
        waiter.set_result((int(head[9:12]), rest[:length]))

    async def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        self.waiter = asyncio.get_running_loop().create_future()
        kind = "Content-Type: application/json\r\n" if body else ""
        self.transport.write(
            f"{method} {path} HTTP/1.1\r\nHost: d\r\n{kind}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        status, answer = await self.waiter
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer[:200]!r}")
        return answer


class Daemon:
    """A daemon in a directory of its own."""

    def __init__(self, directory: str) -> None:
        self.data, self.socket = f"{directory}/data", f"{directory}/s.sock"
        self.log = open(f"{directory}/log", "wb")  # noqa: SIM115 - lives as long as the daemon
        self.env = {**os.environ, "SWARMLET_HOST": f"unix://{self.socket}"}

    def start(self) -> float:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [PYTHON, "-m", "swarmlet.daemon", "--data-dir", self.data, "--runtime", "process"],
            env=self.env,
            stdout=self.log,
            stderr=self.log,
        )
        while time.perf_counter() - began < 20:
            try:
                asyncio.run(self.ask("GET", "/_ping"))
                return time.perf_counter() - began
            except OSError:
                time.sleep(0.005)
        raise SystemExit("the daemon does not answer")

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_unix_connection(Connection, self.socket)
        return protocol

    async def ask(self, method: str, path: str, body: object = None) -> object:
        connection = await self.connect()
        answer = await connection.call(
            method, path, b"" if body is None else json.dumps(body).encode()
        )
        connection.transport.close()
        return json.loads(answer) if answer.startswith((b"{", b"[", b'"')) else answer

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def config(tag: str) -> bytes:
    data = base64.b64encode(os.urandom(200)).decode()
    return json.dumps({"Name": f"b-{tag}", "Labels": {"bench": "1"}, "Data": data}).encode()


async def writes(daemon: Daemon, clients: int, total: int, tag: str) -> dict[str, float]:
    async def worker(number: int) -> list[float]:
        connection, times = await daemon.connect(), []
        for turn in range(total // clients):
            body = config(f"{tag}-{number}-{turn}")
            began = time.perf_counter()
            await connection.call("POST", "/configs/create", body)
            times.append(time.perf_counter() - began)
        connection.transport.close()
        return times

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker(number)) for number in range(clients)]
    wall = time.perf_counter() - began
    times = [t for done in workers for t in done.result()]
    return {"writes_per_s": round(len(times) / wall, 1), **summary(times)}


class UnixHTTP(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def threaded_writes(daemon: Daemon, clients: int, total: int, tag: str) -> dict[str, float]:
    def worker(number: int) -> list[float]:
        connection, times = UnixHTTP(daemon.socket), []
        for turn in range(total // clients):
            body = config(f"{tag}-{number}-{turn}")
            began = time.perf_counter()
            connection.request(
                "POST", "/configs/create", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            answer.read()
            if answer.status != 201:
                raise RuntimeError(f"a write was answered with {answer.status}")
            times.append(time.perf_counter() - began)
        connection.close()
        return times

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [t for done in pool.map(worker, range(clients)) for t in done]
    wall = time.perf_counter() - began
    return {"writes_per_s": round(len(times) / wall, 1), **summary(times)}


async def reads(daemon: Daemon, path: str, count: int = 500) -> dict[str, float]:
    connection, times = await daemon.connect(), []
    for _ in range(count):
        began = time.perf_counter()
        await connection.call("GET", path)
        times.append(time.perf_counter() - began)
    return summary(times)


async def create(daemon: Daemon, replicas: int) -> dict[str, float]:
    spec = {
        "Name": "bench",
        "TaskTemplate": {
            "ContainerSpec": {"Image": "host", "Command": ["/bin/sleep", "100000"]},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    connection = await daemon.connect()
    began = time.perf_counter()
    await connection.call("POST", "/services/create", json.dumps(spec).encode())
    while True:
        tasks = json.loads(await connection.call("GET", "/tasks"))
        if sum(t["Status"]["State"] == "running" for t in tasks) == replicas:
            took = time.perf_counter() - began
            break
        await asyncio.sleep(0.01)
    await connection.call("DELETE", "/services/bench")
    return {"replicas": replicas, "to_running_s": round(took, 3)}


def cli_wall(daemon: Daemon, runs: int = 20) -> dict[str, float]:
    command = [str(Path(PYTHON).with_name("swarmlet")), "node", "ls"]
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, env=daemon.env, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return {"p50_s": round(statistics.median(times), 4), "min_s": round(min(times), 4)}


def idle(daemon: Daemon) -> dict[str, float]:
    time.sleep(2)
    before = daemon.cpu_s()
    time.sleep(IDLE_S)
    cpu = (daemon.cpu_s() - before) / IDLE_S * 100
    return {"rss_mib": round(daemon.rss_mib(), 1), "cpu_percent": round(cpu, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writes", type=int, default=3000)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="swarmlet-bench-")
    os.chmod(directory, 0o755)
    daemon, figures = Daemon(directory), {}

    def show(name: str, figure: object) -> None:
        figures[name] = figure
        print(f"{name:<22} {json.dumps(figure)}", flush=True)

    try:
        show("start, empty", {"s": round(daemon.start(), 3)})
        asyncio.run(daemon.ask("POST", "/swarm/init", {"AdvertiseAddr": "127.0.0.1"}))
        show("idle", idle(daemon))
        show("tasks to running", asyncio.run(create(daemon, options.replicas)))
        show("writes, 1 client", asyncio.run(writes(daemon, 1, options.writes // 4, "one")))
        show("writes, 16 clients", asyncio.run(writes(daemon, 16, options.writes, "many")))
        show("writes, 16 threads", threaded_writes(daemon, 16, options.writes, "threads"))
        show("GET /nodes", asyncio.run(reads(daemon, "/nodes")))
        show("GET /tasks", asyncio.run(reads(daemon, "/tasks")))
        show("swarmlet node ls", cli_wall(daemon))
        daemon.stop()
        show("start, in a swarm", {"s": round(daemon.start(), 3)})
        show("idle after writes", idle(daemon))
        asyncio.run(daemon.ask("POST", "/swarm/leave?force=1"))
    finally:
        daemon.stop()
        shutil.rmtree(directory)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
