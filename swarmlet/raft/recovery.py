"""From what lies on disk to a member that can go on, or a sentence why it cannot."""

from enum import Enum
from typing import NamedTuple

from swarmlet.core.errors import DamagedError
from swarmlet.env.base import Env
from swarmlet.env.frames import REMEDY
from swarmlet.env.sealed import SealedLog, SealKeys
from swarmlet.raft.journal import PURPOSE, Journal, JournalFile
from swarmlet.raft.membership import Members
from swarmlet.raft.snapshots import SnapshotFacts, SnapshotFile
from swarmlet.store.proposer import Member, StateMachine


class Origin(Enum):
    """How a member comes to its log."""

    FOUND = "found"  # an empty folder becomes a group of this member alone
    JOIN = "join"  # an empty folder becomes a learner that waits for its leader
    RESUME = "resume"  # goes on with what is there
    FORCE_NEW = "force-new"  # goes on with what is there, and all other members are removed


class MemberFiles:
    """The files of one member's folder."""

    def __init__(self, env: Env, directory: str, keys: SealKeys, me: Member) -> None:
        self._env, self.directory, self._me = env, directory, me
        self._log = SealedLog(
            env.disk, f"{directory}/journal", keys, purpose=PURPOSE, entropy=env.entropy
        )
        self.journal = JournalFile(self._log, me.raft_id)
        self.snapshot = SnapshotFile(env.disk, f"{directory}/snapshot", keys, env.entropy)

    async def recover(self, state_machine: StateMachine, origin: Origin) -> "Recovered":
        """Read everything, restore the state machine from the snapshot, check that all fits.

        What a first start made is found again by a second one. Raises DamagedError, DiskFullError.
        """
        facts = await self._restore(state_machine)
        if self._log.exists:
            journal = await self._env.blocking(self.journal.load)
        elif facts is None and origin in (Origin.FOUND, Origin.JOIN):
            journal = await self._env.blocking(self._create)
        else:
            raise self._unfit("the journal is missing")
        self._check(journal, facts)
        if facts is not None:
            journal.compact(facts.index)
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

    def _create(self) -> Journal:
        self._env.disk.make_dir(self.directory)
        return self.journal.create(Members(members=(self._me,)))

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

    def _unfit(self, what: str) -> DamagedError:
        return DamagedError(f"{self.directory} cannot be trusted: {what}.", remedy=REMEDY)


class Recovered(NamedTuple):
    """`snapshot_index` is 0 where there is no snapshot."""

    journal: Journal
    snapshot_index: int
