"""Several cores without a loop: links are lists that a test delivers by hand, disks keep what was
synced, time passes when a test says so."""

from collections import deque
from dataclasses import dataclass

from swarmlet.core.ids import RaftID
from swarmlet.raft.core import Core
from swarmlet.raft.hardening import RaftTiming
from swarmlet.raft.journal import Journal
from swarmlet.raft.membership import ADD_LEARNER, Members
from swarmlet.raft.messages import decode_frame, encode_frame
from swarmlet.store.proposer import Member, MemberChange
from tests.sim.disk import SimDisk
from tests.sim.loop import SimClock, sim_env

A, B, C, D, E = (RaftID(n) for n in (11, 22, 33, 44, 55))
STEP_S = 0.02


def member(raft_id, *, is_voter=True):
    return Member(raft_id=RaftID(raft_id), node_id=f"n{raft_id}", address="a:1", is_voter=is_voter)


def members(*voters, learners=()):
    all_of_them = [member(i) for i in voters] + [member(i, is_voter=False) for i in learners]
    return Members(members=tuple(sorted(all_of_them, key=lambda m: m.raft_id)))


def member_change(verb, raft_id):
    return MemberChange(verb=verb, member=member(raft_id))


class Disk:
    """What of one journal would survive a power cut."""

    def __init__(self, base):
        self.journal = Journal(base)

    def write(self, batch):
        if batch.whole is not None:
            self.journal = _journal(batch.whole)
            return
        for op in batch.ops:
            assert self.journal.replayed(op) == ""

    def read(self):
        return _journal(self.journal._whole())


def _journal(whole):
    journal = Journal(whole.members)
    for entry in whole.entries:
        journal._add(entry)
    journal.term, journal.vote, journal.commit_index = whole.term, whole.vote, whole.commit_index
    return journal


@dataclass(frozen=True)
class Snapshot:
    """Durable at once."""

    index: int
    members: Members
    entries: tuple
    applied: tuple

    def adopt(self, journal):
        if journal.term_at(self.index) != self.entries[-1][2]:
            journal.install(self.members, self.entries)


