"""From what lies on disk to a member that can go on, or a sentence why it cannot."""

from enum import Enum
from functools import partial
from typing import NamedTuple

import msgspec

from swarmlet.core.errors import DamagedError, FailedPreconditionError
from swarmlet.env.base import Env
from swarmlet.env.frames import REMEDY
from swarmlet.env.sealed import SealedLog, SealKey, SealKeys
from swarmlet.raft.journal import MEMBERSHIP, PURPOSE, Batch, Journal, JournalFile
from swarmlet.raft.membership import PROMOTE, REMOVE, Members, encode_change
from swarmlet.raft.snapshots import SnapshotFacts, SnapshotFile
from swarmlet.store.proposer import Member, MemberChange, StateMachine


class Origin(Enum):
    """How a member comes to its log."""

    FOUND = "found"  # an empty folder becomes a group of this member alone
    JOIN = "join"  # an empty folder becomes a learner that waits for its leader
    RESUME = "resume"  # goes on with what is there
    FORCE_NEW = "force-new"  # goes on with what is there, and all other members are removed


class Recovered(NamedTuple):
    """`snapshot_index` is 0 where there is no snapshot."""

    journal: Journal
    snapshot_index: int


class MemberFiles:
    """The files of one member's folder."""

    def __init__(self, env: Env, directory: str, keys: SealKeys, me: Member) -> None:
        self._env, self.directory, self._me, self._keys = env, directory, me, keys
        self._log = SealedLog(
            env.disk, f"{directory}/journal", keys, purpose=PURPOSE, entropy=env.entropy
        )
        self.journal = JournalFile(self._log, me.raft_id)
        self.snapshot = SnapshotFile(env.disk, f"{directory}/snapshot", keys, env.entropy)

    async def recover(self, state_machine: StateMachine, origin: Origin) -> Recovered:
        """Read everything, restore the state machine from the snapshot, check that all fits.

        What a first start made is found again by a second one. Raises DamagedError, DiskFullError,
        FailedPreconditionError (a group of this member alone cannot be made of what is there).
        """
        await self._env.blocking(self.snapshot.clean)
        facts = await self._restore(state_machine)
        if self._log.exists:
            journal = await self._env.blocking(self.journal.load)
        elif facts is None and origin in (Origin.FOUND, Origin.JOIN):
            members = () if origin is Origin.JOIN else (self._me,)
            journal = await self._env.blocking(partial(self._create, Members(members=members)))
        else:
            raise self._unfit("the journal is missing")
        if facts is not None and facts.is_received:
            adopt(journal, facts)
        self._check(journal, facts)
        if origin is Origin.FORCE_NEW:
            self._remove_others(journal)
        return Recovered(journal=journal, snapshot_index=facts.index if facts else 0)

    async def _restore(self, state_machine: StateMachine) -> SnapshotFacts | None:
        found = await self._env.blocking(self.snapshot.read)
        if found is None:
            return None
        facts, chunks = found
        state_machine.restore(chunks)
        for _ in chunks:
            raise self._unfit("the snapshot holds more than the state machine took")
        return facts

    def _create(self, members: Members) -> Journal:
        self._env.disk.make_dir(self.directory)
        return self.journal.create(members)

    def _check(self, journal: Journal, facts: SnapshotFacts | None) -> None:
        first = journal.entries[0][1] if journal.entries else 1
        last = journal.entries[-1][1] if journal.entries else 0
        if facts is None:
            if first > 1:
                raise self._unfit(
                    f"the journal begins at entry {first} and the snapshot is missing"
                )
        elif first >= facts.index:
            raise self._unfit(f"the snapshot ends at {facts.index}, the journal begins at {first}")
        elif last < facts.index:
            raise self._unfit(f"the journal ends at {last}, before the snapshot's {facts.index}")
        elif journal.term_at(facts.index) != facts.term:
            raise self._unfit(f"snapshot and journal hold different entries {facts.index}")

    def _remove_others(self, journal: Journal) -> None:
        """Append what makes the group this member alone, in a new term; nothing is dropped."""
        me = journal.newest_members.member(self._me.raft_id)
        if me is None:
            raise FailedPreconditionError(
                "This manager is no member of the swarm's log, so no new cluster can be made of "
                "its data: it was removed, or never received the state.",
                remedy="Run this at a manager that was a member.",
            )
        others = [one for one in journal.newest_members.members if one.raft_id != me.raft_id]
        changes = [MemberChange(verb=REMOVE, member=one) for one in others]
        if not me.is_voter:
            changes.insert(0, MemberChange(verb=PROMOTE, member=me))
        if not changes:
            return
        journal.setCurrentTerm(journal.term + 1, me.raft_id)
        for change in changes:
            index = journal.entries[-1][1] + 1
            journal.add(MEMBERSHIP + encode_change(change), index, journal.term)

    # Keys

    @property
    def keys(self) -> SealKeys:
        return self._keys

    def rewrite(self, new: SealKey, batch: Batch) -> None:
        """Seal the journal by `new`. Blocks; raises DiskFullError (then both keys are needed)."""
        known = (self._keys.current, *self._keys.older)
        older = tuple(key for key in known if key.key_id != new.key_id)
        self._keys = SealKeys(current=new, older=older)
        self._log.use(self._keys)
        self.snapshot.use(self._keys)
        self.journal.write_whole(batch)

    def reseal(self) -> None:
        """Seal the snapshot by the present key. Blocks; raises DiskFullError, DamagedError."""
        if not self.snapshot.is_current():
            self.snapshot.reseal()
        self._keys = SealKeys(current=self._keys.current)
        self._log.use(self._keys)
        self.snapshot.use(self._keys)

    def is_current(self, key: SealKey) -> bool:
        """Whether all on disk is sealed by this key. Blocks."""
        is_used = self._keys.current.key_id == key.key_id
        return is_used and self._log.is_current and self.snapshot.is_current()

    def _unfit(self, what: str) -> DamagedError:
        return DamagedError(f"{self.directory} cannot be trusted: {what}.", remedy=REMEDY)


def adopt(journal: Journal, facts: SnapshotFacts) -> None:
    """Let the journal go on behind a snapshot of another member: with what it holds behind it, if
    it holds the snapshot's last entry, else anew (Raft, figure 13)."""
    if journal.term_at(facts.index) != facts.term:
        journal.install(facts.members, facts.entries)


def stored(facts: SnapshotFacts) -> SnapshotFacts:
    """As it is written down where it was received."""
    return msgspec.structs.replace(facts, is_received=True)
