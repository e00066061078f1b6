"""One member of the group, driven by one loop: messages in, journal synced, tick, answers out.

A round makes durable what the journal took since the last one, then ticks: only what is durable
counts, and what came meanwhile goes into the next round together (natural group commit; waiting
longer to gather more makes it slower).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from swarmlet.core.errors import DamagedError, DiskFullError, InvalidArgumentError, UnsupportedError
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.core.limits import SNAPSHOT_ENTRIES, SNAPSHOT_LOG_SIZE_B
from swarmlet.env.base import Env
from swarmlet.env.sealed import SealKey, SealKeys
from swarmlet.raft.core import Core
from swarmlet.raft.hardening import COMMAND_SIZE_MAX_B, RaftTiming
from swarmlet.raft.journal import Batch, Journal
from swarmlet.raft.proposals import Proposals, not_leader
from swarmlet.raft.recovery import MemberFiles
from swarmlet.raft.recovery import Origin as Origin
from swarmlet.raft.snapshots import SnapshotFacts
from swarmlet.store.proposer import (
    GroupHealth,
    Leadership,
    Member,
    MemberChange,
    MemberHealth,
    StateMachine,
)
from swarmlet.wire.channel import RaftChannel
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead

if TYPE_CHECKING:
    from swarmlet.raft.peers import Dialer

log = logging.getLogger("swarmlet.raft")

SLACK_B: Final = 256 * 1024  # of the journal's room, kept for votes, frames and hints
FIRST_ROUNDS_MAX: Final = (
    4  # elect, sync, commit, apply: a group of one is ready when `start` returns
)
SNAPSHOT_RETRY_S: Final = 10.0  # after one that found no room


class RaftLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When the log is compacted, and what may wait. `tick_s` is for a group of one: it has no peers
    to hear from, and a proposal wakes it at once."""

    snapshot_entries: int = SNAPSHOT_ENTRIES
    snapshot_log_size_b: int = SNAPSHOT_LOG_SIZE_B
    proposals_max: int = 10_000
    proposals_size_max_b: int = 64 * 1024 * 1024
    tick_s: float = 0.25
    timing: RaftTiming = RaftTiming()


DEFAULTS: Final = RaftLimits()


