"""Many managers that come, go and fall silent while everything fails now and then: the group ends
up as users want it, and never without a quorum."""

import asyncio
import random
from contextlib import suppress

import pytest

from swarmlet.core.errors import OutcomeUnknownError, SwarmError, UnavailableError
from swarmlet.model.change import Remove
from swarmlet.model.node import Node
from swarmlet.wire.node_api import MemberRequest
from tests.agent.virtual_time import run_virtual, until
from tests.manager.group_log import member
from tests.manager.test_members import World, peer, placed, row

NODES = range(2, 8)
STEPS = 150


class History:
    """One seed's story; every wish of a user or a node is drawn, and so is what fails."""

    def __init__(self, seed: int) -> None:
        self.rng, self.world = random.Random(seed), World(member(2), member(3))
        self.steps = (
            self.promote,
            self.promote,
            self.demote,
            self.drain,
            self.join,
            self.join,
            self.lose_data,
            self.leave,
            self.fall_silent,
            self.answer,
            self.lag,
            self.fail,
            self.forget,
            self.change_leader,
        )

    def nodes(self) -> list[int]:
        rows = sorted(node.id for node in self.world.store.view().nodes.all())
        return [int(node_id.removeprefix("node-")) for node_id in rows]

    async def promote(self) -> None:
        await self.world.want(self.rng.choice(self.nodes()), role="manager")

    async def demote(self) -> None:
        number = self.rng.choice(self.nodes())
        if number != 1:
            await self.world.want(number, role="worker")

    async def drain(self) -> None:
        wanted = self.rng.choice(["active", "drain"])
        await self.world.want(self.rng.choice([n for n in self.nodes() if n != 1] or [1]))
        others = [n for n in self.nodes() if n != 1]
        if others:
            await self.world.want(self.rng.choice(others), availability=wanted)

    async def join(self) -> None:
        nodes = self.world.store.view().nodes
        managers = [n for n in self.nodes()[1:] if nodes.get(f"node-{n}").role == "manager"]
        number = self.rng.choice(managers or NODES)
        addr = f"10.0.{self.rng.randrange(2)}.{number}:2377"
        self.world.opens(addr, number)
        await self.world.join(number, addr=addr, raft_id=self.raft_id(number))

    async def lose_data(self) -> None:
        number = self.rng.choice(NODES)
        self.world.opens(f"10.0.0.{number}:2377", number)
        self.silence(self.raft_id(number))
        await self.world.join(number, raft_id=self.raft_id(number), is_lost=True)

    async def leave(self) -> None:
        number = self.rng.choice(NODES)
        await self.world.admission.leave(MemberRequest(raft_id=self.raft_id(number)), peer(number))

    def raft_id(self, number: int) -> int:
        for one in self.world.log.members():
            if one.node_id == f"node-{number}":
                return one.raft_id
        return 0

    def silence(self, raft_id: int) -> None:
        """Where the others keep a quorum: a leader without one is none."""
        log = self.world.log
        voters = log.group.voters()
        left = [one for one in voters if one not in log.silent and one != raft_id]
        if raft_id != 1 and len(left) > len(voters) // 2:
            log.silent.add(raft_id)

    async def fall_silent(self) -> None:
        self.silence(self.rng.choice(self.world.log.members()).raft_id)

    async def answer(self) -> None:
        self.world.log.silent.clear()

    async def lag(self) -> None:
        self.world.log.lagging.update(one.raft_id for one in self.world.log.members())

    async def fail(self) -> None:
        problem = self.rng.choice([UnavailableError("Not now."), OutcomeUnknownError("Who knows.")])
        self.world.log.refusals.append(problem)
        self.world.log.fail_next(self.rng.choice(["lost", "unknown", "late", "full"]))

    async def forget(self) -> None:
        members = {one.node_id for one in self.world.log.members()}
        gone = [n for n in self.nodes() if f"node-{n}" not in members]
        if gone and self.rng.random() < 0.3:
            await self.world.store.commit([Remove(table=Node, id=f"node-{self.rng.choice(gone)}")])

    async def change_leader(self) -> None:
        await self.end_reign()
        await asyncio.sleep(self.rng.random())
        self.world.log.lead()
        self.begin_reign()

    def begin_reign(self) -> None:
        self.reign = self.group.create_task(self.world.members.run())

    async def end_reign(self) -> None:
        self.world.log.follow(None)
        self.reign.cancel()
        await asyncio.wait([self.reign])

    async def run(self, group: asyncio.TaskGroup) -> None:
        self.group = group
        self.begin_reign()
        log = self.world.log
        for _ in range(STEPS):
            with suppress(SwarmError, TimeoutError):
                async with asyncio.timeout(10):
                    await self.rng.choice(self.steps)()
            await asyncio.sleep(self.rng.choice([0.0, 0.005, 0.02, 1.0]))
            voters = set(log.group.voters())
            assert len(voters - log.silent) > len(voters) // 2
        for each in (log.silent, log.lagging, log.refusals, log._faults):
            each.clear()
        await until(lambda: self.reign.done() or self.world.members.is_at_rest(), limit_s=120)
        if self.reign.done():  # it handed over, as a drained or demoted leader does
            log.lead()
            self.begin_reign()
            await until(self.world.members.is_at_rest, limit_s=120)
        self.check()

    def check(self) -> None:
        log = self.world.log
        seats = {one.node_id: one for one in log.members()}
        assert len(seats) == len(log.members()), "a node is one member"
        assert all(one.is_voter for one in log.members())
        for node in self.world.store.view().nodes.all():
            seat = seats.pop(node.id, None)
            place = None if seat is None else (seat.raft_id, seat.address)
            written = node.manager and (node.manager.raft_id, node.manager.addr)
            assert written == place
            assert node.role == node.spec.role
            assert seat is None or node.role == "manager"
        assert not seats, "every member has a row"


@pytest.mark.parametrize("seed", range(60))
def test_group_ends_up_as_it_is_wanted(seed):
    history = History(seed)

    async def main() -> None:
        world = history.world
        await world.begin(placed(1), *(row(number, "worker") for number in NODES))
        async with asyncio.TaskGroup() as group:
            await history.run(group)
            await history.end_reign()

    run_virtual(main())
    assert len(history.world.log.changes) >= 1
