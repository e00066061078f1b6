"""Who leads and who answers, among the events of nodes."""

import asyncio

from swarmlet.core.errors import QuorumLostError
from swarmlet.core.ids import NodeID
from swarmlet.manager.herald import CHECK_PERIOD_S, Herald
from swarmlet.model.change import Create, Remove
from swarmlet.model.node import Node
from swarmlet.store.proposer import GroupHealth, Member, MemberHealth
from swarmlet.store.store import Store
from tests.agent.virtual_time import run_virtual
from tests.manager.swarm import node_row
from tests.store.memory_log import MemoryLog
from tests.store.worlds import seeded_env

NAMES = ("n1", "n2", "n3")


class Log(MemoryLog):
    """Of a group whose members answer or not, at will."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.answers = dict.fromkeys(NAMES, True)
        self.unknown: set[str] = set()
        self.is_lost = False

    def health(self) -> GroupHealth:
        members = tuple(
            MemberHealth(
                member=Member(raft_id=number, node_id=name, address=f"10.0.0.{number}:2377"),
                answers=answers,
                is_known=name not in self.unknown,
            )
            for number, (name, answers) in enumerate(self.answers.items(), start=1)
        )
        return GroupHealth(leader=1, members=members, quorum=2)

    async def propose(self, entry: bytes, proposal_id: int) -> int:
        if self.is_lost:
            raise QuorumLostError("nobody answers")
        return await super().propose(entry, proposal_id)


class World:
    def __init__(self) -> None:
        self.store = Store(seeded_env())
        self.log = Log(self.store)
        self.store.attach(self.log)

    async def begin(self) -> None:
        rows = [Create(obj=node_row(NodeID(name), "manager")) for name in NAMES]
        await self.store.commit(rows)

    async def lead(self, name: str, seconds: float) -> None:
        running = asyncio.create_task(Herald(self.store, self.log, NodeID(name)).run())
        await asyncio.sleep(seconds)
        running.cancel()
        await asyncio.wait((running,))

    def told(self) -> list[tuple[str, dict[str, str]]]:
        """All updates of nodes, without their names."""
        return [
            (one.id, {key: text for key, text in one.attributes.items() if key != "name"})
            for happening in self.store.history.read()
            for one in happening.messages
            if one.action == "update"
        ]


def play(story) -> None:
    async def main() -> None:
        world = World()
        await world.begin()
        await story(world)

    run_virtual(main())


BEGINS = {"leader.old": "false", "leader.new": "true"}
ENDS = {"leader.old": "true", "leader.new": "false"}
SILENT = {"reachability.old": "reachable", "reachability.new": "unreachable"}
BACK = {"reachability.old": "unreachable", "reachability.new": "reachable"}


def test_leader_is_told_with_the_one_before_and_once():
    async def story(world: World) -> None:
        await world.lead("n1", 60)
        assert world.told() == [("n1", BEGINS)]
        await world.lead("n1", 60)  # it was started anew
        assert world.told() == [("n1", BEGINS)]
        await world.lead("n2", 60)
        assert world.told()[1:] == [("n1", ENDS), ("n2", BEGINS)]

    play(story)


def test_manager_that_is_silent_and_back_is_told_by_whoever_leads():
    async def story(world: World) -> None:
        await world.lead("n1", 10)
        world.log.answers["n3"] = False
        await world.lead("n1", 60)
        assert world.told()[1:] == [("n3", SILENT)]
        await world.store.commit([Remove(table=Node, id="n1")])
        world.log.answers["n3"] = True
        await world.lead("n2", 60)
        assert world.told()[2:] == [("n2", BEGINS), ("n3", BACK)]

    play(story)


def test_moment_of_silence_and_what_nobody_knows_yet_are_not_told():
    async def story(world: World) -> None:
        world.log.unknown = {"n2"}
        world.log.answers["n2"] = False
        running = asyncio.create_task(world.lead("n1", 60))
        await asyncio.sleep(CHECK_PERIOD_S * 2.5)
        world.log.answers["n3"] = False
        await asyncio.sleep(CHECK_PERIOD_S)
        world.log.answers["n3"] = True
        await running
        assert world.told() == [("n1", BEGINS)]

    play(story)


def test_what_could_not_be_written_is_told_later():
    async def story(world: World) -> None:
        world.log.is_lost = True
        running = asyncio.create_task(world.lead("n1", 60))
        await asyncio.sleep(20)
        assert world.told() == []
        world.log.is_lost = False
        await running
        assert world.told() == [("n1", BEGINS)]

    play(story)


def test_swarm_of_one_manager_tells_nothing_and_does_nothing():
    async def story(world: World) -> None:
        world.log.answers = {"n1": True}
        await world.lead("n1", 500)
        assert world.told() == []
        assert len(world.log.entries) == 1

    play(story)