class Cores:
    """`Cores(A, B, C)`: three voters, connected, nobody leads. `down` says who is not there."""

    def __init__(self, *ids, base=None, timing=None, seed=0):
        self.clock, self.timing, self.seed = SimClock(), timing or RaftTiming(), seed
        self.base = base or members(*ids)
        self.cores, self.disks, self.applied = {}, {}, {}
        self.links, self.epochs, self.epoch, self.snapshots = {}, {}, 0, {}
        self.has_snapshots = True
        for raft_id in ids:
            self.boot(raft_id)
        for one in ids:
            for other in ids:
                if one < other:
                    self.link(one, other)

    def __getitem__(self, raft_id):
        return self.cores[raft_id]

    # One member

    def boot(self, raft_id, base=None):
        """Begin, or begin again from what is on the disk."""
        disk = self.disks.setdefault(raft_id, Disk(base or self.base))
        journal, snapshot = disk.read(), self.snapshots.get(raft_id)
        applied = self.applied[raft_id] = list(snapshot.applied) if snapshot else []
        if snapshot:
            snapshot.adopt(journal)
        env = sim_env(self.seed * 1000 + raft_id + self.epoch, SimDisk(), self.clock)

        def send(to, epoch, frame):
            if self.epochs.get(frozenset((raft_id, to))) == epoch:
                self.links.setdefault((raft_id, to), deque()).append(frame)

        core = self.cores[raft_id] = Core(
            env,
            journal,
            raft_id,
            send=send,
            apply=lambda index, entry: applied.append((index, entry)),
            timing=self.timing,
        )
        core.skip_to(snapshot.index if snapshot else 1)
        return core

    def crash(self, raft_id):
        """Nothing that was not synced is left; `boot` it, and `link` it."""
        for other in list(self.cores):
            if other != raft_id:
                self.cut(raft_id, other)
        del self.cores[raft_id]

    def sync(self, raft_id):
        batch = self.journal(raft_id).take()
        if batch is not None:
            self.disks[raft_id].write(batch)

    def step(self, raft_id, *, is_synced=True):
        """A turn as the engine does it; without `is_synced` it ends before the second fsync."""
        core = self.cores[raft_id]
        self.sync(raft_id)
        core.tick()
        core.replicate()
        if is_synced:
            self.sync(raft_id)
            core.release()

    # Links

    def link(self, one, other):
        self.epoch += 1
        self.epochs[frozenset((one, other))] = self.epoch
        self.links[one, other], self.links[other, one] = deque(), deque()
        self.cores[one].connected(other, self.epoch)
        self.cores[other].connected(one, self.epoch)

    def cut(self, one, other):
        epoch = self.epochs.pop(frozenset((one, other)), None)
        self.links.pop((one, other), None)
        self.links.pop((other, one), None)
        if epoch is not None:
            for here, there in ((one, other), (other, one)):
                if here in self.cores:
                    self.cores[here].disconnected(there, epoch)

    def inject(self, source, to, *messages):
        """As if `source` had said so over the connection that is open."""
        epoch = self.epochs[frozenset((source, to))]
        self.cores[to].receive(source, epoch, encode_frame(messages))

    def said(self, source, to):
        """Messages under way, and takes them off the link."""
        link = self.links.get((source, to), ())
        messages = [message for frame in link for message in decode_frame(frame)]
        self.links[source, to] = deque()
        return messages

    def deliver(self, source, to, count=None):
        link = self.links.get((source, to), deque())
        epoch = self.epochs.get(frozenset((source, to)))
        for _ in range(len(link) if count is None else count):
            self.cores[to].receive(source, epoch, link.popleft())

    def silence(self):
        """What is under way is lost, and nobody hears of it."""
        for link in self.links.values():
            link.clear()

    # All of them

    def round(self, only=None):
        """Everybody takes a turn, then all frames arrive among `only` these."""
        among = list(self.cores) if only is None else only
        for raft_id in among:
            self.step(raft_id)
        for source in among:
            for to in among:
                if source != to:
                    self.deliver(source, to)
            if self.has_snapshots:
                for to in self.cores[source].needs_snapshot():
                    self.install(source, to)

    def compact(self, raft_id):
        """A snapshot of all that is applied, and the log begins there."""
        snapshot = self.snapshots[raft_id] = self._snapshot(raft_id)
        self.journal(raft_id).compact(snapshot.index)

    def install(self, source, to):
        """The state of `source` replaces that of a member that is behind it."""
        snapshot, core = self._snapshot(source), self.cores[to]
        if snapshot.index > core.applied_index:
            self.snapshots[to] = snapshot
            snapshot.adopt(self.journal(to))
            self.applied[to][:] = snapshot.applied
            core.installed(snapshot.index, snapshot.entries[-1][2])

    def _snapshot(self, raft_id):
        journal, index = self.journal(raft_id), self.cores[raft_id].applied_index
        return Snapshot(
            index=index,
            members=journal.members(as_of=index),
            entries=journal.last_two(index),
            applied=tuple(self.applied[raft_id]),
        )

    def run(self, seconds, only=None):
        for _ in range(round(seconds / STEP_S)):
            self.clock.now_s += STEP_S
            self.round(only)

    def elect(self, raft_id, only=None):
        """Let this one lead; the others do not stand meanwhile."""
        among = list(self.cores) if only is None else only
        for other in among:
            core = self.cores[other]
            core.leader_heard_s = float("-inf")
            if other != raft_id:
                core._postpone_election()
        self.cores[raft_id].campaign()
        for _ in range(6):
            self.round(among)
        assert self.cores[raft_id].is_leader
        return self.cores[raft_id]

    def propose(self, raft_id, *commands):
        """Answers come into the list that is returned, as (index, reason)."""
        answers = []
        for command in commands:
            self.cores[raft_id].propose(command, lambda *answer: answers.append(answer))
        return answers

    def change(self, raft_id, verb, whom):
        answers = []
        self.cores[raft_id].propose_change(
            member_change(verb, whom), lambda *answer: answers.append(answer)
        )
        return answers

    def read(self, raft_id):
        answers = []
        self.cores[raft_id].begin_read(answers.append)
        return answers

    # What is there

    def journal(self, raft_id):
        return self.cores[raft_id]._journal

    def log(self, raft_id):
        """(index, term) of every entry."""
        return [entry[1:] for entry in self.journal(raft_id).entries]

    def end(self, raft_id):
        return self.log(raft_id)[-1]

    def leaders(self):
        return [raft_id for raft_id, core in sorted(self.cores.items()) if core.is_leader]

    def join(self, leader, raft_id):
        """A new, empty member, connected to all, as a learner."""
        self.disks[raft_id] = Disk(Members())
        self.boot(raft_id)
        for other in list(self.cores):
            if other != raft_id:
                self.link(other, raft_id)
        return self.change(leader, ADD_LEARNER, raft_id)
