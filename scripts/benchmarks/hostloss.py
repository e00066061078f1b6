"""A worker's host that is killed, or cut off: until its tasks run elsewhere.

    scripts/bench hostloss                    10 kills and 5 cuts, about five minutes; needs root
    scripts/bench hostloss --rounds 3         a look
    scripts/bench hostloss --json out.json    the figures for a program

Three hosts, each with a network namespace of its own on a switch in user space
(tests/cluster/hosts.py): a manager, which runs no tasks, and two workers with five tasks each.
`killed`: all that runs on a worker's host is dead at once. `silent`: it is cut off, and nothing is
closed. Times are from there to the moment at which all ten tasks run on the other one. Losses of
one worker are far enough apart, in the swarm's own time, not to count as flapping: it is removed
and joins anew before each round.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.api import percentile
from tests.cluster.hosts import Network, missing, network
from tests.cluster.swarms import form_swarm, leave, wait_state
from tests.daemon.harness import running, service, wait_for

REPLICAS = 10
LIMIT_S = 30.0


def node_id(net: Network, name: str) -> str:
    return net[name].client().get("/info")["Swarm"]["NodeID"]


def begin(net: Network) -> str:
    """Both workers are there and share the tasks; the id of the one that will be lost."""
    manager = net["m1"].client()
    web = service("web", replicas=REPLICAS)
    web["TaskTemplate"]["Placement"] = {"Constraints": ["node.role==worker"]}
    manager.post("/services/create", web)
    gone = node_id(net, "w1")
    wait_for(lambda: len(running(manager, "web")) == REPLICAS, what="all tasks", limit_s=LIMIT_S)
    assert sum(task["NodeID"] == gone for task in running(manager, "web")) == REPLICAS // 2
    return gone


def seconds_until_elsewhere(net: Network, gone: str) -> float:
    manager, began_s = net["m1"].client(), time.monotonic()

    def is_elsewhere() -> bool:
        tasks = running(manager, "web")
        return len(tasks) == REPLICAS and all(task["NodeID"] != gone for task in tasks)

    wait_for(is_elsewhere, what="all tasks elsewhere", limit_s=LIMIT_S)
    return time.monotonic() - began_s


def end(net: Network, gone: str) -> None:
    """The lost worker is back, as another node."""
    manager = net["m1"].client()
    net.heal()
    if net["w1"].process.poll() is not None:
        net["w1"].start()
    wait_state(net["m1"], gone, "ready", limit_s=LIMIT_S)
    for one in manager.get("/services"):
        manager.delete(f"/services/{one['ID']}")
    wait_for(lambda: not manager.get("/tasks"), what="no task left", limit_s=LIMIT_S)
    leave(net["w1"], net["m1"])
    net["w1"].join(net["m1"])


def measured(net: Network, how: str, rounds: int) -> dict[str, object]:
    times: list[float] = []
    for _ in range(rounds):
        gone = begin(net)
        if how == "killed":
            net["w1"].crash()
        else:
            net.cut("w1")
        times.append(seconds_until_elsewhere(net, gone))
        end(net, gone)
    return {
        "rounds": rounds,
        "p50_s": round(percentile(times, 0.5), 2),
        "max_s": round(max(times), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="kills; and half as many cuts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    if reason := missing():
        raise SystemExit(f"There can be no hosts here: {reason}.")
    with network("m1", "w1", "w2") as net:
        form_swarm(net)
        results = {
            "killed": measured(net, "killed", given.rounds),
            "silent": measured(net, "silent", (given.rounds + 1) // 2),
        }
    for title, figures in results.items():
        print(f"{title:10} {json.dumps(figures)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
