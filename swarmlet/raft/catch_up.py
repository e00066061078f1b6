"""Members that are behind the log: snapshots sent to them, and taken in from a leader."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError, ForbiddenError, SwarmError
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.raft.background import Background
from swarmlet.raft.compaction import Compaction
from swarmlet.raft.driver import Driver, known_members
from swarmlet.raft.peers import Peers
from swarmlet.raft.recovery import adopt, stored
from swarmlet.raft.snapshots import SnapshotFacts, decode_facts, encode_facts
from swarmlet.store.proposer import StateMachine
from swarmlet.wire.node_api import SnapshotAnswer, SnapshotHead

log = logging.getLogger("swarmlet.raft")

RETRY_MIN_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
HOLD_S: Final = 60.0  # the log behind a snapshot is kept while it is sent, but no longer
CONTACTS_S: Final = 10.0  # what a new member gives those who let it in, before it believes others
AFTER_S: Final = 1.0  # until its answers to heartbeats say where it stands


class Sender:
    """The leader's side: one snapshot a member at a time, from the file on disk."""

    def __init__(self, driver: Driver, compaction: Compaction, peers: Peers) -> None:
        self._driver, self._compaction, self._peers = driver, compaction, peers
        self._busy: set[RaftID] = set()
        self._not_before_s: dict[RaftID, float] = {}
        self._pause_s: dict[RaftID, float] = {}

    def look(self, background: Background) -> None:
        """Begin to send where it is needed."""
        driver = self._driver
        if not driver.core.is_leader:
            self._not_before_s.clear()
            self._pause_s.clear()
            return
        for raft_id in driver.core.needs_snapshot():
            is_due = driver.env.clock.mono_s() >= self._not_before_s.get(raft_id, 0.0)
            if raft_id in self._busy or not is_due:
                continue
            if background.begin(partial(self._send, raft_id), name="send-snapshot"):
                self._busy.add(raft_id)

    async def _send(self, to: RaftID) -> None:
        driver, fields = self._driver, {"raft_id": f"{to:x}"}
        pause_s = self._pause_s.get(to, RETRY_MIN_S)
        self._pause_s[to] = min(2 * pause_s, RETRY_MAX_S)
        try:
            index = await self._sent(to)
        except SwarmError as problem:
            log.warning("raft.snapshot_not_sent", extra={**fields, "problem": problem.message})
        else:
            if index + 1 >= driver.journal.entries[0][1]:
                pause_s = AFTER_S
            log.info("raft.snapshot_sent", extra={**fields, "index": index})
        finally:
            self._not_before_s[to] = driver.env.clock.mono_s() + pause_s
            self._busy.discard(to)
            driver.wake()

    async def _sent(self, to: RaftID) -> int:
        driver = self._driver
        try:
            found = await driver.env.blocking(driver.files.snapshot.read)
        except OSError as error:
            raise driver.broken("snapshot", error) from error
        if found is None:
            return 0  # the first one is being written
        facts, chunks = found
        self._compaction.hold(to, facts.index, driver.env.clock.mono_s() + HOLD_S)
        head = SnapshotHead(
            sender=driver.me.raft_id,
            receiver=to,
            term=driver.core.term,
            facts=encode_facts(self._complete(facts)),
        )
        answer = await self._peers.send_snapshot(to, head, chunks)
        if answer.index >= facts.index:
            self._pause_s.pop(to, None)
            self._compaction.hold(to, facts.index, driver.env.clock.mono_s() + 2 * AFTER_S)
        return answer.index

    def _complete(self, facts: SnapshotFacts) -> SnapshotFacts:
        """As another member takes it. Files of earlier versions lack the entries."""
        entries = facts.entries or self._driver.journal.last_two(facts.index)
        return msgspec.structs.replace(facts, entries=entries, is_received=False)


class Receiver:
    """The side of a member that is behind."""

    def __init__(self, driver: Driver, compaction: Compaction, state_machine: StateMachine) -> None:
        self._driver, self._compaction, self._state_machine = driver, compaction, state_machine
        self._turn = asyncio.Lock()

    async def take(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer_node_id: NodeID
    ) -> SnapshotAnswer:
        """See RaftEngine.take_snapshot."""
        driver = self._driver
        self._check_sender(head, peer_node_id)
        facts = _facts(head)
        async with self._turn:
            if self._is_wanted(head, facts):
                await self._gather(facts, chunks)
                if self._is_wanted(head, facts):
                    await driver.alone(partial(self._install, facts))
        return SnapshotAnswer(index=driver.journal.last_index)

    async def _gather(self, facts: SnapshotFacts, chunks: AsyncIterator[bytes]) -> None:
        driver = self._driver
        try:
            await driver.files.snapshot.gather(stored(facts), chunks, driver.env.blocking)
        except OSError as error:
            raise driver.broken("snapshot.received", error) from error

    async def _install(self, facts: SnapshotFacts) -> None:
        """Between two rounds. Only when all of it is verified and restored, the files change: first
        the snapshot, then the journal, which a restart in between does over."""
        driver = self._driver
        if facts.index <= driver.core.commit_index:
            return
        await driver.flush()
        async with self._compaction.lock:
            gathered = await driver.env.blocking(driver.files.snapshot.gathered)
            if gathered is None:
                return  # a new key ended it
            chunks = iter(gathered[1])
            self._state_machine.restore(chunks)
            try:
                await driver.env.blocking(driver.files.snapshot.install)
            except OSError as error:
                raise driver.broken("snapshot", error) from error
            adopt(driver.journal, facts)
            driver.core.installed(facts.index, facts.term)
            self._compaction.index = facts.index
        await driver.flush()
        log.info("raft.snapshot_installed", extra={"index": facts.index})

    def _is_wanted(self, head: SnapshotHead, facts: SnapshotFacts) -> bool:
        core = self._driver.core
        is_led = core.leader in (None, head.sender)  # whoever leads is heard before its snapshot
        return is_led and head.term >= core.term and facts.index > core.commit_index

    def _check_sender(self, head: SnapshotHead, peer_node_id: NodeID) -> None:
        """Raises ForbiddenError. A member we do not know yet is believed: we may be behind. One
        that knows nothing waits for those who let it in: whoever comes first makes its state."""
        driver = self._driver
        members = known_members(driver)
        sender = members.member(RaftID(head.sender))
        if head.receiver != driver.me.raft_id:
            raise ForbiddenError(
                f"The snapshot is for member {head.receiver:x}; here is {driver.me.raft_id:x}."
            )
        if head.sender in members.removed or (
            sender is not None and sender.node_id != peer_node_id
        ):
            raise ForbiddenError(f"Node {peer_node_id} is not member {head.sender:x}.")
        is_new = bool(driver.contacts) and not driver.members().members
        age_s = driver.env.clock.mono_s() - driver.born_s
        if is_new and sender is None and age_s < CONTACTS_S:
            raise ForbiddenError(f"Member {head.sender:x} is none that let this one in.")


def _facts(head: SnapshotHead) -> SnapshotFacts:
    """Raises DamagedError."""
    try:
        facts = decode_facts(head.facts)
    except msgspec.DecodeError as error:
        raise DamagedError(f"The snapshot's head cannot be read: {error}.") from error
    ends = [(index, term) for _, index, term in facts.entries]
    if len(ends) != 2 or ends[-1] != (facts.index, facts.term) or ends[0][0] != facts.index - 1:
        raise DamagedError(f"The snapshot's last entries are not those before {facts.index}.")
    return facts
