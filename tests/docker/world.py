"""A docker runtime at work on the engine of the tests, and what they look at it with."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from swarmlet.core.ids import TaskID
from swarmlet.env.real import real_env
from swarmlet.model.service import Limit, ResourceRequirements
from swarmlet.runtime.base import Started
from swarmlet.runtime.docker.create import ENGINE_LABEL
from swarmlet.runtime.docker.runtime import DockerRuntime
from swarmlet.wire.messages import AssignedTask, LogLine, LogOptions
from tests.daemon.harness import UnixConnection
from tests.docker.engine import IMAGE, VARIABLE
from tests.runtime.process_world import assigned

WHY_SKIPPED = f"{VARIABLE} names no Docker Engine (python -m tests.docker.engine COMMAND gives one)"
WAIT_S = 20.0


def host() -> str:
    return os.environ.get(VARIABLE, "")


def shell(
    task_id: str,
    script: str,
    *,
    ports: tuple[tuple[str, int, int], ...] = (),
    memory_b: int = 0,
    auth: str = "",
    name: str = "",
    **container: object,
) -> AssignedTask:
    """A task that runs `script`; `ports` are (protocol, target, published)."""
    limits = Limit(memory_bytes=memory_b) if memory_b else None
    task = assigned(
        task_id,
        *("/bin/sh", "-c", script),
        ports=ports,
        resources=ResourceRequirements(limits=limits),
        **{"image": IMAGE, **container},
    )
    return replace(task, task_name=name or f"web.1.{task_id}", registry_auth=auth)


def open_runtime(at: str, engine_id: str) -> DockerRuntime:
    return DockerRuntime(real_env(), host=at, engine_id=engine_id)


@contextlib.asynccontextmanager
async def at_work(runtime: DockerRuntime) -> AsyncIterator[DockerRuntime]:
    """`run` runs meanwhile."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(runtime.run())
        try:
            yield runtime
        finally:
            running.cancel()


async def begin(runtime: DockerRuntime, task: AssignedTask) -> Started:
    await runtime.prepare(task)
    return await runtime.start(task)


async def until(is_so: Callable[[], bool], wait_s: float = WAIT_S) -> None:
    for _ in range(int(wait_s / 0.02)):
        if is_so():
            return
        await asyncio.sleep(0.02)
    assert is_so(), f"not within {wait_s:g} s"


async def lines(runtime: DockerRuntime, task_id: str, **options: object) -> list[LogLine]:
    async with asyncio.timeout(WAIT_S):
        return [line async for line in runtime.logs(TaskID(task_id), LogOptions(**options))]


class Api:
    """The engine itself, past the runtime."""

    def __init__(self, at: str) -> None:
        self._path = at.removeprefix("unix://")

    def __call__(self, method: str, path: str, body: object = None) -> object:
        connection = UnixConnection(self._path)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, f"{method} {path}: {answer.status} {text.decode()}"
        return json.loads(text) if text[:1] in (b"[", b"{") else {}

    def containers(self, engine_id: str) -> list[dict]:
        label = f'{{"label":["{ENGINE_LABEL}={engine_id}"]}}'
        return self("GET", f"/containers/json?all=1&filters={label}")
