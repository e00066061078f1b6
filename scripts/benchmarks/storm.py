"""Thousands of agents with three real managers: their cost at rest, and a leader that is killed.

    scripts/bench storm                       2,000 agents, about three minutes
    scripts/bench storm --agents 5000         the most that the design names; about six minutes
    scripts/bench storm --json out.json       the figures for a program

Three daemons on this host, and in this process the agents: each joined by token, with a certificate
of its own and a session over mutual TLS; each runs one task of one service (it says so), beats,
backs off and finds the next leader as an agent does. Then the leader is killed with -9. `back_s`
is from there to the last registration; `lag_ms` the longest turn of the new leader's loop, measured
by itself; `moved` the tasks that another node has then, or another run. The agents have this
machine's other cores: with two cores they take as much as the managers.
"""

import argparse
import asyncio
import gc
import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.cluster import is_whole, leads, on_loopback
from scripts.benchmarks.join import DESCRIPTION, cpu_s, enrol
from swarmlet.agent.remote import RemoteConnector
from swarmlet.agent.session import BACKOFF_MAX_S, BACKOFF_MIN_S
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import SwarmError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, NodeID, TaskID
from swarmlet.env.real import real_env
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.client import TlsLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import (
    PROTOCOL_VERSION,
    Assignments,
    Heartbeat,
    Hello,
    ManagerAddr,
    Message,
    StatusReport,
    SwarmInfo,
    Welcome,
    decode_assigned_task,
)
from swarmlet.wire.remotes import Remotes
from tests.daemon.harness import Daemon, running, service, wait_for

JOINING_MAX = 64  # at once: the port takes 128 unfinished connections of one address
CONNECTING_MAX = 256  # at once, for the same reason: there are three ports
REST_S = 10.0  # for what is being written to come to its end
STEADY_S = 30.0
REGISTER_TIMEOUT_S = 5.0
LIMIT_S = 120.0


def check(welcome: Message) -> None:
    """Raises SwarmError where it is none."""
    if not isinstance(welcome, Welcome) or welcome.refusal:
        raise SwarmError(getattr(welcome, "refusal", "no welcome"))


class Agent:
    """What a real one does on the wire, without a disk or a process for its tasks."""

    def __init__(self, fleet: "Fleet", credentials: Credentials, node_id: str) -> None:
        self._fleet, self.node_id = fleet, NodeID(node_id)
        identity = Identity(
            node_id=self.node_id,
            role="worker",
            cluster_id=ClusterID(""),
            begins_ms=0,
            ends_ms=1 << 50,
        )
        self._env = fleet.env
        known = [ManagerAddr(node_id=NodeID(""), addr=addr) for addr in fleet.addrs]
        self._remotes = Remotes(self._env.rng, known)
        self._link = TlsLink()
        own = OwnIdentity(credentials, identity)
        self._connector = RemoteConnector(self._link, own, self._remotes)
        self._tasks: dict[TaskID, TaskStatus] = {}
        self._number = 0

    async def run(self) -> None:
        backoff_s = 0.0
        try:
            while True:
                await asyncio.sleep(self._env.rng.random() * backoff_s)
                backoff_s = min(BACKOFF_MIN_S + 2 * backoff_s, BACKOFF_MAX_S)
                try:
                    async with self._fleet.connecting:
                        channel, period_s = await self._register()
                except (SwarmError, TimeoutError) as error:
                    self._fleet.fail(error)
                    continue
                backoff_s = 0.0
                self._fleet.count(1)
                try:
                    await self._live(channel, period_s)
                finally:
                    self._fleet.count(-1)
                    channel.close()
        finally:
            await self._link.close()

    async def _register(self) -> tuple[AgentChannel, float]:
        channel = await self._connector.open_session()
        hello = Hello(protocol=PROTOCOL_VERSION, node_id=self.node_id, description=DESCRIPTION)
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                await channel.send(hello)
                welcome = await channel.receive()
            check(welcome)
        except BaseException:
            channel.close()
            raise
        assert isinstance(welcome, Welcome)
        return channel, welcome.heartbeat_period_s

    async def _live(self, channel: AgentChannel, period_s: float) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(channel))
                group.create_task(self._beat(channel, period_s))
        except* SwarmError:
            pass

    async def _read(self, channel: AgentChannel) -> None:
        await self._report(channel)
        while True:
            self._take(message := await channel.receive())
            if isinstance(message, Assignments):
                await self._report(channel)

    def _take(self, message: Message) -> None:
        if isinstance(message, SwarmInfo):
            self._remotes.replace(message.managers)
        elif isinstance(message, Assignments):
            for item in message.put:
                if item.kind == "task":
                    task = decode_assigned_task(item.body)
                    over = task.desired > TaskState.RUNNING
                    state = TaskState.SHUTDOWN if over else TaskState.RUNNING
                    self._tasks[task.id] = TaskStatus(state=int(state), at_ms=1)
            for _, item_id in message.gone:
                self._tasks.pop(TaskID(item_id), None)

    async def _report(self, channel: AgentChannel) -> None:
        if self._tasks:
            self._number += 1
            statuses = tuple(self._tasks.items())
            await channel.send(StatusReport(number=self._number, statuses=statuses))

    async def _beat(self, channel: AgentChannel, period_s: float) -> None:
        await asyncio.sleep(self._env.rng.random() * period_s)
        while True:
            await channel.send(Heartbeat())
            await asyncio.sleep(period_s * (0.9 + 0.1 * self._env.rng.random()))


