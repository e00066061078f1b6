"""Sessions of a thousand nodes with one manager: memory, heartbeats, handshakes, a lost manager.

    scripts/bench sessions                     1,000 nodes, about two minutes
    scripts/bench sessions --sessions 200      fewer
    scripts/bench sessions --json out.json     the figures for a program

The manager is a process of its own: node port, gatekeeper, dispatcher and store, whose log is in
memory (tests/store/memory_log.py). All nodes are in this process and have this host's address; they
register, beat and back off as agents do, with a certificate each. Seconds of CPU are the manager's.
"""

import argparse
import asyncio
import gc
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

from swarmlet.agent.session import BACKOFF_MAX_S, BACKOFF_MIN_S
from swarmlet.ca.identity import identify
from swarmlet.core.errors import SwarmError
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.env.real import real_env
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.manager.manager import Manager
from swarmlet.model.address import parse_address
from swarmlet.model.change import Create
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.node import EngineDescription, Node, NodeDescription, NodeSpec
from swarmlet.model.service import Platform, Resources
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.client import TlsLink
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import PROTOCOL_VERSION, Heartbeat, Hello, Welcome
from swarmlet.wire.reception import PortParts
from swarmlet.wire.server import NodePort
from swarmlet.wire.tls import Trust
from tests.store.memory_log import MemoryLog
from tests.wire.identities import CLUSTER, SwarmCA

MANAGER = NodeID("manager")
CONNECTING_MAX = 64  # at once from here: the port takes 128 unfinished ones of one address
SETTLE_S = 5.0
BEATS = 4  # periods that heartbeats are watched for
DESCRIPTION = NodeDescription(
    hostname="a-host-of-this-benchmark",
    platform=Platform(architecture="x86_64", os="linux"),
    resources=Resources(nano_cpus=8_000_000_000, memory_bytes=16 << 30),
    engine=EngineDescription(engine_version="1", labels={"swarmlet.runtime": "process"}),
)


def node_name(number: int) -> NodeID:
    return NodeID(f"node{number:06}")


# The manager's process


def rss_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("the kernel always says")


async def begun(count: int) -> tuple[Store, Manager]:
    env = real_env()
    store = Store(env)
    log = MemoryLog(store)
    store.attach(log)
    await store.commit([Create(obj=Cluster(id=ClusterID(CLUSTER), spec=SwarmSpec()))])
    spec = NodeSpec(role="worker", availability="active")
    nodes = [Node(id=node_name(n), spec=spec, role="worker") for n in range(count)]
    for at in range(0, count, 500):
        await store.commit([Create(obj=node) for node in nodes[at : at + 500]])
    return store, Manager(env, store, log, MANAGER, ())


def answer(manager: Manager, port: NodePort) -> None:
    """A line for each that comes in: how this process is."""
    if not sys.stdin.readline():
        os._exit(0)  # who started it is gone
    gc.collect()
    gauges = {**manager.gauges(), **port.gauges()}
    figures = {"rss_kb": rss_kb(), "cpu_s": time.process_time(), **gauges}
    print(json.dumps(figures), flush=True)


