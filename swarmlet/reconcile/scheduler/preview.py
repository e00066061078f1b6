"""Where tasks would go if they had to leave their node now: the scheduler's own pipeline on a
ledger of its own, so that nothing is decided by asking."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.node import Node
from swarmlet.model.service import ServiceSpec
from swarmlet.model.task import Task
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.scheduler.group import Group, GroupKey
from swarmlet.reconcile.scheduler.ledger import Ledger, claim_of_row
from swarmlet.reconcile.scheduler.pipeline import place, why_not
from swarmlet.reconcile.scheduler.waiting import group_key


class Place(NamedTuple):
    """A node, or "" with the reason why there is none."""

    node_id: NodeID
    reason: str = ""


_Groups: TypeAlias = dict[GroupKey, Group]


def places_without(
    view: View, node: Node, tasks: Sequence[Task], now_ms: int
) -> Mapping[TaskID, Place]:
    """A place for a successor of each of these tasks if `node` took no tasks any more. They are
    placed together, as the scheduler would; tasks that wait for a node already are not reckoned
    with. O(nodes and tasks of the swarm)."""
    groups: _Groups = {}
    ledger = _ledger(view, node, groups)
    wanted: dict[GroupKey, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: (task.slot, task.id)):
        service = view.services.get(task.service_id)
        if service is not None:
            key = (service.id, service.spec_version)
            _group(groups, key, spec_of(view, service))
            wanted.setdefault(key, []).append(task)
    found: dict[TaskID, Place] = {}
    for key in sorted(wanted, key=lambda key: groups[key].sort_key):
        found |= _places(ledger, groups[key], [task.id for task in wanted[key]], now_ms)
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


def _ledger(view: View, drained: Node, groups: _Groups) -> Ledger:
    """All nodes and what tasks hold on them."""
    ledger = Ledger()
    spec = msgspec.structs.replace(drained.spec, availability="drain")
    for node in sorted(view.nodes.all(), key=lambda node: node.id):
        row = node if node.id != drained.id else msgspec.structs.replace(node, spec=spec)
        ledger.set_node(row.id, row)
    for task in view.tasks.all():
        if view.services.get(task.service_id) is not None:
            group = _group(groups, group_key(task), task_spec_of(view, task))
            ledger.count(task.id, claim_of_row(task, group))
    return ledger


def _group(groups: _Groups, key: GroupKey, spec: ServiceSpec) -> Group:
    if key not in groups:
        groups[key] = Group(key, spec)
    return groups[key]
