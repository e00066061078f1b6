"""PySyncObj 0.3.17, and all that is corrected in it. Nobody else imports it (docs/adr/0001).

Its election and commit rules are right and are used as they are. Replaced: its journal, snapshots,
sending, configuration, transport, threads, clock, chance and pickle; what reaches it from others is
put into a form that it takes rightly (docs/design/raft-protocol.md says each with its reason).
Upgrading it means going through the names marked `_SyncObj__` here and running the whole
simulation.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, syncobj
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from swarmlet.core.ids import RaftID
from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Env
from swarmlet.raft.journal import MEMBERSHIP, REGULAR, Journal
from swarmlet.raft.membership import PROMOTE, REMOVE, Members
from swarmlet.raft.messages import PreVoteRequest, Standing
from swarmlet.raft.pre_vote import PreVotes
from swarmlet.raft.read_index import ReadRounds
from swarmlet.raft.replication import Head, Replication
from swarmlet.raft.transport import Transport
from swarmlet.store.proposer import MemberChange

PINNED: Final = "0.3.17"
assert VERSION == PINNED, f"the hardening is for pysyncobj {PINNED}, and {VERSION} is installed"

CAUGHT_UP_ENTRIES: Final = 1_000  # a learner this close to the end may be promoted
STANDINGS_PERIOD_S: Final = 1.0
LEADER_GONE_MIN_S: Final = 0.05  # its connection closed: stand after this long at least,
LEADER_GONE_SPREAD_S: Final = 0.1  # and up to this much later, so that not all do at once
_NEVER_S: Final = 1e9
_FOLLOWER: Final[int] = syncobj._RAFT_STATE.FOLLOWER

Applier = Callable[[int, bytes], None]
Answer = Callable[[int | None, int], None]
"""Called with the index and SUCCESS once applied, else with None and the reason."""

SUCCESS: Final[int] = FAIL_REASON.SUCCESS
NOT_LEADER: Final[int] = FAIL_REASON.NOT_LEADER  # nothing was proposed
MISSING_LEADER: Final[int] = FAIL_REASON.MISSING_LEADER  # nothing was proposed
REQUEST_DENIED: Final[int] = FAIL_REASON.REQUEST_DENIED  # a change of members; nothing was proposed
LEADER_CHANGED: Final[int] = FAIL_REASON.LEADER_CHANGED  # the outcome is unknown


class RaftTiming(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds. Source: Swarm's ElectionTick and HeartbeatTick at 100 ms a tick."""

    heartbeat_period_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a member. `heard_s`: monotonic time of its last message, to us or to the
    leader, None if there was none yet. `is_connected`: to us."""

    match_index: int = 0
    heard_s: float | None = None
    is_connected: bool = False

    def has_caught_up(self, last_index: int) -> bool:
        """Whether a learner may be promoted, as its leader sees it."""
        is_close = self.match_index + CAUGHT_UP_ENTRIES >= last_index
        return is_close and self.match_index > 0 and self.is_connected


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


class _NoPoller:
    """There are no sockets to wait for."""

    def poll(self, timeout: float) -> None:
        """Nothing came."""


class _Nodes(tuple[Any, ...]):
    """In place of PySyncObj's sets of nodes: in order of their ids, in every process."""

    __slots__ = ()

    @classmethod
    def of(cls, raft_ids: Iterable[RaftID]) -> "_Nodes":
        return cls(Node(raft_id) for raft_id in sorted(raft_ids))

    def __or__(self, other: "_Nodes") -> "_Nodes":
        return _Nodes.of({node.id for node in (*self, *other)})


_WORLD: Final = _World()
syncobj.monotonicTime = _WORLD.monotonic
syncobj.random = _WORLD
syncobj.pickle = _NoPickle()
syncobj.createPoller = lambda _kind: _NoPoller()
syncobj.createJournal = lambda journal: journal  # the configuration carries ours as an object


