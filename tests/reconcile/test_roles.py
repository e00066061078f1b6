"""Roles and members: from any state the leader gets to where users want it, and never by losing the
quorum."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.core.ids import ClusterID, NodeID, RaftID
from swarmlet.model.change import Create, Update
from swarmlet.model.cluster import Cluster, SwarmSpec
from swarmlet.model.node import ManagerStatus, Node, NodeSpec
from swarmlet.reconcile.roles import Plan, Seat, can_remove, plan
from tests.store.worlds import Direct

ROUNDS_MAX = 60


def seat(number: int, *, is_voter: bool = True, answers: bool = True) -> Seat:
    return Seat(
        raft_id=RaftID(number),
        node_id=f"n{number}",
        addr=f"10.0.0.{number}:2377",
        is_voter=is_voter,
        answers=answers,
    )


def place(number: int) -> ManagerStatus:
    return ManagerStatus(raft_id=number, addr=f"10.0.0.{number}:2377")


def node(number: int, wanted: str, role: str, at: int = 0, availability: str = "active") -> Node:
    return Node(
        id=NodeID(f"n{number}"),
        spec=NodeSpec(role=wanted, availability=availability),
        role=role,
        manager=place(at) if at else None,
    )


class Swarm:
    """Rows in a real store, a group of seats, and a leader that does what is planned."""

    def __init__(self, nodes: Iterable[Node], seats: Iterable[Seat], leader: int) -> None:
        self._direct = Direct()
        self._do(Create(obj=Cluster(id=ClusterID("c"), spec=SwarmSpec())))
        for row in nodes:
            self._do(Create(obj=row))
        self.seats = {one.raft_id: one for one in seats}
        self.leader = RaftID(leader)
        self.removals = 0

    def _do(self, change: Create | Update) -> None:
        assert self._direct.apply(change) == ""

    def node(self, number: int) -> Node:
        row = self._direct.store.view().nodes.get(f"n{number}")
        assert row is not None
        return row

    def nodes(self) -> list[Node]:
        return sorted(self._direct.store.view().nodes.all(), key=lambda row: row.id)

    def plan(self) -> Plan:
        ordered = tuple(self.seats[raft_id] for raft_id in sorted(self.seats))
        return plan(self._direct.store.view(), ordered, self.seats[self.leader].node_id)

    def follow(self, todo: Plan, rows: int | None = None) -> None:
        """As `Members` does; `rows`: how many of them are written before a crash."""
        for change in todo.rows[:rows]:
            self._do(change)
        if todo.rows:
            return
        if todo.step is not None and todo.step.heirs:
            self.leader = todo.step.heirs[0]
        elif todo.step is not None:
            self._remove(todo.step.seat)
        else:
            for one in todo.learners:
                self.seats[one.raft_id] = replace(one, is_voter=True)

    def _remove(self, gone: Seat) -> None:
        assert gone.raft_id != self.leader, "a leader cannot remove itself"
        before = [one for one in self.seats.values() if one.is_voter]
        del self.seats[gone.raft_id]
        voters = [one for one in self.seats.values() if one.is_voter]
        if len(voters) < len(before):
            assert sum(one.answers for one in voters) > len(voters) // 2, "the quorum is lost"
        self.removals += 1

    def settle(self) -> Plan:
        """Until only waiting is left, or learners that do not answer."""
        for _ in range(ROUNDS_MAX):
            todo = self.plan()
            if not todo.rows and todo.step is None and not todo.learners:
                return todo
            self.follow(todo)
        raise AssertionError(f"it does not come to rest: {self.plan()}")


NUMBERS = st.integers(1, 7)


@st.composite
def swarms(draw: st.DrawFn, *, all_answer: bool = False) -> Swarm:
    """Any state at all that has a leader with a quorum."""
    voters = draw(st.sets(NUMBERS, min_size=1, max_size=5))
    learners = draw(st.sets(NUMBERS, max_size=2)) - voters
    leader = draw(st.sampled_from(sorted(voters)))
    others = sorted(voters - {leader})
    silent_max = 0 if all_answer else (len(voters) - 1) // 2
    silent = draw(st.lists(st.sampled_from(others), max_size=silent_max)) if others else []
    rows = [
        node(
            number,
            draw(st.sampled_from(["manager", "worker"])),
            draw(st.sampled_from(["manager", "worker"])),
            at=draw(st.sampled_from([0, number, 50 + number])),
            availability=draw(st.sampled_from(["active", "drain"])),
        )
        for number in sorted(draw(st.sets(NUMBERS, max_size=7)) | {leader})
    ]
    seats = [
        *(seat(number, answers=number not in silent) for number in voters),
        *(seat(number, is_voter=False) for number in learners),
    ]
    return Swarm(rows, seats, leader)


@settings(max_examples=300, deadline=None)
@given(swarms())
def test_leader_comes_to_rest_and_never_removes_the_quorum(swarm: Swarm):
    rest = swarm.settle()
    assert swarm.plan() == rest
    by_node = {one.node_id: one for one in swarm.seats.values()}
    for row in swarm.nodes():
        held = by_node.get(row.id)
        if row.spec.role == "manager":
            assert row.role == "manager"
        elif held is None:
            assert (row.role, row.manager) == ("worker", None)
        if held is not None:
            assert row.manager == ManagerStatus(raft_id=held.raft_id, addr=held.addr)


@settings(max_examples=300, deadline=None)
@given(swarms(all_answer=True))
def test_where_all_answer_nothing_waits_but_the_last_manager(swarm: Swarm):
    rest = swarm.settle()
    wanted = {row.id for row in swarm.nodes() if row.spec.role == "manager"}
    members = {one.node_id for one in swarm.seats.values()}
    if rest.waits:
        assert len(swarm.seats) == 1
    else:
        assert members <= wanted
    assert all(one.is_voter for one in swarm.seats.values())


@settings(max_examples=200, deadline=None)
@given(swarms(), st.lists(st.integers(0, 3), max_size=6))
def test_leaders_that_crash_in_the_middle_come_to_the_same_end(swarm: Swarm, written: list[int]):
    for count in written:
        swarm.follow(swarm.plan(), rows=count)
    swarm.settle()
    assert swarm.plan().rows == ()


@settings(max_examples=200, deadline=None)
@given(swarms(), st.data())
def test_what_is_done_does_not_hang_on_order_or_leader(swarm: Swarm, data: st.DataObject):
    """The same members stay whoever led when it began."""
    assert swarm.plan() == swarm.plan()
    answering = [one for one in swarm.seats.values() if one.is_voter and one.answers]
    other = data.draw(st.sampled_from(sorted(one.raft_id for one in answering)))
    twin = Swarm(swarm.nodes(), swarm.seats.values(), other)
    swarm.settle()
    twin.settle()
    voters = [{one.raft_id for one in each.seats.values()} for each in (swarm, twin)]
    assert len(voters[0]) == len(voters[1])


@pytest.mark.parametrize(
    ("voters", "silent", "gone", "may_go"),
    [
        (1, 0, 1, False),
        (2, 0, 1, True),
        (2, 1, 2, True),  # the silent one
        (2, 1, 1, False),
        (3, 0, 1, True),
        (3, 1, 3, True),
        (3, 1, 1, False),
        (4, 1, 1, True),
        (4, 1, 4, True),
        (5, 2, 5, True),
        (5, 2, 1, False),
        (5, 1, 1, True),
        (7, 3, 1, False),
        (7, 2, 1, True),
    ],
)
def test_member_may_go_where_the_rest_keeps_a_quorum_that_answers(voters, silent, gone, may_go):
    seats = [seat(n, answers=n <= voters - silent) for n in range(1, voters + 1)]
    assert can_remove(seats, RaftID(gone)) is may_go


def test_learner_may_always_go():
    assert can_remove([seat(1), seat(2, is_voter=False)], RaftID(2))
    assert not can_remove([seat(1), seat(2, is_voter=False)], RaftID(1))


def test_store_without_a_cluster_removes_nobody():
    direct = Direct()
    assert plan(direct.store.view(), (seat(1), seat(2)), "n1") == Plan()


def test_silent_member_goes_before_one_that_answers():
    rows = [node(n, "worker" if n > 3 else "manager", "manager", at=n) for n in range(1, 6)]
    swarm = Swarm(rows, [*map(seat, range(1, 5)), seat(5, answers=False)], leader=1)
    step = swarm.plan().step
    assert step is not None
    assert step.seat.raft_id == 5


def test_node_promoted_again_while_it_leaves_stays_a_manager():
    rows = [node(n, "manager", "manager", at=n) for n in (1, 2, 3)]
    swarm = Swarm(rows, map(seat, (1, 2, 3)), leader=1)
    assert swarm.plan().is_rest()


def test_plan_says_why_it_waits():
    rows = [node(1, "worker", "manager", at=1), node(2, "manager", "manager")]
    todo = Swarm(rows, [seat(1)], leader=1).plan()
    assert todo.waits == ("without n1 the managers would have no quorum",)
