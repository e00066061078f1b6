"""Managers that join, leave, are promoted and demoted, while the leader's component runs."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    InvalidArgumentError,
    NotLeaderError,
    OutcomeUnknownError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.env.real import RealDisk
from swarmlet.manager.admission import DIAL_BACK_S, Admission
from swarmlet.manager.group import Group
from swarmlet.manager.members import RETRY_S, Members
from swarmlet.model.change import Create, Remove, Update
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.node import ManagerStatus, Node, NodeSpec
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from swarmlet.wire.node_api import MemberRequest, PortHello
from tests.agent.virtual_time import run_virtual, until, virtual_env
from tests.manager.group_log import GroupLog, member

CLUSTER = ClusterID("c")
START_S = 0.05


def row(number: int, role: str = "manager", wanted: str = "", **fields: object) -> Node:
    spec = NodeSpec(role=wanted or role, availability=str(fields.pop("availability", "active")))
    return Node(id=NodeID(f"node-{number}"), spec=spec, role=role, **fields)


def placed(number: int, **fields: object) -> Node:
    one = member(number)
    return row(number, manager=ManagerStatus(raft_id=one.raft_id, addr=one.address), **fields)


def peer(number: int, cluster_id: str = CLUSTER) -> Identity:
    return Identity(
        node_id=NodeID(f"node-{number}"),
        role="manager",
        cluster_id=ClusterID(cluster_id),
        begins_ms=0,
        ends_ms=2**60,
    )


class World:
    """A leader of a group; `ports` says who answers where, and `delay_s` how soon."""

    def __init__(self, *others: Member) -> None:
        self.env = virtual_env(RealDisk())
        self.store = Store(self.env)
        self.log = GroupLog(self.store, *others)
        self.store.attach(self.log)
        self.ports: dict[str, PortHello] = {}
        self.delay_s, self.told = 0.0, 0
        group = Group(self.log, self._tell)
        me = NodeID("node-1")
        self.members = Members(self.store, group, me)
        self.admission = Admission(self.store, group, self.env, me, self._hello)

    def opens(self, addr: str, number: int, cluster_id: str = CLUSTER, protocol: int = 1) -> None:
        node_id = f"node-{number}"
        self.ports[addr] = PortHello(
            protocol=protocol, node_id=node_id, cluster_id=cluster_id, now_ms=0
        )

    async def _hello(self, addr: str) -> PortHello:
        await asyncio.sleep(self.delay_s)
        if addr not in self.ports:
            raise UnavailableError(f"{addr} does not answer")
        return self.ports[addr]

    def _tell(self) -> None:
        self.told += 1

    async def begin(self, *nodes: Node) -> None:
        cluster = Cluster(id=CLUSTER, spec=SwarmSpec())
        await self.store.commit([Create(obj=obj) for obj in (cluster, *nodes)])

    def node(self, number: int) -> Node:
        found = self.store.view().nodes.get(f"node-{number}")
        assert found is not None
        return found

    async def want(self, number: int, **fields: object) -> None:
        node = self.node(number)
        wanted = replace(node, spec=replace(node.spec, **fields))
        await self.store.commit([Update(obj=wanted, seen=node.version)])

    async def rests(self, limit_s: float = 60.0) -> None:
        await until(self.members.is_at_rest, limit_s)

    async def join(self, number: int, **fields: object) -> int:
        request = MemberRequest(**{"addr": f"10.0.0.{number}:2377", **fields})
        grant = await self.admission.join(request, peer(number), source=f"192.0.2.{number}")
        return grant.raft_id


Story = Callable[[World], Awaitable[None]]


def play(world: World, nodes: tuple[Node, ...], story: Story) -> None:
    async def main() -> None:
        await world.begin(*nodes)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.members.run())
            await asyncio.sleep(START_S)
            await story(world)
            running.cancel()

    run_virtual(main())


def three() -> tuple[World, tuple[Node, ...]]:
    return World(member(2), member(3)), (placed(1), placed(2), placed(3))


# Joining ------------------------------------------------------------------------------------------


def test_manager_joins_as_a_learner_and_votes_once_it_has_caught_up():
    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        grant = await world.admission.join(
            MemberRequest(addr="10.0.0.2:2377"), peer(2), "192.0.2.2"
        )
        assert [(one.node_id, one.addr) for one in grant.members] == [
            ("node-1", "127.0.0.1:2377"),
            ("node-2", "10.0.0.2:2377"),
        ]
        assert world.log.changes == [("add-learner", grant.raft_id)]
        assert 0 < grant.raft_id < 2**63
        await world.rests()
        assert world.log.changes[1:] == [("promote", grant.raft_id)]
        assert world.node(2).manager == ManagerStatus(raft_id=grant.raft_id, addr="10.0.0.2:2377")
        assert world.told == 2

    play(World(), (placed(1), row(2)), story)


def test_same_manager_that_asks_again_is_told_the_same():
    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        world.log.silent.add(2)
        first = await world.join(2)
        world.log.lagging.add(first)
        assert await world.join(2) == first
        assert await world.join(2, raft_id=first) == first
        assert [verb for verb, _ in world.log.changes] == ["add-learner"]

    play(World(), (placed(1), row(2)), story)


def test_manager_that_moved_is_dialed_back_before_its_new_address_counts():
    world, nodes = three()

    async def story(world: World):
        with pytest.raises(FailedPreconditionError, match=r"at 10.9.9.9:2377: .* does not answer"):
            await world.join(2, addr="10.9.9.9:2377", raft_id=2)
        assert world.log.changes == []
        world.opens("10.9.9.9:2377", 2)
        assert await world.join(2, addr="10.9.9.9:2377", raft_id=2) == 2
        assert world.log.changes == [("set-address", 2)]
        await world.rests()
        assert world.node(2).manager == ManagerStatus(raft_id=2, addr="10.9.9.9:2377")

    play(world, nodes, story)


def test_unspecified_address_stands_for_where_the_call_comes_from():
    async def story(world: World):
        world.opens("192.0.2.2:4000", 2)
        await world.join(2, addr="0.0.0.0:4000")
        world.opens("[2001:db8::2]:4000", 2)
        request = MemberRequest(addr="[::]:4000")
        await world.admission.join(request, peer(2), source="2001:db8::2")
        assert world.log.members()[-1].address == "[2001:db8::2]:4000"
        with pytest.raises(InvalidArgumentError, match="non-zero"):
            await world.admission.join(request, peer(2), source="")
        with pytest.raises(InvalidArgumentError, match="AdvertiseAddr"):
            await world.join(2, addr="not an address")

    play(World(), (placed(1), row(2)), story)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "does not answer"),
        ({"number": 3}, "node node-3 answers there"),
        ({"number": 2, "cluster_id": "other"}, "another swarm"),
        ({"number": 2, "protocol": 9}, "speaks protocol 9"),
    ],
)
def test_manager_that_does_not_answer_as_itself_does_not_join(answer, words):
    async def story(world: World):
        if answer is not None:
            world.opens("10.0.0.2:2377", **answer)
        with pytest.raises(FailedPreconditionError, match=words) as refused:
            await world.join(2)
        assert "--advertise-addr" in refused.value.remedy
        assert world.log.changes == []

    play(World(), (placed(1), row(2)), story)


def test_address_that_stays_silent_is_given_up_after_five_seconds():
    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        world.delay_s = 60.0
        began_s = world.env.clock.mono_s()
        with pytest.raises(FailedPreconditionError, match="within 5 s"):
            await world.join(2)
        assert world.env.clock.mono_s() - began_s == pytest.approx(DIAL_BACK_S)

    play(World(), (placed(1), row(2)), story)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (None, "was removed"),
        (row(2, "worker"), "demoted"),
        (row(2, "manager", wanted="worker"), "demoted"),
    ],
)
def test_node_that_is_no_manager_does_not_join(node, words):
    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        with pytest.raises(ForbiddenError, match=words):
            await world.join(2)

    play(World(), (placed(1), *([] if node is None else [node])), story)


def test_raft_id_that_was_removed_before_is_not_given_again():
    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        world.log.refusals.append(FailedPreconditionError("This raft id was removed."))
        given = await world.join(2)
        assert world.log.changes == [("add-learner", given)]

    play(World(), (placed(1), row(2)), story)


def test_manager_whose_data_are_lost_gets_another_raft_id_and_keeps_its_role():
    world, nodes = three()

    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        with pytest.raises(UnavailableError, match="answers as a manager still"):
            await world.join(2, raft_id=2, is_lost=True)
        world.log.silent.add(2)
        given = await world.join(2, raft_id=2, is_lost=True)
        assert given != 2
        assert world.log.changes == [("remove", 2), ("add-learner", given)]
        await world.rests()
        node = world.node(2)
        assert (node.role, node.spec.role) == ("manager", "manager")
        assert node.manager == ManagerStatus(raft_id=given, addr="10.0.0.2:2377")

    play(world, nodes, story)


@pytest.mark.parametrize("raft_id", [0, 77])
def test_voter_that_does_not_know_its_raft_id_has_lost_its_data(raft_id):
    world, nodes = three()

    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        world.log.silent.add(2)
        assert await world.join(2, raft_id=raft_id) != 2
        assert ("remove", 2) in world.log.changes

    play(world, nodes, story)


def test_join_cut_off_between_removal_and_return_leaves_a_manager_on_its_way_in():
    world, nodes = three()

    async def story(world: World):
        world.opens("10.0.0.2:2377", 2)
        world.log.silent.add(2)
        async with asyncio.TaskGroup() as group:
            joining = group.create_task(world.join(2, raft_id=2, is_lost=True))
            await until(lambda: ("remove", 2) in world.log.changes)
            joining.cancel()
        await world.rests()
        assert (world.node(2).role, world.node(2).spec.role) == ("manager", "manager")
        assert await world.join(2, raft_id=2, is_lost=True) != 2

    play(world, nodes, story)


def test_many_managers_that_ask_at_once_all_join():
    async def story(world: World):
        numbers = range(2, 8)
        for number in numbers:
            world.opens(f"10.0.0.{number}:2377", number)
        async with asyncio.TaskGroup() as group:
            joins = [group.create_task(world.join(number)) for number in numbers for _ in range(2)]
        ids = [join.result() for join in joins]
        assert len(set(ids)) == len(numbers)
        await world.rests()
        assert len(world.log.group.voters()) == 7

    play(World(), (placed(1), *(row(number) for number in range(2, 8))), story)


def test_learner_that_lags_does_not_hold_up_anything_and_is_promoted_in_the_end():
    world = World(member(2), member(3), member(4, is_voter=False))

    async def story(world: World):
        await world.want(3, role="worker")
        await until(lambda: ("remove", 3) in world.log.changes, limit_s=0.5)
        await asyncio.sleep(30)
        assert not world.members.is_at_rest()
        assert ("promote", 4) not in world.log.changes
        world.log.lagging.clear()
        await until(lambda: ("promote", 4) in world.log.changes, limit_s=2 * RETRY_S)
        await world.rests()

    world.log.lagging.add(4)
    play(world, (placed(1), placed(2), placed(3), placed(4)), story)


def test_address_that_others_changed_in_the_group_is_written_to_the_row():
    world, nodes = three()

    async def story(world: World):
        world.log.move(2, "10.7.7.7:2377")
        await until(lambda: world.node(2).manager.addr == "10.7.7.7:2377", limit_s=2 * RETRY_S)

    play(world, nodes, story)


# Roles --------------------------------------------------------------------------------------------


def test_promoted_node_becomes_a_manager_by_its_row_at_once():
    async def story(world: World):
        await world.want(2, role="manager")
        await until(lambda: world.node(2).role == "manager", limit_s=0.5)
        await world.rests()
        assert world.node(2).manager is None
        assert world.log.changes == []

    play(World(), (placed(1), row(2, "worker")), story)


def test_demoted_manager_is_removed_from_the_group_before_its_role_changes():
    world, nodes = three()

    async def story(world: World):
        roles: list[str] = []
        world.store.subscribe(
            lambda events: roles.extend(
                f"{event.new.role}{world.log.changes}"
                for event in events
                if isinstance(event.new, Node) and event.id == "node-3"
            )
        )
        await world.want(3, role="worker")
        await world.rests()
        assert roles == ["manager[]", "worker[('remove', 3)]"]
        assert world.node(3).manager is None

    play(world, nodes, story)


def test_manager_is_demoted_once_the_others_keep_a_quorum_without_it():
    world, nodes = three()

    async def story(world: World):
        world.log.silent.add(2)
        await world.want(3, role="worker")
        await asyncio.sleep(60)
        assert world.log.changes == []
        assert world.node(3).role == "manager"
        world.log.silent.clear()
        await until(lambda: world.node(3).role == "worker", limit_s=2 * RETRY_S)

    play(world, nodes, story)


def test_demoted_leader_hands_over_and_leaves_the_rest_to_the_next():
    world, nodes = three()

    async def story(world: World):
        await world.want(2, availability="drain")
        await world.want(1, role="worker")
        await until(lambda: bool(world.log.heirs), limit_s=1)
        assert world.log.heirs == [3]
        assert world.log.changes == []

    play(world, nodes, story)


def test_drained_leader_hands_over_to_one_that_is_not_drained_and_else_goes_on():
    world, nodes = three()

    async def story(world: World):
        await world.want(2, availability="drain")
        await world.want(3, availability="drain")
        await world.want(1, availability="drain")
        await world.rests()
        assert world.log.heirs == []
        await world.want(3, availability="active")
        await until(lambda: world.log.heirs == [3], limit_s=1)

    play(world, nodes, story)


def test_handing_over_is_tried_again_with_the_next_heir():
    world, nodes = three()

    async def story(world: World):
        world.log.refusals.append(UnavailableError("Nobody took over."))
        await world.want(1, availability="drain")
        await until(lambda: bool(world.log.heirs), limit_s=2 * RETRY_S)
        assert world.log.heirs == [3]

    play(world, nodes, story)


def test_member_whose_node_is_gone_is_removed():
    world, nodes = three()

    async def story(world: World):
        await world.store.commit([Remove(table=Node, id="node-3")])
        await world.rests()
        assert world.log.changes == [("remove", 3)]

    play(world, nodes, story)


def test_managers_that_are_members_no_more_are_workers_from_then_on():
    async def story(world: World):
        await world.rests()
        for number in (2, 3):
            node = world.node(number)
            assert (node.role, node.spec.role, node.manager) == ("worker", "worker", None)
        assert world.node(1) == replace(placed(1), **_stamps(world.node(1)))

    play(World(), (placed(1), placed(2), placed(3)), story)


def _stamps(node: Node) -> dict[str, int]:
    return {name: getattr(node, name) for name in ("version", "created_ms", "updated_ms")}


@pytest.mark.parametrize(
    "problem",
    [
        UnavailableError("It could not be done in time."),
        OutcomeUnknownError("Nobody knows."),
        FailedPreconditionError("The rest would have no quorum."),
    ],
)
def test_change_that_failed_is_made_in_the_end(problem: SwarmError):
    world, nodes = three()

    async def story(world: World):
        world.log.refusals.append(problem)
        world.log.fail_next("", "unknown", "lost")
        await world.want(3, role="worker")
        await until(lambda: world.node(3).role == "worker", limit_s=4 * RETRY_S)

    play(world, nodes, story)


# Leaving ------------------------------------------------------------------------------------------


def test_manager_that_leaves_is_a_worker_before_it_is_gone():
    world, nodes = three()

    async def story(world: World):
        await world.admission.leave(MemberRequest(raft_id=3), peer(3))
        assert world.log.changes == [("remove", 3)]
        assert world.node(3).spec.role == "worker"
        await world.rests()
        assert world.node(3).role == "worker"
        await world.admission.leave(MemberRequest(raft_id=3), peer(3))
        assert world.log.changes == [("remove", 3)]

    play(world, nodes, story)


def test_manager_that_the_others_need_does_not_leave():
    world, nodes = three()

    async def story(world: World):
        world.log.silent.add(2)
        with pytest.raises(FailedPreconditionError, match="loss of quorum"):
            await world.admission.leave(MemberRequest(raft_id=3), peer(3))
        assert world.log.changes == []
        assert world.node(3).spec.role == "manager"

    play(world, nodes, story)


def test_leader_that_leaves_hands_over_and_is_told_whom_to_ask():
    world, nodes = three()

    async def story(world: World):
        with pytest.raises(NotLeaderError) as refused:
            await world.admission.leave(MemberRequest(raft_id=1), peer(1))
        assert refused.value.managers == ("10.0.0.2:2377",)
        assert world.log.changes == []

    play(world, nodes, story)


def test_who_does_not_lead_lets_nobody_in_or_out():
    async def main() -> None:
        world, nodes = three()
        await world.begin(*nodes)
        for call in (
            world.join(2),
            world.admission.leave(MemberRequest(raft_id=2), peer(2)),
        ):
            with pytest.raises(NotLeaderError):
                await call

    run_virtual(main())
