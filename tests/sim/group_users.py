"""Who uses a simulated group: clients that write and read, operators that change it."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from swarmlet.core.errors import (
    ConflictError,
    FailedPreconditionError,
    NotFoundError,
    OutcomeUnknownError,
    StaleVersionError,
    SwarmError,
)
from swarmlet.core.ids import ConfigID
from swarmlet.model.change import ANY_VERSION, Change, Create, Update
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.raft.membership import ADD_LEARNER, PROMOTE, REMOVE, SET_ADDRESS
from tests.sim.group import Group
from tests.sim.group_history import Call
from tests.sim.group_member import MARKER, Manager
from tests.sim.group_truth import value_of

ROWS_MAX = 30
TRIES_MAX = 12
RETRY_S = 0.1
REFUSALS = (StaleVersionError, ConflictError, NotFoundError)  # final: it was not done


class Client:
    """Writes unique values into few rows and reads them, at any member. A write whose outcome is
    unknown is repeated under its id, at whatever member, until somebody knows."""

    def __init__(self, group: Group, name: str) -> None:
        self.group, self.name = group, name
        self.rng = Random(f"{group.seed}/{name}")
        self._count = 0

    async def run(self, mean_s: float) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / mean_s))
            if self.rng.random() < 0.4:
                await self.read()
            else:
                await self.write()

    async def write(self) -> int:
        """Its index, 0 where it was refused or nobody knows."""
        group, truth = self.group, self.group.truth
        member = self._member()
        if member is None:
            return 0
        self._count += 1
        value = f"{MARKER.decode()} {self.name} {self._count}"
        change, key = self._change(member, value)
        proposal_id, since = self.rng.getrandbits(62) + 2, member.store.index
        call, floor = truth.begin(key, value, is_read=False)
        is_open = False
        for _ in range(TRIES_MAX):
            target = self._leader_of(member)
            commit = target.store.commit((change,), proposal_id=proposal_id, since_index=since)
            try:
                index = await group.call(target, "write", commit)
            except REFUSALS:
                truth.refused(call)
                truth.counts["writes refused"] += 1
                return 0
            except (OutcomeUnknownError, asyncio.CancelledError):
                _reraise_own()
                is_open = True
                truth.counts["outcomes unknown"] += 1
            except SwarmError as problem:
                truth.counts[f"write: {problem.code}"] += 1
            else:
                truth.counts["repeats acknowledged"] += is_open
                truth.acknowledged(call, proposal_id, index, floor)
                return index
            await asyncio.sleep(RETRY_S * self.rng.uniform(0.5, 2))
            member = self._member() or member
            while not member.is_up:
                await asyncio.sleep(RETRY_S)
                member = self._member() or member
        if not is_open:
            truth.refused(call)
        return 0

    def _change(self, member: Manager, value: str) -> tuple[Change, str]:
        number = self.rng.randrange(ROWS_MAX)
        row_id = f"row{number}"
        view = member.store.view()
        old = view.configs.get(row_id)
        row = Config(id=ConfigID(row_id), spec=ConfigSpec(name=row_id, data=value.encode()))
        if old is None:
            return Create(obj=row), row_id
        is_blind = self.rng.random() < 0.7
        return Update(obj=row, seen=ANY_VERSION if is_blind else old.version), row_id

    async def read(self) -> None:
        member = self._member()
        if member is None:
            return
        key = f"row{self.rng.randrange(ROWS_MAX)}"
        call, floor = self.group.truth.begin(key, None, is_read=True)
        try:
            index = await self.group.call(member, "read", self._read(member, call))
        except asyncio.CancelledError:
            _reraise_own()
        except SwarmError as problem:
            self.group.counts[f"read: {problem.code}"] += 1
        else:
            self.group.truth.read(call, index, floor)

    async def _read(self, member: Manager, call: Call) -> int:
        assert member.engine is not None
        index = await member.engine.read_barrier()
        row = member.store.view().configs.get(str(call.key))
        call.value = None if row is None else value_of(row)
        assert member.store.index >= index or not self.group.truth.states.get(index)
        return index

    def _member(self) -> Manager | None:
        """Any; now and then one that believes to lead, rightly or not."""
        up = self.group.up()
        leading = [one for one in up if one.looked.state and one.looked.state[1]]
        if leading and self.rng.random() < 0.3:
            return self.rng.choice(leading)
        return self.rng.choice(up) if up else None

    def _leader_of(self, member: Manager) -> Manager:
        """Whom a member passes a write on to: the leader it knows, where it reaches it."""
        leader = self.group.by_raft_id(member.engine.health().leader) if member.engine else None
        if leader is None or not leader.is_up:
            return member
        net = self.group.net
        ways = ((member.name, leader.name), (leader.name, member.name))
        return member if any(net.is_cut(*way) for way in ways) else leader


def _reraise_own() -> None:
    """A call that was cancelled with its member is no end of the one who called."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Operator:
    """Lets members join and leave, moves leadership and addresses, changes keys."""

    def __init__(self, group: Group, size: int, name: str = "operator") -> None:
        self.group, self.size, self.is_busy = group, size, False
        self.rng = Random(f"{group.seed}/{name}")

    async def run(self, mean_s: float) -> None:
        while True:
            await asyncio.sleep(self._pause_s(mean_s))
            self.is_busy = True
            await self._act()
            self.is_busy = False

    def _pause_s(self, mean_s: float) -> float:
        return 0.1 if self.group.is_calm else self.rng.expovariate(1 / mean_s)

    async def _act(self) -> None:
        group = self.group
        if group.errands:
            await self.rejoin(group.errands.pop(0))
        elif not group.is_calm:
            await self._change()
        elif len(group.all_in()) < self.size:
            await self.join()

    def is_done(self) -> bool:
        group = self.group
        return not self.is_busy and not group.errands and len(group.all_in()) >= self.size

    async def _change(self) -> None:
        group = self.group
        free = [one for one in group.members if one.state == "out"]
        count = len(group.all_in())
        acts = [self.transfer, self.move, self.rotate, self.restart]
        if free and count <= self.size:
            acts += [self.join] * 3
        if count > 2:
            acts += [self.remove] * 2
        await self.rng.choice(acts)()

    async def _insist(self, verb: str, member: Manager) -> bool:
        """Ask whoever leads until it is done; False where it is refused, or the member is gone."""
        group, state = self.group, member.state
        entry = group.entry_of(member)
        while member.state == state:
            leader = group.leader()
            if leader is not None:
                group.counts[f"asked: {verb}"] += 1
                try:
                    await group.change(leader, verb, entry)
                except FailedPreconditionError as refusal:
                    group.tell(f"{verb} {member.name}: {refusal.message}")
                    group.counts[f"refused: {verb}"] += 1
                    return False
                except asyncio.CancelledError:
                    _reraise_own()
                except SwarmError as problem:
                    group.counts[f"{verb}: {problem.code}"] += 1
                else:
                    group.tell(f"{verb} {member.name} is done")
                    return True
            await asyncio.sleep(0.2)
        return False

    async def join(self) -> None:
        group = self.group
        free = [one for one in group.members if one.state == "out"]
        if not free:
            return
        member = self.rng.choice(free)
        member.state = "joining"
        group.give_place(member)
        group.tell(f"{member.name} joins as {member.record.raft_id:x}")
        if not await self._insist(ADD_LEARNER, member):
            member.state = "out"
            return
        member.state = "in"
        group.suspects.pop(member.name, None)
        group.boot(member)
        if self.rng.random() < 0.9:
            await self._insist(PROMOTE, member)

    async def remove(self) -> None:
        group, leader = self.group, self.group.leader()
        others = [one for one in group.all_in() if one is not leader]
        if others:
            await self._remove(self.rng.choice(others))

    async def _remove(self, member: Manager) -> None:
        group = self.group
        group.tell(f"{member.name} is to be removed")
        group.suspects[member.name] = None  # it may hear of it before the operator does
        if await self._insist(REMOVE, member) and member.state == "in":
            member.state = "removed"
            await asyncio.sleep(self.rng.choice((0.0, 1.0, 5.0)))
            await self._retire(member)

    async def _retire(self, member: Manager) -> None:
        if member.task is not None:
            await member.kill(is_power=False)
        member.wipe()
        member.state = "out"

    async def rejoin(self, member: Manager) -> None:
        """A member that lost its place: the old one is removed, then it takes another."""
        if member.state == "lost" and await self._insist(REMOVE, member) and member.state == "lost":
            await self._retire(member)
            await self.join()
        elif member.state == "lost":
            self.group.errands.append(member)

    async def transfer(self) -> None:
        leader = self.group.leader()
        if leader is not None and leader.engine is not None:
            others = [m.raft_id for m in leader.engine.members() if m.is_voter]
            to = self.rng.choice([None, *(o for o in others if o != leader.record.raft_id)])
            await self._try("transfer", leader, leader.engine.transfer(to))

    async def move(self) -> None:
        """A member has another address from now on; nobody reaches it at the old one."""
        up = self.group.up()
        if up and self._finds_all():
            member = self.rng.choice(up)
            self.group.net.ports.pop(member.address, None)
            member.moves += 1
            self.group.net.ports[member.address] = member
            for other in self.group.members:
                self.group.net.drop(member.name, other.name)
            self.group.tell(f"{member.name} moves to {member.address}")
            await self._insist(SET_ADDRESS, member)

    def _finds_all(self) -> bool:
        """Whether everybody knows where all are: two that move at once may lose each other."""
        there = [one for one in self.group.members if one.state == "in"]
        for viewer in there:
            members = () if viewer.engine is None else viewer.engine.members()
            known = {member.raft_id: member.address for member in members}
            if any(known.get(one.record.raft_id, one.address) != one.address for one in there):
                return False
        return True

    async def rotate(self) -> None:
        up = self.group.up()
        if up:
            member = self.rng.choice(up)
            if member.engine is not None and not member.record.pending:
                work = member.rotate(member.engine, self.group.new_key())
                await self._try("rotate", member, work)

    async def restart(self) -> None:
        """In order."""
        up = self.group.up()
        if up:
            member = self.rng.choice(up)
            self.group.tell(f"{member.name} stops")
            await member.stop()
            self.group.counts["stops"] += 1
            self.group.boot_in(member, self.rng.choice((0.1, 2.0)))

    async def _try(self, what: str, member: Manager, work: Coroutine[Any, Any, Any]) -> None:
        self.group.tell(f"{what} at {member.name}")
        try:
            await self.group.call(member, what, work)
        except asyncio.CancelledError:
            _reraise_own()
        except SwarmError as problem:
            self.group.counts[f"{what}: {problem.code}"] += 1
        else:
            self.group.counts[what] += 1
