"""Store: commits of a config, 100k tasks through the log, statuses, snapshots, memory a task.

The log is in memory (tests/store/memory_log.py): no disk, no sealing, no Raft in any figure.
Seconds are CPU time.
Usage: scripts/bench store [TASKS] [NODES]
"""

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from swarmlet.core.ids import new_id
from swarmlet.env.real import real_env
from swarmlet.model.change import Assign, Create, SetStatus
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.node import Node, NodeDescription, NodeSpec
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.store.store import Store
from tests.store.memory_log import MemoryLog

CLIENTS = 16
CONFIGS = 20_000
SERVICES = 1_000


def say(what: str, value: str) -> None:
    sys.stdout.write(f"{what:<52} {value}\n")


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    start = time.process_time()
    yield
    seconds = time.process_time() - start
    say(what, f"{seconds:8.3f} s  {count / seconds:10,.0f}/s  {seconds / count * 1e6:7.2f} us each")


def rss_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def new_store() -> tuple[Store, MemoryLog]:
    store = Store(real_env())
    log = MemoryLog(store)
    store.attach(log)
    return store, log


class Nothing:
    """A state machine that does nothing: what the log itself costs."""

    def apply(self, index: int, entry: bytes) -> None:
        pass

    def snapshot(self) -> Iterator[bytes]:
        yield b""

    def restore(self, chunks: object) -> None:
        pass


async def commits() -> None:
    store, _ = new_store()
    env = real_env()
    configs = [
        Config(id=new_id(env.entropy), spec=ConfigSpec(name=f"c{i}", data=b"x" * 1024))
        for i in range(CONFIGS)
    ]

    async def client(number: int) -> None:
        for config in configs[number::CLIENTS]:
            await store.commit([Create(obj=config)])

    async def bare(log: MemoryLog) -> None:
        for _ in range(CONFIGS // CLIENTS):
            await log.propose(b"", 1)

    with timed(f"commit of one config, {CLIENTS} clients", CONFIGS):
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(number))
    log = MemoryLog(Nothing())
    with timed("  of which the log in memory", CONFIGS):
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(bare(log))


async def many_tasks(tasks: int, nodes: int) -> None:
    entropy = real_env().entropy
    store, log = new_store()
    node_ids = [new_id(entropy) for _ in range(nodes)]
    service_ids = [new_id(entropy) for _ in range(SERVICES)]
    await store.batch(
        Create(obj=Node(id=i, spec=NodeSpec(), description=NodeDescription(hostname=f"h{i}")))
        for i in node_ids
    )
    await store.batch(Create(obj=Service(id=i, name=f"s{i}")) for i in service_ids)
    task_ids = [new_id(entropy) for _ in range(tasks)]
    gc.collect()
    before_kb = rss_kb()
    pending = TaskStatus(state=64, at_ms=1_700_000_000_000, message="pending task scheduling")
    with timed(f"create {tasks:,} tasks through the log", tasks):
        await store.batch(
            Create(obj=Task(id=i, service_id=service_ids[n % SERVICES], slot=n, status=pending))
            for n, i in enumerate(task_ids)
        )
    with timed("assign them to nodes", tasks):
        await store.batch(Assign(id=i, node_id=node_ids[n % nodes]) for n, i in enumerate(task_ids))
    for state in (TaskState.STARTING, TaskState.RUNNING):
        statuses = (
            SetStatus(
                id=i,
                status=TaskStatus(
                    state=state,
                    at_ms=1_700_000_000_000 + n,
                    message="started",
                    container_id=i + i,
                    pid=n,
                ),
            )
            for n, i in enumerate(task_ids)
        )
        with timed(f"statuses: {state.name}", tasks):
            await store.batch(statuses)
    log_b = sum(map(len, log.entries))
    say("entries, bytes of log", f"{len(log.entries)}, {log_b:,}")
    gc.collect()
    grown_b = (rss_kb() - before_kb) * 1024 - log_b
    say("memory a task, running", f"{grown_b / tasks:,.0f} B (RSS grown, without the log)")
    with timed("apply all of it again, on another member", 4 * tasks):
        replayed = Store(real_env())
        log.replay(replayed)
    del replayed
    log.entries.clear()
    history(store)
    snapshots(store, tasks)
    history(store)


def history(store: Store) -> None:
    kept = store.history
    say("history: events, bytes, an event", f"{len(kept):,}, {kept.size_b():,}, "
        f"{kept.size_b() / len(kept):.0f} B")  # fmt: skip
    with timed("history: read all of it", len(kept)):
        count = sum(len(one.messages) + len(one.tasks) for one in kept.read(with_tasks=True))
    assert count == len(kept)


def snapshots(store: Store, tasks: int) -> None:
    with timed("snapshot: encode, the history not packed yet", tasks):
        for _ in store.snapshot():
            pass
    say("history: bytes once packed", f"{store.history.size_b():,}")
    worst_s, start = 0.0, time.perf_counter()
    chunks = []
    with timed("snapshot: encode", tasks):
        for chunk in store.snapshot():
            now = time.perf_counter()
            worst_s, start = max(worst_s, now - start), now
            chunks.append(chunk)
    say("snapshot: bytes, worst chunk", f"{sum(map(len, chunks)):,}, {worst_s * 1e3:.1f} ms")
    copy = Store(real_env())
    with timed("snapshot: decode and index", tasks):
        copy.restore(iter(chunks))
    assert list(copy.snapshot()) == chunks
    start = time.perf_counter()
    gc.collect()
    say("full gc", f"{(time.perf_counter() - start) * 1e3:.1f} ms")


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    nodes = int(sys.argv[2]) if len(sys.argv) > 2 else 5_000
    asyncio.run(many_tasks(tasks, nodes))
    asyncio.run(commits())


if __name__ == "__main__":
    main()
