"""One place of a job's iteration: its task is restarted, released, moved or stopped, until one has
ended well or the restart policy grants no more.

A place is a slot of a replicated job, or a node of a global one. What SwarmKit does with a place
whose last task was given up (another one with the next look at the job) does not happen here: given
up is given up, until the next iteration.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.change import Change, Create, SetDesired, SetStatus
from swarmlet.model.job_history import SERVICE, is_over, trigger_of
from swarmlet.model.node import Node, NodeState
from swarmlet.model.schedule import is_scheduled
from swarmlet.model.service import Placement, Service, ServiceSpec
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.base import REST, Decision, Moment
from swarmlet.reconcile.disconnect import NEVER_MS, leaves_ms, runs_until_ms, why_waiting
from swarmlet.reconcile.job_index import Place, is_active
from swarmlet.reconcile.moves import hand_over, keep, needs_of_new, stop
from swarmlet.reconcile.moving import deadline_ms, has_plan
from swarmlet.reconcile.restart import (
    Policy,
    due_ms,
    has_stopped,
    is_held_back,
    is_node_lost,
    may_restart,
    must_leave,
    policy_of,
    successor,
)
from swarmlet.reconcile.slots import newest, satisfies


class _Rows(NamedTuple):
    """The tasks of a place in one iteration. `leaving`: on their way out of the store, of this
    iteration or another; they count for nothing but what they may still run."""

    kept: Sequence[Task]
    leaving: Sequence[Task]

    def beside(self, task: Task) -> list[Task]:
        return [other for other in (*self.kept, *self.leaving) if other.id != task.id]


def is_global(spec: ServiceSpec) -> bool:
    return spec.mode.global_job is not None


def place_of(spec: ServiceSpec, task: Task) -> Place:
    return task.node_id if is_global(spec) else task.slot


def job_policy_of(spec: ServiceSpec) -> Policy:
    """A job's restart policy: what ended well is never run again, so `any` means on-failure."""
    policy = policy_of(spec.task_template)
    return policy._replace(condition="on-failure") if policy.condition == "any" else policy


def is_candidate(node: Node | None, spec: ServiceSpec) -> bool:
    """Whether a global job has work for this node now."""
    return (
        node is not None
        and node.status.state == NodeState.READY
        and node.spec.availability == "active"
        and _is_meant(node, spec)
    )


def is_closed(service: Service, spec: ServiceSpec, iteration: int) -> bool:
    """Whether an iteration gets no more tasks, whatever the spec says meanwhile: its run is over. A
    node that comes later still gets its task of a global job which ran because it was made or
    updated, unless a schedule says by now when it runs."""
    if not is_over(service, iteration):
        return False
    ran_by_itself = trigger_of(service, iteration) == SERVICE
    return not (is_global(spec) and ran_by_itself and not is_scheduled(spec))


def decide_run(
    view: View, service: Service, iteration: int, place: Place, moment: Moment
) -> Decision:
    """What happens at one place of an open iteration; O(tasks there)."""
    rows = _rows_at(view, service, iteration, place)
    active = sorted(filter(is_active, rows.kept), key=lambda task: _furthest(view, task))
    if any(task.status.state == TaskState.COMPLETE for task in rows.kept):
        return _stop_all(active, "another one has ended well")
    if len(active) > 1:
        return _stop_all(active[1:], "its place has another one")
    if not active:
        return _begin(view, service, iteration, rows, place, moment)
    return _decide_task(view, service, active[0], rows, moment)


def tasks_at(view: View, service: Service, place: Place) -> list[Task]:
    """All tasks of a place, of every iteration, those on their way out too."""
    if isinstance(place, int):
        return list(view.tasks.scan("slot", (service.id, place)))
    return [task for task in view.tasks.scan("node", place) if task.service_id == service.id]


