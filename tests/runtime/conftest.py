"""A process runtime in a folder of its own, cleaned of every task at the end."""

import pytest

from tests.runtime.process_world import open_runtime, until, zombies


@pytest.fixture
async def runtime(tmp_path):
    runtime = open_runtime(tmp_path)
    yield runtime
    for task in await runtime.list_tasks():
        await runtime.remove(task.task_id)
    await runtime.close()
    await until(lambda: zombies() == [])