class RaftEngine:
    """Implements store.proposer.RaftLog. `start`, then `run` in a task group, then `stop`."""

    def __init__(  # noqa: PLR0913 - the composition root's one call
        self,
        env: Env,
        directory: str,
        keys: SealKeys,
        state_machine: StateMachine,
        me: Member,
        limits: RaftLimits = DEFAULTS,
        dialer: "Dialer | None" = None,
    ) -> None:
        self._env, self._state_machine, self._me, self._limits = env, state_machine, me, limits
        self._files = MemberFiles(env, directory, keys, me)
        self._proposals = Proposals(limits.proposals_max, limits.proposals_size_max_b)
        self._leadership = Leadership(term=0, leader=None, is_ready=False)
        self._changed, self._wake, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._unwritten: Batch | None = None
        self._is_running = self._is_stopping = False
        self._snapshot_task: asyncio.Task[None] | None = None
        self._snapshot_index, self._snapshot_not_before_s = 0, 0.0

    _journal: Journal
    _core: Core

    # RaftLog

    async def propose(self, entry: bytes, proposal_id: int) -> int:
        """See RaftLog. The entry itself carries the `proposal_id`; the log makes no use of it."""
        if len(entry) > COMMAND_SIZE_MAX_B:
            raise InvalidArgumentError(
                f"The change has {len(entry)} bytes; {COMMAND_SIZE_MAX_B} fit into one entry.",
                remedy="Make the change in several smaller ones.",
            )
        while True:
            if not self._leadership.is_ready or self._is_stopping:
                raise not_leader()
            size_b = self._proposals.check(entry)
            if self._files.journal.free_b - SLACK_B >= self._proposals.size_b + size_b:
                break
            room = self._proposals.wait_for_room(size_b)
            self._wake.set()
            await room
        future, answer = self._proposals.open(size_b)
        self._core.propose(entry, answer)
        self._wake.set()
        return await future

    async def read_barrier(self) -> int:
        """In a group of one, the leader's own state is the newest there is."""
        if not self._leadership.is_ready:
            raise not_leader()
        return self._core.applied_index

    async def leadership(self) -> AsyncIterator[Leadership]:
        """See RaftLog. A slow reader sees the newest; a change back and forth shows by its term."""
        seen: Leadership | None = None
        while True:
            changed = self._changed
            if self._leadership != seen:
                seen = self._leadership
                yield seen
            elif self._ended.is_set():
                return
            else:
                await changed.wait()

    def members(self) -> tuple[Member, ...]:
        return self._journal.newest_members.members

    async def change_members(self, change: MemberChange) -> None:
        raise UnsupportedError(
            "This version of swarmlet has one manager; managers cannot be added or removed.",
            remedy="Run more workers; several managers come with a later version.",
        )

    async def transfer(self, to: RaftID | None = None) -> None:
        raise UnsupportedError(
            "This version of swarmlet has one manager; there is nobody to hand leadership to."
        )

    def health(self) -> GroupHealth:
        """See RaftLog."""
        members = tuple(MemberHealth(member=one, answers=True) for one in self.members())
        return GroupHealth(
            leader=self._leadership.leader,
            members=members,
            quorum=len(self._journal.newest_members.voters()) // 2 + 1,
            as_of_ms=self._env.clock.wall_ms(),
        )

    # What other members call

    async def serve_peer(self, channel: RaftChannel) -> None:
        """Talk with the member at the other end, until the connection ends."""
        raise UnsupportedError("This version of swarmlet has one manager.")

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer_node_id: NodeID
    ) -> SnapshotAnswer:
        """Replace the state by what the leader sends, where it is newer.

        The answer says how far the log reaches then, whatever became of the snapshot. Raises
        DamagedError (it cannot be used; nothing changed), DiskFullError, ForbiddenError (not from
        a member).
        """
        raise UnsupportedError("This version of swarmlet has one manager.")

    async def rotate_key(self, new: SealKey) -> None:
        """Seal everything by `new`; returns once nothing on disk is sealed by another key.

        Until then a restart needs both: the new one as `current`, the one before as `older`. May
        be repeated. Raises DiskFullError.
        """
        raise UnsupportedError("Keys cannot be changed yet.")

    # Life

    @property
    def applied_index(self) -> int:
        """The last entry that the state machine has seen."""
        return self._core.applied_index

    async def start(self, origin: Origin) -> None:
        """Load snapshot and journal and replay them; a group of one then leads and is caught up.

        Raises DamagedError: also where nothing is there although there must be. On a full disk it
        returns, and leads as soon as there is room.
        """
        recovered = await self._files.recover(self._state_machine, origin)
        self._journal, self._snapshot_index = recovered.journal, recovered.snapshot_index
        self._core = Core(
            self._env,
            self._journal,
            self._me.raft_id,
            send=_nobody,
            apply=self._state_machine.apply,
            timing=self._limits.timing,
        )
        self._core.skip_to(max(1, recovered.snapshot_index))
        if self._is_alone():
            self._core.campaign()
        for _ in range(FIRST_ROUNDS_MAX):
            if self._leadership.is_ready or not await self._round():
                break
        log.info(
            "raft.started",
            extra={"term": self._leadership.term, "index": self._core.applied_index},
        )

    async def run(self) -> None:
        """Until `stop` or an error; ends waiting callers with OutcomeUnknownError either way.

        Raises DamagedError where the disk fails, and whatever the state machine raised.
        """
        self._is_running, cause = True, "the manager stopped"
        try:
            async with asyncio.TaskGroup() as group:
                await self._drive(group)
                if self._snapshot_task is not None:
                    self._snapshot_task.cancel()
        except BaseExceptionGroup as errors:
            cause = "the manager failed"
            raise errors.exceptions[0] from errors
        finally:
            self._end(cause)
            await self._env.blocking(self._files.journal.close)

    async def stop(self) -> None:
        """Make durable what was taken in, answer it, and end."""
        self._is_stopping = True
        self._wake.set()
        if self._is_running:
            await self._ended.wait()
        else:
            self._end("the manager stopped")
            await self._env.blocking(self._files.journal.close)

    # The loop

    async def _drive(self, group: asyncio.TaskGroup) -> None:
        while not self._is_stopping:
            await self._wait()
            await self._round()
            self._maybe_snapshot(group)
        while self._proposals.size_b and await self._round():
            pass

    async def _wait(self) -> None:
        """Return when there is something to do, or a tick has passed."""
        if not self._journal.is_dirty or self._unwritten is not None:
            timing = self._limits.timing
            pause_s = self._limits.tick_s if self._is_alone() else timing.heartbeat_period_s
            timer = asyncio.get_running_loop().call_later(pause_s, self._wake.set)
            await self._wake.wait()
            timer.cancel()
        self._wake.clear()

    async def _round(self) -> bool:
        """Make durable, then tick; False where the disk is full and nothing can move."""
        if self._proposals.wanted_b:
            await self._find_room()
        if not await self._make_durable():
            return False
        self._core.tick()
        self._announce()
        return True

    async def _make_durable(self) -> bool:
        batch = self._unwritten or self._journal.take()
        if batch is None:
            return True
        try:
            await self._env.blocking(partial(self._files.journal.write, batch))
        except DiskFullError as error:
            if self._unwritten is None:
                log.warning("raft.disk_full", extra={"problem": error.message})
            self._unwritten = batch
            return False
        except OSError as error:
            raise self._broken("journal", error) from error
        self._unwritten = None
        return True

    async def _find_room(self) -> None:
        size_b = self._proposals.wanted_b + SLACK_B
        try:
            await self._env.blocking(partial(self._files.journal.make_room, size_b))
        except DiskFullError as error:
            self._proposals.room_found(error)
        except OSError as error:
            raise self._broken("journal", error) from error
        else:
            self._proposals.room_found()

    def _announce(self) -> None:
        """Say who leads. Ready only when our term's first entry is durable, not just committed."""
        core, before = self._core, self._leadership
        term = core.raftCurrentTerm
        is_durable = (before.is_ready and before.term == term) or not self._journal.is_dirty
        now = Leadership(
            term=term,
            leader=core.leader,
            is_ready=is_durable and core.is_caught_up(),
        )
        if before.is_ready and not now.is_ready:
            self._proposals.fail_all("leadership was lost")
        if now != before:
            self._leadership = now
            self._notify()
            log.info("raft.leadership", extra={"term": now.term, "is_ready": now.is_ready})

    def _end(self, cause: str) -> None:
        self._is_stopping = True
        self._ended.set()
        self._leadership = Leadership(term=self._leadership.term, leader=None, is_ready=False)
        self._proposals.fail_all(cause)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _is_alone(self) -> bool:
        return self._journal.newest_members.voters() == (self._me.raft_id,)

    def _broken(self, file: str, error: OSError) -> DamagedError:
        return DamagedError(
            f"{self._files.directory}/{file} cannot be written: {error}; what it holds is unknown.",
            remedy="Check the disk and the kernel's log, then start the daemon again.",
        )

    # Snapshots

    def _maybe_snapshot(self, group: asyncio.TaskGroup) -> None:
        limits, is_busy = self._limits, self._snapshot_task is not None
        if is_busy or self._core.is_leader != self._leadership.is_ready:
            return  # what is applied may not be durable before we are ready
        entries = self._core.applied_index - self._snapshot_index
        is_due = entries >= limits.snapshot_entries or (
            entries > 0 and self._journal.size_b >= limits.snapshot_log_size_b
        )
        if is_due and self._env.clock.mono_s() >= self._snapshot_not_before_s:
            index = self._core.applied_index
            facts = SnapshotFacts(
                index=index,
                term=self._journal.term_at(index) or 0,
                members=self._journal.members(as_of=index),
            )
            chunks = _begun(self._state_machine.snapshot())
            self._snapshot_task = group.create_task(self._snapshot(facts, chunks), name="snapshot")

    async def _snapshot(self, facts: SnapshotFacts, chunks: Iterator[bytes]) -> None:
        try:
            size_b = await self._files.snapshot.write(facts, chunks, self._env.blocking)
        except DiskFullError as error:
            self._snapshot_not_before_s = self._env.clock.mono_s() + SNAPSHOT_RETRY_S
            log.warning("raft.snapshot_disk_full", extra={"problem": error.message})
        except OSError as error:
            raise self._broken("snapshot", error) from error
        else:
            self._snapshot_index = facts.index
            self._journal.compact(facts.index)
            log.info("raft.snapshot", extra={"index": facts.index, "size_b": size_b})
        finally:
            self._snapshot_task = None
            self._wake.set()


def _nobody(to: RaftID, epoch: int, frame: bytes) -> None:
    raise AssertionError(f"a frame to {to:x}, and this member is alone")


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, with the first one taken now: the view that they come from is held."""
    for first in chunks:
        return chain((first,), chunks)
    return chunks
