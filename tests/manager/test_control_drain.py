"""Draining a node: its plan, and what the verbs make of it."""

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import InvalidArgumentError, NotFoundError, UnavailableError
from swarmlet.manager.control.nodes import DEADLINE_MAX_NS, TRIES_MAX
from swarmlet.model.change import Update
from swarmlet.model.node import NodeState, NodeStatus
from swarmlet.model.task import TaskState
from tests.manager.control_world import new_swarm, task_of, web, worker

MINUTE_NS = 60 * 10**9


async def swarm_of_two():
    swarm = await new_swarm()
    await swarm.put(worker("w1"), worker("w2"))
    made = await swarm.control.create_service(web("web", 1))
    await swarm.put(task_of(made.id, "t1", slot=1, node_id="w1"))
    return swarm


async def test_drain_sets_availability_and_plan_in_one_change():
    swarm = await swarm_of_two()
    now_ms = swarm.control._env.clock.wall_ms()
    (move,) = await swarm.control.drain_node("w1", deadline_ns=MINUTE_NS)
    node = swarm.view.nodes.get("w1")
    assert node.spec.availability == "drain"
    assert (node.drain.began_ms, node.drain.deadline_ms) == (now_ms, now_ms + 60_000)
    assert (move.task_id, move.service_name, move.way) == ("t1", "web", "start-first")


async def test_second_drain_changes_the_deadline_alone():
    swarm = await swarm_of_two()
    await swarm.control.drain_node("w1", deadline_ns=MINUTE_NS)
    began_ms = swarm.view.nodes.get("w1").drain.began_ms
    await swarm.control.drain_node("w1")
    assert swarm.view.nodes.get("w1").drain.began_ms == began_ms
    assert swarm.view.nodes.get("w1").drain.deadline_ms == 0


async def test_dry_run_changes_nothing():
    swarm = await swarm_of_two()
    before = swarm.view.nodes.get("w1")
    (move,) = await swarm.control.drain_moves("w1")
    assert move.problem.startswith("no suitable node")  # w2 has no runtime for it
    assert swarm.view.nodes.get("w1") == before


@pytest.mark.parametrize("availability", ["active", "pause"])
async def test_plan_goes_with_the_drain(availability):
    swarm = await swarm_of_two()
    await swarm.control.drain_node("w1")
    node = swarm.view.nodes.get("w1")
    again = replace(node.spec, labels={"a": "b"})
    await swarm.control.update_node("w1", node.version, again)
    assert swarm.view.nodes.get("w1").drain is not None
    node = swarm.view.nodes.get("w1")
    spec = replace(node.spec, availability=availability)
    await swarm.control.update_node("w1", node.version, spec)
    assert swarm.view.nodes.get("w1").drain is None


async def test_dockers_drain_has_no_plan():
    swarm = await swarm_of_two()
    node = swarm.view.nodes.get("w1")
    await swarm.control.update_node("w1", node.version, replace(node.spec, availability="drain"))
    assert swarm.view.nodes.get("w1").drain is None


@pytest.mark.parametrize("deadline_ns", [-1, DEADLINE_MAX_NS + 1])
async def test_deadline_that_cannot_be_is_refused_and_changes_nothing(deadline_ns):
    swarm = await swarm_of_two()
    with pytest.raises(InvalidArgumentError):
        await swarm.control.drain_node("w1", deadline_ns=deadline_ns)
    assert swarm.view.nodes.get("w1").spec.availability == "active"


async def test_unknown_node_is_not_found():
    swarm = await swarm_of_two()
    for verb in (swarm.control.drain_node, swarm.control.drain_moves):
        with pytest.raises(NotFoundError):
            await verb("nobody")


def overtake(swarm, times, monkeypatch):
    """Let the dispatcher write the node's row ahead of each of the next commits."""
    commit, left = swarm.store.commit, [times]

    async def overtaken(changes, guards=()):
        if left[0]:
            left[0] -= 1
            node = swarm.view.nodes.get("w1")
            status = NodeStatus(state=NodeState.DISCONNECTED, message=f"news {left[0]}")
            await commit([Update(obj=replace(node, status=status), seen=node.version)])
        return await commit(changes, guards)

    monkeypatch.setattr(swarm.store, "commit", overtaken)


@pytest.mark.parametrize("times", [1, TRIES_MAX])
async def test_drain_is_tried_again_where_others_write_the_row(times, monkeypatch):
    swarm = await swarm_of_two()
    overtake(swarm, times, monkeypatch)
    if times < TRIES_MAX:
        await swarm.control.drain_node("w1")
        assert swarm.view.nodes.get("w1").status.message == "news 0"
        assert swarm.view.nodes.get("w1").drain is not None
    else:
        with pytest.raises(UnavailableError):
            await swarm.control.drain_node("w1")


@pytest.mark.parametrize("times", [1, TRIES_MAX])
async def test_removal_is_tried_again_where_others_write_the_row(times, monkeypatch):
    swarm = await swarm_of_two()
    overtake(swarm, times, monkeypatch)
    if times < TRIES_MAX:
        await swarm.control.remove_node("w1", force=True)
        assert swarm.view.nodes.get("w1") is None
        assert swarm.view.tasks.get("t1").status.state == TaskState.ORPHANED
    else:
        with pytest.raises(UnavailableError):
            await swarm.control.remove_node("w1", force=True)
        assert swarm.view.nodes.get("w1") is not None