class Fleet:
    def __init__(self, addrs: list[str]) -> None:
        self.env, self.addrs = real_env(), addrs
        self.agents: list[Agent] = []
        self.connected, self.failed = 0, 0
        self.why: dict[str, int] = {}
        self.connecting = asyncio.Semaphore(CONNECTING_MAX)
        self._all, self._lost = asyncio.Event(), asyncio.Event()

    async def join(self, addr: str, token: str, count: int, folder: Path) -> float:
        start_s, places = time.perf_counter(), asyncio.Semaphore(JOINING_MAX)

        async def one(number: int) -> None:
            async with places:
                credentials, node_id = await enrol(number, folder, addr, token)
            self.agents.append(Agent(self, credentials, node_id))

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
        return time.perf_counter() - start_s

    def count(self, change: int) -> None:
        self.connected += change
        if self.connected == len(self.agents):
            self._all.set()
            self._lost.clear()
        else:
            self._all.clear()
            self._lost.set()

    def fail(self, error: Exception) -> None:
        self.failed += 1
        text = re.sub(r"127\.0\.0\.1:\d+", "it", str(error))[:70] or type(error).__name__
        self.why[text] = self.why.get(text, 0) + 1

    async def some_lost(self) -> None:
        await self._lost.wait()

    async def all_connected(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self._all.wait()


def rss_kb(daemon: Daemon) -> int:
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])


def lag_ms(daemon: Daemon) -> float:
    """The worst since it was asked last."""
    text = daemon.client().call("GET", "/metrics", raw=b"")
    text = text.decode() if isinstance(text, bytes) else str(text)
    return round(float(re.search(r"(?m)^swarmlet_loop_lag_seconds (\S+)", text)[1]) * 1e3, 1)


def tasks_by_id(daemon: Daemon) -> dict[str, str]:
    return {task["ID"]: task["NodeID"] for task in running(daemon.client(), "web")}


async def steady(leader: Daemon) -> dict[str, float]:
    before_s, start_s = cpu_s(leader), time.perf_counter()
    await asyncio.to_thread(lag_ms, leader)
    await asyncio.sleep(STEADY_S)
    passed_s = time.perf_counter() - start_s
    percent = round((cpu_s(leader) - before_s) / passed_s * 100, 2)
    return {"cpu_percent": percent, "lag_ms": await asyncio.to_thread(lag_ms, leader)}


async def storm(fleet: Fleet, leader: Daemon, others: list[Daemon]) -> dict[str, object]:
    before = await asyncio.to_thread(tasks_by_id, leader)
    for daemon in others:
        await asyncio.to_thread(lag_ms, daemon)
    fleet.failed, fleet.why = 0, {}
    used_s = [cpu_s(daemon) for daemon in others]
    leader.kill()
    start_s = time.perf_counter()
    await fleet.some_lost()
    await fleet.all_connected()
    back_s = time.perf_counter() - start_s
    lags = [await asyncio.to_thread(lag_ms, daemon) for daemon in others]
    used_s = [cpu_s(daemon) - first for daemon, first in zip(others, used_s, strict=True)]
    await asyncio.sleep(REST_S)
    new = next(daemon for daemon in others if leads(daemon))
    after = await asyncio.to_thread(tasks_by_id, new)
    states: dict[str, int] = {}
    for node in await asyncio.to_thread(new.client().get, "/nodes"):
        state = node["Status"]["State"]
        states[state] = states.get(state, 0) + 1
    return {
        "back_s": round(back_s, 2),
        "lag_ms": {"leader": lags[others.index(new)], "all": lags},
        "managers_cpu_s": [round(one, 2) for one in used_s],
        "tasks": len(before),
        "moved": sum(after.get(task) != node for task, node in before.items()),
        "nodes": states,
        "failed_tries": fleet.failed,
        "why": fleet.why,
    }


async def bench(daemons: list[Daemon], count: int, folder: Path) -> dict[str, object]:
    leader = next(daemon for daemon in daemons if leads(daemon))
    others = [daemon for daemon in daemons if daemon is not leader]
    client, results = leader.client(), {}
    client.timeout_s = LIMIT_S
    token = client.get("/swarm")["JoinTokens"]["Worker"]
    fleet = Fleet([daemon.listen for daemon in daemons])
    results["join"] = {"s": round(await fleet.join(leader.listen, token, count, folder), 1)}
    gc.freeze()
    await asyncio.sleep(REST_S)
    before_kb, before_s, start_s = rss_kb(leader), cpu_s(leader), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.run()) for agent in fleet.agents]
        await fleet.all_connected()
        wall_s = time.perf_counter() - start_s
        await asyncio.sleep(REST_S)
        results["connect"] = {
            "s": round(wall_s, 2),
            "cpu_ms_each": round((cpu_s(leader) - before_s) / count * 1e3, 2),
            "rss_kib_each": round((rss_kb(leader) - before_kb) / count, 1),
            "failed_tries": fleet.failed,
        }
        web = service("web", replicas=count)
        web["TaskTemplate"]["Placement"] = {"Constraints": ["node.role==worker"]}
        await asyncio.to_thread(client.post, "/services/create", web)
        await asyncio.to_thread(
            wait_for,
            lambda: len(running(client, "web")) == count,
            what="all tasks",
            limit_s=LIMIT_S,
        )
        await asyncio.sleep(REST_S)
        results["steady"] = await steady(leader)
        results["leader killed"] = await storm(fleet, leader, others)
        for task in tasks:
            task.cancel()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=2_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name, on_loopback() as daemons:
        for daemon in daemons:
            wait_for(lambda daemon=daemon: is_whole(daemon), what="a whole group", limit_s=60)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(bench(daemons, given.agents, Path(name)))
    for title, figures in results.items():
        print(f"{title:14} {json.dumps(figures)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
