"""Services in containers: swarmlet and Docker's own swarm mode on one Docker Engine, in turns.

    scripts/bench docker                 three rounds, about four minutes; needs root and dockerd
    scripts/bench docker --rounds 1      a look

Starts an engine of its own (own folder, own network namespace) and a daemon with the docker
runtime. Each round measures Docker first, then swarmlet, with the same specs; ratios below 1 mean
that swarmlet is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.daemon.harness import UnixConnection  # noqa: E402
from tests.docker.engine import IMAGE, missing, running_engine  # noqa: E402

LOOK_S = 0.05
LIMIT_S = 300.0
WRITERS = 16


class Api:
    """One keep-alive connection."""

    def __init__(self, socket: str) -> None:
        self._connection = UnixConnection(socket)

    def __call__(self, method: str, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode()}")
        return json.loads(content) if content.strip() else None


def spec(name: str, replicas: int, env: str) -> dict[str, object]:
    container = {
        "Image": IMAGE,
        "Command": ["/bin/sleep", "100000"],
        "Env": [env],
        "StopGracePeriod": 1_000_000_000,
    }
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": container, "RestartPolicy": {"Condition": "any"}},
        "Mode": {"Replicated": {"Replicas": replicas}},
        "UpdateConfig": {"Parallelism": 5, "Order": "stop-first", "Monitor": 500_000_000},
        "EndpointSpec": {"Mode": "dnsrr"},
    }


class Swarm:
    """The phases, on the engine or the daemon behind one socket."""

    def __init__(self, socket: str) -> None:
        self._socket, self._api = socket, Api(socket)
        self._name = "bench"

    def init(self) -> None:
        self._api("POST", "/swarm/init", {"ListenAddr": "127.0.0.1", "AdvertiseAddr": "127.0.0.1"})

    def round(self, number: int) -> dict[str, float]:
        self._name = f"bench{number}"
        self._api("POST", "/services/create", spec(self._name, 10, "A=1"))
        took = {"create 10": self._until(lambda: self._running() == 10)}
        self._apply(50, "A=1")
        took["scale 10 to 50"] = self._until(lambda: self._running() == 50)
        self._apply(10, "A=1")
        took["scale 50 to 10"] = self._until(lambda: self._running() == 10)
        self._apply(10, "A=2")
        took["update of 10, 5 at once"] = self._until(self._is_updated)
        self._api("DELETE", f"/services/{self._name}")
        self._until(lambda: not self._tasks({}))
        took["writes, 16 clients (s for 800)"] = self._writes(number)
        return took

    def _writes(self, number: int) -> float:
        def write(client: int) -> None:
            api = Api(self._socket)
            for index in range(50):
                body = {"Name": f"c{number}-{client}-{index}", "Data": "eA=="}
                api("POST", "/configs/create", body)

        start = time.perf_counter()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(WRITERS)))
        return time.perf_counter() - start

    def _apply(self, replicas: int, env: str) -> None:
        service = self._api("GET", f"/services/{self._name}")
        version = service["Version"]["Index"]
        body = spec(self._name, replicas, env)
        self._api("POST", f"/services/{self._name}/update?version={version}", body)

    def _tasks(self, filters: dict[str, list[str]]) -> list[dict]:
        return self._api("GET", f"/tasks?filters={quote(json.dumps(filters))}")

    def _running(self) -> int:
        tasks = self._tasks({"service": [self._name]})
        return sum(task["Status"]["State"] == "running" for task in tasks)

    def _is_updated(self) -> bool:
        service = self._api("GET", f"/services/{self._name}")
        return (service.get("UpdateStatus") or {}).get("State") == "completed"

    def _until(self, is_so: Callable[[], bool]) -> float:
        start = time.perf_counter()
        while not is_so():
            if time.perf_counter() - start > LIMIT_S:
                raise RuntimeError("it does not come to an end")
            time.sleep(LOOK_S)
        return time.perf_counter() - start


def show(name: str, docker: list[float], ours: list[float]) -> None:
    ratio = statistics.median(a / b for a, b in zip(ours, docker, strict=True))
    spans = [f"{min(x):6.2f} - {max(x):6.2f} s" for x in (docker, ours)]
    print(f"{name:32} Docker {spans[0]}   swarmlet {spans[1]}   ratio {ratio:.2f}")


def measure(rounds: int, directory: str) -> None:
    with running_engine() as engine:
        socket = f"{directory}/s.sock"
        command = [sys.executable, "-m", "swarmlet.daemon", "--data-dir", f"{directory}/data"]
        command += ["--host", f"unix://{socket}", "--runtime", "docker"]
        command += ["--docker-host", engine.host]
        with open(f"{directory}/log", "wb") as log:
            daemon = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            while not os.path.exists(socket):
                time.sleep(LOOK_S)
            docker, ours = Swarm(engine.socket), Swarm(socket)
            docker.init()
            ours.init()
            taken = [(docker.round(n), ours.round(n)) for n in range(rounds)]
            for name in taken[0][0]:
                show(name, [one[0][name] for one in taken], [one[1][name] for one in taken])
        finally:
            daemon.terminate()
            daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if problem := missing():
        sys.exit(f"No Docker Engine here: {problem}")
    with tempfile.TemporaryDirectory(prefix="swb-") as directory:
        measure(arguments.rounds, directory)


if __name__ == "__main__":
    main()
