"""The loop that drives the core: messages in, journal synced, tick, answers out.

A round makes durable what the journal took since the last one, then ticks: only what is durable
counts, and what came meanwhile goes into the next round together (natural group commit; waiting
longer to gather more makes it slower). A leader's new entries leave before its own sync; acks,
votes and answers leave after it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.errors import DamagedError, DiskFullError, SwarmError, UnavailableError
from swarmlet.core.ids import RaftID
from swarmlet.core.limits import (
    LOG_ENTRIES_FOR_SLOW_FOLLOWERS,
    SNAPSHOT_ENTRIES,
    SNAPSHOT_LOG_SIZE_B,
)
from swarmlet.env.base import Env
from swarmlet.raft.core import Core
from swarmlet.raft.hardening import RaftTiming
from swarmlet.raft.health import newest_of_majority
from swarmlet.raft.inbox import Inbox
from swarmlet.raft.journal import Batch, Journal
from swarmlet.raft.membership import Members
from swarmlet.raft.proposals import Proposals
from swarmlet.raft.recovery import MemberFiles
from swarmlet.raft.transport import Send
from swarmlet.store.proposer import Leadership, Member, StateMachine

log = logging.getLogger("swarmlet.raft")

SLACK_B: Final = 256 * 1024  # of the journal's room, kept for votes, frames and hints
FIRST_ROUNDS_MAX: Final = 4  # elect, sync, commit, apply: a group of one is ready after them
HURRY_S: Final = 5.0  # after the loss of a leader, the loop looks more often
HURRY_PERIOD_S: Final = 0.02
LAST_ANSWERS_S: Final = 1.0  # of a member that stops, for what was proposed to it


class RaftLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When the log is compacted, and what may wait. `tick_s` is for a group of one: it has no peers
    to hear from, and a proposal wakes it at once. `slow_follower_entries` stay behind a snapshot,
    so that a member slightly behind needs none."""

    snapshot_entries: int = SNAPSHOT_ENTRIES
    snapshot_log_size_b: int = SNAPSHOT_LOG_SIZE_B
    slow_follower_entries: int = LOG_ENTRIES_FOR_SLOW_FOLLOWERS
    proposals_max: int = 10_000
    proposals_size_max_b: int = 64 * 1024 * 1024
    tick_s: float = 0.25
    timing: RaftTiming = RaftTiming()


DEFAULTS: Final = RaftLimits()


class _Job(NamedTuple):
    """Work that needs the log to itself, between two rounds."""

    work: Callable[[], Awaitable[None]]
    done: asyncio.Future[None]


