"""Promoting, demoting and removing managers: Docker's checks, in Docker's words."""

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import FailedPreconditionError
from swarmlet.manager.control import Control
from swarmlet.manager.control.nodes import NoMemberError
from swarmlet.model.change import Create
from swarmlet.model.node import ManagerStatus, Node, NodeSpec, NodeStatus
from tests.manager.control_world import SELF, EchoedLogs, Swarm, new_swarm, worker
from tests.manager.group_log import GroupLog, member
from tests.store.worlds import seeded_env


async def group_of(count: int) -> Swarm:
    """A swarm of so many managers; this one is node-1."""
    swarm = await new_swarm()
    log = GroupLog(swarm.store, *(member(number) for number in range(2, count + 1)))
    for number in range(2, count + 1):
        place = ManagerStatus(raft_id=number, addr=member(number).address)
        await swarm.put(Create(obj=manager(f"node-{number}", manager=place)))
    control = Control(swarm.store, log, EchoedLogs(), seeded_env(1), SELF)
    return Swarm(swarm.store, log, control)


def manager(name: str, **fields: object) -> Node:
    spec = NodeSpec(role="manager", availability="active")
    return Node(id=name, spec=spec, role="manager", status=NodeStatus(state=2), **fields)


async def change_role(swarm: Swarm, name: str, role: str) -> None:
    node = swarm.view.nodes.get(name)
    await swarm.control.update_node(name, node.version, replace(node.spec, role=role))


async def test_promotion_has_no_checks():
    swarm = await group_of(1)
    await swarm.put(worker("w1", state=1))
    await change_role(swarm, "w1", "manager")
    assert swarm.view.nodes.get("w1").spec.role == "manager"
    assert swarm.view.nodes.get("w1").role == "worker"  # until the leader has seen to it


async def test_demotion_is_written_down_where_the_others_keep_a_quorum():
    swarm = await group_of(3)
    await change_role(swarm, "node-3", "worker")
    node = swarm.view.nodes.get("node-3")
    assert (node.spec.role, node.role) == ("worker", "manager")


@pytest.mark.parametrize(
    ("count", "silent", "name", "error", "status", "text"),
    [
        (1, (), SELF, FailedPreconditionError, 400, "attempting to demote the last manager"),
        (2, (2,), SELF, FailedPreconditionError, 400, "this would result in a loss of quorum"),
        (3, (2,), "node-3", FailedPreconditionError, 400, "can't remove member from the raft"),
        (2, (), "new", NoMemberError, 404, "can't find manager in raft memberlist"),
    ],
)
async def test_demotion_is_refused(count, silent, name, error, status, text):
    swarm = await group_of(count)
    if name == "new":
        await swarm.put(Create(obj=manager("new")))
    swarm.log.silent.update(silent)
    before = swarm.view.index
    with pytest.raises(error, match=text) as refused:
        await change_role(swarm, name, "worker")
    assert refused.value.http_status == status
    assert refused.value.remedy
    assert swarm.view.index == before


async def test_silent_manager_may_be_demoted():
    swarm = await group_of(3)
    swarm.log.silent.add(3)
    await change_role(swarm, "node-3", "worker")
    assert swarm.view.nodes.get("node-3").spec.role == "worker"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("role", ["manager", "worker"])
async def test_member_is_not_removed_before_it_has_left_the_group(force, role):
    swarm = await group_of(3)
    if role == "worker":
        await change_role(swarm, "node-3", role)
    with pytest.raises(FailedPreconditionError, match="must be demoted to worker before removal"):
        await swarm.control.remove_node("node-3", force=force)


async def test_manager_that_is_no_member_is_removed_by_force():
    swarm = await group_of(2)
    await swarm.put(Create(obj=manager("lost", manager=ManagerStatus(raft_id=9, addr="x"))))
    with pytest.raises(FailedPreconditionError, match="is not down"):
        await swarm.control.remove_node("lost", force=False)
    await swarm.control.remove_node("lost", force=True)
    assert swarm.view.nodes.get("lost") is None
