"""A group of managers in simulation: who there is, how they end and come back, what must hold."""

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from swarmlet.core.errors import DiskFullError, MemberRefusedError
from swarmlet.core.ids import RaftID
from swarmlet.env.sealed import SealedLog, SealKey, seal_key
from swarmlet.raft.engine import Origin
from swarmlet.raft.journal import JournalFile
from swarmlet.raft.recovery import PURPOSE
from swarmlet.store.proposer import Member, MemberChange
from tests.sim.disk import ROOMY_B, SimCrash
from tests.sim.group_loop import GroupLoop, group_loop
from tests.sim.group_majority import Majority
from tests.sim.group_member import FOLDER, GroupDisk, Manager, Record
from tests.sim.group_net import GroupNet
from tests.sim.group_truth import GroupTruth, ViolationError
from tests.sim.loop import SimClock

T = TypeVar("T")

NEVER = 1 << 40  # operations of a disk
UP_AGAIN_S = (0.05, 0.5, 2.0, 8.0)
SETTLES_WITHIN_S = 20.0
CALL_MAX_S = 60.0  # of any call, in time that the member had
KNOWN_DEAD_S = 5.0  # after this a leader knows that a member is gone


class Group:
    """`errands`: what operators have yet to do. Refusals that a fault explains are allowed to the
    members in `suspects`."""

    def __init__(self, seed: int | str, count: int) -> None:
        self.seed, self.rng, self.clock = seed, Random(f"{seed}/group"), SimClock()
        self.truth = GroupTruth()
        self.counts = self.truth.counts
        self.net = GroupNet(Random(f"{seed}/net"), self.counts)
        self.members = [self.new_member(f"m{number}") for number in range(count)]
        self.suspects: dict[str, None] = {}
        self.errands: list[Manager] = []  # those who lost their place, and want another
        self.down_since_s: dict[str, float] = {}
        self.longest_s = 0.0  # until the group was well again
        self.is_calm = False
        self.majority = Majority(
            lambda: self.clock.now_s, lambda name: self.loop.is_paused(name), self.truth.wrong
        )
        self.loop: GroupLoop

    def new_member(self, name: str) -> Manager:
        return Manager(name, self.seed, self.net, self.truth, self.clock, self._ended)

    def tell(self, what: str) -> None:
        self.truth.tell(self.clock.now_s, what)

    def begin(self) -> None:
        """In the loop of the run."""
        self.loop = self.net.loop = group_loop()
        self.loop.on_step = self._step
        self.net.on_change = self._look_at_majority

    # Who there is ---------------------------------------------------------------------------------

    def all_in(self) -> list[Manager]:
        return [one for one in self.members if one.state == "in"]

    def up(self) -> list[Manager]:
        """Members that run, and get time to."""
        return [o for o in self.all_in() if o.is_up and not self.loop.is_paused(o.name)]

    def leader(self) -> Manager | None:
        """The newest of those who say that they lead."""
        ready = [o for o in self.up() if o.engine and o.engine._driver.leadership.is_ready]
        return max(ready, key=lambda o: (o.engine._driver.leadership.term, o.name), default=None)

    def by_raft_id(self, raft_id: RaftID | None) -> Manager | None:
        return next((o for o in self.all_in() if o.record.raft_id == raft_id), None)

    def voters(self) -> int:
        """In the newest configuration that any member knows."""
        up = [one for one in self.up() if one.engine is not None]
        newest = max(up, key=lambda one: one.looked.state[:1] + one.looked.state[2:3], default=None)
        return self.votes_of(newest) if newest is not None else 0

    def votes_of(self, member: Manager) -> int:
        """Voters in the configuration that this member knows."""
        assert member.engine is not None
        return len(member.engine._driver.journal.newest_members.voters())

    def votes(self, member: Manager) -> bool:
        if member.engine is None:
            return False
        return member.record.raft_id in member.engine._driver.journal.newest_members.voters()

    # At every step --------------------------------------------------------------------------------

    def _step(self, touched: dict[str, None]) -> None:
        for name in touched:
            member = self.named(name)
            engine = member.engine if member is not None else None
            if member is None or engine is None:
                continue
            if self.truth.look(name, member.record.raft_id, engine, member.looked):
                state = member.looked.state
                self.truth.digest.update(f"{self.clock.now_s} {name} {state}".encode())
                self._look_at_removals(member)
            if member.disk.has_plaintext:
                self.truth.wrong("plaintext", f"{name} wrote what clients stored, in clear")
        if self.truth.problem:
            self.loop.on_step = None
            for member in self.members:
                self.go_on(member)
            raise ViolationError(self.truth.problem)

    def _look_at_removals(self, leader: Manager) -> None:
        """A leader that just took a removal in must know the rest to have a quorum."""
        assert leader.engine is not None
        journal = leader.engine._driver.journal
        before, now = leader.voters_seen, journal.newest_members.voters()
        leader.voters_seen = now
        if now != before:
            self._look_at_majority()
        if not leader.looked.state[1] or len(now) >= len(before) or not before:
            return
        there = [v for v in now if not self._is_long_dead(v)]
        if len(there) < len(now) // 2 + 1:
            self.truth.wrong("quorum removed", f"{len(there)} of {len(now)} voters are left")

    def _look_at_majority(self) -> None:
        """Somebody came or went, or counts others than before."""
        self.majority.look(self._has_majority(), self.members)

    def _has_majority(self) -> bool:
        """Whether anybody could lead."""
        there = {
            one.record.raft_id: one
            for one in self.members
            if one.is_up and one.engine is not None and not self.loop.is_paused(one.name)
        }
        return any(self._reaches_majority(one, there) for one in there.values())

    def _reaches_majority(self, member: Manager, there: dict[RaftID, Manager]) -> bool:
        assert member.engine is not None
        voters = member.engine._driver.journal.newest_members.voters()
        others = [there[raft_id] for raft_id in voters if raft_id in there]
        return sum(self.net.is_open(member.name, one.name) for one in others) > len(voters) // 2

    def _is_long_dead(self, raft_id: RaftID) -> bool:
        member = self.by_raft_id(raft_id)
        since_s = self.down_since_s.get(member.name) if member else None
        return since_s is not None and self.clock.now_s - since_s > KNOWN_DEAD_S

    def named(self, name: str) -> Manager | None:
        return next((one for one in self.members if one.name == name), None)

    # How they end, and come back ------------------------------------------------------------------

    def boot(self, member: Manager, origin: Origin | None = None) -> None:
        if member.task is None and member.state == "in":
            self.down_since_s.pop(member.name, None)
            member.voters_seen = ()
            contacts = [self.entry_of(one) for one in self.all_in() if one is not member]
            member.boot(self.loop, origin, tuple(contacts))
            self.counts["lives"] += 1

    def boot_in(self, member: Manager, pause_s: float) -> None:
        self.loop.call_later(pause_s, self.boot, member, context=contextvars.Context())

    def _ended(self, member: Manager, end: BaseException | None) -> None:
        self.down_since_s[member.name] = self.clock.now_s
        self._look_at_majority()
        if end is None:
            return
        if isinstance(end, SimCrash):
            self.counts["power cut within a disk operation"] += 1
            member.fall(is_power=True)
            self.boot_in(member, self.rng.choice(UP_AGAIN_S))
        elif isinstance(end, DiskFullError):  # of one that begins
            self.boot_in(member, self.rng.choice(UP_AGAIN_S))
        elif isinstance(end, MemberRefusedError):
            self._refused(member, end)
        else:
            self.truth.tell(self.clock.now_s, f"{member.name}: {_trace(end)}")
            self.truth.wrong("member ended", f"{member.name}: {end!r}")

    def _refused(self, member: Manager, refusal: MemberRefusedError) -> None:
        self.counts[f"refused, {refusal.reason}"] += 1
        self.tell(f"{member.name} is refused: {refusal.message}")
        is_right = member.state != "in" or member.name in self.suspects
        if not is_right:
            self.truth.wrong("refused", f"{member.name} for no reason: {refusal.message}")
        if member.state == "in":
            member.state = "lost"
            self.errands.append(member)

    async def kill(self, member: Manager, *, is_power: bool) -> None:
        self.counts["power cut" if is_power else "kill -9"] += 1
        self.tell(f"{member.name} is killed{', with its power' if is_power else ''}")
        if self.loop.is_paused(member.name):
            now_s = self.clock.now_s
            member.paused_s += now_s - member.pauses_since_s
            member.pauses_since_s = now_s
        await member.kill(is_power=is_power)

    # Calls ----------------------------------------------------------------------------------------

    async def call(self, member: Manager, what: str, work: Coroutine[Any, Any, T]) -> T:
        """A call to a member. It must end, one way or another; cancelled where the member does."""
        task, paused_s = member.call(work), member.paused_s
        watched = self.majority.begin(what, member)
        task.add_done_callback(lambda _: self.majority.end(watched))
        left_s = CALL_MAX_S
        while left_s > 0:
            await asyncio.wait((task,), timeout=left_s)
            if task.done():
                return _result(task)
            left_s, paused_s = member.paused_s - paused_s, member.paused_s
        self.truth.wrong("hangs", f"{what} at {member.name}")
        raise ViolationError(self.truth.problem)

    def change(self, leader: Manager, verb: str, member: Member) -> Coroutine[Any, Any, None]:
        assert leader.engine is not None
        change = MemberChange(verb=verb, member=member)
        return self.call(leader, verb, leader.engine.change_members(change))

    # Beginnings -----------------------------------------------------------------------------------

    def found(self) -> None:
        first = self.members[0]
        first.state = "in"
        first.record = Record(raft_id=self.new_raft_id(), secret=self._secret(), is_founder=True)
        self.truth.owners[first.record.raft_id] = first.node_id
        self.boot(first)

    def new_raft_id(self) -> RaftID:
        return RaftID(self.rng.getrandbits(62) + 1)

    def new_key(self) -> SealKey:
        return seal_key(self._secret())

    def _secret(self) -> bytes:
        return self.rng.randbytes(32)

    def give_place(self, member: Manager) -> Member:
        """A raft id and keys of its own, for a member that was never one."""
        member.wipe()
        member.record = Record(raft_id=self.new_raft_id(), secret=self._secret())
        return self.entry_of(member)

    def entry_of(self, member: Manager) -> Member:
        return Member(
            raft_id=member.record.raft_id,
            node_id=member.node_id,
            address=member.address,
            is_voter=False,
        )

    async def force_new(self, member: Manager) -> None:
        """All others are gone for good; this one goes on with what it has."""
        for other in self.members:
            if other.task is not None:
                await other.kill(is_power=True)
            if other is not member:
                other.state = "out"
                other.wipe()
        copied = GroupDisk()
        copied._names = {path: replace(node) for path, node in member.disk._names.items()}
        log = SealedLog(
            copied,
            f"{FOLDER}/journal",
            member.record.keys(),
            purpose=PURPOSE,
            entropy=Random(0).randbytes,
        )
        journal = JournalFile(log, member.record.raft_id).load()
        self.tell(f"{member.name} goes on alone from {journal.entries[-1][1:]}")
        self.truth.forced(journal.entries, journal.term)
        self.errands.clear()
        self.suspects[member.name] = None
        self.counts["forced new"] += 1
        self.boot(member, Origin.FORCE_NEW)

    # Quiet ----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """What there was of faults is over."""
        self.net.slow = 1.0
        for pair in self.net.cuts():
            self.net.mend(*pair)
        for member in self.members:
            self.go_on(member)
            member.disk.capacity_b, member.blocking.factor = ROOMY_B, 1.0
            member.disk.fail_at(NEVER)
            self.boot(member)

    def pause(self, member: Manager, for_s: float) -> None:
        if not self.loop.is_paused(member.name):
            self.counts["pause"] += 1
            self.tell(f"{member.name} pauses for {for_s} s")
            member.pauses_since_s = self.clock.now_s
            self.loop.pause(member.name)
            self._look_at_majority()
            self.loop.call_later(for_s, self.go_on, member, context=contextvars.Context())

    def go_on(self, member: Manager) -> None:
        if self.loop.is_paused(member.name):
            member.paused_s += self.clock.now_s - member.pauses_since_s
            self.loop.go_on(member.name)
            self.majority.wakes()
            self._look_at_majority()

    async def settle(self, write: Callable[[], Coroutine[Any, Any, int]]) -> None:
        """Soon a write is done, and all members have all there is."""
        began_s = self.clock.now_s
        index = 0
        while not self._is_well(index):
            if self.clock.now_s - began_s > SETTLES_WITHIN_S:
                self.truth.wrong("no progress", f"since {began_s:.1f}: {self._how_it_is()}")
                raise ViolationError(self.truth.problem)
            if not index:
                index = await write()
            await asyncio.sleep(0.05)
        self.longest_s = max(self.longest_s, self.clock.now_s - began_s)
        self.tell("all is well")

    def _is_well(self, index: int) -> bool:
        if not index or not all(o.is_up for o in self.all_in()):
            return False
        return all(o.store.index >= index for o in self.all_in()) and self.leader() is not None

    def _how_it_is(self) -> str:
        return ", ".join(
            f"{o.name} {'up' if o.is_up else 'down'} {o.looked.state}" for o in self.all_in()
        )


def _result(task: asyncio.Task[T]) -> T:
    try:
        return task.result()
    except SimCrash:
        raise asyncio.CancelledError from None  # its member is no more


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
