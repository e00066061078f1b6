"""One member of a Raft group, without threads, files and sockets: what the engine drives.

It moves when it is called, and says what it has to say in frames. Elections, commits and the log
are PySyncObj's, corrected in `hardening`; here is what comes from other members and goes to them.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from swarmlet.core.ids import RaftID
from swarmlet.core.limits import MS_PER_S
from swarmlet.env.base import Env
from swarmlet.raft.hardening import Answer, Applier, Corrected, Progress, RaftTiming
from swarmlet.raft.journal import MEMBERSHIP, Journal
from swarmlet.raft.membership import encode_change
from swarmlet.raft.messages import (
    Append,
    Appended,
    Message,
    PreVote,
    PreVoteRequest,
    ReadReply,
    ReadRequest,
    Rejected,
    StaleTerm,
    TimeoutNow,
    Vote,
    VoteRequest,
    decode_frame,
)
from swarmlet.raft.read_index import REQUESTS_MAX, ReadAnswer, ReadRequests
from swarmlet.raft.transport import Send, Transport
from swarmlet.store.proposer import MemberChange

TERM_JUMP_MAX: Final = 2**32
"""Further ahead nobody can be by elections; the last number of all would be the group's end."""


class Core(Corrected):
    """A turn: `receive` what came, make the journal durable, `tick`, `replicate`, make the journal
    durable, `release`. Before each tick the journal must be durable: an entry that is in it counts
    as stored here. An exception in `apply` leaves it in between and must stop the member.
    """

    def __init__(
        self,
        env: Env,
        journal: Journal,
        me: RaftID,
        *,
        send: Send,
        apply: Applier,
        timing: RaftTiming,
    ) -> None:
        super().__init__(env, journal, me, Transport(send), timing)
        self._apply = apply
        self._requests = ReadRequests()
        self._open_reads: dict[RaftID, int] = {}  # of other members, over their connections
        self._votes: tuple[int, set[RaftID]] = (0, set())  # in which term, whose
        self.leader_heard_s = float("-inf")  # when one last sent entries, or that there are none
        self._told: dict[RaftID, Progress] = {}  # by the leader
        self._told_by: tuple[int, RaftID | None] = (0, None)  # and in which term
        self._followed: tuple[int, RaftID | None] = (self.term, None)
        self._led_term = 0
        self._takers: dict[type[Message], Callable[[RaftID, Any], None]] = {
            Append: self._take_append,
            Appended: self._take_answer,
            Rejected: self._take_answer,
            VoteRequest: self._take_vote_request,
            Vote: self._take_vote,
            PreVoteRequest: self._take_pre_vote_request,
            PreVote: self._take_pre_vote,
            StaleTerm: self._take_stale_term,
            TimeoutNow: self._take_timeout_now,
            ReadRequest: self._take_read_request,
            ReadReply: self._take_read_reply,
        }

    # Driven by the engine

    def connected(self, raft_id: RaftID, epoch: int) -> None:
        """A connection to this member is open. A newer epoch replaces an older one."""
        self._enter()
        was_open = self._transport.is_open(raft_id)
        if not self._transport.open(raft_id, epoch):
            return
        if was_open:
            self._lost(raft_id)
        self._replication.reconnected(raft_id, self._match(raft_id))
        self._told_s = float("-inf")  # the next heartbeat says how all stand

    def disconnected(self, raft_id: RaftID, epoch: int) -> None:
        """It is closed; nothing where a newer one is open. What waited for it is dropped."""
        self._enter()
        if self._transport.close(raft_id, epoch):
            self._lost(raft_id)

    def receive(self, raft_id: RaftID, epoch: int, frame: bytes) -> None:
        """Take a frame in. Raises ValueError on what no member sends: close the connection.

        Not between `journal.take()` and the `release` behind it (frames queue meanwhile): what is
        in the journal then would count as durable.
        """
        if not self._transport.is_open(raft_id, epoch):
            return
        self._enter()
        self._heard[raft_id] = self._env.clock.mono_s()
        for message in decode_frame(frame):
            if message.term > self.term + TERM_JUMP_MAX:
                raise ValueError(f"term {message.term}, and here it is {self.term}")
            self._takers[type(message)](raft_id, message)
            self._look_around()

    def tick(self) -> None:
        """Elect, commit, apply and answer, then take what was proposed into the journal."""
        self._enter()
        self.doTick(0.0)
        self._look_around()

    def replicate(self) -> None:
        """Leader: send what is new; may overlap the own fsync. All: ask for the reads that wait."""
        if self._is_established():
            self._reads.open(self.commit_index)
            self._reads.settle(self._other_voters())
        self._send_appends(is_beat=False)
        self._ask_leader()
        self._transport.flush()

    def release(self) -> None:
        """The journal is durable: acks, votes and answers leave with all that waits. Where it is
        not (something came in since it was taken), they go on waiting."""
        if not self._journal.is_dirty:
            self._durable_term = self.term
            self._transport.release()

    def propose_change(self, change: MemberChange, answer: Answer) -> None:
        """Queue for the next tick. REQUEST_DENIED before the term's no-op is committed, while
        another change is not, for the promotion of a learner that is not connected or not within
        CAUGHT_UP_ENTRIES of the end, for the removal of the leader itself, and for a change that
        would change nothing."""
        self._proposed.append((MEMBERSHIP + encode_change(change), change, answer))

    def begin_read(self, done: ReadAnswer) -> None:
        """`done` is called once, perhaps at once: with an index once a majority has confirmed the
        leader after this call, None where that cannot be said any more (no leader, another one,
        its connection gone). Reads that wait share a round. Read once `applied_index` is there."""
        if self.is_leader:
            self._reads.ask(done)
            if self._is_established() and not self._other_voters():
                self._reads.open(self.commit_index)
                self._reads.settle(())
        elif self.leader is not None and self._transport.is_open(self.leader):
            self._requests.ask(done)
        else:
            done(None)

    def needs_snapshot(self) -> tuple[RaftID, ...]:
        """Leader: connected members whose next entry is no longer in the log, sorted."""
        return self._replication.behind() if self.is_leader else ()

    def installed(self, index: int, term: int) -> None:
        """State machine and journal (the same object) were replaced by a snapshot that ends with
        this entry, which is beyond all that was applied here."""
        assert self._journal.term_at(index) == term, "the journal holds the snapshot's last entry"
        self.skip_to(index)
        self._journal.setRaftCommitIndex(self.commit_index)
        self._follow_log()

    def transfer_to(self, raft_id: RaftID) -> bool:
        """Ask a voter that holds all our log to stand for election now; whether it was asked. No
        proposal may be taken meanwhile."""
        is_ready = (
            self.is_leader
            and raft_id in self._other_voters()
            and self._transport.is_open(raft_id)
            and self._match(raft_id) == self._end()[0]
        )
        if is_ready:
            self._transport.put(raft_id, TimeoutNow(self.term))
            self._transport.flush()
        return is_ready

    def progress(self, raft_id: RaftID) -> Progress:
        """What we, or our leader, know of a member."""
        now_s = self._env.clock.mono_s()
        if raft_id == self._me:
            return Progress(match_index=self._end()[0], heard_s=now_s, is_connected=True)
        told = Progress() if self.is_leader else self._told.get(raft_id, Progress())
        match_index = self._match(raft_id) if self.is_leader else told.match_index
        if not self.is_leader and self._told_by != (self.term, self.leader):
            match_index = 0  # another leader may have replaced those entries since
        if raft_id == self.leader:
            match_index = self.commit_index
        heard = [s for s in (told.heard_s, self._heard.get(raft_id)) if s is not None]
        return Progress(
            match_index=match_index,
            heard_s=max(heard, default=None),
            is_connected=self._transport.is_open(raft_id),
        )

    # Messages. From whoever is connected, as we may know less of the configuration than it does;
    # but what is counted is counted of members only.

    def _take_append(self, raft_id: RaftID, append: Append) -> None:
        if append.term < self.term:
            self._transport.hold(raft_id, StaleTerm(self.term))
            return
        if append.term == self.term and self.leader not in (None, raft_id):
            raise ValueError(f"a second leader in term {append.term}")
        self._check_committed(append)
        self.leader_heard_s = self._env.clock.mono_s()
        self._pre_votes.cancel()
        problem = self._misfit(append)
        if problem is None:
            self._store(raft_id, append)
            index = append.prev_index + len(append.entries)
            answer: Message = Appended(append.term, index, append.read)
        else:
            self._beat(raft_id, append, match=0)
            answer = Rejected(append.term, append.prev_index, problem, append.read)
        self._follow_log()
        self._transport.hold(raft_id, answer)
        self._note_standings(append)

    def _check_committed(self, append: Append) -> None:
        """Raises ValueError where it is of another history than what is committed here: one of the
        two went on from older data, and what it has must not count as the other's."""
        terms = (append.prev_term, *(entry[1] for entry in append.entries))
        last = min(self.commit_index, append.prev_index + len(append.entries))
        for index in range(max(1, append.prev_index), last + 1):
            if self._journal.term_at(index) not in (None, terms[index - append.prev_index]):
                raise ValueError(f"entry {index} is committed here, and is another one there")

    def _misfit(self, append: Append) -> int | None:
        """None where the entries fit behind ours, else from which one on they may.

        In one far step: up to the commit index all logs are the same. A new member begins with a
        snapshot, even where the log reaches back to its first entry: who founded the group stands
        in no entry, and without the founder the learner would take itself for the only voter.
        """
        last, prev = self._end()[0], append.prev_index
        if not self._journal.base_members.members:
            return 1
        if prev == 0 or prev > last:
            return last + 1
        if prev <= self.commit_index or self._journal.term_at(prev) == append.prev_term:
            return None
        return self.commit_index + 1

    def _store(self, raft_id: RaftID, append: Append) -> None:
        """Hand on only what is new: PySyncObj cuts its log off behind the first entry it is
        given, even where it holds the same."""
        held, prev = 0, append.prev_index
        for index, (_, term) in enumerate(append.entries, prev + 1):
            if index > self.commit_index and self._journal.term_at(index) != term:
                break
            held += 1
        if held == len(append.entries):
            self._beat(raft_id, append, match=prev + held)
            return
        prev += held
        new = [(e[0], prev + 1 + at, e[1]) for at, e in enumerate(append.entries[held:])]
        self._feed_append(raft_id, append, prev, new)

    def _beat(self, raft_id: RaftID, append: Append, *, match: int) -> None:
        """A heartbeat that leaves the log alone, and commits what is known to match at most."""
        limited = msgspec.structs.replace(append, commit_index=min(append.commit_index, match))
        self._feed_append(raft_id, limited, self._end()[0], [])

    def _feed_append(
        self, raft_id: RaftID, append: Append, prev: int, entries: list[tuple[bytes, int, int]]
    ) -> None:
        self._feed(
            raft_id,
            "append_entries",
            term=append.term,
            commit_index=append.commit_index,
            prevLogIdx=prev,
            prevLogTerm=self._journal.term_at(prev),
            entries=entries,
        )

    def _take_answer(self, raft_id: RaftID, answer: Appended | Rejected) -> None:
        """Counts in its own term only, and never takes back what was proved."""
        if answer.term > self.term:
            self._adopt(answer.term)
        member = self._journal.newest_members.member(raft_id)
        if answer.term != self.term or not self.is_leader or member is None:
            return
        self._reads.echoed(raft_id, answer.read)
        is_stored = isinstance(answer, Appended)
        if isinstance(answer, Appended):
            self._replication.appended(raft_id, answer)
        else:
            self._replication.rejected(raft_id, answer, self._match(raft_id))
        next_index = answer.index + 1 if isinstance(answer, Appended) else 0
        self._feed(
            raft_id, "next_node_idx", reset=False, success=is_stored, next_node_idx=next_index
        )
        self._reads.settle(self._other_voters())

    def _take_vote_request(self, raft_id: RaftID, request: VoteRequest) -> None:
        if request.term < self.term:
            self._transport.hold(raft_id, StaleTerm(self.term))
            return
        if request.term > self.term:
            self._adopt(request.term)
        self._feed(
            raft_id,
            "request_vote",
            term=request.term,
            last_log_index=request.last_index,
            last_log_term=request.last_term,
        )

    def _take_vote(self, raft_id: RaftID, vote: Vote) -> None:
        if self._votes[0] != self.term:
            self._votes = (self.term, set())
        voted = self._votes[1]
        if vote.term == self.term and raft_id in self._other_voters() and raft_id not in voted:
            voted.add(raft_id)
            self._feed(raft_id, "response_vote", term=vote.term)

    def _take_pre_vote_request(self, raft_id: RaftID, request: PreVoteRequest) -> None:
        """No while our leader is heard: who stands then would only depose it. A leader that asks
        has given up, for no majority answered it for as long as an election takes at most."""
        if raft_id == self.leader and request.term > self.term:
            self._SyncObj__raftLeader = None
            self.leader_heard_s -= self._timing.election_max_s
        now_s, last = self._env.clock.mono_s(), self._end()
        is_led = self.leader is not None and self._transport.is_open(self.leader)
        is_fresh = now_s < self.leader_heard_s + self._timing.election_min_s
        is_newer = (request.last_term, request.last_index) >= (last[1], last[0])
        if request.term <= self.term:
            self._transport.hold(raft_id, StaleTerm(self.term))
        elif not self.is_leader and not (is_led and is_fresh) and is_newer:
            self._transport.hold(raft_id, PreVote(request.term))

    def _take_pre_vote(self, raft_id: RaftID, vote: PreVote) -> None:
        self._pre_votes.granted(raft_id, vote.term)

    def _take_stale_term(self, _: RaftID, stale: StaleTerm) -> None:
        if stale.term > self.term:
            self._adopt(stale.term)

    def _take_timeout_now(self, raft_id: RaftID, request: TimeoutNow) -> None:
        if request.term == self.term and self._is_voter():
            self._feed(raft_id, "timeout_now", term=request.term)

    def _take_read_request(self, raft_id: RaftID, request: ReadRequest) -> None:
        if request.term > self.term:
            self._adopt(request.term)
        count = self._open_reads.get(raft_id, 0)
        is_member = self._journal.newest_members.member(raft_id) is not None
        if not self.is_leader or not is_member or count >= REQUESTS_MAX:
            self._transport.hold(raft_id, ReadReply(self.term, request.number, 0))
            return
        self._open_reads[raft_id] = count + 1
        epoch = self._transport.epoch(raft_id)

        def done(index: int | None) -> None:
            """Over the connection of the request: its sender may have begun to count anew."""
            if self._transport.is_open(raft_id, epoch):
                self._open_reads[raft_id] -= 1
                self._transport.put(raft_id, ReadReply(self.term, request.number, index or 0))

        self._reads.ask(done)

    def _take_read_reply(self, raft_id: RaftID, reply: ReadReply) -> None:
        if raft_id == self._followed[1]:
            self._requests.answered(reply.number, reply.index or None)

    # Who leads, and who is there

    def _lost(self, raft_id: RaftID) -> None:
        self._open_reads.pop(raft_id, None)
        if raft_id == self.leader:
            self._hurry_election()
            self._requests.fail()

    def _ask_leader(self) -> None:
        leader = self.leader
        if leader is None or self.is_leader or not self._transport.is_open(leader):
            return
        number = self._requests.request()
        if number is not None:
            self._transport.put(leader, ReadRequest(self.term, number))

    def _look_around(self) -> None:
        """Whoever waits for a leader that leads no more is told."""
        led_term = self.term if self.is_leader else 0
        if self._led_term not in (0, led_term):
            self._reads.fail()
            self._forget_proposals()
        self._led_term = led_term
        followed = (self.term, None if self.is_leader else self.leader)
        if followed != self._followed:
            self._followed = followed
            self._requests.fail()

    def _note_standings(self, append: Append) -> None:
        if append.standings:
            now_s, self._told_by = self._env.clock.mono_s(), (self.term, self.leader)
            self._told = {
                raft_id: Progress(
                    match_index=match, heard_s=None if age < 0 else now_s - age / MS_PER_S
                )
                for raft_id, match, age in append.standings
            }
