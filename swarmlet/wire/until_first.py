"""Works that end together: with the first of them, as a stream does with whoever leaves."""

import asyncio
from collections.abc import Coroutine


async def until_first(*works: Coroutine[object, object, object]) -> None:
    """Run all of these until one is done; the others are cancelled. Raises what they raise, as a
    task group does."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
