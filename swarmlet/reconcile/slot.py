"""One slot of a service: its task is restarted, released, moved or stopped.

A slot is an instance here: of a global service the place on a node (`instances`).

A task whose node is down is replaced as its service says (`disconnect`); one on a node that is
drained gently runs on beside its replacement (`moving`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from swarmlet.model.change import Create, SetDesired, SetStatus
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState
from swarmlet.model.update_status import is_rolling_back
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.base import REST, Decision, Moment
from swarmlet.reconcile.disconnect import NEVER_MS, leaves_ms, why_waiting
from swarmlet.reconcile.instances import Instance, named, rows_of
from swarmlet.reconcile.moves import hand_over, keep, needs_of_new, stop
from swarmlet.reconcile.moving import deadline_ms, is_for_balance, is_moving
from swarmlet.reconcile.restart import (
    due_ms,
    ended_ms,
    has_stopped,
    is_held_back,
    may_restart,
    must_leave,
    policy_of,
    released,
    successor,
)
from swarmlet.reconcile.rollout import counted, end_of, settings_of
from swarmlet.reconcile.slots import Dirt, is_wanted, wanted_of


class _Others(NamedTuple):
    """A slot's tasks beside the wanted ones: those that shall have stopped, and those that are on
    their way out, which count for nothing but what they may still run."""

    stopping: Sequence[Task]
    leaving: Sequence[Task]


def has_turned(old: Task, new: Task) -> bool:
    """Whether a task's change can matter to its slot: it stopped, was told to, got its node, or
    runs where another was to be stopped for it, is to move or is not any more."""
    return (
        old.move_ms != new.move_ms
        or has_stopped(old) != has_stopped(new)
        or old.desired != new.desired
        or old.node_id != new.node_id
        or (bool(new.replaces) and old.status.state < TaskState.RUNNING == new.status.state)
    )


def decide_slot(view: View, service: Service, slot: Instance, moment: Moment) -> Decision:
    """Of two tasks, one of them made from an older spec or on a node that is drained gently, the
    other one is the slot's: it is restarted and released while the old one runs on; an old one that
    ended has no successor."""
    rows = list(rows_of(view, service.id, slot))
    wanted = [task for task in rows if is_wanted(task)]
    if not wanted:
        return REST
    if len(wanted) > 1:
        clean, dirty, surplus = wanted_of(view, Dirt(view, service), wanted)
        if surplus:
            return _stop_surplus(slot, surplus, wanted)
        wanted = [*clean, *dirty]
    task = wanted[0]
    others = _Others(
        [t for t in rows if not is_wanted(t) and t.desired < TaskState.REMOVE],
        [t for t in rows if t.desired >= TaskState.REMOVE],
    )
    if len(wanted) == 1:
        return _decide_task(view, service, task, others, moment, is_alone=True)
    decision = _decide_old(view, service, task, wanted[1], moment)
    if decision.changes:
        return decision
    return _woken(_decide_task(view, service, task, others, moment), decision.wake_at_ms)


def _woken(decision: Decision, wake_at_ms: int | None) -> Decision:
    """The same, decided again by then at the latest."""
    times = [at_ms for at_ms in (decision.wake_at_ms, wake_at_ms) if at_ms is not None]
    return msgspec.structs.replace(decision, wake_at_ms=min(times, default=None))


def _decide_task(
    view: View,
    service: Service,
    task: Task,
    others: _Others,
    moment: Moment,
    *,
    is_alone: bool = False,
) -> Decision:
    if is_alone and is_moving(view, task) and moment.now_ms < deadline_ms(view, task):
        return _move(view, service, task, others, moment)
    if has_stopped(task) or must_leave(view, task):
        return _restart(view, service, task, others, moment)
    if task.desired < TaskState.RUNNING:
        return _release(view, task, others, moment)
    return REST


def _decide_old(view: View, service: Service, task: Task, old: Task, moment: Moment) -> Decision:
    """Whether the old task goes while a newer one is there. Where that one failed before, the old
    one stays until it has run as long as an update watches: a crash loop is no successor. On a node
    that is drained gently it stays until the deadline at most."""
    is_gently_drained = is_moving(view, old)
    end_ms = deadline_ms(view, old) if is_gently_drained else NEVER_MS
    must_go = end_ms <= moment.now_ms if is_gently_drained else must_leave(view, old)
    if has_stopped(old) or must_go:
        return Decision(changes=(stop(old),), reasons=("the old task of the slot ended",))
    if task.status.state == TaskState.RUNNING and not must_leave(view, task):
        is_rollback = is_rolling_back(service)
        monitor_ms = settings_of(spec_of(view, service), is_rollback=is_rollback).monitor_ms
        watched_ms = end_of(ended_ms(task), monitor_ms, moment.now_ms)
        if not watched_ms:
            return Decision(changes=(stop(old),), reasons=("the task that follows it runs",))
        end_ms = min(end_ms, watched_ms)
    return Decision(wake_at_ms=_alarm(end_ms))


def _stop_surplus(slot: Instance, surplus: Sequence[Task], wanted: Sequence[Task]) -> Decision:
    return Decision(
        changes=tuple(stop(task) for task in surplus),
        reasons=(f"{named(slot)} has {len(wanted)} tasks",),
    )


def _move(view: View, service: Service, task: Task, others: _Others, moment: Moment) -> Decision:
    """Put a successor beside a task that runs on a node which is drained gently, or moves for
    balance: that one stays where it is if it gets none."""
    policy = policy_of(task_spec_of(view, task).task_template)
    balances = is_for_balance(view.nodes.get(task.node_id), task)
    if not may_restart(task, policy, [task, *others.stopping]):
        return REST if balances else _restart(view, service, task, others, moment)
    after = counted(view, service, task, successor(task, service, policy, view, moment))
    after = released(after)
    why = "it is moved for balance" if balances else "its node is drained"
    return Decision(
        changes=(keep(task), Create(obj=msgspec.structs.replace(after, moved_ms=task.move_ms))),
        guards=needs_of_new(service),
        reasons=(f"{why}: a task elsewhere goes first",),
    )


def _restart(view: View, service: Service, task: Task, others: _Others, moment: Moment) -> Decision:
    """Stop what ended or must leave, and put a successor in its slot if the policy says so."""
    if not has_stopped(task) and (leaves := leaves_ms(view, task)) > moment.now_ms:
        return _wait(view, task, leaves)
    is_early = task.desired < TaskState.RUNNING and is_held_back(task, moment.now_ms)
    if has_stopped(task) and is_early:
        return Decision(wake_at_ms=task.start_at_ms)  # failed while held back: no tight loop
    policy = policy_of(task_spec_of(view, task).task_template)
    why = "its node is down, drained or gone" if must_leave(view, task) else "it ended"
    if not may_restart(task, policy, [task, *others.stopping]):
        return Decision(changes=(stop(task),), reasons=(f"{why}, and is not restarted",))
    after = counted(view, service, task, successor(task, service, policy, view, moment))
    before = [task, *others.stopping, *others.leaving]
    if due_ms(after, before, view, moment.now_ms) <= moment.now_ms:
        after = released(after)
    return Decision(
        changes=(hand_over(task), Create(obj=after)),
        guards=needs_of_new(service),
        reasons=(f"{why}: restart {after.attempt} in a row",),
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


def _release(view: View, task: Task, others: _Others, moment: Moment) -> Decision:
    """Let a held-back task run once it is due; until then, ask to be woken."""
    due = due_ms(task, [*others.stopping, *others.leaving], view, task.created_ms)
    if moment.now_ms < due and (due > task.start_at_ms or is_held_back(task, moment.now_ms)):
        return Decision(wake_at_ms=_alarm(due))
    return Decision(
        changes=(SetDesired(id=task.id, desired=TaskState.RUNNING),),
        reasons=("the restart delay is over",),
    )


def _alarm(at_ms: int) -> int | None:
    return at_ms if at_ms < NEVER_MS else None
