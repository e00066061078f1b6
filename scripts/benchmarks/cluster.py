"""Three managers: writes by clients at the leader and at a follower, reads, idle CPU.

    scripts/bench cluster                     everything, about a minute
    scripts/bench cluster --writes 3000       more writes with 16 clients
    scripts/bench cluster --hosts             each manager in a network namespace; needs root
    scripts/bench cluster --json out.json     the figures for a program

Three real daemons, each with a data directory of its own; a write is fsynced on two of them before
it is answered. Between them is the loopback, or with `--hosts` a switch in user space
(tests/cluster/hosts.py), whose own work is in the times then. Clients are light, as in `api`.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.api import Connection, reads, writes
from scripts.benchmarks.join import cpu_s
from tests.cluster.hosts import missing, network
from tests.daemon.harness import Daemon, running_daemon, wait_for

COUNT = 3
IDLE_S = 30.0
REST_S = 3.0  # before the idle time is measured: what is being written comes to its end


class Manager:
    """A daemon as `scripts.benchmarks.api` asks one."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_unix_connection(Connection, self.daemon.socket)
        return protocol


def is_whole(daemon: Daemon) -> bool:
    """Whether it knows a leader, and all managers have a vote and answer."""
    members = daemon.client().get("/swarmlet/v1/members")["Members"]
    well = [one["IsVoter"] and one["Reachability"] == "reachable" for one in members]
    return len(well) == COUNT and all(well) and any(one["IsLeader"] for one in members)


@contextlib.contextmanager
def on_loopback() -> Iterator[list[Daemon]]:
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(running_daemon()) for _ in range(COUNT)]
        token = daemons[0].init().get("/swarm")["JoinTokens"]["Manager"]
        for daemon in daemons[1:]:
            body = {"ListenAddr": daemon.listen, "AdvertiseAddr": daemon.listen}
            body |= {"RemoteAddrs": [daemons[0].listen], "JoinToken": token}
            daemon.client().post("/swarm/join", body)
        yield daemons


@contextlib.contextmanager
def on_hosts() -> Iterator[list[Daemon]]:
    if reason := missing():
        raise SystemExit(f"There can be no hosts here: {reason}.")
    names = [f"m{number + 1}" for number in range(COUNT)]
    with network(*names) as net:
        net[names[0]].start().init()
        for name in names[1:]:
            net[name].start().join(net[names[0]], "Manager")
        yield [net[name] for name in names]


def leads(daemon: Daemon) -> bool:
    client = daemon.client()
    own = client.get("/info")["Swarm"]["NodeID"]
    members = client.get("/swarmlet/v1/members")["Members"]
    return any(one["IsLeader"] and one["NodeID"] == own for one in members)


async def measured(leader: Manager, follower: Manager, count: int) -> dict[str, object]:
    results: dict[str, object] = {}
    few = max(100, count // 10)
    for place, manager in (("leader", leader), ("follower", follower)):
        await writes(manager, 4, 100, f"warm-{place}")
        results[f"16 clients, {place}"] = await writes(manager, 16, count, f"many-{place}")
        results[f"1 client, {place}"] = await writes(manager, 1, few, f"one-{place}")
        results[f"GET /nodes, {place}"] = await reads(manager, "/nodes")
    return results


def idle(daemons: list[Daemon]) -> dict[str, object]:
    """Per cent of a core."""
    time.sleep(REST_S)
    before, began = [cpu_s(daemon) for daemon in daemons], time.perf_counter()
    time.sleep(IDLE_S)
    elapsed_s = time.perf_counter() - began
    used = [cpu_s(daemon) - first for daemon, first in zip(daemons, before, strict=True)]
    each = [round(part / elapsed_s * 100, 2) for part in used]
    return {"cpu_percent": round(sum(used) / elapsed_s * 100, 2), "leader first": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writes", type=int, default=3_000, help="with 16 clients")
    parser.add_argument("--hosts", action="store_true", help="a network namespace each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    with on_hosts() if given.hosts else on_loopback() as daemons:
        for daemon in daemons:
            wait_for(lambda daemon=daemon: is_whole(daemon), what="a whole group", limit_s=60)
        ordered = sorted(daemons, key=lambda daemon: not leads(daemon))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            work = measured(Manager(ordered[0]), Manager(ordered[1]), given.writes)
            results = runner.run(work)
        results["idle"] = idle(ordered)
    for title, figures in results.items():
        print(f"{title:22} {json.dumps(figures)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
