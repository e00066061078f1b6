"""Whether a task is one of a loop: runs that end by themselves, one after the other.

An update watches its tasks for a while and then ends as completed; what dies after that is not the
update's failure, and must not look like health either.
"""

from swarmlet.core.limits import CRASH_LOOP_RUNS, MS_PER_S, RESTART_RESET_AFTER_MS
from swarmlet.model.task import Task, TaskState


def is_crash_looping(task: Task, now_ms: int) -> bool:
    """Whether the task is wanted, and follows CRASH_LOOP_RUNS or more that ended within ten
    minutes each, well or not; until it has run for ten minutes itself (wall ms)."""
    if runs_ended(task) < CRASH_LOOP_RUNS or task.desired > TaskState.COMPLETE:
        return False
    if task.status.state > TaskState.RUNNING:
        return False
    is_running = task.status.state == TaskState.RUNNING
    return not is_running or now_ms - released_ms(task) < RESTART_RESET_AFTER_MS


def runs_ended(task: Task) -> int:
    """How many runs in a row ended before it."""
    return max(task.attempt, task.short_runs)


def released_ms(task: Task) -> int:
    """When it was let to run, at the latest; by the leader's clock."""
    return max(task.created_ms, task.start_at_ms)


def restart_note(task: Task, now_ms: int) -> str:
    """What there is to say of a task that has its node and follows failed ones: whether they are a
    loop, and when it is tried; "" where there is nothing."""
    if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return ""
    is_held = task.desired < TaskState.RUNNING and task.start_at_ms > now_ms
    wait_s = -(-(task.start_at_ms - now_ms) // MS_PER_S)
    next_try = f"next try in {wait_s} s" if is_held else ""
    if is_crash_looping(task, now_ms):
        loop = f"crash-looping: {runs_ended(task)} runs in a row ended"
        return f"{loop}, {next_try}" if next_try else loop
    return f"the run before failed, {next_try}" if task.attempt and next_try else ""
