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
from swarmlet.raft.transport import NoPeers, Transport
from swarmlet.store.proposer import MemberChange

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
NOT_LEADER: Final[int] = FAIL_REASON.NOT_LEADER  # nothing was proposed
MISSING_LEADER: Final[int] = FAIL_REASON.MISSING_LEADER  # nothing was proposed
REQUEST_DENIED: Final[int] = FAIL_REASON.REQUEST_DENIED  # a change of members; nothing was proposed
LEADER_CHANGED: Final[int] = FAIL_REASON.LEADER_CHANGED  # the outcome is unknown

Send = Callable[[RaftID, int, bytes], None]
"""To whom, over the connection of which epoch, what. Never blocks."""

ReadAnswer = Callable[[int | None], None]
"""The index a linearizable read needs, or None where nobody can say any more."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a member. `heard_s`: monotonic time of its last message, to us or to the
    leader, None if there was none yet. `is_connected`: to us."""

    match_index: int = 0
    heard_s: float | None = None
    is_connected: bool = False


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
        send: Send | None = None,
        apply: Applier,
        timing: RaftTiming,
        transport: Transport | None = None,
    ) -> None:
        transport = transport or Transport(NoPeers())
        self._env, self._journal, self._apply = env, journal, apply
        _WORLD.env = env
        others = [Node(raft_id) for raft_id in journal.newest_members.voters() if raft_id != me]
        super().__init__(
            Node(me), others, _conf(journal, timing), nodeClass=Node, transport=transport
        )
        self._SyncObj__needLoadDumpFile = False

    def connected(self, raft_id: RaftID, epoch: int) -> None:
        """A connection to this member is open. A newer epoch replaces an older one."""
        raise NotImplementedError

    def disconnected(self, raft_id: RaftID, epoch: int) -> None:
        """It is closed; nothing where a newer one is open. What waited for it is dropped."""
        raise NotImplementedError

    def receive(self, raft_id: RaftID, epoch: int, frame: bytes) -> None:
        """Take a frame in. Raises ValueError on what no member sends: close the connection.

        Not between `journal.take()` and the `release` behind it (frames queue meanwhile): what is
        in the journal then would count as durable.
        """
        raise NotImplementedError

    def replicate(self) -> None:
        """Leader: send what is new. May overlap the own fsync. Others: nothing leaves."""

    def release(self) -> None:
        """The journal is durable: acks, votes and answers leave with all that waits."""

    def propose_change(self, change: MemberChange, answer: Answer) -> None:
        """Queue for the next tick. REQUEST_DENIED before the term's no-op is committed, while
        another change is not, for the promotion of a learner that is not connected or not within
        CAUGHT_UP_ENTRIES of the end, for the removal of the leader itself, and for a change that
        would change nothing."""
        raise NotImplementedError

    def begin_read(self, done: ReadAnswer) -> None:
        """`done` is called once, perhaps at once: with an index once a majority has confirmed the
        leader after this call, None where that cannot be said any more (no leader, another one,
        its connection gone). Reads that wait share a round. Read once `applied_index` is there."""
        raise NotImplementedError

    def needs_snapshot(self) -> tuple[RaftID, ...]:
        """Leader: connected members whose next entry is no longer in the log, sorted."""
        return ()

    def installed(self, index: int, term: int) -> None:
        """State machine and journal were replaced by a snapshot that ends with this entry."""
        raise NotImplementedError

    def transfer_to(self, raft_id: RaftID) -> bool:
        """Ask a voter that holds all our log to stand for election now; whether it was asked. No
        proposal may be taken meanwhile."""
        raise NotImplementedError

    def step_down(self) -> None:
        """Lead no longer, and stand for election after others had their chance."""
        raise NotImplementedError

    def set_timing(self, timing: RaftTiming) -> None:
        """From now on."""
        raise NotImplementedError

    def progress(self, raft_id: RaftID) -> Progress:
        """What we, or our leader, know of a member."""
        raise NotImplementedError

    @property
    def is_removed(self) -> bool:
        """Whether the removal of this member is committed."""
        return False

    @property
    def term(self) -> int:
        return int(self.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        return int(self.raftCommitIndex)

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
