"""The replicated log of one member: durable proposals by clients and size, restart, idle.

    scripts/bench raft                   everything, about half a minute
    scripts/bench raft --writes 20000    more proposals
    scripts/bench raft --json out.json   the figures for a program

Each proposal is sealed, written and fsynced before it is answered; the state machine only counts.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

from swarmlet.env.real import real_env
from swarmlet.env.sealed import SealKeys, new_seal_key, seal_key
from swarmlet.raft.engine import Origin, RaftEngine
from swarmlet.store.proposer import Member

ME = Member(raft_id=1, node_id="bench", address="127.0.0.1:2377")
POINTS = ((1, 300), (16, 300), (16, 2_000), (256, 300))  # clients, bytes
SNAPSHOT_CHUNKS = 64  # of 256 KiB: a state of 16 MiB
IDLE_S = 3.0

Bench = Callable[[str, int], Awaitable[dict[str, object]]]
"""Given a folder and how many proposals to make for each point."""


class Counter:
    """Counts entries; its snapshot has the size of a small cluster's state."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: int, entry: bytes) -> None:
        self.count += 1

    def snapshot(self) -> Iterator[bytes]:
        yield str(self.count).encode()
        for _ in range(SNAPSHOT_CHUNKS):
            yield bytes(256 * 1024)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.count = int(next(iter(chunks)))
        for _ in chunks:
            pass


async def writes(engine: RaftEngine, clients: int, size_b: int, count: int) -> dict[str, float]:
    times_s: list[float] = []
    entry = os.urandom(size_b)

    async def client(turns: int) -> None:
        for _ in range(turns):
            start = time.perf_counter()
            await engine.propose(entry, 0)
            times_s.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(max(1, count // clients)))
    elapsed_s = time.perf_counter() - start
    times_s.sort()
    return {
        "per_s": round(len(times_s) / elapsed_s),
        "p50_ms": round(times_s[len(times_s) // 2] * 1e3, 2),
        "p99_ms": round(times_s[int(len(times_s) * 0.99)] * 1e3, 2),
    }


async def bench_raft(folder: str, count: int) -> dict[str, object]:
    env, results = real_env(), {}
    keys = SealKeys(current=seal_key(new_seal_key(env.entropy)))
    machine = Counter()
    engine = RaftEngine(env, f"{folder}/raft", keys, machine, ME)
    await engine.start(Origin.FOUND)
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run())
        for clients, size_b in POINTS:
            few = count // 8 if clients == 1 else count
            results[f"{clients} x {size_b} B"] = await writes(engine, clients, size_b, few)
        await asyncio.sleep(1)  # for a snapshot that is being written
        cpu_s = time.process_time()
        await asyncio.sleep(IDLE_S)
        results["idle_cpu_percent"] = round((time.process_time() - cpu_s) / IDLE_S * 100, 2)
        await engine.stop()
    results["restart"] = await restart(folder, keys, machine.count)
    return results


async def restart(folder: str, keys: SealKeys, count: int) -> dict[str, float]:
    machine = Counter()
    engine = RaftEngine(real_env(), f"{folder}/raft", keys, machine, ME)
    start = time.perf_counter()
    await engine.start(Origin.RESUME)
    elapsed_s = time.perf_counter() - start
    await engine.stop()
    assert machine.count == count, f"{machine.count} of {count} entries are there"
    return {"entries": count, "ms": round(elapsed_s * 1e3, 1)}


def run(about: str, bench: Bench, writes: int) -> None:
    """What the command line says, in a folder of its own."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--writes", type=int, default=writes, help="proposals for each point")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    folder = tempfile.mkdtemp(dir=given.folder)
    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(bench(folder, given.writes))
    finally:
        shutil.rmtree(folder)
    for name, figures in results.items():
        print(f"{name:20} {figures}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run(__doc__.splitlines()[0], bench_raft, 16_000)