def new_task(view: View, service: Service, iteration: int, place: Place, moment: Moment) -> Task:
    """The first task of a place. Held back where one of the iteration before may still run there,
    and must not beside it (`disconnect`)."""
    new = Task(
        id=TaskID(moment.new_id()),
        service_id=service.id,
        spec_version=service.spec_version,
        slot=place if isinstance(place, int) else 0,
        node_id=NodeID(place if isinstance(place, str) else ""),
        desired=int(TaskState.COMPLETE),
        status=TaskStatus(state=TaskState.NEW, at_ms=moment.now_ms, message="created"),
        job_iteration=iteration,
    )
    before = tasks_at(view, service, place)
    if not any(runs_until_ms(view, task) > moment.now_ms for task in before):
        return new
    held = int(TaskState.READY)
    return msgspec.structs.replace(new, desired=held, start_at_ms=moment.now_ms)


def is_place_finished(view: View, service: Service, iteration: int, place: Place) -> bool:
    """Whether nothing more happens there: a task has ended well, or the last one was given up."""
    kept = _rows_at(view, service, iteration, place).kept
    if not kept:
        return False
    if any(task.status.state == TaskState.COMPLETE for task in kept):
        return True
    return not any(map(is_active, kept)) and not _grants(view, newest(kept), kept)


def lacks_last(view: View, service: Service, iteration: int, total: int) -> bool:
    """Whether the last of a job's slots had no task yet. They are filled in order: of a job with
    slots left this is told without a look at all its tasks."""
    return total > 0 and not _rows_at(view, service, iteration, total - 1).kept


def _rows_at(view: View, service: Service, iteration: int, place: Place) -> _Rows:
    kept, leaving = [], []
    for task in tasks_at(view, service, place):
        if task.desired >= TaskState.REMOVE:
            leaving.append(task)
        elif task.job_iteration == iteration:
            kept.append(task)
    return _Rows(kept, leaving)


def _furthest(view: View, task: Task) -> tuple[bool, bool, int, int, str]:
    is_leaving = must_leave(view, task)
    return (has_stopped(task), is_leaving, -task.status.state, task.created_ms, task.id)


def _is_meant(node: Node, spec: ServiceSpec) -> bool:
    return satisfies(node, (spec.task_template.placement or Placement()).constraints)


def _grants(view: View, task: Task, kept: Sequence[Task]) -> bool:
    """Whether the policy grants a successor. Attempts are those of this place and iteration."""
    return may_restart(task, job_policy_of(task_spec_of(view, task)), kept)


def _stop_all(tasks: Sequence[Task], why: str) -> Decision:
    if not tasks:
        return REST
    return Decision(changes=tuple(stop(task) for task in tasks), reasons=(why,))


def _begin(
    view: View, service: Service, iteration: int, rows: _Rows, place: Place, moment: Moment
) -> Decision:
    """Nothing is to run there. A node that has become one for a global job gets its task; a task
    that was stopped though it had not ended (its node was drained, and no longer is) a successor.
    Slots that never had a task are opened by the job's own key, as many as may run at once."""
    is_node, spec = isinstance(place, str), spec_of(view, service)
    if is_closed(service, spec, iteration):
        return REST
    if is_node and not is_candidate(view.nodes.get(str(place)), spec):
        return REST
    if rows.kept:
        last = newest(rows.kept)
        if not _grants(view, last, rows.kept):
            return REST
        after = _successor(view, service, last, moment)
        if last.status.state not in (TaskState.FAILED, TaskState.REJECTED):
            after = msgspec.structs.replace(after, attempt=last.attempt, start_at_ms=moment.now_ms)
        after = _started_if_due(view, after, rows, moment)
        changes: tuple[Change, ...] = (keep(last), Create(obj=after))
        why = "it was stopped before its end"
    elif is_node:
        changes = (Create(obj=new_task(view, service, iteration, place, moment)),)
        why = "the node is one for this job"
    else:
        return REST
    return Decision(changes=changes, guards=needs_of_new(service), reasons=(why,))


def _decide_task(view: View, service: Service, task: Task, rows: _Rows, moment: Moment) -> Decision:
    if has_stopped(task):
        return _restart(view, service, task, rows, moment)
    node = view.nodes.get(task.node_id)
    if task.node_id and is_node_lost(node):
        return _leave(view, service, task, rows, moment)
    if task.desired < TaskState.RUNNING:
        return _release(view, task, rows, moment)
    return REST


