"""When a snapshot is written, and what the journal forgets then."""

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Final

from swarmlet.core.errors import DiskFullError, UnavailableError
from swarmlet.core.ids import RaftID
from swarmlet.raft.background import Background
from swarmlet.raft.driver import Driver
from swarmlet.raft.snapshots import SnapshotFacts
from swarmlet.store.proposer import StateMachine

log = logging.getLogger("swarmlet.raft")

SNAPSHOT_RETRY_S: Final = 10.0  # after one that found no room
HELD_LOGS_MAX: Final = 4  # times the bytes between snapshots, for members that are sent one
KEPT_SHARE: Final = 4  # of the log's bytes between snapshots, what stays for members behind


class Compaction:
    """Writes snapshots in the background. `lock` is held by whoever replaces the snapshot."""

    def __init__(self, driver: Driver, state_machine: StateMachine) -> None:
        self.lock, self.index = asyncio.Lock(), 0  # of the newest snapshot
        self._driver, self._state_machine = driver, state_machine
        self._not_before_s = 0.0
        self._is_busy = False
        self._held: dict[RaftID, tuple[int, float]] = {}  # from which entry on, until when

    def hold(self, raft_id: RaftID, index: int, until_s: float) -> None:
        """A member is sent the snapshot that ends at `index`, and will need what follows: a log
        that moved on meanwhile would make the next one necessary, and so on for ever."""
        self._held[raft_id] = (index, until_s)

    def begun_at(self, snapshot_index: int) -> None:
        """What the start found; a crash may have left entries that the snapshot holds."""
        self.index = snapshot_index
        if snapshot_index:
            self._forget(snapshot_index)

    def look(self, background: Background) -> None:
        """Begin a snapshot if one is due."""
        driver = self._driver
        if self._is_busy or self.lock.locked() or not self._is_due():
            return
        if driver.core.is_leader != driver.leadership.is_ready:
            return  # what is applied may not be durable before we are ready
        if driver.env.clock.mono_s() < self._not_before_s:
            return
        index, journal = driver.core.applied_index, driver.journal
        facts = SnapshotFacts(
            index=index,
            term=journal.term_at(index) or 0,
            members=journal.members(as_of=index),
            entries=journal.last_two(index),
        )
        chunks = _begun(self._state_machine.snapshot())
        self._is_busy = background.begin(partial(self._write, facts, chunks), name="snapshot")

    def _is_due(self) -> bool:
        limits, driver = self._driver.limits, self._driver
        entries = driver.core.applied_index - self.index
        if not self.index and driver.core.needs_snapshot():
            return entries > 1  # somebody joins a young group
        return entries >= limits.snapshot_entries or (
            entries > 1 and driver.journal.size_b >= limits.snapshot_log_size_b
        )

    async def _write(self, facts: SnapshotFacts, chunks: Iterator[bytes]) -> None:
        driver = self._driver
        try:
            async with self.lock:
                if facts.index <= self.index:
                    return  # one from another member came first
                size_b = await driver.files.snapshot.write(facts, chunks, driver.env.blocking)
                self.index = facts.index
                self._forget(facts.index)
            log.info("raft.snapshot", extra={"index": facts.index, "size_b": size_b})
        except DiskFullError as error:
            self._not_before_s = driver.env.clock.mono_s() + SNAPSHOT_RETRY_S
            log.warning("raft.snapshot_disk_full", extra={"problem": error.message})
        except UnavailableError as error:  # a new key: the next one is sealed by it
            log.info("raft.snapshot_dropped", extra={"problem": error.message})
        except OSError as error:
            raise driver.broken("snapshot", error) from error
        finally:
            self._is_busy = False
            driver.wake()

    def _forget(self, index: int) -> None:
        limits, now_s = self._driver.limits, self._driver.env.clock.mono_s()
        self._held = {to: held for to, held in self._held.items() if held[1] > now_s}
        if self._driver.journal.size_b < HELD_LOGS_MAX * limits.snapshot_log_size_b:
            index = min([index, *(held[0] for held in self._held.values())])
        self._driver.journal.compact(
            index,
            keep=limits.slow_follower_entries,
            keep_size_b=limits.snapshot_log_size_b // KEPT_SHARE,
        )


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, with the first one taken now: the view that they come from is held."""
    for first in chunks:
        return chain((first,), chunks)
    return chunks
