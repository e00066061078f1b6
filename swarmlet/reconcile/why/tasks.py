"""Why one task is as it is: one reason, from what stands in its way first."""

from collections.abc import Iterable, Sequence
from typing import Final

from swarmlet.core.limits import RESTART_RESET_AFTER_MS
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.allocator.needs import missing, spec_version_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.disconnect import NEVER_MS
from swarmlet.reconcile.restart import (
    due_ms,
    ended_ms,
    has_stopped,
    is_held_back,
    may_restart,
)
from swarmlet.reconcile.scheduler.group import GroupKey
from swarmlet.reconcile.scheduler.room import Room
from swarmlet.reconcile.scheduler.shortages import shortages
from swarmlet.reconcile.scheduler.waiting import group_key
from swarmlet.reconcile.slots import is_wanted, newest
from swarmlet.reconcile.why.answers import (
    Placement,
    Reason,
    TaskRef,
    TaskWhy,
    Verdict,
    ref_of,
)
from swarmlet.reconcile.why.everywhere import why_not_there
from swarmlet.reconcile.why.iterations import (
    restart_policy_of,
    rows_beside,
    slot_of,
    why_over,
)
from swarmlet.reconcile.why.placement import placement, why_not_on, why_unplaced
from swarmlet.reconcile.why.schedules import again
from swarmlet.reconcile.why.standing import on_absent_node
from swarmlet.reconcile.why.words import counted, left, name_of, span

FAILURES: Final = (TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED)
LATELY_MS: Final = RESTART_RESET_AFTER_MS
"""A failure that long ago is forgiven, and not told of."""

SLICE_TASKS: Final = 1_000
"""Tasks looked at before others have a turn."""

_FAILING: Final = 3  # failed runs in a row, from which on a task is said to keep failing


class Sight:
    """What the explanations of one answer share: a view, a moment, and what was found once."""

    def __init__(self, view: View, now_ms: int) -> None:
        self.view, self.now_ms = view, now_ms
        self.room = Room(view)
        self.placements: dict[GroupKey, Placement] = {}

    def prepare(self, tasks: Iterable[Task]) -> Steps[None]:
        """Ask the nodes about every kind of task among these."""
        for number, task in enumerate(tasks, 1):
            if number % SLICE_TASKS == 0:
                yield
            key = group_key(task)
            if key in self.placements or not waits_for_a_node(self.view, task):
                continue
            group = self.room.group(task)
            assert group is not None, f"task {task.id} has a spec"
            if task.node_id:
                node = self.view.nodes.get(task.node_id)
                if node is not None:
                    yield from self.room.count_node(node)
            else:
                self.placements[key] = yield from placement(self.view, self.room, group)

    def ref(self, task: Task) -> TaskRef:
        service = self.view.services.get(task.service_id)
        node = self.view.nodes.get(task.node_id) if task.node_id else None
        name = task.service_id if service is None else service.name
        spec = None if service is None else spec_of(self.view, service)
        is_numbered = spec is not None and spec.mode.replicated_job is not None
        where = "" if node is None else name_of(node)
        return ref_of(task, name, where, is_numbered=is_numbered)


def explain_task(view: View, task: Task, now_ms: int) -> Steps[TaskWhy]:
    """The one reason a task has."""
    sight = Sight(view, now_ms)
    yield from sight.prepare([task])
    service = view.services.get(task.service_id)
    return TaskWhy(
        task=sight.ref(task),
        service_id=task.service_id,
        service_name=task.service_id if service is None else service.name,
        reason=reason_of(sight, task, slot_of(view, task)),
    )


def waits_for_a_node(view: View, task: Task) -> bool:
    """Whether the scheduler has to find room for it."""
    if task.status.state != TaskState.PENDING or task.desired > TaskState.COMPLETE:
        return False
    made_from = spec_version_of(view, task)
    return made_from is not None and not missing(view, made_from.spec, task)