async def serve(addr: str, sessions: int, credentials: Credentials) -> None:
    store, manager = await begun(sessions)
    env, link = real_env(), TlsLink()

    async def no_api(request: object, path: str) -> object:
        raise AssertionError("nobody asks")

    parts = PortParts(
        identify=lambda chain: identify(chain, env.clock.wall_ms()),
        gatekeeper=StoreGatekeeper(store, ClusterID(CLUSTER), env.clock),
        service=manager.port,
        api=no_api,
        forward=link.forward,
    )
    port = NodePort(parse_address(addr, "address"), Trust(credentials), parts, env.clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(manager.run())
        group.create_task(port.run())
        await port.opened.wait()
        asyncio.get_running_loop().add_reader(0, answer, manager, port)
        print("up", flush=True)


class ManagerProcess:
    def __init__(self, addr: str, file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", addr, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def figures(self) -> dict[str, float]:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        line = self._process.stdout.readline()
        assert line, "the manager's process ended"
        return line


# The nodes


class Nodes:
    """Every node of the swarm, as an agent without tasks is one."""

    def __init__(self, addr: str, credentials: list[Credentials]) -> None:
        self._addr, self._credentials = addr, credentials
        self._rng = real_env().rng
        self._connecting = asyncio.Semaphore(CONNECTING_MAX)
        self.connected, self.failed = 0, 0
        self._all, self._none = asyncio.Event(), asyncio.Event()
        self.refusals: dict[str, int] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, credentials in enumerate(self._credentials):
                group.create_task(self._live(node_name(number), credentials))

    async def all_connected(self) -> float:
        """Seconds until they are."""
        start = time.perf_counter()
        await self._all.wait()
        return time.perf_counter() - start

    async def none_connected(self) -> None:
        await self._none.wait()

    def _count(self, change: int) -> None:
        self.connected += change
        for event, number in ((self._all, len(self._credentials)), (self._none, 0)):
            if self.connected == number:
                event.set()
            else:
                event.clear()

    async def _live(self, node_id: NodeID, credentials: Credentials) -> None:
        link, backoff_s = TlsLink(), 0.0
        try:
            while True:
                await asyncio.sleep(self._rng.random() * backoff_s)
                backoff_s = min(BACKOFF_MIN_S + 2 * backoff_s, BACKOFF_MAX_S)
                try:
                    channel, welcome = await self._register(link, node_id, credentials)
                except SwarmError as error:
                    self.failed += 1
                    kind = error.message.replace(self._addr, "it")[:70]
                    self.refusals[kind] = self.refusals.get(kind, 0) + 1
                    continue
                backoff_s = 0.0
                self._count(1)
                try:
                    await self._beat(channel, welcome)
                finally:
                    self._count(-1)
        finally:
            await link.close()

    async def _register(
        self, link: TlsLink, node_id: NodeID, credentials: Credentials
    ) -> tuple[AgentChannel, Welcome]:
        async with self._connecting:
            channel = await link.open_session(self._addr, credentials)
            hello = Hello(protocol=PROTOCOL_VERSION, node_id=node_id, description=DESCRIPTION)
            await channel.send(hello)
            welcome = await channel.receive()
        assert isinstance(welcome, Welcome), welcome
        assert not welcome.refusal, welcome
        return channel, welcome

    async def _beat(self, channel: AgentChannel, welcome: Welcome) -> None:
        async def read() -> None:
            while True:
                await channel.receive()

        async def beat() -> None:
            period_s = welcome.heartbeat_period_s
            await asyncio.sleep(self._rng.random() * period_s)
            while True:
                await channel.send(Heartbeat())
                await asyncio.sleep(period_s)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                group.create_task(beat())
        except* SwarmError:
            channel.close()


async def connect(nodes: Nodes, manager: ManagerProcess) -> dict[str, float]:
    before = manager.figures()
    wall_s = await nodes.all_connected()
    await asyncio.sleep(SETTLE_S)
    after = manager.figures()
    count = nodes.connected
    cpu_s = after["cpu_s"] - before["cpu_s"]
    return {
        "wall_s": round(wall_s, 2),
        "per_s": round(count / wall_s),
        "cpu_ms_each": round(cpu_s / count * 1e3, 2),
        "per_cpu_s": round(count / cpu_s),
        "rss_kib_each": round((after["rss_kb"] - before["rss_kb"]) / count, 1),
    }


async def beats(manager: ManagerProcess, period_s: float = 5.0) -> dict[str, float]:
    before, start = manager.figures(), time.perf_counter()
    await asyncio.sleep(BEATS * period_s)
    after, wall_s = manager.figures(), time.perf_counter() - start
    return {"cpu_percent": round((after["cpu_s"] - before["cpu_s"]) / wall_s * 100, 2)}


async def storm(nodes: Nodes, addr: str, file: Path) -> tuple[dict[str, object], ManagerProcess]:
    """Killed already; how long until all are back with the next one."""
    await nodes.none_connected()
    await asyncio.sleep(1.0)
    nodes.failed, nodes.refusals, start = 0, {}, time.perf_counter()
    manager = await asyncio.to_thread(ManagerProcess, addr, file)
    up_s = time.perf_counter() - start
    await nodes.all_connected()
    back_s = time.perf_counter() - start
    return {
        "manager_up_s": round(up_s, 2),
        "all_back_s": round(back_s, 2),
        "cpu_s": round(manager.figures()["cpu_s"], 2),
        "failed_tries": nodes.failed,
        "why": nodes.refusals,
    }, manager


def swarm(count: int, file: Path) -> list[Credentials]:
    """The workers' certificates; the manager's goes into the file it reads."""
    ca = SwarmCA(real_env().clock.wall_ms())
    manager = ca.credentials(MANAGER, "manager")
    names = ("root_pem", "chain_pem", "key_pem")
    pems = {name: getattr(manager, name).decode() for name in names}
    file.write_text(json.dumps({"sessions": count, "manager": pems}))
    return [ca.credentials(node_name(number)) for number in range(count)]


async def bench_sessions(
    credentials: list[Credentials], file: Path
) -> dict[str, dict[str, object]]:
    addr = f"127.0.0.1:{23_000 + os.getpid() % 5_000}"  # outside what outgoing connections take
    results: dict[str, dict[str, object]] = {}
    manager = await asyncio.to_thread(ManagerProcess, addr, file)
    try:
        nodes = Nodes(addr, credentials)
        gc.freeze()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(nodes.run())
            results["connect"] = await connect(nodes, manager)
            results["heartbeats"] = await beats(manager)
            manager.kill()
            results["storm"], manager = await storm(nodes, addr, file)
            running.cancel()
    finally:
        manager.kill()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--serve", nargs=2, metavar=("ADDR", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if given.serve:
            told = json.loads(Path(given.serve[1]).read_text())
            pems = {name: pem.encode() for name, pem in told["manager"].items()}
            runner.run(serve(given.serve[0], told["sessions"], Credentials(**pems)))
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "manager.json")
            results = runner.run(bench_sessions(swarm(given.sessions, file), file))
    for name, figures in results.items():
        print(f"{name:12} {figures}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
