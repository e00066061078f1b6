"""What befalls a simulated group of managers."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, NamedTuple

from tests.sim.disk import ROOMY_B, WHERES
from tests.sim.group import UP_AGAIN_S, Group
from tests.sim.group_member import Manager, Record

CUT_S = (0.2, 0.6, 1.5, 4.0, 8.0)
PAUSE_S = (0.2, 0.8, 2.0, 5.0)
FULL_S = (1.0, 3.0, 6.0)
FULL_SPARE_B = 3000
SLOW_NET, SLOW_DISK = (5.0, 20.0), (10.0, 60.0)
SKEW_MAX_MS = 400 * 24 * 3600 * 1000
BACKUP_AGE_S = 4.0
CLONE_S = 14.0  # the refused one gives up after ten
LOOK_S = 0.1


class _Backup(NamedTuple):
    """An image of a member's disk, and the nodes that were its others then."""

    at_s: float
    names: Any
    record: Record
    others: frozenset[str]


class Nemesis:
    """Does something every now and then. What needs the rest of the group to be well (a disk that
    is rolled back, a clone: Raft trusts what members remember) waits until it is."""

    def __init__(self, group: Group) -> None:
        self.group, self.rng = group, Random(f"{group.seed}/nemesis")
        self._backups: dict[str, _Backup] = {}
        self.is_busy = False
        self._acts: tuple[tuple[int, Callable[[], Coroutine[Any, Any, None]]], ...] = (
            (8, self.kill),
            (8, self.power),
            (10, self.power_at_operation),
            (2, self.kill_all),
            (6, self.cut_one_way),
            (6, self.cut_both_ways),
            (8, self.isolate),
            (6, self.drop),
            (7, self.pause),
            (3, self.slow_net),
            (3, self.slow_disk),
            (4, self.fill_disk),
            (3, self.turn_clock),
            (4, self.back_up),
            (3, self.roll_back),
        )

    async def run(self, mean_s: float) -> None:
        weights, acts = zip(*self._acts, strict=True)
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / mean_s))
            if not self.group.is_calm:
                self.is_busy = True
                await self.rng.choices(acts, weights)[0]()
                self.is_busy = False

    def _count(self, what: str, who: str) -> None:
        self.group.counts[what] += 1
        self.group.tell(f"{what}: {who}")

    def _later(self, pause_s: float, work: Callable[..., object], *args: Any) -> None:
        self.group.loop.call_later(pause_s, work, *args, context=contextvars.Context())

    def _one(self) -> Manager | None:
        """Of those that run; the leader rather than others."""
        up, leader = self.group.up(), self.group.leader()
        if leader is not None and self.rng.random() < 0.4:
            return leader
        return self.rng.choice(up) if up else None

    # Ends -----------------------------------------------------------------------------------------

    async def kill(self) -> None:
        await self._end(self._one(), is_power=False)

    async def power(self) -> None:
        await self._end(self._one(), is_power=True)

    async def _end(self, member: Manager | None, *, is_power: bool) -> None:
        if member is not None and member.task is not None:
            await self.group.kill(member, is_power=is_power)
            self.group.boot_in(member, self.rng.choice(UP_AGAIN_S))

    async def kill_all(self) -> None:
        self._count("all power cut", "")
        for member in self.group.all_in():
            await self._end(member, is_power=True)

    async def power_at_operation(self) -> None:
        member = self._one()
        if member is not None:
            where = self.rng.choice(WHERES)
            member.disk.fail_at(self.rng.randrange(12), where)
            self.group.tell(f"the power of {member.name} will go {where} an operation")

    # The net --------------------------------------------------------------------------------------

    def _pair(self) -> tuple[str, str] | None:
        names = [one.name for one in self.group.all_in()]
        return (*self.rng.sample(names, 2),) if len(names) > 1 else None

    async def cut_one_way(self) -> None:
        pair = self._pair()
        if pair is not None:
            self._count("cut, one way", "->".join(pair))
            self._cut([pair])

    async def cut_both_ways(self) -> None:
        pair = self._pair()
        if pair is not None:
            self._count("cut, both ways", "<->".join(pair))
            self._cut([pair, pair[::-1]])

    async def isolate(self) -> None:
        member = self._one()
        if member is not None:
            others = [one.name for one in self.group.members if one is not member]
            kind = self.rng.randrange(3)
            self._count(("isolated", "deaf", "mute")[kind], member.name)
            away = [(member.name, other) for other in others] if kind != 1 else []
            towards = [(other, member.name) for other in others] if kind != 2 else []
            self._cut(away + towards)

    def _cut(self, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self.group.net.cut(*way)
        self._later(self.rng.choice(CUT_S), self._mend, ways)

    def _mend(self, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self.group.net.mend(*way)

    async def drop(self) -> None:
        pair = self._pair()
        if pair is not None and self.group.net.drop(*pair):
            self._count("connection reset", "-".join(pair))

    async def slow_net(self) -> None:
        self._count("slow net", "")
        self.group.net.slow = self.rng.choice(SLOW_NET)
        self._later(self.rng.choice(CUT_S), self._fast_net)

    def _fast_net(self) -> None:
        self.group.net.slow = 1.0

    # One host -------------------------------------------------------------------------------------

    async def pause(self) -> None:
        member = self._one()
        if member is not None:
            self.group.pause(member, self.rng.choice(PAUSE_S))

    async def slow_disk(self) -> None:
        member = self._one()
        if member is not None:
            self._count("slow disk", member.name)
            member.blocking.factor = self.rng.choice(SLOW_DISK)
            self._later(self.rng.choice(CUT_S), self._fast_disk, member)

    def _fast_disk(self, member: Manager) -> None:
        member.blocking.factor = 1.0

    async def fill_disk(self) -> None:
        """With what the journal reserved gone, too: it is room like any other."""
        member = self._one()
        if member is not None:
            self._count("full disk", member.name)
            disk = member.disk
            for node in disk._names.values():
                node.reserved_b = node.kept_reserved_b = len(node.seen)
            disk.capacity_b = disk.used_b + self.rng.randrange(FULL_SPARE_B)
            self._later(self.rng.choice(FULL_S), self._free_disk, member)

    def _free_disk(self, member: Manager) -> None:
        member.disk.capacity_b = ROOMY_B

    async def turn_clock(self) -> None:
        member = self._one()
        if member is not None:
            self._count("clock jump", member.name)
            member.clock.skew_ms = self.rng.randint(-SKEW_MAX_MS, SKEW_MAX_MS)

    # What members remember ------------------------------------------------------------------------

    async def back_up(self) -> None:
        """Not of a group of one or two: what that was, it would be again, and ask nobody."""
        member = self._one()
        if member is not None and not member.disk.is_dead and self.group.votes_of(member) > 2:
            members = () if member.engine is None else member.engine.members()
            others = {one.node_id for one in members} - {member.node_id}
            now_s = self.group.clock.now_s
            self._backups[member.name] = _Backup(now_s, *member.backup(), frozenset(others))

    async def roll_back(self) -> None:
        """An image of the disk takes its place, as after a restored virtual machine. All others
        are well, and stay so until it is refused: a member is trusted in what it remembers."""
        group = self.group
        found = [name for name in self._backups if self._is_old(name)]
        if not found or not await self._quiet(3.0):
            return
        name = self.rng.choice(found)
        saved, member = self._backups[name], group.named(name)
        if member is None or not self._is_old(name) or not self._spares_one():
            return
        self._backups.pop(name)
        await group.kill(member, is_power=True)
        self._count("disk rolled back", name)
        member.roll_back((saved.names, saved.record))
        group.suspects[name] = None
        group.boot(member)
        await self._until(lambda: member.state != "in", 8.0)

    def _is_old(self, name: str) -> bool:
        """And knows of somebody who is there: others' word that it is old would count for nothing,
        and an operator had to let it leave."""
        saved, member = self._backups[name], self.group.named(name)
        is_same = member is not None and member.record.raft_id == saved.record.raft_id
        knows_one = any(one.node_id in saved.others for one in self.group.up() if one is not member)
        return is_same and knows_one and self.group.clock.now_s - saved.at_s > BACKUP_AGE_S

    async def clone(self) -> None:
        """A copy of a member's disk starts on another host while the member runs."""
        group = self.group
        if not await self._quiet(3.0) or not self._spares_one():
            return
        member = self.rng.choice(group.up())
        names, record = member.backup()
        clone = group.new_member(f"{member.name}c{group.counts['clone']}")
        clone.node_id, clone.state, clone.record = member.node_id, "clone", record
        clone.disk._names, clone.disk._kept_names = names, dict(names)
        group.members.append(clone)
        self._count("clone", clone.name)
        group.suspects[member.name] = None
        clone.boot(group.loop)
        await self._until(lambda: clone.task is None or member.task is None, CLONE_S)
        if clone.task is not None and member.task is not None:
            group.truth.wrong("clone", f"{clone.name} and {member.name} both run on")
        if clone.task is not None:
            await clone.kill(is_power=True)
        group.members.remove(clone)

    def _spares_one(self) -> bool:
        """Whether there is a majority without any one of those who are there."""
        there = [one for one in self.group.up() if self.group.votes(one)]
        return len(there) > 2 and len(there) - 1 > self.group.voters() // 2

    async def _quiet(self, for_s: float) -> bool:
        """Mend everything and wait; whether all have been well for a while then."""
        self.group.heal()
        await self._until(self._all_well, 10.0)
        await asyncio.sleep(for_s)
        return self._all_well()

    def _all_well(self) -> bool:
        leader = self.group.leader()
        if leader is None or len(self.group.up()) < len(self.group.all_in()):
            return False
        return all(o.store.index >= leader.store.index - 3 for o in self.group.all_in())

    async def _until(self, is_so: Callable[[], bool], within_s: float) -> None:
        ends_s = self.group.clock.now_s + within_s
        while not is_so() and self.group.clock.now_s < ends_s:  # noqa: ASYNC110 - no event
            await asyncio.sleep(LOOK_S)
