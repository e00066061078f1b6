"""PySyncObj 0.3.17, and all that is corrected in it. Nobody else imports it (docs/adr/0001).

Its election and commit rules are right and are used as they are. Replaced: its journal, snapshots,
transport, threads, clock, chance and pickle. Upgrading it means going through the names marked
`_SyncObj__` here and running the whole simulation.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, syncobj
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from swarmlet.core.ids import RaftID
from swarmlet.core.limits import ENTRY_SIZE_MAX_B
from swarmlet.env.base import Env
from swarmlet.raft.journal import REGULAR, Journal
from swarmlet.raft.transport import Transport

PINNED: Final = "0.3.17"
assert VERSION == PINNED, f"the hardening is for pysyncobj {PINNED}, and {VERSION} is installed"

COMMAND_SIZE_MAX_B: Final = ENTRY_SIZE_MAX_B + 16 * 1024  # one transaction and what wraps it
_BATCH_SIZE_B: Final = (
    4 * 1024 * 1024
)  # above the largest command: PySyncObj's own splitting is unsafe
_NEVER_S: Final = 1e9  # its own compaction stays off: ours is durable before anything is dropped
assert COMMAND_SIZE_MAX_B < _BATCH_SIZE_B

Applier = Callable[[int, bytes], None]
Answer = Callable[[int | None, int], None]
"""Called with the index and SUCCESS once applied, else with None and the reason."""

SUCCESS: Final[int] = FAIL_REASON.SUCCESS
NOT_LEADER: Final[int] = FAIL_REASON.NOT_LEADER
MISSING_LEADER: Final[int] = FAIL_REASON.MISSING_LEADER


class RaftTiming(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds. Source: Swarm's ElectionTick and HeartbeatTick at 100 ms a tick."""

    heartbeat_period_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0


class _World:
    """Stands in for PySyncObj's clock and its `random` module; set before each call into it."""

    env: Env

    def monotonic(self) -> float:
        return self.env.clock.mono_s()

    def random(self) -> float:
        return self.env.rng.random()


class _NoPickle:
    """Nothing is pickled: a pickle from a peer or a file runs any code it likes."""

    def refuse(self, *_: object) -> None:
        raise AssertionError("PySyncObj reached for pickle")

    loads = dumps = load = dump = refuse


_WORLD: Final = _World()
syncobj.monotonicTime = _WORLD.monotonic
syncobj.random = _WORLD
syncobj.pickle = _NoPickle()
syncobj.createJournal = lambda journal: journal  # the configuration carries ours as an object


class Core(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """The engine proper, without threads, files and sockets: it moves when `tick` is called.

    Before each tick the journal must be durable: an entry that is in it counts as stored here.
    An exception in `apply` leaves it in between and must stop the member.
    """

    def __init__(
        self,
        env: Env,
        journal: Journal,
        me: RaftID,
        *,
        transport: Transport,
        apply: Applier,
        timing: RaftTiming,
    ) -> None:
        self._env, self._journal, self._apply = env, journal, apply
        _WORLD.env = env
        others = [Node(raft_id) for raft_id in journal.newest_members.voters() if raft_id != me]
        super().__init__(
            Node(me), others, _conf(journal, timing), nodeClass=Node, transport=transport
        )
        self._SyncObj__needLoadDumpFile = False

    def tick(self) -> None:
        """Elect, commit, apply and answer, then take what was proposed into the journal."""
        _WORLD.env = self._env
        self.doTick(0.0)

    def propose(self, command: bytes, answer: Answer) -> None:
        """Queue for the next tick. Never forwarded: where another leads, `answer` says so."""
        self._applyCommand(REGULAR + command, answer)

    def skip_to(self, index: int) -> None:
        """The state machine already holds everything up to `index`."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self.raftCommitIndex, index)

    def campaign(self) -> None:
        """Stand for election at the next tick."""
        self._SyncObj__raftElectionDeadline = float("-inf")

    @property
    def is_leader(self) -> bool:
        return bool(self._isLeader())

    @property
    def leader(self) -> RaftID | None:
        node = self._getLeader()
        return None if node is None else RaftID(node.id)

    @property
    def applied_index(self) -> int:
        return int(self.raftLastApplied)

    def is_caught_up(self) -> bool:
        """Leader of this term with its whole log applied and an entry of the term committed."""
        term = self._journal.term_at(self.raftCommitIndex)
        is_current = self.is_leader and term == self.raftCurrentTerm
        return bool(is_current and self.raftLastApplied == self.raftCommitIndex)

    # Overridden inner methods

    def _SyncObj__connectedToAnyone(self) -> bool:
        """The only gate before an election: voters stand, learners and removed members never."""
        return self.selfNode.id in self._journal.newest_members.voters()

    def _SyncObj__doApplyCommand(self, command: bytes) -> int:
        index: int = self.raftLastApplied + 1
        if command[:1] == REGULAR:
            self._apply(index, command[1:])
        return index


def _conf(journal: Journal, timing: RaftTiming) -> Any:  # noqa: ANN401 - PySyncObj has no types
    return SyncObjConf(
        autoTick=False,
        journalFile=journal,
        useFork=False,
        dynamicMembershipChange=False,
        commandsWaitLeader=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=timing.heartbeat_period_s,
        appendEntriesBatchSizeBytes=_BATCH_SIZE_B,
        raftMinTimeout=timing.election_min_s,
        raftMaxTimeout=timing.election_max_s,
        leaderFallbackTimeout=timing.election_max_s,
        logCompactionMinEntries=1 << 60,
        logCompactionMinTime=_NEVER_S,
    )
