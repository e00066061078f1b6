"""Linearizable reads at any member: read index (Raft §6.4)."""

import asyncio
from typing import Final

from swarmlet.core.errors import UnavailableError
from swarmlet.raft.driver import Driver
from swarmlet.raft.group_view import GroupView
from swarmlet.raft.proposals import not_leader

READ_TIMEOUT_S: Final = 5.0  # a majority answers in milliseconds, or a new leader is found
RETRY_S: Final = 0.01  # after a round that a change of leaders ended


class Reads:
    """Each waits for a round of its own time or a later one; many share one."""

    def __init__(self, driver: Driver, view: GroupView) -> None:
        self._driver, self._view = driver, view
        self._open: dict[asyncio.Future[int | None], None] = {}
        self._applying: list[tuple[int, asyncio.Future[None]]] = []

    def look(self) -> None:
        """After each round: whose entry is applied now."""
        if self._applying:
            applied = self._driver.core.applied_index
            for index, done in self._applying:
                if index <= applied and not done.done():
                    done.set_result(None)
            self._applying = [one for one in self._applying if not one[1].done()]

    def end(self) -> None:
        """The member ends: nobody confirms anything any more."""
        for done in self._open:
            if not done.done():
                done.set_result(None)
        for _, applied in self._applying:
            if not applied.done():
                applied.set_exception(not_leader())

    async def barrier(self) -> int:
        """See RaftLog.read_barrier."""
        driver = self._driver
        if driver.is_single():
            await self._view.ready()
            return driver.core.applied_index
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await self._confirmed()
        except TimeoutError as error:
            raise UnavailableError(
                f"No majority of the managers confirmed within {READ_TIMEOUT_S:g} s that the "
                "state held here is the newest.",
                remedy="Try again in a moment; `swarmlet node ls` shows which managers answer.",
            ) from error

    async def _confirmed(self) -> int:
        driver = self._driver
        while True:
            await self._view.leader()
            index = await self._round()
            if index is not None:
                await self._applied(index)
                return driver.core.applied_index
            await asyncio.sleep(RETRY_S)

    async def _round(self) -> int | None:
        done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def answer(index: int | None) -> None:
            if not done.done():
                done.set_result(index)

        self._open[done] = None
        try:
            self._driver.core.begin_read(answer)
            self._driver.wake()
            return await done
        finally:
            del self._open[done]

    async def _applied(self, index: int) -> None:
        if self._driver.core.applied_index < index:
            done = asyncio.get_running_loop().create_future()
            self._applying.append((index, done))
            await done
