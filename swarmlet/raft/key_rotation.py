"""Everything on disk under another key, and nothing left under the old one."""

import asyncio
import logging
from functools import partial

from swarmlet.env.sealed import SealKey
from swarmlet.raft.compaction import Compaction
from swarmlet.raft.driver import Driver

log = logging.getLogger("swarmlet.raft")


class KeyRotation:
    """First the journal, between two rounds, then the snapshot. A crash anywhere in between leaves
    files of which each names its own key."""

    def __init__(self, driver: Driver, compaction: Compaction) -> None:
        self._driver, self._compaction = driver, compaction
        self._turn = asyncio.Lock()

    async def to(self, new: SealKey) -> None:
        """See RaftEngine.rotate_key."""
        driver = self._driver
        async with self._turn:
            if await driver.env.blocking(partial(driver.files.is_current, new)):
                return
            await driver.alone(partial(self._rewrite, new))
            async with self._compaction.lock:
                try:
                    await driver.env.blocking(driver.files.reseal)
                except OSError as error:
                    raise driver.broken("snapshot", error) from error
        log.info("raft.key_rotated", extra={"key_id": new.key_id.hex()})

    async def _rewrite(self, new: SealKey) -> None:
        driver = self._driver
        await driver.flush()
        driver.journal.rewrite()
        batch = driver.journal.take()
        assert batch is not None, "a rewrite is something to write"
        try:
            await driver.env.blocking(partial(driver.files.rewrite, new, batch))
        except OSError as error:
            raise driver.broken("journal", error) from error
