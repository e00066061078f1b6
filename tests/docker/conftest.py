"""A runtime on the engine of the tests. No test leaves a container behind."""

import os

import pytest

from tests.docker.world import WHY_SKIPPED, Api, at_work, host, open_runtime


@pytest.fixture
def engine() -> Api:
    """The engine itself."""
    if not host():
        pytest.skip(WHY_SKIPPED)
    return Api(host())


@pytest.fixture
def engine_id() -> str:
    return f"test-{os.getpid()}-{os.urandom(4).hex()}"


@pytest.fixture
async def runtime(engine, engine_id):
    async with at_work(open_runtime(host(), engine_id)) as runtime:
        yield runtime
        for task in await runtime.list_tasks():
            await runtime.remove(task.task_id)
        assert engine.containers(engine_id) == []
