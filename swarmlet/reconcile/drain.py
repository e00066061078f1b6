"""What a drain of a node will do, and what it has not done yet: for people who ask, and for
commands that wait. The doing is the deciders' of each mode; of replicated services by the rules of
`moving`."""

from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.job import is_job
from swarmlet.model.node import Node, NodeState
from swarmlet.model.task import STATE_NAMES, Task, TaskState
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.instances import is_bound, siblings_of
from swarmlet.reconcile.moving import has_plan, is_moving, why_stop_first
from swarmlet.reconcile.restart import may_restart, policy_of
from swarmlet.reconcile.scheduler.preview import Place, places_without
from swarmlet.reconcile.slots import is_wanted

START_FIRST: Final = "start-first"
STOP_FIRST: Final = "stop-first"
STOP: Final = "stop"
FINISH: Final = "finish"
BOUND: Final = "its service has one task on each node"
UNTIL_ITS_END: Final = "it is of a job, and runs to its end where the deadline lets it"


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a task. `way`: another runs before it stops (start-first), after it
    (stop-first), or not at all (stop); a task of a job that runs goes on to its end (finish).
    `reason` says why it is not start-first. `to`: where the other would go now; "": nowhere, for
    `problem`, or there is none."""

    task_id: TaskID
    service_id: ServiceID
    service_name: str
    slot: int
    way: str
    reason: str = ""
    to: NodeID = NodeID("")
    problem: str = ""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A task that still runs there, or may. `is_stuck`: what it waits for finds no place now."""

    task_id: TaskID
    service_id: ServiceID
    service_name: str
    slot: int
    state: int
    waits_for: str
    is_stuck: bool = False


def moves_of(view: View, node: Node, now_ms: int) -> Steps[tuple[Move, ...]]:
    """What a drain with a plan would do with the node's tasks if it began now. O(nodes and tasks of
    the swarm)."""
    tasks = [task for task in _tasks_on(view, node) if task.desired <= TaskState.COMPLETE]
    ways = {task.id: _way(view, task) for task in tasks}
    moving = [task for task in tasks if ways[task.id][0] in (START_FIRST, STOP_FIRST)]
    places = yield from places_without(view, node, moving, now_ms)
    moves = []
    for task in tasks:
        (way, reason), place = ways[task.id], places.get(task.id, Place(NodeID("")))
        moves.append(
            Move(
                task_id=task.id,
                service_id=task.service_id,
                service_name=_name_of(view, task),
                slot=task.slot,
                way=way,
                reason=reason,
                to=place.node_id,
                problem=place.reason,
            )
        )
    return tuple(moves)


def left_on(view: View, node: Node) -> tuple[Left, ...]:
    """What the node has not got rid of; nothing: it is empty."""
    lefts = []
    for task in _tasks_on(view, node):
        waits_for, is_stuck = _waits_for(view, node, task)
        lefts.append(
            Left(
                task_id=task.id,
                service_id=task.service_id,
                service_name=_name_of(view, task),
                slot=task.slot,
                state=task.status.state,
                waits_for=waits_for,
                is_stuck=is_stuck,
            )
        )
    return tuple(lefts)


def _tasks_on(view: View, node: Node) -> list[Task]:
    """By service and slot."""
    tasks = [
        task
        for task in view.tasks.scan("node", node.id)
        if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
    ]
    return sorted(tasks, key=lambda task: (_name_of(view, task), task.slot, task.id))


def _name_of(view: View, task: Task) -> str:
    service = view.services.get(task.service_id)
    return task.service_id if service is None else service.name


def _way(view: View, task: Task) -> tuple[str, str]:
    service = view.services.get(task.service_id)
    if service is None:
        return STOP, "its service was removed"
    mode = spec_of(view, service).mode
    if is_job(mode) and task.status.state == TaskState.RUNNING:
        return FINISH, UNTIL_ITS_END
    if is_bound(mode):
        return STOP, BOUND
    slot = [
        other
        for other in view.tasks.scan("slot", (task.service_id, task.slot))
        if other.desired < TaskState.REMOVE
    ]
    policy = policy_of(task_spec_of(view, task).task_template)
    if not may_restart(task, policy, slot):
        return STOP, "its restart policy grants no successor"
    reason = why_stop_first(view, service, task)
    return (STOP_FIRST if reason else START_FIRST), reason


def _waits_for(view: View, node: Node, task: Task) -> tuple[str, bool]:
    """In words, and whether it is stuck."""
    service = view.services.get(task.service_id)
    if node.status.state == NodeState.DOWN:
        return "its node is down, and tells once it is back", False
    if task.desired > TaskState.COMPLETE:
        return "it is being stopped", False
    if node.spec.availability != "drain":
        return "nothing: the node is not drained", False
    if service is not None and is_job(spec_of(view, service).mode):
        return _waits_of_job(node, task), False
    return _waits_for_another(view, task)


def _waits_of_job(node: Node, task: Task) -> str:
    may_end = has_plan(node) and task.status.state == TaskState.RUNNING
    return "its end: it is of a job" if may_end else "it is about to be stopped"


def _waits_for_another(view: View, task: Task) -> tuple[str, bool]:
    after = next(_successors(view, task), None)
    if after is not None:
        return _how_far(view, after)
    if is_moving(view, task):
        return "its replacement is about to be made", False
    return "it is about to be stopped", False


def _successors(view: View, task: Task) -> Iterator[Task]:
    """What is wanted in its slot elsewhere, the furthest first."""
    others = (
        other
        for other in siblings_of(view, task)
        if other.id != task.id and is_wanted(other) and other.node_id != task.node_id
    )
    yield from sorted(others, key=lambda other: (-other.status.state, other.id))


def _how_far(view: View, after: Task) -> tuple[str, bool]:
    status = after.status
    if not after.node_id and status.err:
        return f"its replacement {after.id} waits for a place: {status.err}", True
    if status.state >= TaskState.RUNNING:
        return f"its replacement {after.id} runs: it is about to be stopped", False
    host = view.nodes.get(after.node_id)
    name = after.node_id if host is None else host.description.hostname or host.id
    on = f" on {name}" if name else ""
    return f"its replacement {after.id}{on} is {STATE_NAMES[status.state]}", False
