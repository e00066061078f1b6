"""Why nodes are as they are, and tasks on nodes that are not ready."""

import pytest

from swarmlet.model.node import (
    DrainPlan,
    IssuanceState,
    Node,
    NodeCertificate,
    NodeSpec,
    NodeState,
    NodeStatus,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.liveness import HOST_STOPPED, LEFT, STOPPED
from tests.reconcile.explained import MIB, reserving, why, why_node, why_service, world_of
from tests.reconcile.world import START_MS, node, replace, service_spec, task


def lost(state=NodeState.DISCONNECTED, **fields) -> Node:
    known = {"since_ms": START_MS - 2_000, "heard_ms": START_MS - 4_000, **fields}
    message = "the connection to the node was lost"
    row = node("n1", hostname="w1")
    return replace(row, status=NodeStatus(state=int(state), message=message, **known))


LOST = "w1 is disconnected for 2 s (the connection to the node was lost), last heard of 4 s ago"


@pytest.mark.parametrize(
    ("row", "labels", "code", "words"),
    [
        (
            lost(down_at_ms=START_MS + 1_000),
            {},
            "node-disconnected",
            f"{LOST}; it counts as down in 1 s unless it is back before.",
        ),
        (
            lost(down_at_ms=START_MS + 9_000, held_until_ms=START_MS + 9_000),
            {},
            "held",
            f"{LOST}; it is held for 9 s more because many nodes were lost at once.",
        ),
        (
            lost(down_at_ms=START_MS + 1_000),
            {"swarmlet.on-disconnect": "never-replace"},
            "never-replace",
            f"{LOST}; nothing takes its place until the node is back, drained or removed "
            "(never-replace).",
        ),
        (
            lost(down_at_ms=START_MS + 1_000),
            {"swarmlet.on-disconnect": "stop-after 30s"},
            "node-disconnected",
            "it counts as down in 1 s unless it is back before, and it is replaced in 64 s at the "
            "earliest (stop-after 30 s).",
        ),
        (
            lost(NodeState.DOWN),
            {"swarmlet.on-disconnect": "stop-after 30s"},
            "stop-after",
            "it is replaced in 64 s, once its agent has surely stopped it (stop-after 30 s).",
        ),
        (lost(NodeState.DOWN), {}, "node-down", "; a replacement is on its way."),
        (
            lost(NodeState.UNKNOWN, down_at_ms=START_MS + 8_000),
            {},
            "node-unknown",
            "it counts as down in 8 s unless it is back before.",
        ),
    ],
)
def test_task_on_a_node_that_is_lost_says_until_when_it_is_waited_for(row, labels, code, words):
    world = world_of(row)
    world.update_service("web", replace(service_spec("web", 1), labels=labels))
    world.put(task("t1", spec_version=2))
    reason = why(world)
    assert (reason.code, reason.node_id) == (code, "n1")
    assert words in reason.sentence
    assert reason.remedy == "`swarmlet node why w1`"
    found = why_service(world)
    assert (found.running, found.verdict) == (0, "unsettled")
    at_node = why_node(world)
    assert [group.reason for group in at_node.waiting] == [reason]
    assert at_node.reasons[0].sentence.startswith("w1 ")
    assert at_node.verdict == "unsettled"


def test_task_to_be_stopped_on_a_lost_node_waits_for_it():
    world = world_of(lost(NodeState.DOWN))
    world.put(task("t1", desired=int(TaskState.SHUTDOWN)))
    assert why(world).code == "stopping-unreachable"


def test_node_that_flaps_says_how_often_it_was_lost():
    status_ = NodeStatus(
        state=int(NodeState.READY),
        message="lost 3 times within ten minutes: the next time ...",
        since_ms=START_MS - 1_000,
        lost_ms=(START_MS - 9_000, START_MS - 8_000, START_MS - 7_000),
    )
    world = world_of(replace(node("n1", hostname="w1"), status=status_))
    codes = [reason.code for reason in why_node(world).reasons]
    assert codes == ["ready", "flapping"]
    assert why_node(world).reasons[0].sentence == "w1 is ready for 1 s."


def test_drained_node_says_how_many_tasks_are_left_and_until_when():
    plan = DrainPlan(began_ms=START_MS - 5_000, deadline_ms=START_MS + 60_000)
    world = world_of(node("n1", hostname="w1", availability="drain", drain=plan), node("n2"))
    world.put(task("t1"))
    (_, drain) = why_node(world).reasons
    assert drain.sentence == (
        "Its availability is drain: it takes no new tasks, and its own go elsewhere; 1 task is "
        "still there; replacements start first, since 5 s, and what is left is stopped in 60 s."
    )
    assert drain.remedy == "`swarmlet node update --availability active w1`"
    assert drain.until_ms == START_MS + 60_000


def test_paused_node_keeps_what_runs():
    world = world_of(node("n1", hostname="w1", availability="pause"))
    world.put(task("t1"))
    (_, pause) = why_node(world).reasons
    assert pause.sentence.endswith("it takes no new tasks; 1 task is still there and may stay.")


def test_ready_node_says_what_it_runs_and_what_is_free():
    world = world_of(
        node("n1", hostname="w1", memory_b=8 * MIB, cpu_nano=4 * 10**9),
        resources=reserving(memory_bytes=3 * MIB, nano_cpus=10**9),
    )
    for number in (1, 2):
        world.put(task(f"t{number}", number))
    found = why_node(world)
    assert (found.verdict, found.running, found.wanted) == ("well", 2, 2)
    assert {a.what: (a.total, a.reserved) for a in found.amounts} == {
        "cpu": (4 * 10**9, 2 * 10**9),
        "memory": (8 * MIB, 6 * MIB),
    }
    assert [(load.service_name, load.running) for load in found.loads] == [("web", 2)]
    assert found.waiting == ()


@pytest.mark.parametrize(
    ("certificate", "facts", "code"),
    [
        (NodeCertificate(state=IssuanceState.PENDING), {}, "certificate-pending"),
        (NodeCertificate(state=IssuanceState.ROTATE), {}, "certificate-rotate"),
        (NodeCertificate(state=IssuanceState.FAILED, err="no"), {}, "certificate-failed"),
        (
            NodeCertificate(state=IssuanceState.ISSUED),
            {"certificate_ends_ms": START_MS - 1},
            "certificate-expired",
        ),
        (
            NodeCertificate(state=IssuanceState.ISSUED),
            {"reachability": "unreachable", "silent_since_ms": START_MS - 9_000},
            "manager-unreachable",
        ),
    ],
)
def test_node_says_what_is_wrong_with_its_certificate_or_its_manager(certificate, facts, code):
    world = world_of(replace(node("n1"), certificate=certificate))
    found = why_node(world, **facts)
    assert [reason.code for reason in found.reasons[1:]] == [code]
    assert found.verdict == "unsettled"


def test_manager_that_is_well_says_whether_it_leads_and_how_long_its_certificate_lasts():
    world = world_of(replace(node("n1"), certificate=NodeCertificate(state=IssuanceState.ISSUED)))
    ends_ms = START_MS + 89 * 86_400_000
    found = why_node(world, reachability="reachable", is_leader=True, certificate_ends_ms=ends_ms)
    assert [reason.sentence for reason in found.reasons[1:]] == [
        "As a manager it is reachable, and leads.",
        "Its certificate is valid for 89 days more.",
    ]
    assert found.verdict == "well"


def test_node_on_its_way_to_another_role_says_so():
    row = node("n1")
    world = world_of(replace(row, spec=NodeSpec(role="manager", availability="active")))
    assert [reason.code for reason in why_node(world).reasons] == ["ready", "promoted"]


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (LEFT, "`swarmlet node rm w1` forgets it"),
        (HOST_STOPPED, "start its host again"),
        (f"{STOPPED} and is expected back within 60 s", "start its daemon again"),
        ("heartbeat failure", "see that its host runs and reaches the managers on their port"),
    ],
)
def test_what_helps_a_node_that_is_away_is_by_what_was_last_heard_of_it(message, remedy):
    row = lost(NodeState.DOWN)
    row = replace(row, status=replace(row.status, message=message))
    assert why_node(world_of(row), "n1").reasons[0].remedy == remedy