def is_running(view: View, task: Task) -> bool:
    """Whether a task that should run does, as far as can be known: on a node that is ready."""
    node = view.nodes.get(task.node_id)
    is_ready = node is not None and node.status.state == NodeState.READY
    return (
        is_ready and task.status.state == TaskState.RUNNING and task.desired <= TaskState.COMPLETE
    )


def failed_lately(task: Task, now_ms: int) -> bool:
    """Whether it ended in a failure that is worth telling."""
    return task.status.state in FAILURES and now_ms - LATELY_MS < ended_ms(task)


def reason_of(sight: Sight, task: Task, slot: Sequence[Task]) -> Reason:
    """The task's reason; `slot` as `slot_of` has it. `sight` was prepared for the task."""
    view = sight.view
    made_from = spec_version_of(view, task)
    if made_from is None or view.services.get(task.service_id) is None:
        return _plain(task, "service-removed", "Its service was removed; it goes with it.")
    if task.desired > TaskState.COMPLETE:
        return _why_unwanted(sight, task, slot)
    if has_stopped(task):
        return _why_not_restarted_yet(sight, task)
    return _why_wanted(sight, task, made_from.spec, slot)


def _why_wanted(sight: Sight, task: Task, spec: ServiceSpec, slot: Sequence[Task]) -> Reason:
    """Of one that should run, and has not ended."""
    node = sight.view.nodes.get(task.node_id) if task.node_id else None
    if node is not None and node.status.state != NodeState.READY and _is_on(task):
        return on_absent_node(sight.view, task, node, sight.now_ms)
    if not _is_on(task):
        return _why_unassigned(sight, task, spec, node, slot)
    if node is None:
        return _plain(task, "node-gone", f"Its node {task.node_id} is gone; it is replaced.")
    if task.status.state == TaskState.RUNNING:
        words = f"Runs on {name_of(node)} for {_age(sight, task)}."
        return _plain(task, "running", words, Verdict.WELL)
    is_ready = task.status.state >= TaskState.READY
    if task.desired < TaskState.RUNNING and (is_ready or is_held_back(task, sight.now_ms)):
        return why_held_back(sight, task, slot)
    return _why_starting(sight, task, spec, node)


def _is_on(task: Task) -> bool:
    return task.status.state >= TaskState.ASSIGNED


def _where(node: Node | None) -> str:
    return "a node that is gone" if node is None else name_of(node)


def _age(sight: Sight, task: Task) -> str:
    return span(sight.now_ms - (ended_ms(task) or task.created_ms))


def _plain(
    task: Task, code: str, sentence: str, verdict: Verdict = Verdict.UNSETTLED, error: str = ""
) -> Reason:
    return Reason(
        code=code,
        sentence=sentence,
        since_ms=ended_ms(task),
        attempt=task.attempt,
        error=error,
        verdict=verdict,
    )


def _why_unassigned(
    sight: Sight, task: Task, spec: ServiceSpec, node: Node | None, slot: Sequence[Task]
) -> Reason:
    """NEW or PENDING."""
    if task.status.state < TaskState.PENDING:
        return _plain(task, "new", "Just made: what it needs of the network is being allocated.")
    if lacks := missing(sight.view, spec, task):
        return _plain(task, "network", f"It cannot be placed: {lacks}.", Verdict.UNPLACED, lacks)
    service_name = spec.name
    if task.node_id:
        return _why_not_on_its_own(sight, task, service_name, node)
    found = sight.placements[group_key(task)]
    if not found.fitting:
        return why_unplaced(found, service_name, task.status.at_ms)
    if task.desired < TaskState.RUNNING:
        return why_held_back(sight, task, slot)
    fitting = counted(found.fitting, "node")
    return _plain(task, "placing", f"Waits for its turn with the scheduler; {fitting} would do.")


def _why_not_on_its_own(sight: Sight, task: Task, service: str, node: Node | None) -> Reason:
    if node is None:
        gone = f"It belongs on node {task.node_id}, which is gone."
        return _plain(task, "node-gone", gone, Verdict.UNPLACED)
    group = sight.room.group(task)
    assert group is not None, f"task {task.id} has a spec"
    found = shortages(sight.room.ledger, group, sight.room.know(node))
    if found:
        return why_not_on(node, found, group, service)
    return _plain(task, "placing", f"Waits for its turn with the scheduler, for {name_of(node)}.")


