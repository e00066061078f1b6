"""Where tasks would go if they had to leave their node now: the scheduler's own pipeline on a
ledger of its own, so that nothing is decided by asking."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.node import Node
from swarmlet.model.task import Task
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.scheduler.group import Group, GroupKey
from swarmlet.reconcile.scheduler.ledger import Ledger
from swarmlet.reconcile.scheduler.pipeline import place, why_not
from swarmlet.reconcile.scheduler.room import Room


class Place(NamedTuple):
    """A node, or "" with the reason why there is none."""

    node_id: NodeID
    reason: str = ""


def places_without(
    view: View, node: Node, tasks: Sequence[Task], now_ms: int
) -> Steps[Mapping[TaskID, Place]]:
    """A place for a successor of each of these tasks if `node` took no tasks any more. They are
    placed together, as the scheduler would; tasks that wait for a node already are not reckoned
    with. O(nodes and tasks of the swarm)."""
    room = Room(view)
    drained = msgspec.structs.replace(node.spec, availability="drain")
    for one in sorted(view.nodes.all(), key=lambda one: one.id):
        room.know(one if one.id != node.id else msgspec.structs.replace(one, spec=drained))
    yield from room.count_all()
    wanted: dict[GroupKey, list[TaskID]] = {}
    groups: dict[GroupKey, Group] = {}
    for task in sorted(tasks, key=lambda task: (task.slot, task.id)):
        service = view.services.get(task.service_id)
        if service is not None:
            key = (service.id, service.spec_version)
            groups[key] = room.group_of(key, spec_of(view, service))
            wanted.setdefault(key, []).append(task.id)
    found: dict[TaskID, Place] = {}
    for key in sorted(wanted, key=lambda key: groups[key].sort_key):
        found |= _places(room.ledger, groups[key], wanted[key], now_ms)
        yield
    return found


def _places(
    ledger: Ledger, group: Group, task_ids: Sequence[TaskID], now_ms: int
) -> Mapping[TaskID, Place]:
    """`place` holds a node under the successor's id, and there is none yet: the task's own hold on
    its node stays."""
    of = {TaskID(f"{task_id}'"): task_id for task_id in task_ids}
    placed = place(ledger, group, list(of), now_ms)
    found = {of[stand_in]: Place(node_id) for stand_in, node_id in placed}
    if len(found) == len(task_ids):
        return found
    nowhere = Place(NodeID(""), why_not(ledger, group))
    return {task_id: found.get(task_id, nowhere) for task_id in task_ids}
