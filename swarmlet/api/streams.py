"""What all streams share: they end with their client and with the server."""

import asyncio
from collections.abc import Coroutine
from typing import Final

from swarmlet.api.call import Call

GONE_CHECK_PERIOD_S: Final = 0.5
"""How soon a stream ends after the client left it while nothing is written."""


async def while_read(call: Call, *works: Coroutine[object, object, None]) -> None:
    """Run `works` until the first of them is done, the client has left or the server stops."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(work) for work in (*works, _wait_until_gone(call))}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def _wait_until_gone(call: Call) -> None:
    while not call.context.stopping.is_set():
        transport = call.request.transport
        if transport is None or transport.is_closing():
            return
        try:
            async with asyncio.timeout(GONE_CHECK_PERIOD_S):
                await call.context.stopping.wait()
        except TimeoutError:
            continue
