"""One member of the group: what the rest of the daemon sees of it.

The loop is `driver`; each thing that a caller waits for has a file of its own.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable

from swarmlet.core.errors import InvalidArgumentError, UnavailableError, first_of
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.env.base import Env
from swarmlet.env.sealed import SealKey, SealKeys
from swarmlet.raft.background import Background
from swarmlet.raft.catch_up import Receiver, Sender
from swarmlet.raft.compaction import Compaction
from swarmlet.raft.conversations import Conversations
from swarmlet.raft.driver import DEFAULTS as DEFAULTS
from swarmlet.raft.driver import SLACK_B, Driver
from swarmlet.raft.driver import RaftLimits as RaftLimits
from swarmlet.raft.group_view import GroupView
from swarmlet.raft.hardening import RaftTiming
from swarmlet.raft.key_rotation import KeyRotation
from swarmlet.raft.member_changes import MemberChanges
from swarmlet.raft.membership import Members
from swarmlet.raft.messages import COMMAND_SIZE_MAX_B
from swarmlet.raft.peers import Dialer, Peers
from swarmlet.raft.reads import Reads
from swarmlet.raft.recovery import MemberFiles
from swarmlet.raft.recovery import Origin as Origin
from swarmlet.raft.transfer import FullDisk, Transfer
from swarmlet.store.proposer import (
    GroupHealth,
    Leadership,
    Member,
    MemberChange,
    StateMachine,
)
from swarmlet.wire.channel import RaftChannel
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead

log = logging.getLogger("swarmlet.raft")


class RaftEngine:
    """Implements store.proposer.RaftLog. `start`, then `run` in a task group, then `stop`.

    `keys` seals what is on disk; without a `dialer` a member stays alone.
    """

    def __init__(  # noqa: PLR0913 - the composition root's one call
        self,
        env: Env,
        directory: str,
        keys: SealKeys,
        state_machine: StateMachine,
        me: Member,
        limits: RaftLimits = DEFAULTS,
        dialer: Dialer | None = None,
    ) -> None:
        self._env, self._state_machine, self._me = env, state_machine, me
        self._files = MemberFiles(env, directory, keys, me)
        self._driver = Driver(env, self._files, state_machine, me, limits)
        self._view = GroupView(self._driver)
        self._reads = Reads(self._driver, self._view)
        self._transfer = Transfer(self._driver, self._view)
        self._changes = MemberChanges(self._driver, self._view, self._transfer)
        self._compaction = Compaction(self._driver, state_machine)
        self._keys = KeyRotation(self._driver, self._compaction)
        self._receiver = Receiver(self._driver, self._compaction, state_machine)
        self._events = Conversations(self._driver, lambda raft_id: self._peers.live(raft_id))
        self._peers = Peers(env, me, dialer or _NoDialer(), self._events)
        self._sender = Sender(self._driver, self._compaction, self._peers)
        self._background = Background()
        self._full_disk = FullDisk(self._driver, self._transfer)
        self._wanted: Members | None = None  # what the peers were last told
        self._is_running = False

    # RaftLog

    async def propose(self, entry: bytes, proposal_id: int) -> int:
        """See RaftLog. The entry itself carries the `proposal_id`; the log makes no use of it."""
        if len(entry) > COMMAND_SIZE_MAX_B:
            raise InvalidArgumentError(
                f"The change has {len(entry)} bytes; {COMMAND_SIZE_MAX_B} fit into one entry.",
                remedy="Make the change in several smaller ones.",
            )
        driver = self._driver
        proposals = driver.proposals
        while True:
            if self._transfer.is_held:
                await self._transfer.released()
            if not driver.leadership.is_ready or driver.is_stopping:
                await self._view.ready()
                continue
            size_b = proposals.check(entry)
            if self._files.journal.free_b - SLACK_B >= proposals.size_b + size_b:
                break
            room = proposals.wait_for_room(size_b)
            driver.wake()
            await room
        future, answer = proposals.open(size_b)
        driver.core.propose(entry, answer)
        driver.wake()
        return await future

    async def read_barrier(self) -> int:
        """See RaftLog. In a group of one, the leader's own state is the newest there is."""
        return await self._reads.barrier()

    async def leadership(self) -> AsyncIterator[Leadership]:
        """See RaftLog. A slow reader sees the newest; a change back and forth shows by its term."""
        driver = self._driver
        seen: Leadership | None = None
        while True:
            changed = driver.changed()
            if driver.leadership != seen:
                seen = driver.leadership
                yield seen
            elif driver.ended.is_set():
                return
            else:
                await changed.wait()

    def leadership_now(self) -> Leadership:
        return self._driver.leadership

    def members(self) -> tuple[Member, ...]:
        return self._driver.members().members

    def health(self) -> GroupHealth:
        """See RaftLog."""
        return self._view.health()

    async def change_members(self, change: MemberChange) -> None:
        """See RaftLog."""
        await self._changes.make(change)

    async def transfer(self, to: RaftID | None = None) -> None:
        """See RaftLog."""
        await self._transfer.run(to)

    # What other members call

    async def serve_peer(self, channel: RaftChannel) -> None:
        """Talk with the member at the other end, until the connection ends. Raises
        UnavailableError where there is no room for it."""
        await self._peers.serve(channel)

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer_node_id: NodeID
    ) -> SnapshotAnswer:
        """Replace the state by what the leader sends, where it is newer.

        The answer says how far the log reaches then, whatever became of the snapshot. Raises
        DamagedError (it cannot be used; nothing changed), DiskFullError, ForbiddenError (not from
        a member), UnavailableError, and what ends `chunks`.
        """
        return await self._receiver.take(head, chunks, peer_node_id)

    # Life

    @property
    def applied_index(self) -> int:
        """The last entry that the state machine has seen."""
        return self._driver.core.applied_index

    async def rotate_key(self, new: SealKey) -> None:
        """Seal everything by `new`; returns once nothing on disk is sealed by another key.

        Until then a restart needs both: one as `current`, the other as `older`. May be repeated;
        does nothing where all is done. While `run` runs. Raises DiskFullError.
        """
        await self._keys.to(new)

    def set_timing(self, timing: RaftTiming) -> None:
        """From now on: the cluster's settings were changed."""
        self._driver.timing = timing
        self._driver.core.set_timing(timing)
        self._driver.wake()

    def call_members(self, hostname_of: Callable[[str], str]) -> None:
        """By node id, what people call a member, "" where that is not known."""
        self._view.hostname_of = hostname_of

    async def start(self, origin: Origin, contacts: tuple[Member, ...] = ()) -> None:
        """Load snapshot and journal and replay them; a group of one then leads and is caught up.

        `contacts` are dialled until a member that joins knows who belongs to its group. Raises
        DamagedError: also where nothing is there although there must be; FailedPreconditionError
        (FORCE_NEW of what is no member's). On a full disk it returns, and leads as soon as there
        is room.
        """
        recovered = await self._files.recover(self._state_machine, origin)
        driver = self._driver
        driver.journal, driver.contacts = recovered.journal, contacts
        self._events.begin()
        driver.on_full, driver.on_round = self._full_disk.look, self._look
        await driver.begin(self._send, recovered.snapshot_index)
        self._compaction.begun_at(recovered.snapshot_index)
        self._view.listen()
        if not self.members():
            self._peers.want(contacts)
        log.info(
            "raft.started",
            extra={"term": driver.leadership.term, "index": driver.core.applied_index},
        )

    async def run(self) -> None:
        """Until `stop` or an error; ends waiting callers with OutcomeUnknownError either way.

        Raises DamagedError where the disk fails, MemberRefusedError where the group has this member
        no more, and whatever the state machine raised.
        """
        self._is_running, cause = True, "the manager stopped"
        try:
            async with asyncio.TaskGroup() as group:
                beside = group.create_task(self._background.run(self._peers.run), name="raft-peers")
                await self._driver.drive()
                beside.cancel()
        except BaseExceptionGroup as errors:
            cause = "the manager failed"
            raise first_of(errors) from errors
        finally:
            self._end(cause)
            await self._env.blocking(self._files.journal.close)

    async def stop(self) -> None:
        """Let another lead, make durable what was taken in, answer it, and end."""
        if self._is_running:
            await self._transfer.tried()
        self._driver.is_stopping = True
        self._driver.wake()
        if self._is_running:
            await self._driver.ended.wait()
        else:
            self._end("the manager stopped")
            await self._env.blocking(self._files.journal.close)

    def _look(self) -> None:
        """After each round: what has to be begun."""
        members = self._driver.members()
        if members is not self._wanted:
            self._wanted = members
            self._view.listen()
            if members.members:
                self._peers.want(members.members)
        self._reads.look()
        self._compaction.look(self._background)
        self._events.look()
        if not self._driver.is_single():
            self._sender.look(self._background)
            self._full_disk.begin(self._background)

    def _send(self, to: RaftID, epoch: int, frame: bytes) -> None:
        self._peers.send(to, epoch, frame)  # one that is not taken ends its connection

    def _end(self, cause: str) -> None:
        self._driver.end(cause)
        self._reads.end()
        self._transfer.end()


class _NoDialer:
    """A member that stays alone."""

    async def open(self, addr: str) -> RaftChannel:
        raise UnavailableError(f"{addr} cannot be reached: this member has no way to others.")

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        raise UnavailableError(f"{addr} cannot be reached: this member has no way to others.")