class Driver:
    """Owns the core, the journal and what is known of leadership. `begin`, `drive`, `end`."""

    journal: Journal
    core: Core

    def __init__(
        self,
        env: Env,
        files: MemberFiles,
        state_machine: StateMachine,
        me: Member,
        limits: RaftLimits,
    ) -> None:
        self.env, self.files, self.me, self.limits = env, files, me, limits
        self.proposals = Proposals(limits.proposals_max, limits.proposals_size_max_b)
        self.leadership = Leadership(term=0, leader=None, is_ready=False)
        self.timing, self.is_stopping, self.ended = limits.timing, False, asyncio.Event()
        self.on_round: Callable[[], None] = lambda: None
        self.on_full: Callable[[], bool] = lambda: False  # whether somebody else takes over
        self.contacts: tuple[Member, ...] = ()  # who let this member into the group
        self.problem: SwarmError | None = None  # ends the member at the next round
        self.lost_s = self.born_s = 0.0  # since when no leader is known; and this member
        self.durable = (0, 0)  # term and last index that are surely on disk
        self._state_machine = state_machine
        self._changed, self._wake = asyncio.Event(), asyncio.Event()
        self._unwritten: Batch | None = None
        self._written = (0, 0)  # what `durable` is once that batch is on disk
        self.inbox = Inbox(self.wake)
        self._jobs: deque[_Job] = deque()

    # What others ask

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def changed(self) -> asyncio.Event:
        """Set at the next change of leadership, or at the end."""
        return self._changed

    def members(self) -> Members:
        """The newest configuration, committed or not."""
        return self.journal.newest_members

    def is_single(self) -> bool:
        """Whether there is nobody else, not even a learner."""
        members = self.journal.newest_members.members
        return len(members) == 1 and members[0].raft_id == self.me.raft_id

    def has_other_voters(self) -> bool:
        return any(one != self.me.raft_id for one in self.members().voters())

    async def alone(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` between two rounds; what it raises is raised here. Raises UnavailableError
        where the member ends before. A caller that is cancelled takes along what has not begun,
        and goes when what has begun is over: it may own what `work` is about."""
        if self.is_stopping:
            raise _ending()
        job = _Job(work, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._wake.set()
        try:
            await asyncio.shield(job.done)
        except asyncio.CancelledError:
            if job in self._jobs:
                self._jobs.remove(job)
            else:
                await asyncio.wait((job.done,))
            raise

    # Life

    async def begin(self, send: Send, snapshot_index: int) -> None:
        """Replay the journal; a group of one then leads and is caught up, room permitting."""
        now_s = self.env.clock.mono_s()
        self.born_s = self.lost_s = now_s
        self.durable = (self.journal.term, self.journal.last_index)
        self.core = Core(
            self.env,
            self.journal,
            self.me.raft_id,
            send=send,
            apply=self._state_machine.apply,
            timing=self.timing,
        )
        self.inbox.core = self.core
        self.core.skip_to(max(1, snapshot_index))
        if self.members().voters() == (self.me.raft_id,):
            self.core.campaign()
        for _ in range(FIRST_ROUNDS_MAX):
            if self.leadership.is_ready or not await self._round():
                break

    async def drive(self) -> None:
        """Until it is stopping and all that was taken in is answered. Raises `problem`."""
        while not self.is_stopping:
            await self._wait()
            await self._round()
            await self._work()
            self.on_round()
            if self.problem is not None:
                raise self.problem
        until_s = self.env.clock.mono_s() + LAST_ANSWERS_S
        while self.proposals.size_b and self.leadership.is_ready:
            if not self.is_single():
                await self._wait()
            if not await self._round() or self.env.clock.mono_s() > until_s:
                break

    def end(self, cause: str) -> None:
        """Nobody waits for anything any more."""
        self.is_stopping = True
        self.ended.set()
        self.leadership = Leadership(term=self.leadership.term, leader=None, is_ready=False)
        self.proposals.fail_all(cause)
        while self._jobs:
            done = self._jobs.popleft().done
            if not done.done():
                done.set_exception(_ending())
        self._notify()

    # Rounds

    async def _wait(self) -> None:
        """Return when there is something to do, or a tick has passed."""
        if not self.journal.is_dirty or self._unwritten is not None:
            timer = asyncio.get_running_loop().call_later(self._pause_s(), self._wake.set)
            await self._wake.wait()
            timer.cancel()
        self._wake.clear()

    def _pause_s(self) -> float:
        if self.is_single():
            return self.limits.tick_s
        if self.leadership.leader is None or self._is_leader_gone():
            hurries = self.env.clock.mono_s() - self.lost_s < HURRY_S
            return HURRY_PERIOD_S if hurries else self.timing.heartbeat_period_s
        return self.timing.heartbeat_period_s

    def _is_leader_gone(self) -> bool:
        leader = self.leadership.leader
        if leader is None or leader == self.me.raft_id:
            return False
        return not self.core.progress(leader).is_connected

    async def _round(self) -> bool:
        """One step of all; False where the disk is full and nothing can move."""
        if self.proposals.wanted_b:
            await self._find_room()
        if self._unwritten is None:
            self.inbox.take_in()
        if not await self._make_durable():
            self._stuck()
            return False
        self.core.tick()
        self.core.replicate()
        self._announce()
        if self.is_single():
            return True
        if self.journal.is_dirty:
            self._wake.set()  # what became durable counts from the next tick on
            if not await self._make_durable():
                self._stuck()
                return False
        self.core.release()
        return True

    async def _make_durable(self) -> bool:
        batch = self._unwritten
        if batch is None:
            batch = self.journal.take()
            self._written = (self.journal.term, self.journal.last_index)
        if batch is None:
            return True
        try:
            await self.env.blocking(self.files.journal.writing(batch))
        except DiskFullError as error:
            if self._unwritten is None:
                log.warning("raft.disk_full", extra={"problem": error.message})
            self._unwritten = batch
            return False
        except OSError as error:
            raise self.broken("journal", error) from error
        self._unwritten, self.durable = None, self._written
        return True

    def _stuck(self) -> None:
        """Nothing of ours can become durable: who leads several makes way at once."""
        if self.core.is_leader and self.has_other_voters():
            self.core.step_down()
        self._announce()

    async def _find_room(self) -> None:
        size_b = self.proposals.wanted_b + SLACK_B
        try:
            await self.env.blocking(partial(self.files.journal.make_room, size_b))
        except DiskFullError as error:
            if not self.on_full():
                self.proposals.room_found(error)
        except OSError as error:
            raise self.broken("journal", error) from error
        else:
            self.proposals.room_found()

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            try:
                await job.work()
            except SwarmError as error:
                if not job.done.done():
                    job.done.set_exception(error)
            except BaseException:
                if not job.done.done():
                    job.done.set_exception(_ending())
                raise
            else:
                if not job.done.done():
                    job.done.set_result(None)

    async def flush(self) -> None:
        """For work between rounds: nothing of the journal waits to be written. Raises
        DiskFullError."""
        if not await self._make_durable():
            raise DiskFullError(
                "There is no room left on the disk for the log.",
                remedy="Free some space on that filesystem; the daemon goes on by itself.",
            )

    # Leadership

    def _announce(self) -> None:
        """Say who leads. Ready only when our term's first entry is durable, not just committed."""
        core, before = self.core, self.leadership
        term, leader = core.term, self._heard_leader()
        is_written = not self.journal.is_dirty and self._unwritten is None
        is_durable = (before.is_ready and before.term == term) or is_written
        is_ready = leader == self.me.raft_id and is_durable and core.is_caught_up()
        if before.is_ready and not (is_ready and before.term == term):
            self.proposals.fail_all("leadership was lost")
        if (term, leader, is_ready) == (before.term, before.leader, before.is_ready):
            return
        if leader is None and before.leader is not None:
            self.lost_s = self.led_until_s(before.leader)
        self.leadership = Leadership(term=term, leader=leader, is_ready=is_ready)
        self._notify()
        log.info("raft.leadership", extra={"term": term, "is_ready": is_ready})

    def _heard_leader(self) -> RaftID | None:
        """The leader, unless it fell silent: PySyncObj believes in one until it votes anew."""
        leader = self.core.leader
        if leader is None or self.core.is_leader:
            return leader
        if leader == self.me.raft_id:
            return None  # it was us
        silent_s = self.env.clock.mono_s() - self._led_s()
        return leader if silent_s <= self.timing.election_max_s else None

    def _led_s(self) -> float:
        """When somebody else was last heard leading: one that was deposed may talk on."""
        return max(self.born_s, self.core.leader_heard_s)

    def led_until_s(self, leader: RaftID) -> float:
        """When this leader was last known to lead a majority."""
        now_s, core = self.env.clock.mono_s(), self.core
        if leader != self.me.raft_id:
            return self._led_s()
        voters = self.members().voters()
        heard = [
            now_s if one == leader else core.progress(one).heard_s or self.born_s for one in voters
        ]
        return newest_of_majority(heard, len(voters)) if heard else now_s

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def broken(self, file: str, error: OSError) -> DamagedError:
        """What ends this member: it does not know any more what is on disk."""
        self.problem = DamagedError(
            f"{self.files.directory}/{file} cannot be written: {error}; what it holds is unknown.",
            remedy="Check the disk and the kernel's log, then start the daemon again.",
        )
        self._wake.set()
        return self.problem


def known_members(driver: Driver) -> Members:
    """Who is who: before there is a configuration, those who let this member in."""
    members = driver.members()
    return members if members.members else Members(members=driver.contacts)


def _ending() -> UnavailableError:
    return UnavailableError(
        "This manager is stopping.", remedy="Ask another manager, or try again in a moment."
    )
