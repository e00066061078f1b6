"""Whom a rotation asks, whom it leaves alone, what it counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.core.ids import NodeID
from swarmlet.model.change import Create, Remove
from swarmlet.model.node import (
    IssuanceState,
    Node,
    NodeCertificate,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
    TLSInfo,
)
from swarmlet.reconcile.ca_rotation import (
    FAILED_PAUSE_S,
    ROUND_NODES_MAX,
    SETTLE_S,
    Aim,
    Issuer,
    Progress,
    Turning,
    shows,
)
from tests.reconcile.world import World

OLD, NEW = (Issuer(subject=b"swarm-ca", public_key=key) for key in (b"old", b"new"))
ROTATION = Aim(issuer=NEW, is_rotation=True)
RETURN = Aim(issuer=NEW, is_rotation=False)
STATES = list(IssuanceState)


def member(
    node_id: str,
    issuer: Issuer | None = OLD,
    *,
    certificate: int = IssuanceState.ISSUED,
    state: int = NodeState.READY,
) -> Node:
    tls = TLSInfo()
    if issuer is not None:
        tls = TLSInfo(cert_issuer_subject=issuer.subject, cert_issuer_public_key=issuer.public_key)
    return Node(
        id=NodeID(node_id),
        spec=NodeSpec(role="worker", availability="active"),
        description=NodeDescription(tls_info=tls),
        status=NodeStatus(state=int(state)),
        certificate=NodeCertificate(
            state=int(certificate), csr=b"csr", certificate=b"chain", role="worker"
        ),
    )


def world_of(*nodes: Node) -> World:
    world = World()
    world.commit([Create(obj=node) for node in nodes])
    return world


def asked(turning: Turning, world: World, now_s: float = 0.0) -> list[str]:
    return [change.obj.id for change in turning.requests(world, now_s)]


def test_who_shows_the_issuer_is_told_by_subject_and_key():
    assert shows(member("a", NEW), NEW)
    assert not shows(member("a", OLD), NEW)
    assert not shows(member("a", None), NEW)
    other_name = replace(NEW, subject=b"another")
    assert not shows(member("a", other_name), NEW)


WHO_IS_ASKED = [
    (member("a", OLD), ROTATION, True),
    (member("a", NEW), ROTATION, False),
    (member("a", None), ROTATION, True),
    (member("a", OLD, state=NodeState.DOWN), ROTATION, True),
    (member("a", OLD, certificate=IssuanceState.RENEW), ROTATION, False),
    (member("a", None, certificate=IssuanceState.PENDING), ROTATION, False),
    (member("a", OLD, certificate=IssuanceState.ROTATE), ROTATION, False),
    (member("a", OLD, certificate=IssuanceState.FAILED), ROTATION, True),
    (member("a", OLD, certificate=IssuanceState.UNKNOWN), ROTATION, True),
    (member("a", OLD), RETURN, True),
    (member("a", None), RETURN, False),
]


@pytest.mark.parametrize(("node", "aim", "is_asked"), WHO_IS_ASKED)
def test_node_is_asked_where_it_shows_another_signer_and_nothing_is_under_way(node, aim, is_asked):
    world = world_of(node)
    requests = Turning(world, aim).requests(world, 0.0)
    assert len(requests) == is_asked
    for request in requests:
        assert request.seen == world.nodes.get("a").version
        before = world.nodes.get("a")
        wanted = replace(before.certificate, state=int(IssuanceState.ROTATE))
        assert request.obj == replace(before, certificate=wanted)


def test_round_asks_no_more_than_thirty_and_the_next_one_the_rest():
    world = world_of(*(member(f"n{number:03}") for number in range(70)))
    turning = Turning(world, ROTATION)
    seen = []
    for _ in range(4):
        requests = turning.requests(world, 0.0)
        seen.append(len(requests))
        for event in world.commit(requests):
            turning.see(event, 0.0)
    assert seen == [ROUND_NODES_MAX, ROUND_NODES_MAX, 10, 0]


@pytest.mark.parametrize(
    ("state", "pause_s"), [(IssuanceState.ISSUED, SETTLE_S), (IssuanceState.FAILED, FAILED_PAUSE_S)]
)
def test_node_with_a_new_answer_has_time_before_it_is_asked_again(state, pause_s):
    world = world_of(member("a", certificate=IssuanceState.RENEW))
    turning = Turning(world, ROTATION)
    for event in world.put(member("a", certificate=state)):
        turning.see(event, 100.0)
    assert asked(turning, world, 100.0 + pause_s - 0.1) == []
    assert asked(turning, world, 100.0 + pause_s) == ["a"]


def test_progress_names_who_never_reported_and_who_is_away():
    world = world_of(
        member("c", OLD, state=NodeState.DOWN),
        member("b", None, state=NodeState.UNKNOWN),
        member("a", NEW),
        member("d", OLD),
        member("e", None),
    )
    assert Turning(world, ROTATION).progress(world) == Progress(
        turned=1, total=5, silent=("b", "e"), away=("c",)
    )


def test_removing_the_last_node_that_is_left_completes_it():
    world = world_of(member("a", NEW), member("b", OLD))
    turning = Turning(world, ROTATION)
    assert not turning.is_complete
    for event in world.commit([Remove(table=Node, id="b")]):
        turning.see(event, 0.0)
    assert turning.is_complete


def test_new_node_holds_a_rotation_up_until_it_reports():
    world = world_of(member("a", NEW))
    turning = Turning(world, ROTATION)
    assert turning.is_complete
    for event in world.commit([Create(obj=member("b", None))]):
        turning.see(event, 0.0)
    assert not turning.is_complete


@given(st.data())
def test_what_events_leave_is_what_a_fresh_look_finds(data):
    aim = data.draw(st.sampled_from([ROTATION, RETURN]))
    world = World()
    turning = Turning(world, aim)
    for _ in range(data.draw(st.integers(0, 25))):
        node_id = data.draw(st.sampled_from("abc"))
        if world.nodes.get(node_id) is not None and data.draw(st.booleans()):
            events = world.drop(Node, node_id)
        else:
            issuer = data.draw(st.sampled_from([OLD, NEW, None]))
            state = data.draw(st.sampled_from(STATES))
            events = world.put(member(node_id, issuer, certificate=state))
        for event in events:
            turning.see(event, 0.0)
    fresh = Turning(world, aim)
    assert turning.progress(world) == fresh.progress(world)
    assert turning.is_complete == fresh.is_complete
    far_s = 10 * FAILED_PAUSE_S
    assert sorted(asked(turning, world, far_s)) == asked(fresh, world, far_s)
