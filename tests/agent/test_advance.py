"""The task machine as a table: every pair of states, and that it never goes back and always
ends."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.agent.advance import (
    REST,
    Operation,
    adopted,
    after,
    delayed,
    exit_problem,
    failed,
    further,
    next_step,
)
from swarmlet.core.ids import TaskID
from swarmlet.model.service import PortConfig
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.runtime.base import Exit, RuntimeTask, Started

S = TaskState
ORDERS = (S.READY, S.RUNNING, S.COMPLETE, S.SHUTDOWN, S.REMOVE)

STEPS = [
    # desired, observed, operation, then, message
    (S.RUNNING, S.NEW, Operation.CHECK, S.ACCEPTED, "accepted"),
    (S.RUNNING, S.ASSIGNED, Operation.CHECK, S.ACCEPTED, "accepted"),
    (S.RUNNING, S.ACCEPTED, Operation.REST, S.PREPARING, "preparing"),
    (S.RUNNING, S.PREPARING, Operation.PREPARE, S.READY, "prepared"),
    (S.RUNNING, S.READY, Operation.REST, S.STARTING, "starting"),
    (S.RUNNING, S.STARTING, Operation.START, S.RUNNING, "started"),
    (S.RUNNING, S.RUNNING, Operation.WAIT, S.COMPLETE, "finished"),
    (S.COMPLETE, S.RUNNING, Operation.WAIT, S.COMPLETE, "finished"),
    (S.READY, S.ACCEPTED, Operation.REST, S.PREPARING, "preparing"),
    (S.READY, S.PREPARING, Operation.PREPARE, S.READY, "prepared"),
    (S.READY, S.READY, Operation.REST, S.NEW, ""),
    (S.READY, S.STARTING, Operation.START, S.RUNNING, "started"),
    (S.SHUTDOWN, S.ASSIGNED, Operation.REST, S.SHUTDOWN, "shutdown"),
    (S.SHUTDOWN, S.READY, Operation.REST, S.SHUTDOWN, "shutdown"),
    (S.SHUTDOWN, S.STARTING, Operation.STOP, S.SHUTDOWN, "shutdown"),
    (S.SHUTDOWN, S.RUNNING, Operation.STOP, S.SHUTDOWN, "shutdown"),
    (S.REMOVE, S.RUNNING, Operation.STOP, S.SHUTDOWN, "shutdown"),
]


@pytest.mark.parametrize(("desired", "observed", "operation", "then", "message"), STEPS)
def test_next_step_follows_the_table(desired, observed, operation, then, message):
    step = next_step(desired, observed)
    assert (step.operation, step.then, step.message) == (operation, then, message)


@pytest.mark.parametrize("desired", ORDERS)
@pytest.mark.parametrize("observed", [S.COMPLETE, S.SHUTDOWN, S.FAILED, S.REJECTED, S.ORPHANED])
def test_next_step_is_rest_when_the_task_is_over(desired, observed):
    assert next_step(desired, observed) is REST


@given(st.sampled_from(ORDERS), st.sampled_from(list(S)))
def test_next_step_never_falls_and_always_reaches_rest(desired, observed):
    for _ in range(len(S)):
        step = next_step(desired, observed)
        if step is REST:
            assert observed > S.RUNNING or observed == S.READY == desired
            return
        assert step.then > observed
        observed = step.then
    raise AssertionError("never rests")


def test_after_a_start_the_status_carries_what_was_started():
    ports = (PortConfig(target_port=80, published_port=30_000),)
    started = Started(container_id="c", pid=7, ports=ports)
    status = after(
        TaskStatus(state=S.STARTING, err="busy"), next_step(S.RUNNING, S.STARTING), 5, started
    )
    assert status == TaskStatus(
        state=S.RUNNING,
        at_ms=5,
        message="started",
        container_id="c",
        pid=7,
        ports=ports,
        running_ms=5,
    )


ENDS = [
    (S.RUNNING, Exit(exit_code=0, at_ms=9), S.COMPLETE, "", "finished"),
    (S.RUNNING, Exit(exit_code=3, at_ms=9), S.FAILED, "task: non-zero exit (3)", "started"),
    (S.RUNNING, Exit(exit_code=0, at_ms=9, problem="lost"), S.FAILED, "lost", "started"),
    (S.SHUTDOWN, Exit(exit_code=143, at_ms=9), S.SHUTDOWN, "", "shutdown"),
]


@pytest.mark.parametrize(("desired", "end", "state", "err", "message"), ENDS)
def test_after_an_end_the_status_says_how(desired, end, state, err, message):
    before = TaskStatus(state=S.RUNNING, message="started", container_id="c")
    status = after(before, next_step(desired, S.RUNNING), 50, end)
    assert (status.state, status.err, status.message) == (state, err, message)
    assert (status.exit_code, status.at_ms, status.container_id) == (end.exit_code, 9, "c")


def test_exit_problem_names_memory():
    assert exit_problem(Exit(exit_code=137, at_ms=0, was_oom=True)).endswith("(137): out of memory")


@pytest.mark.parametrize(
    ("observed", "state"),
    [(S.ASSIGNED, S.REJECTED), (S.PREPARING, S.REJECTED), (S.STARTING, S.FAILED)],
)
def test_failed_is_rejected_only_before_the_start(observed, state):
    status = failed(TaskStatus(state=observed, message="m"), "no such image", 3)
    assert (status.state, status.err, status.message, status.at_ms) == (
        state,
        "no such image",
        "m",
        3,
    )


def test_delayed_keeps_the_state():
    assert delayed(TaskStatus(state=S.PREPARING), "busy") == TaskStatus(
        state=S.PREPARING, err="busy"
    )


def test_further_prefers_ours_when_level():
    ours, theirs = TaskStatus(state=S.RUNNING, pid=1), TaskStatus(state=S.RUNNING)
    assert further(ours, theirs) is ours
    assert further(ours, TaskStatus(state=S.SHUTDOWN)).state == S.SHUTDOWN


def test_further_prefers_ours_to_a_manager_that_has_not_heard_of_this_node_for_long():
    ours = TaskStatus(state=S.RUNNING, pid=1)
    assert further(ours, TaskStatus(state=S.ORPHANED)) is ours


STARTED = Started(container_id="c", pid=1)
FOUND = RuntimeTask(task_id=TaskID("t"), started=STARTED)
ADOPTIONS = [
    (S.READY, FOUND, S.STARTING, ""),
    (S.RUNNING, FOUND, S.RUNNING, ""),
    (S.STARTING, None, S.STARTING, ""),
    (S.READY, RuntimeTask(task_id=TaskID("t")), S.READY, ""),
    (S.RUNNING, None, S.FAILED, "task: the runtime lost it while the daemon was away"),
    (S.COMPLETE, None, S.COMPLETE, ""),
    (S.SHUTDOWN, FOUND, S.SHUTDOWN, ""),
]


@pytest.mark.parametrize(("observed", "found", "state", "err"), ADOPTIONS)
def test_adopted_believes_the_runtime(observed, found, state, err):
    status = adopted(TaskStatus(state=observed), found, 1)
    assert (status.state, status.err) == (state, err)


def test_adopted_is_the_same_object_when_nothing_changed():
    status = msgspec.structs.replace(TaskStatus(), state=int(S.RUNNING))
    assert adopted(status, FOUND, 1) is status