_STAGES: Final = {
    TaskState.ASSIGNED: ("assigned", "Was given to its node, which has not taken it yet"),
    TaskState.ACCEPTED: ("accepted", "Its node has taken it, and prepares it next"),
    TaskState.PREPARING: ("preparing", "Is being prepared (its image, its files)"),
    TaskState.READY: ("ready", "Is prepared and starts next"),
    TaskState.STARTING: ("starting", "Is starting"),
}


def _why_starting(sight: Sight, task: Task, spec: ServiceSpec, node: Node) -> Reason:
    code, words = _STAGES[TaskState(task.status.state)]
    container = spec.task_template.container_spec
    health = None if container is None else container.healthcheck
    if code == "starting" and health is not None and health.test[:1] not in ([], ["NONE"]):
        code, words = "starting-unhealthy", "Is running, and its health check has yet to pass"
    error = task.status.err
    sentence = f"{words}: for {_age(sight, task)} on {name_of(node)}"
    said = f"; {error.rstrip('.')}" if error else ""
    return _plain(task, code, f"{sentence}{said}.", error=error)


def why_held_back(sight: Sight, task: Task, slot: Sequence[Task]) -> Reason:
    """Of a task that may not start yet (desired READY)."""
    now_ms = sight.now_ms
    before = sight.view.tasks.get(task.replaces) if task.replaces else None
    failure = "" if before is None or before.status.state not in FAILURES else _ending(before)
    if is_held_back(task, now_ms):
        sentence = f"Is held back for {left(task.start_at_ms, now_ms)} more"
        if task.attempt:
            sentence += f", after {counted(task.attempt, 'failure')} in a row"
        if failure:
            sentence += f"; the last: {failure}"
        return Reason(
            code="failing" if task.attempt >= _FAILING else "held-back",
            sentence=sentence + ".",
            remedy=_logs_remedy(before) if failure else "",
            since_ms=task.created_ms,
            until_ms=task.start_at_ms,
            task_id=task.replaces,
            attempt=task.attempt,
            error=failure,
        )
    return _why_after_others(sight, task, slot) or _plain(
        task, "ready", "Its time has come: it starts next."
    )


def _why_after_others(sight: Sight, task: Task, slot: Sequence[Task]) -> Reason | None:
    """Of a task whose delay is over: what of its slot is still to stop first, if anything is."""
    view, now_ms = sight.view, sight.now_ms
    rows = rows_beside(view, task)
    others = [one for one in slot if one.id != task.id and one.desired > TaskState.COMPLETE]
    others += [one for one in rows if one.desired >= TaskState.REMOVE]
    due = due_ms(task, others, view, task.created_ms)
    if due <= max(now_ms, task.start_at_ms):
        return None
    first = max(filter(_may_run, others), key=lambda one: one.id)
    node = view.nodes.get(first.node_id)
    sentence = f"Waits for its predecessor on {_where(node)} to stop"
    if node is not None and node.status.state != NodeState.READY:
        sentence += ", which nobody can tell while its node is away"
    if due < NEVER_MS:
        sentence += f"; {left(due, now_ms)} more at most"
    return Reason(
        code="predecessor",
        sentence=sentence + ".",
        since_ms=task.created_ms,
        until_ms=due if due < NEVER_MS else 0,
        task_id=first.id,
        attempt=task.attempt,
    )


def _may_run(task: Task) -> bool:
    return _is_on(task) and not has_stopped(task)


def _logs_remedy(task: Task | None) -> str:
    """What was rejected never began, and wrote nothing."""
    if task is None or task.status.state == TaskState.REJECTED:
        return ""
    return f"`swarmlet task logs {task.id}`"


def _ending(task: Task) -> str:
    """How a task ended: what its node said, else its exit code."""
    said = task.status.err or task.status.message
    code = task.status.exit_code
    if code and str(code) not in said:
        return f"exit code {code}: {said}" if said else f"exit code {code}"
    return said.rstrip(".") or "no reason was given"


