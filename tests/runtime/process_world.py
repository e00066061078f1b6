"""Real tasks for the tests of the process runtime."""

import asyncio
import os
import time
from pathlib import Path

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.env.real import real_env
from swarmlet.model.base import Driver
from swarmlet.model.container import ContainerSpec
from swarmlet.model.service import ResourceRequirements, TaskSpec
from swarmlet.runtime.base import Exit, Started
from swarmlet.runtime.process.runtime import ProcessRuntime
from swarmlet.wire.messages import AssignedTask, LogLine, LogOptions

IS_ROOT = os.geteuid() == 0
MARK = f"9{os.getpid():07d}"  # seconds to sleep: how this run tells its processes from another's
OWN = f"t{MARK}"  # a task id that no other run has: what a lost task left is looked for by its id


def assigned(
    task_id: str,
    *command: str,
    ports: tuple[tuple[str, int, int], ...] = (),
    resources: ResourceRequirements | None = None,
    log_driver: Driver | None = None,
    **container,
) -> AssignedTask:
    """A task of image host; `ports` are (protocol, target, published)."""
    spec = ContainerSpec(**{"image": "host", "command": list(command), **container})
    return AssignedTask(
        id=TaskID(task_id),
        service_id=ServiceID("service"),
        service_name="web",
        service_labels={},
        slot=1,
        node_id=NodeID("node"),
        desired=512,
        spec=TaskSpec(container_spec=spec, resources=resources, log_driver=log_driver),
        ports=tuple(("", *port) for port in ports),
    )


def shell(task_id: str, script: str, **more) -> AssignedTask:
    return assigned(task_id, "/bin/sh", "-c", script, **more)


def open_runtime(folder: Path, **more) -> ProcessRuntime:
    return ProcessRuntime(real_env(), state_dir=str(folder / "tasks"), data_dir=str(folder), **more)


async def begin(runtime: ProcessRuntime, task: AssignedTask) -> Started:
    await runtime.prepare(task)
    return await runtime.start(task)


async def run(runtime: ProcessRuntime, task: AssignedTask) -> Exit:
    await begin(runtime, task)
    return await runtime.wait(task.id)


async def read(runtime: ProcessRuntime, task_id: str, **options) -> list[LogLine]:
    lines = runtime.logs(TaskID(task_id), LogOptions(**options))
    return [line async for line in lines]


async def output(runtime: ProcessRuntime, task_id: str) -> str:
    return b"".join(line.data for line in await read(runtime, task_id)).decode()


async def until(condition, timeout_s: float = 10.0):
    """The first true value of `condition()`; fails loudly after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never became true"
        await asyncio.sleep(0.01)
    return value


async def line_of(runtime: ProcessRuntime, task_id: str, timeout_s: float = 10.0) -> str:
    """The first line a running task writes."""
    async with asyncio.timeout(timeout_s):
        async for line in runtime.logs(TaskID(task_id), LogOptions(follow=True)):
            return line.data.decode().strip()
    raise AssertionError("it ended without a line")


def pid_of(folder: Path, task_id: str, name: str) -> int:
    return int((folder / "tasks" / task_id / f"{name}.pid").read_text().split()[0])


def is_alive(pid: int) -> bool:
    """Whether it runs: neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_with(mark: str) -> list[int]:
    """Pids of processes whose command line holds `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def zombies() -> list[int]:
    """Dead children of this process that nobody has buried."""
    me, found = str(os.getpid()), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and fields[1] == me:
            found.append(int(folder.name))
    return found
