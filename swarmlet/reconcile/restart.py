"""Restarts: whether a task that ended gets a successor, and when that one may start.

SwarmKit's restart supervisor (manager/orchestrator/restart) without its timers: counter and next
attempt are stored in the successor, and the attempts made are counted from the slot's tasks. On top
of it the delay doubles with each failure in a row.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import (
    MS_PER_S,
    NS_PER_S,
    OLD_TASK_WAIT_MAX_MS,
    RESTART_DELAY_DOUBLED_MAX_NS,
    RESTART_DELAY_NS,
    RESTART_RESET_AFTER_MS,
)
from swarmlet.model.crash_loop import released_ms
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import RestartPolicy, Service, TaskSpec
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Moment
from swarmlet.reconcile.disconnect import runs_until_ms
from swarmlet.reconcile.eviction import was_evicted
from swarmlet.reconcile.instances import is_bound

NS_PER_MS: Final = NS_PER_S // MS_PER_S
BACKOFF_MIN_MS: Final = 100  # what a delay of 0 doubles from, lest a crash loop fill the log
CLOCK_SLACK_MS: Final = 60_000  # by which clocks of managers may differ, or be corrected
_DOUBLINGS_MAX: Final = 32  # more would only make large numbers


class Policy(NamedTuple):
    """A restart policy with every default filled in. `condition`: any, on-failure or none."""

    condition: str
    delay_ms: int
    max_attempts: int  # 0: no limit
    window_ms: int  # 0: no window


def policy_of(spec: TaskSpec) -> Policy:
    """The restart policy of a task made from `spec`; defaults are SwarmKit's."""
    given = spec.restart_policy or RestartPolicy()
    delay_ns = RESTART_DELAY_NS if given.delay is None else given.delay
    return Policy(
        condition=given.condition or "any",
        delay_ms=-(-delay_ns // NS_PER_MS),
        max_attempts=given.max_attempts or 0,
        window_ms=-(-(given.window or 0) // NS_PER_MS),
    )


def has_stopped(task: Task) -> bool:
    """Whether the task will never run again, by what was observed."""
    return task.status.state > TaskState.RUNNING


def is_node_lost(node: Node | None) -> bool:
    """Whether tasks must leave this node: it is down, drained or deleted."""
    return node is None or node.status.state == NodeState.DOWN or node.spec.availability == "drain"


def must_leave(view: View, task: Task) -> bool:
    """Whether the task's node is one that tasks must leave."""
    return bool(task.node_id) and is_node_lost(view.nodes.get(task.node_id))


def ended_ms(task: Task) -> int:
    """When the present state was noted: the leader's stamp, else the agent's (wall, 0: unknown)."""
    return task.status.applied_at_ms or task.status.at_ms


def may_restart(task: Task, policy: Policy, slot: Sequence[Task]) -> bool:
    """Whether the policy grants the task a successor; `slot` holds all tasks of its slot.

    Depends on the store alone, not on the time of asking: attempts are the slot's tasks of the same
    spec version but the first, within the window before this task's end where there is a window.
    """
    if policy.condition == "none":
        return False
    if policy.condition == "on-failure" and task.status.state == TaskState.COMPLETE:
        return False
    return not policy.max_attempts or attempts_made(task, policy, slot) < policy.max_attempts


def attempts_made(task: Task, policy: Policy, slot: Sequence[Task]) -> int:
    """How many restarts of this slot count against `max_attempts`."""
    runs = sorted(t.created_ms for t in slot if t.spec_version == task.spec_version)
    restarts = runs[1:]
    if not policy.window_ms:
        return len(restarts)
    end = ended_ms(task)
    return sum(end - policy.window_ms < created <= end for created in restarts)


def failures_in_row(task: Task) -> int:
    """The successor's `attempt`: failed runs in a row, this one included.

    A clean end forgets them; so does a failure after ten minutes from the task's release, and then
    counts as the first. A task that only has to move did not fail: its count moves along; nor did
    one that its agent stopped for want of a manager, nor one that its node does not suit any more.
    """
    return 0 if task.status.state == TaskState.COMPLETE else _in_row(task, task.attempt)


def short_runs(task: Task) -> int:
    """The successor's `short_runs`: as `failures_in_row`, but a clean end counts too, for a service
    that is to run on. It says what is a loop, and delays nothing."""
    return _in_row(task, task.short_runs)


def _in_row(task: Task, before: int) -> int:
    if not has_stopped(task) or _was_cut_off(task) or was_evicted(task):
        return before
    has_run = task.status.state in (TaskState.COMPLETE, TaskState.FAILED)  # REJECTED did not
    is_long = ended_ms(task) - released_ms(task) >= RESTART_RESET_AFTER_MS
    return 1 if has_run and is_long else before + 1


def _was_cut_off(task: Task) -> bool:
    """Whether its agent stopped it unasked, having lost every manager (`disconnect`)."""
    return task.status.state == TaskState.SHUTDOWN and task.desired <= TaskState.COMPLETE


def delay_ms(task: Task, policy: Policy) -> int:
    """How long after the task's end its successor may start, in ms.

    The policy's delay, doubled with every failure in a row after the first, up to the longer of
    60 s and the delay itself. Plain after a clean end, and where the policy has a window: that
    already says how often is too often.
    """
    doublings = min(failures_in_row(task) - 1, _DOUBLINGS_MAX)
    if policy.window_ms or doublings <= 0:
        return policy.delay_ms
    longest = max(policy.delay_ms, RESTART_DELAY_DOUBLED_MAX_NS // NS_PER_MS)
    return min(max(policy.delay_ms, BACKOFF_MIN_MS) << doublings, longest)


def successor(task: Task, service: Service, policy: Policy, view: View, moment: Moment) -> Task:
    """The task that follows `task` in its slot, held back (desired READY) until it is due; of a
    global service on its node.

    It is made from the service's current spec. A task that leaves a lost node, or was stopped there
    for want of a manager, skips the delay, but not one that its predecessor has not yet sat out.
    """
    now = moment.now_ms
    if must_leave(view, task) or _was_cut_off(task):
        start_at_ms = task.start_at_ms if is_held_back(task, now) else now
    else:
        start_at_ms = min(ended_ms(task) or now, now) + delay_ms(task, policy)
    return Task(
        id=TaskID(moment.new_id()),
        service_id=service.id,
        spec_version=service.spec_version,
        slot=task.slot,
        node_id=task.node_id if is_bound(spec_of(view, service).mode) else NodeID(""),
        desired=TaskState.READY,
        status=TaskStatus(state=TaskState.NEW, at_ms=now, message="created"),
        attempt=failures_in_row(task),
        short_runs=short_runs(task),
        start_at_ms=start_at_ms,
        replaces=task.id,
    )


def is_held_back(task: Task, now_ms: int) -> bool:
    """Whether the task's delay is not over yet. Where the clock was set back to before the task was
    made, nobody can tell: then it is, lest the task wait until the clock has caught up.
    """
    return task.created_ms - CLOCK_SLACK_MS <= now_ms < task.start_at_ms


def released(task: Task) -> Task:
    """The same task, wanted to run."""
    return msgspec.structs.replace(task, desired=int(TaskState.RUNNING))


def due_ms(task: Task, others: Sequence[Task], view: View, created_ms: int) -> int:
    """When a held-back task may be released, in wall ms, as the view stands.

    Once its delay is over, and then once nothing else of its slot still runs on a node that is up:
    every such task, not the predecessor alone, which may have been rejected while an older one was
    still stopping. Nobody is waited for longer than a minute from the task's creation, and one that
    is on its way out (desired REMOVE) not at all, but where the service forbids that two of a slot
    run at once (`disconnect`): NEVER_MS where no time ends that. `others`: all of its slot.
    """
    due = task.start_at_ms
    if any(_still_runs(view, other) for other in others if other.desired < TaskState.REMOVE):
        due = max(due, created_ms + OLD_TASK_WAIT_MAX_MS)
    return max([due, *(runs_until_ms(view, other) for other in others)])


def _still_runs(view: View, task: Task) -> bool:
    if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return False
    node = view.nodes.get(task.node_id)
    return node is not None and node.status.state != NodeState.DOWN
