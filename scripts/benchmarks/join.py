"""Joining: one host from command to ready, hundreds at once, handshakes a second.

    scripts/bench join                     everything, about half a minute
    scripts/bench join --at-once 500       more nodes at the same moment
    scripts/bench join --json out.json     the figures for a program

One real manager and, for `one`, one real worker, which joins by `swarmlet join`, leaves and joins
again. Daemons in hundreds would measure this machine, so `at once` runs the nodes' side of a join
(root, request, certificate on a disk, session, registration) for all nodes in this process, each
with keys and files of its own; all have this host's address. Seconds of CPU are the manager's.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.api import percentile
from swarmlet.ca.enrolment import Enrolment
from swarmlet.ca.join_record import JoinRecord, JoinRecordFile
from swarmlet.ca.node_files import NodeFiles
from swarmlet.core.errors import SwarmError
from swarmlet.env.real import real_env
from swarmlet.model.node import EngineDescription, NodeDescription
from swarmlet.model.service import Platform, Resources
from swarmlet.wire.client import TlsLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import PROTOCOL_VERSION, Hello, Welcome
from tests.daemon.harness import Daemon, running_daemon, wait_for

POLL_S = 0.005
HANDSHAKES_S = 5.0
HANDSHAKE_CLIENTS = 8
DESCRIPTION = NodeDescription(
    hostname="a-host-of-this-benchmark",
    platform=Platform(architecture="x86_64", os="linux"),
    resources=Resources(nano_cpus=8_000_000_000, memory_bytes=16 << 30),
    engine=EngineDescription(engine_version="1", labels={"swarmlet.runtime": "process"}),
)


def cpu_s(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(times_s: list[float]) -> dict[str, float]:
    return {
        "p50_s": round(percentile(times_s, 0.5), 3),
        "p90_s": round(percentile(times_s, 0.9), 3),
        "max_s": round(max(times_s), 3),
    }


# One host


def join_once(manager: Daemon, worker: Daemon) -> tuple[float, float]:
    """Seconds from the command to its end, and to a node that is ready; it leaves first."""
    client = manager.client()
    last = worker.client().get("/info")["Swarm"]["NodeID"]
    if last:
        worker.client().post("/swarm/leave")
        client.delete(f"/nodes/{last}?force=1")
    token = client.get("/swarm")["JoinTokens"]["Worker"]
    command = [sys.executable, "-m", "swarmlet", "--host", f"unix://{worker.socket}", "join"]
    start_s = time.perf_counter()
    subprocess.run([*command, token, manager.listen], check=True, capture_output=True)
    command_s = time.perf_counter() - start_s
    node_id = worker.client().get("/info")["Swarm"]["NodeID"]
    while client.get(f"/nodes/{node_id}")["Status"]["State"] != "ready":
        time.sleep(POLL_S)
    return command_s, time.perf_counter() - start_s


def one(manager: Daemon, rounds: int) -> dict[str, object]:
    with running_daemon() as worker:
        times = [join_once(manager, worker) for _ in range(rounds)]
    commands, ready = zip(*times, strict=True)
    return {"command": summary(list(commands)), "ready": summary(list(ready))}


# Many at once


async def enrol(number: int, folder: Path, addr: str, token: str) -> tuple[Credentials, str]:
    """A node's side of a join: the certificate that is on its disk then, and whose it is."""
    env, link = real_env(), TlsLink()
    files = NodeFiles(env.disk, f"{folder}/{number}/certificates")
    record = JoinRecordFile(env.disk, f"{folder}/{number}/joining", files, env.entropy)

    async def nobody() -> list[str]:
        return []

    enrolment = Enrolment(env, link, files, record, nobody)
    await enrolment.begin(JoinRecord(token=token, remote_addrs=(addr,)))
    try:
        enrolled = await enrolment.run()
        await enrolment.forget()
        return enrolled.own.credentials, enrolled.own.identity.node_id
    finally:
        await link.close()


async def register(addr: str, credentials: Credentials, node_id: str) -> TlsLink:
    """Its session stays open until the link is closed."""
    link = TlsLink()
    channel = await link.open_session(addr, credentials)
    hello = Hello(protocol=PROTOCOL_VERSION, node_id=node_id, description=DESCRIPTION)
    await channel.send(hello)
    welcome = await channel.receive()
    assert isinstance(welcome, Welcome), welcome
    assert not welcome.refusal, welcome
    return link


async def at_once(manager: Daemon, count: int, folder: Path) -> dict[str, object]:
    token = manager.client().get("/swarm")["JoinTokens"]["Worker"]
    certified: list[float] = []
    ready: list[float] = []
    failures: dict[str, int] = {}
    links: list[TlsLink] = []
    nodes = await asyncio.to_thread(manager.client().get, "/nodes")
    beside = sum(node["Status"]["State"] == "ready" for node in nodes)
    before_s, start_s = cpu_s(manager), time.perf_counter()

    async def join(number: int) -> None:
        try:
            credentials, node_id = await enrol(number, folder, manager.listen, token)
            certified.append(time.perf_counter() - start_s)
            links.append(await register(manager.listen, credentials, node_id))
            ready.append(time.perf_counter() - start_s)
        except SwarmError as error:
            text = str(error)[:90]
            failures[text] = failures.get(text, 0) + 1

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(join(number))
    wall_s, used_s = time.perf_counter() - start_s, cpu_s(manager) - before_s
    nodes = await asyncio.to_thread(manager.client().get, "/nodes")
    for link in links:
        await link.close()
    return {
        "asked": count,
        "joined": len(ready),
        "ready": sum(node["Status"]["State"] == "ready" for node in nodes) - beside,
        "failed": failures,
        "certified": summary(certified) if certified else {},
        "registered": summary(ready) if ready else {},
        "wall_s": round(wall_s, 2),
        "manager_cpu_ms_each": round(used_s / count * 1e3, 2),
    }


async def handshakes(manager: Daemon, folder: Path) -> dict[str, float]:
    """New connections with a certificate on both sides, one call on each."""
    token = manager.client().get("/swarm")["JoinTokens"]["Worker"]
    credentials, node_id = await enrol(-1, folder, manager.listen, token)
    before_s, start_s, done = cpu_s(manager), time.perf_counter(), 0

    async def call() -> None:
        nonlocal done
        link = TlsLink()
        while time.perf_counter() - start_s < HANDSHAKES_S:
            await link.certificate_status(manager.listen, node_id, credentials)
            done += 1
        await link.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(HANDSHAKE_CLIENTS):
            group.create_task(call())
    wall_s, used_s = time.perf_counter() - start_s, cpu_s(manager) - before_s
    return {
        "per_s": round(done / wall_s),
        "manager_cpu_ms_each": round(used_s / done * 1e3, 2),
        "per_manager_cpu_s": round(done / used_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="joins of one host")
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, running_daemon() as manager:
        manager.init()
        wait_for(lambda: manager.client().get("/nodes"), what="the manager's node")
        results["one"] = one(manager, given.rounds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results["handshakes"] = runner.run(handshakes(manager, Path(name)))
            results["at once"] = runner.run(at_once(manager, given.at_once, Path(name)))
    for title, figures in results.items():
        print(f"{title:12} {json.dumps(figures)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
