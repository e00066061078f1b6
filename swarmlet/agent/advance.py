"""The task machine of a node, one pure step at a time (behaviour of SwarmKit's
agent/exec/controller.go).

`next_step` says what to do for a pair of desired and observed state; `after` and `failed` say what
is observed once it was done, or could not be done; `adopted` corrects what was remembered by what
the runtime really has. Observed state never falls.
"""

from enum import Enum
from typing import Final

import msgspec

from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.runtime.base import Exit, RuntimeTask, Started


class Operation(Enum):
    """What the runtime is asked for. REST: nothing, until the task is updated."""

    REST = "rest"
    CHECK = "check"
    PREPARE = "prepare"
    START = "start"
    WAIT = "wait"
    STOP = "stop"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Perform `operation`; on success the task is observed in `then`, with `message`."""

    operation: Operation
    then: int = TaskState.NEW
    message: str = ""


REST: Final = Step(operation=Operation.REST)

_STEPS: Final = {
    # observed: (holds until desired is beyond it, step)
    TaskState.ACCEPTED: (
        True,
        Step(operation=Operation.REST, then=TaskState.PREPARING, message="preparing"),
    ),
    TaskState.PREPARING: (
        False,
        Step(operation=Operation.PREPARE, then=TaskState.READY, message="prepared"),
    ),
    TaskState.READY: (
        True,
        Step(operation=Operation.REST, then=TaskState.STARTING, message="starting"),
    ),
    TaskState.STARTING: (
        False,
        Step(operation=Operation.START, then=TaskState.RUNNING, message="started"),
    ),
    TaskState.RUNNING: (
        False,
        Step(operation=Operation.WAIT, then=TaskState.COMPLETE, message="finished"),
    ),
}
_ACCEPT: Final = Step(operation=Operation.CHECK, then=TaskState.ACCEPTED, message="accepted")
_STOP: Final = Step(operation=Operation.STOP, then=TaskState.SHUTDOWN, message="shutdown")
_NEVER_STARTED: Final = Step(operation=Operation.REST, then=TaskState.SHUTDOWN, message="shutdown")


def next_step(desired: int, observed: int) -> Step:
    """What to do now. `then` is NEW where there is nothing to do; an operation once entered is
    finished whatever is desired, but for SHUTDOWN and beyond, which stop everything that is not
    over."""
    if observed > TaskState.RUNNING:
        return REST
    if desired >= TaskState.SHUTDOWN:
        return _STOP if observed >= TaskState.STARTING else _NEVER_STARTED
    if observed < TaskState.ACCEPTED:
        return _ACCEPT
    holds, step = _STEPS[TaskState(observed)]
    return REST if holds and desired <= observed else step


def after(
    status: TaskStatus, step: Step, now_ms: int, result: Started | Exit | None = None
) -> TaskStatus:
    """What is observed once `step` was performed with this `result`."""
    if isinstance(result, Exit):
        return _ended(status, step, now_ms, result)
    moved = msgspec.structs.replace(
        status, state=int(step.then), at_ms=now_ms, message=step.message, err=""
    )
    if result is None:
        return moved
    return msgspec.structs.replace(
        moved,
        container_id=result.container_id,
        pid=result.pid,
        ports=result.ports,
        running_ms=now_ms,
    )


def _ended(status: TaskStatus, step: Step, now_ms: int, end: Exit) -> TaskStatus:
    ended = msgspec.structs.replace(status, exit_code=end.exit_code, at_ms=end.at_ms or now_ms)
    if step.then == TaskState.SHUTDOWN:
        return msgspec.structs.replace(ended, state=int(step.then), message=step.message, err="")
    if end.exit_code or end.problem:
        return msgspec.structs.replace(ended, state=int(TaskState.FAILED), err=exit_problem(end))
    return msgspec.structs.replace(ended, state=int(TaskState.COMPLETE), message="finished", err="")


def exit_problem(end: Exit) -> str:
    """Docker's words for an end that is no success."""
    if end.problem:
        return end.problem
    return f"task: non-zero exit ({end.exit_code}){': out of memory' if end.was_oom else ''}"


def failed(status: TaskStatus, problem: str, now_ms: int) -> TaskStatus:
    """What is observed of a task that cannot go on: REJECTED before it was started, else FAILED."""
    state = TaskState.REJECTED if status.state < TaskState.STARTING else TaskState.FAILED
    return msgspec.structs.replace(status, state=int(state), err=problem, at_ms=now_ms)


def delayed(status: TaskStatus, problem: str) -> TaskStatus:
    """The same state, with the problem that is tried again."""
    return msgspec.structs.replace(status, err=problem)


def further(ours: TaskStatus, theirs: TaskStatus) -> TaskStatus:
    """The one of two statuses that is further on; ours where they are level. A manager that calls
    the task an orphan has not heard of this node for long, and does not know what runs here."""
    return theirs if ours.state < theirs.state <= TaskState.REJECTED else ours


def adopted(status: TaskStatus, found: RuntimeTask | None, now_ms: int) -> TaskStatus:
    """What is observed of a remembered task after a restart, given what the runtime has of it.

    Started behind our back (the crash came before the note): it is STARTING, and starting again is
    harmless. Noted as running but unknown to the runtime: it is lost.
    """
    was_started = found is not None and (found.started is not None or found.exit is not None)
    if was_started and status.state < TaskState.STARTING:
        return msgspec.structs.replace(
            status, state=int(TaskState.STARTING), message="starting", at_ms=now_ms
        )
    if found is None and status.state == TaskState.RUNNING:
        return failed(status, "task: the runtime lost it while the daemon was away", now_ms)
    return status
