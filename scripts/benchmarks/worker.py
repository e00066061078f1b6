"""A worker daemon's memory: before a swarm, joined and idle, with tasks, restarted.

    scripts/bench worker                   about half a minute
    scripts/bench worker --tasks 50        more tasks on it
    scripts/bench worker --json out.json   the figures for a program

A real manager and a real worker with the process runtime. VmRSS is what is resident, VmHWM its
peak; Private_Dirty of it is the daemon's own; Pss counts a page by how many processes share it.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.daemon.harness import Daemon, running_daemon, wait_for

REST_S = 3.0  # for what a join or a start leaves to do


def memory(daemon: Daemon) -> dict[str, float]:
    """In MiB."""
    found = {}
    for name in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{daemon.process.pid}/{name}").read_text().splitlines():
            words = line.split()
            if words[0] in ("VmRSS:", "VmHWM:", "Private_Dirty:", "Pss:"):
                found[words[0].rstrip(":")] = round(int(words[1]) / 1024, 1)
    return found


def rest(daemon: Daemon) -> dict[str, float]:
    time.sleep(REST_S)
    return memory(daemon)


def measure(tasks: int) -> dict[str, object]:
    results: dict[str, object] = {}
    with running_daemon() as manager, running_daemon() as worker:
        results["alone"] = rest(worker)
        token = manager.init().get("/swarm")["JoinTokens"]["Worker"]
        worker.client().post(
            "/swarm/join",
            {
                "ListenAddr": worker.listen,
                "AdvertiseAddr": worker.listen,
                "RemoteAddrs": [manager.listen],
                "JoinToken": token,
            },
        )
        results["joined"] = rest(worker)
        spec = {
            "Name": "work",
            "Mode": {"Replicated": {"Replicas": tasks}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "host", "Command": ["sleep", "1000"]},
                "Placement": {"Constraints": ["node.role==worker"]},
            },
        }
        client = manager.client()
        client.post("/services/create", spec)
        wait_for(lambda: running(client) == tasks, what="its tasks")
        results["with_tasks"] = rest(worker)
        client.delete("/services/work")
        wait_for(lambda: client.get("/tasks") == [], what="no task")
        results["after_tasks"] = rest(worker)
        worker.stop()
        worker.start()
        wait_for(lambda: is_ready(manager, worker), what="a ready worker")
        results["restarted"] = rest(worker)
        results["manager"] = memory(manager)
    return results


def is_ready(manager: Daemon, worker: Daemon) -> bool:
    node_id = worker.client().get("/info")["Swarm"]["NodeID"]
    return manager.client().get(f"/nodes/{node_id}")["Status"]["State"] == "ready"


def running(client) -> int:  # type: ignore[no-untyped-def]
    return sum(task["Status"]["State"] == "running" for task in client.get("/tasks"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    results = measure(given.tasks)
    text = json.dumps(results, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
