"""A power cut at every single disk operation of what a group of managers does most carefully.

Each story begins with three managers that are well, arms the disk of one of them, and does one
thing. Afterwards, however it ended, the group must become well, with all that was acknowledged.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.sim.group import Group
from tests.sim.group_loop import run_group_sim
from tests.sim.group_member import Manager
from tests.sim.group_users import Client, Operator

SIZE = 3
WRITES = 4
BETWEEN_S = 0.05
GIVES_UP_S = 10.0  # of virtual time; then what the story does goes on without faults
RESTS_S = 1.0


class CutStory:
    """`victim`: whose power goes. `is_cut`: whether it went."""

    def __init__(self, name: str, operation: int, where: str) -> None:
        self.group = Group(name, SIZE + 1)  # the same up to the cut
        self.group.is_calm = True
        self.client, self.operator = Client(self.group, "c"), Operator(self.group, SIZE)
        self._tell, self._operation, self._where = STORIES[name], operation, where
        self.is_cut = False

    def run(self) -> bool:
        run_group_sim(self.group.clock, self._main())
        return self.is_cut

    async def _main(self) -> None:
        group = self.group
        group.begin()
        group.found()
        async with asyncio.TaskGroup() as tasks:
            operator = tasks.create_task(self.operator.run(1.0))
            await self._until_well()
            work = tasks.create_task(self._tell(self))
            await asyncio.wait((work,), timeout=GIVES_UP_S)
            group.heal()
            await work
            await asyncio.sleep(RESTS_S)
            await self._until_well()
            operator.cancel()
        self.is_cut = group.counts["power cut within a disk operation"] > 0
        for member in group.members:
            await member.kill(is_power=False)
        group.truth.check_history()
        group._step({})

    async def _until_well(self) -> None:
        while not self.operator.is_done():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
        await self.group.settle(self.client.write)

    def arm(self, victim: Manager) -> None:
        victim.disk.fail_at(self._operation, self._where)

    def leader(self) -> Manager:
        leader = self.group.leader()
        assert leader is not None
        return leader

    def follower(self) -> Manager:
        leader = self.leader()
        return next(one for one in self.group.all_in() if one is not leader)

    async def write(self) -> None:
        """So many that are acknowledged, and a while in which what they began goes on."""
        done = 0
        while done < WRITES:
            done += await self.client.write() > 0
            await self.client.read()
            await asyncio.sleep(BETWEEN_S)
        await asyncio.sleep(RESTS_S)

    # The stories

    async def follower_in_election(self) -> None:
        """The leader dies; the disk is that of one who elects, or is elected."""
        leader = self.leader()
        self.arm(self.follower())
        await self.group.kill(leader, is_power=True)
        await self.write()
        self.group.boot(leader)

    async def leader_in_election(self) -> None:
        """Another is elected while the old leader is cut off, and hears of it."""
        leader = self.leader()
        self.arm(leader)
        others = [one.name for one in self.group.members if one is not leader]
        for other in others:
            self.group.net.cut(leader.name, other)
        await asyncio.sleep(2)
        await self.write()
        for other in others:
            self.group.net.mend(leader.name, other)

    async def whole_group_starts(self) -> None:
        victim = self.follower()
        for member in self.group.all_in():
            await self.group.kill(member, is_power=True)
        self.arm(victim)
        for member in self.group.all_in():
            self.group.boot(member)
        await self.write()

    async def learner_in_join(self) -> None:
        await self._replace(lambda leader, spare: spare)

    async def leader_in_join(self) -> None:
        await self._replace(lambda leader, spare: leader)

    async def _replace(self, victim: Callable[[Manager, Manager], Manager]) -> None:
        """One is removed, and another one joins: that of whom there is a spare host."""
        spare = next(one for one in self.group.members if one.state == "out")
        await self.write()
        follower = self.follower()
        await self.operator._remove(follower)
        follower.state = "gone"
        self.arm(victim(self.leader(), spare))
        while not self.operator.is_done():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
        await self.write()

    async def key_rotation(self) -> None:
        """The rotation is repeated until it is done, as the daemon does."""
        member = self.follower()
        old = member.record.secret
        self.arm(member)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.write())
            while member.record.secret == old:
                if member.engine is not None and not member.record.pending:
                    work = member.rotate(member.engine, self.group.new_key())
                    await self.operator._try("rotate", member, work)
                self.group.boot(member)
                await asyncio.sleep(0.5)


STORIES: dict[str, Callable[[CutStory], Coroutine[Any, Any, None]]] = {
    "follower in an election": CutStory.follower_in_election,
    "leader in an election": CutStory.leader_in_election,
    "start of all": CutStory.whole_group_starts,
    "learner in a join": CutStory.learner_in_join,
    "leader in a join": CutStory.leader_in_join,
    "key rotation": CutStory.key_rotation,
}


def cut_story(name: str, operation: int, where: str) -> bool:
    """One story with the power cut there; False where it has no such operation."""
    return CutStory(name, operation, where).run()