def _leave(view: View, service: Service, task: Task, rows: _Rows, moment: Moment) -> Decision:
    """Its node is down, drained or gone. A node that is drained gently lets it run to its end, or
    the deadline; a node that is down keeps its task of a global job, which nobody else can run."""
    node = view.nodes.get(task.node_id)
    is_down = node is not None and node.status.state == NodeState.DOWN
    if is_down and is_global(spec_of(view, service)):
        assert node is not None
        if node.spec.availability != "drain":
            return REST
    if has_plan(node) and not is_down and task.status.state == TaskState.RUNNING:
        end_ms = deadline_ms(view, task)
        if moment.now_ms < end_ms:
            return Decision(wake_at_ms=_alarm(end_ms))
    leaves = leaves_ms(view, task)
    if leaves > moment.now_ms:
        return _wait(view, task, leaves)
    return _restart(view, service, task, rows, moment)


def _restart(view: View, service: Service, task: Task, rows: _Rows, moment: Moment) -> Decision:
    """Stop what ended or must leave, and put a successor in its place if the policy says so."""
    is_early = task.desired < TaskState.RUNNING and is_held_back(task, moment.now_ms)
    if has_stopped(task) and is_early:
        return Decision(wake_at_ms=task.start_at_ms)  # failed while held back: no tight loop
    why = "it ended" if has_stopped(task) else "its node is down, drained or gone"
    if not _may_follow(view, service, task):
        return Decision(changes=(_withdraw(task),), reasons=(f"{why}: none follows there",))
    if not _grants(view, task, rows.kept):
        return Decision(changes=(stop(task),), reasons=(f"{why}, and is not restarted",))
    after = _successor(view, service, task, moment)
    after = _started_if_due(view, after, rows, moment)
    return Decision(
        changes=(hand_over(task), Create(obj=after)),
        guards=needs_of_new(service),
        reasons=(f"{why}: restart {after.attempt} in a row",),
    )


def _may_follow(view: View, service: Service, task: Task) -> bool:
    """Whether its place may have another one: a node of a global job may be none any more."""
    spec = spec_of(view, service)
    if not is_global(spec):
        return True
    node = view.nodes.get(task.node_id)
    return node is not None and node.spec.availability != "drain" and _is_meant(node, spec)


def _withdraw(task: Task) -> SetDesired:
    """What was never given to its node leaves no trace: no run of it counts."""
    if task.status.state < TaskState.ASSIGNED:
        return SetDesired(id=task.id, desired=TaskState.REMOVE)
    return stop(task)


def _successor(view: View, service: Service, task: Task, moment: Moment) -> Task:
    """As of a service, but in the task's own iteration, and on its node where that is its place."""
    made_from = task_spec_of(view, task)
    after = successor(task, service, job_policy_of(made_from), view, moment)
    node_id = task.node_id if is_global(made_from) else NodeID("")
    return msgspec.structs.replace(after, job_iteration=task.job_iteration, node_id=node_id)


def _started_if_due(view: View, task: Task, rows: _Rows, moment: Moment) -> Task:
    if due_ms(task, [*rows.kept, *rows.leaving], view, moment.now_ms) > moment.now_ms:
        return task
    return msgspec.structs.replace(task, desired=int(TaskState.COMPLETE))


def _release(view: View, task: Task, rows: _Rows, moment: Moment) -> Decision:
    """Let a held-back task run once it is due; until then, ask to be woken."""
    due = due_ms(task, rows.beside(task), view, task.created_ms)
    if moment.now_ms < due and (due > task.start_at_ms or is_held_back(task, moment.now_ms)):
        return Decision(wake_at_ms=_alarm(due))
    return Decision(
        changes=(SetDesired(id=task.id, desired=TaskState.COMPLETE),),
        reasons=("the restart delay is over",),
    )


def _wait(view: View, task: Task, until_ms: int) -> Decision:
    """Leave a task alone whose node is down, and let its status say why."""
    err, wake_at_ms = why_waiting(view, task), _alarm(until_ms)
    if task.status.err == err:
        return Decision(wake_at_ms=wake_at_ms)
    status = msgspec.structs.replace(task.status, err=err)
    return Decision(
        changes=(SetStatus(id=task.id, status=status),), reasons=(err,), wake_at_ms=wake_at_ms
    )


def _alarm(at_ms: int) -> int | None:
    return at_ms if at_ms < NEVER_MS else None