def _why_not_restarted_yet(sight: Sight, task: Task) -> Reason:
    """It ended, and is still wanted."""
    if task.status.state == TaskState.COMPLETE and task.desired == TaskState.COMPLETE:
        return _plain(task, "complete", "Has done its work.", Verdict.WELL)
    how = _ending(task)
    if is_held_back(task, sight.now_ms):
        wait = left(task.start_at_ms, sight.now_ms)
        sentence = f"Ended before it was to start ({how}); the next one follows in {wait}."
    else:
        sentence = f"Ended {_age(sight, task)} ago ({how}); the next one follows."
    return Reason(
        code="restarting",
        sentence=sentence,
        remedy=_logs_remedy(task),
        since_ms=ended_ms(task),
        until_ms=task.start_at_ms if is_held_back(task, sight.now_ms) else 0,
        attempt=task.attempt,
        error=how,
    )


def _why_unwanted(sight: Sight, task: Task, slot: Sequence[Task]) -> Reason:
    """It is to stop, or has."""
    if not has_stopped(task):
        return _why_stopping(sight, task)
    if over := why_over(sight.view, task, slot, sight.now_ms):
        return over
    if task.desired < TaskState.REMOVE and _is_last(task, slot):
        kept_out = why_not_there(sight.view, task, sight.now_ms)
        return kept_out or why_given_up(sight, task, slot)
    age = _age(sight, task)
    if task.status.state in FAILURES:
        where = _where(sight.view.nodes.get(task.node_id)) if task.node_id else "no node"
        word = "was orphaned" if task.status.state == TaskState.ORPHANED else "failed"
        how = _ending(task)
        return _plain(
            task, "failed", f"It {word} {age} ago on {where}: {how}.", Verdict.WELL, error=how
        )
    done = "ended by itself" if task.status.state == TaskState.COMPLETE else "was stopped as wanted"
    return _plain(task, "stopped", f"It {done} {age} ago; another has its place.", Verdict.WELL)


def _is_last(task: Task, slot: Sequence[Task]) -> bool:
    """Whether nothing follows it in its slot, nor is about to."""
    return bool(slot) and not any(map(is_wanted, slot)) and newest(slot).id == task.id


def _why_stopping(sight: Sight, task: Task) -> Reason:
    node = sight.view.nodes.get(task.node_id) if task.node_id else None
    if not _is_on(task):
        return _plain(task, "stopping", "Is no longer wanted, and never ran.")
    if node is not None and node.status.state != NodeState.READY:
        words = f"Is to stop, which its node {name_of(node)} cannot be told until it is back."
        return _plain(task, "stopping-unreachable", words)
    return _plain(task, "stopping", f"Is being stopped on {_where(node)}.")


def why_given_up(sight: Sight, task: Task, slot: Sequence[Task]) -> Reason:
    """Of the last task of a slot in which nothing is wanted."""
    made_from = spec_version_of(sight.view, task)
    assert made_from is not None, f"task {task.id} has a spec"
    policy = restart_policy_of(made_from.spec)
    how, age = _ending(task), _age(sight, task)
    if may_restart(task, policy, slot):
        return _plain(task, "restarting", f"Ended {age} ago ({how}); the next one follows.")
    if task.status.state == TaskState.COMPLETE:
        words = f"Ended by itself {age} ago; its restart condition, {policy.condition}, ends it so."
        return _plain(task, "finished", words)
    why = f"its restart condition is {policy.condition}"
    if policy.condition != "none" and policy.max_attempts:
        why = f"the {counted(policy.max_attempts, 'restart')} allowed were made"
    return Reason(
        code="not-restarted",
        sentence=f"Ended {age} ago ({how}) and is not restarted: {why}.",
        remedy=f"`swarmlet service {again(made_from.spec)} {made_from.spec.name}`",
        since_ms=ended_ms(task),
        task_id=task.id,
        attempt=task.attempt,
        error=how,
    )
