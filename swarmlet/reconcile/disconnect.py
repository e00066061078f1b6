"""`on-disconnect`: from when on a task of a node that cannot be reached may be replaced.

A service says it with a label (`model.on_disconnect`). `keep` is replaced once its node counts as
down. `never-replace` waits until the node is back, drained or removed. `stop-after D` waits until
its agent has surely stopped the task (`stopped_ms`).

Which version of the label counts: where the present spec or the task's own says stop-after, the
task's own, for that is what its agent was told; such a change replaces the tasks, as a new image
does (`is_told_otherwise`). All else only the leader needs to know, and the present spec counts.

Why two tasks of a slot of a `stop-after` service never run at once on hosts that are alive.

1. The agent counts from A, when it last heard a manager within a session. It begins to stop the
   task at A + D, or when it notices that the session is lost, which is later where D is short: a
   session in which nothing is heard for three heartbeat periods P is lost. So it begins no later
   than A + max(D, 3 P), and a task it began to stop it never starts again.
2. A is no later than the last word a manager sent, plus its time on the way. A manager that hears
   nothing goes on talking, where only the way to it is cut; it ends a session after 3 (P + 0.5 s)
   and looks once a second. Where the row says when it did (`lost_ms`), earlier because the
   connection broke or later because the manager stood still, that counts. What it left in its
   kernel is sent for TCP_USER_TIMEOUT, 3 s, and then is not. Where the way to the agent is cut
   instead, A is before the manager's `heard_ms` in any case. A welcome is sent once the node's row
   says READY, and the row is what is decided upon.
3. The task is killed at the end of its stop grace, and some seconds are given for that.
4. Clocks: the agent's D is by its own, the rest by the managers'. A hundredth of D and two seconds
   cover clocks that run apart, and what managers' clocks differ by.

`stopped_ms` is the sum. What a new leader finds, it finds in the row.

It cannot cover: a daemon that is killed (or says goodbye, and is not back) while its tasks run on,
for nobody is there to stop them; a daemon that starts without a manager and whose task database is
lost, which knows no label; a host that is suspended and goes on later; a runtime that does
not stop what it is told to; managers whose clocks are wrong by more than seconds; a heartbeat
period that was made shorter while the session was open; and a node that is removed (`node rm`)
while it lives, by which its user says that it does not.
"""

from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import (
    HEARTBEAT_PERIOD_NS,
    MS_PER_S,
    NS_PER_MS,
    STOP_GRACE_PERIOD_NS,
)
from swarmlet.model.node import Node, NodeState
from swarmlet.model.on_disconnect import KEEP, OnDisconnect, on_disconnect_of
from swarmlet.model.service import ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, cluster_of, spec_of, task_spec_of
from swarmlet.reconcile.eviction import was_evicted

NEVER_MS: Final = 2**62
"""No time at all: something has to happen first, and tells of itself."""

MISSED_BEATS: Final = 3  # after which either end of a session takes the other for lost,
BEAT_JITTER_MS: Final = 500  # plus this for each at the manager's end,
LOOK_MS: Final = 1_000  # which looks once a second
IN_FLIGHT_MS: Final = 3_000  # TCP_USER_TIMEOUT: what was said and not heard by then is dropped
KILL_MS: Final = 5_000  # for what ignored its signal to be gone after the kill
CLOCK_MS: Final = 2_000  # by which managers' clocks may differ here,
CLOCK_SHARE: Final = 100  # and the part of D by which an agent's may run apart


def rule_of(view: View, task: Task) -> OnDisconnect:
    """What the service says for this task; see the module's docstring."""
    own = _said(task_spec_of(view, task))
    service = view.services.get(task.service_id)
    if service is None or service.spec_version == task.spec_version:
        return own
    current = _said(spec_of(view, service))
    return own if own.stop_after_s or current.stop_after_s else current