class Corrected(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj with its inner methods put right; `core.Core` is what the engine drives."""

    def __init__(
        self, env: Env, journal: Journal, me: RaftID, transport: Transport, timing: RaftTiming
    ) -> None:
        self._env, self._journal, self._me, self._transport = env, journal, me, transport
        self._timing = timing
        self._proposed: list[tuple[bytes, MemberChange | None, Answer]] = []
        self._pre_votes, self._reads = PreVotes(), ReadRounds()
        self._replication = Replication(journal, transport)
        self._told_s = float("-inf")
        self._heard: dict[RaftID, float] = {}
        _WORLD.env = env
        super().__init__(Node(me), (), _conf(journal, timing), nodeClass=Node, transport=transport)
        self._SyncObj__needLoadDumpFile = False
        self._durable_term = journal.term
        self._members: Members | None = None
        self._follow_log()

    def propose(self, command: bytes, answer: Answer) -> None:
        """Queue for the next tick. Never forwarded: where another leads, `answer` says so."""
        self._proposed.append((REGULAR + command, None, answer))

    def skip_to(self, index: int) -> None:
        """The state machine already holds everything up to `index`."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self.raftCommitIndex, index)

    def campaign(self) -> None:
        """Stand for election at the next tick."""
        self._SyncObj__raftElectionDeadline = float("-inf")

    def step_down(self) -> None:
        """Lead no longer, and stand for election only after others had their chance."""
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = None
        self._postpone_election()
        self._look_around()

    def set_timing(self, timing: RaftTiming) -> None:
        """From now on."""
        self._timing = timing
        for name, value in vars(_conf(self._journal, timing)).items():
            setattr(self.conf, name, value)

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

    @property
    def commit_index(self) -> int:
        return int(self.raftCommitIndex)

    @property
    def term(self) -> int:
        return int(self.raftCurrentTerm)

    @property
    def is_removed(self) -> bool:
        """Whether the removal of this member is committed."""
        if self._me not in self._journal.newest_members.removed:
            return False
        return self._me in self._journal.members(as_of=self.commit_index).removed

    def is_caught_up(self) -> bool:
        """Leader of this term with its whole log applied and an entry of the term committed."""
        return self._is_established() and self.applied_index == self.commit_index

    # Overridden inner methods

    def _SyncObj__connectedToAnyone(self) -> bool:
        """The only gate before an election: voters stand, once they know that they could win."""
        others = self._other_voters()
        if not self._is_voter():
            return False
        if not others or self._SyncObj__transferInProgress:
            return True
        now_s, term = self._env.clock.mono_s(), self.term + 1
        if self._pre_votes.is_won(term, others):
            self._pre_votes.cancel()
            return True
        if not self._pre_votes.is_open(term, now_s):
            wait_s = self._timing.election_min_s * (0.5 + self._env.rng.random())
            self._pre_votes.begin(term, now_s + wait_s)
            for raft_id in others:
                self._transport.hold(raft_id, PreVoteRequest(term, *self._end()))
        return False

    def _SyncObj__onBecomeLeader(self) -> None:
        self._replication.begin()
        self._told_s = float("-inf")
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__sendAppendEntries(self) -> None:
        """A heartbeat is due: what PySyncObj would send here, it splits, pickles and repeats."""
        self._SyncObj__newAppendEntriesTime = (
            self._env.clock.mono_s() + self._timing.heartbeat_period_s
        )
        self._send_appends(is_beat=True)

    def _checkCommandsToApply(self) -> None:
        """Take what was proposed into the journal; it counts from the next tick on."""
        proposed, self._proposed = self._proposed, []
        for command, change, answer in proposed:
            if not self.is_leader:
                answer(None, MISSING_LEADER if self.leader is None else NOT_LEADER)
            elif change is not None and not self._may_change(change):
                answer(None, REQUEST_DENIED)
            else:
                index, term = self._end()[0] + 1, self.term
                self._journal.add(command, index, term)
                self._SyncObj__commandsWaitingCommit[index].append((term, answer))
                self._follow_log()

    def _SyncObj__doApplyCommand(self, command: bytes) -> int:
        index: int = self.raftLastApplied + 1
        if command[:1] == REGULAR:
            self._apply(index, command[1:])
        return index

    def _SyncObj__tryLogCompaction(self) -> None:
        """Never: ours is durable before anything is dropped."""

    # What the above and `Core` stand on

    _apply: Applier

    def _look_around(self) -> None:
        """After anything that may have changed who leads."""

    def _enter(self) -> None:
        """Before each call into PySyncObj: its clock and its chance are ours."""
        _WORLD.env = self._env

    def _feed(self, raft_id: RaftID, kind: str, **fields: object) -> None:
        self._SyncObj__onMessageReceived(Node(raft_id), {"type": kind, **fields})

    def _follow_log(self) -> None:
        """The configuration in force is the newest in the log, committed or not (Raft §4.1).

        Computed anew, never step by step: a change that is taken back may have changed nothing.
        A learner that is promoted keeps what it has proved.
        """
        members = self._journal.newest_members
        if members is self._members:
            return
        self._members = members
        others = [m.raft_id for m in members.members if m.raft_id != self._me]
        learners = [i for i in others if i not in members.voters()]
        self._SyncObj__otherNodes = _Nodes.of(self._other_voters())
        self._SyncObj__readonlyNodes = _Nodes.of(learners)
        self._replication.follow(others)
        self._keep_indexes(others)
        if self.is_leader and not self._is_voter():
            self.step_down()

    def _keep_indexes(self, others: list[RaftID]) -> None:
        """PySyncObj looks these up for every node it has, without asking."""
        now_s = self._env.clock.mono_s()
        for table, default in (
            (self._SyncObj__raftNextIndex, 0),  # kept by it and used by nobody
            (self._SyncObj__raftMatchIndex, 0),
            (self._SyncObj__lastResponseTime, now_s),
        ):
            for gone in [node for node in table if node.id not in others]:
                del table[gone]
            for raft_id in others:
                table.setdefault(Node(raft_id), default)
        known = self._transport.is_open
        self._heard = {i: s for i, s in self._heard.items() if i in others or known(i)}

    def _may_change(self, change: MemberChange) -> bool:
        raft_id, members = change.member.raft_id, self._journal.newest_members
        entries, first = self._journal.entries, self._journal.entries[0][1]
        after_commit = max(0, self.commit_index + 1 - first)
        if not self._is_established() or members.after(change) == members:
            return False
        if any(entry[0][:1] == MEMBERSHIP for entry in entries[after_commit:]):
            return False
        if change.verb == PROMOTE:
            is_open = self._transport.is_open(raft_id)
            progress = Progress(match_index=self._match(raft_id), is_connected=is_open)
            return progress.has_caught_up(self._end()[0])
        return change.verb != REMOVE or raft_id != self._me

    def _send_appends(self, *, is_beat: bool) -> None:
        if not self.is_leader or self._durable_term != self.term:
            return  # elected by our own vote alone, and that is not yet on disk
        now_s = self._env.clock.mono_s()
        standings: tuple[Standing, ...] = ()
        if is_beat and now_s >= self._told_s + STANDINGS_PERIOD_S:
            self._told_s, standings = now_s, self._standings(now_s)
        head = Head(self.term, self.commit_index, self._reads.newest, standings)
        self._replication.send(head, is_beat=is_beat)

    def _standings(self, now_s: float) -> tuple[Standing, ...]:
        others = [m.raft_id for m in self._journal.newest_members.members if m.raft_id != self._me]
        ages = {i: int((now_s - s) * MS_PER_S) for i, s in self._heard.items()}
        return tuple((i, self._match(i), max(-1, ages.get(i, -1))) for i in others)

    def _is_established(self) -> bool:
        """Leader, and an entry of its term is committed: what is committed is known."""
        return self.is_leader and self._journal.term_at(self.commit_index) == self.term

    def _adopt(self, term: int) -> None:
        """Somebody is in a later term: follow into it."""
        if self.is_leader:
            self._postpone_election()
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = None
        self._SyncObj__transferInProgress = False

    def _hurry_election(self) -> None:
        """The leader's connection closed: it may be gone."""
        wait_s = LEADER_GONE_MIN_S + LEADER_GONE_SPREAD_S * self._env.rng.random()
        soon_s = self._env.clock.mono_s() + wait_s
        self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, soon_s)

    def _forget_proposals(self) -> None:
        """Nobody here can say any more what becomes of them."""
        waiting = dict(self._SyncObj__commandsWaitingCommit)
        self._SyncObj__commandsWaitingCommit.clear()
        for index in sorted(waiting):
            for _, answer in waiting[index]:
                answer(None, LEADER_CHANGED)

    def _postpone_election(self) -> None:
        wait_s = self._timing.election_max_s * (1 + self._env.rng.random())
        self._SyncObj__raftElectionDeadline = self._env.clock.mono_s() + wait_s

    def _end(self) -> tuple[int, int]:
        """Index and term of the last entry."""
        return self._journal.entries[-1][1:]

    def _match(self, raft_id: RaftID) -> int:
        return int(self._SyncObj__raftMatchIndex.get(Node(raft_id), 0))

    def _is_voter(self) -> bool:
        return self._me in self._journal.newest_members.voters()

    def _other_voters(self) -> list[RaftID]:
        return [i for i in self._journal.newest_members.voters() if i != self._me]


def _conf(journal: Journal, timing: RaftTiming) -> Any:  # noqa: ANN401 - PySyncObj has no types
    return SyncObjConf(
        autoTick=False,
        journalFile=journal,
        useFork=False,
        dynamicMembershipChange=False,
        commandsWaitLeader=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=timing.heartbeat_period_s,
        raftMinTimeout=timing.election_min_s,
        raftMaxTimeout=timing.election_max_s,
        leaderFallbackTimeout=timing.election_max_s,
        logCompactionMinEntries=1 << 60,
        logCompactionMinTime=_NEVER_S,
    )