def is_told_otherwise(made_from: ServiceSpec, current: ServiceSpec) -> bool:
    """Whether an agent knows another time to stop than is wanted now."""
    return _said(made_from).stop_after_s != _said(current).stop_after_s


def _said(spec: ServiceSpec) -> OnDisconnect:
    try:
        return on_disconnect_of(spec)
    except InvalidArgumentError:  # stored before the label meant anything
        return KEEP


def leaves_ms(view: View, task: Task) -> int:
    """From when on (wall) a task whose node is down, drained or gone may be replaced. 0: at once,
    which says nothing of when its successor may run (`runs_until_ms`)."""
    node = view.nodes.get(task.node_id)
    if node is None or node.spec.availability == "drain":
        return 0
    return runs_until_ms(view, task)


def runs_until_ms(view: View, task: Task) -> int:
    """Until when (wall) nothing may run beside this task, whatever else is said; 0: the service
    does not mind, or nothing of it runs. NEVER_MS: until it is heard of, or its node drained or
    removed, which its row or the node's will tell."""
    is_on = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
    node = view.nodes.get(task.node_id) if is_on or was_evicted(task) else None
    if node is None:
        return 0
    rule = rule_of(view, task)
    if rule == KEEP:
        return 0
    if not is_on and (ended_ms := _evicted_until_ms(view, task, node)):
        return ended_ms
    if node.status.state == NodeState.READY:
        return NEVER_MS
    if rule.never_replace:
        return 0 if node.spec.availability == "drain" else NEVER_MS
    return stopped_ms(view, task, node, rule.stop_after_s)


def _evicted_until_ms(view: View, task: Task, node: Node) -> int:
    """When (wall) a task that the manager ended has surely stopped, where its node was ready for
    long enough to be told; 0: it was not. Nothing is heard of such a task any more."""
    done_ms = task.status.applied_at_ms + IN_FLIGHT_MS + _grace_ms(view, task)
    is_told = node.status.state == NodeState.READY or node.status.heard_ms >= done_ms
    return done_ms if is_told else 0


def stopped_ms(view: View, task: Task, node: Node, stop_after_s: float) -> int:
    """When (wall) the agent of a node that was lost has surely stopped the task."""
    period_ns = cluster_of(view).spec.dispatcher.heartbeat_period or HEARTBEAT_PERIOD_NS
    period_ms = -(-period_ns // NS_PER_MS)
    after_ms = int(stop_after_s * MS_PER_S)
    begins_ms = max(after_ms, MISSED_BEATS * period_ms) + after_ms // CLOCK_SHARE + CLOCK_MS
    return _last_word_ms(node, period_ms) + IN_FLIGHT_MS + begins_ms + _grace_ms(view, task)


def _last_word_ms(node: Node, period_ms: int) -> int:
    """When a manager may have said its last word to the node."""
    status = node.status
    heard_ms = status.heard_ms or status.since_ms or node.updated_ms
    silent_ms = heard_ms + MISSED_BEATS * (period_ms + BEAT_JITTER_MS) + LOOK_MS
    lost_ms = status.lost_ms[-1] if status.lost_ms else 0
    return lost_ms if lost_ms >= heard_ms else silent_ms


def _grace_ms(view: View, task: Task) -> int:
    container = task_spec_of(view, task).task_template.container_spec
    given = None if container is None else container.stop_grace_period
    return -(-(STOP_GRACE_PERIOD_NS if given is None else given) // NS_PER_MS) + KILL_MS


def why_waiting(view: View, task: Task) -> str:
    """What to tell of a task that is not replaced although its node is down; "" where it is."""
    if leaves_ms(view, task) == 0:
        return ""
    rule = rule_of(view, task)
    if rule.never_replace:
        return (
            "its node is down, and nothing takes its place (on-disconnect never-replace): bring "
            "the node back, drain it or remove it"
        )
    return (
        "its node is down; it is replaced once its agent has surely stopped it "
        f"(on-disconnect stop-after {rule.stop_after_s:g}s)"
    )
