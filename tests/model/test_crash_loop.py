"""When tasks that end one after the other are said to be a loop."""

import pytest
from msgspec.structs import replace

from swarmlet.core.ids import ServiceID, TaskID
from swarmlet.model.crash_loop import is_crash_looping, restart_note
from swarmlet.model.task import Task, TaskState, TaskStatus

NOW_MS = 1_700_000_000_000
TEN_MIN_MS = 600_000


def task(state=TaskState.RUNNING, **fields) -> Task:
    row = Task(id=TaskID("t"), service_id=ServiceID("web"), slot=1, short_runs=3)
    fields.setdefault("created_ms", NOW_MS)
    return replace(row, status=TaskStatus(state=int(state)), **fields)


@pytest.mark.parametrize(
    ("row", "is_loop"),
    [
        (task(), True),
        (task(short_runs=2), True),
        (task(short_runs=1), False),
        (task(short_runs=0, attempt=2), True),
        (task(desired=TaskState.READY, state=TaskState.PENDING), True),
        (task(desired=TaskState.SHUTDOWN), False),
        (task(state=TaskState.FAILED), False),
        (task(created_ms=NOW_MS - TEN_MIN_MS + 1), True),
        (task(created_ms=NOW_MS - TEN_MIN_MS), False),
        (task(created_ms=NOW_MS - TEN_MIN_MS, start_at_ms=NOW_MS - 5), True),
        (task(created_ms=0, state=TaskState.STARTING), True),
    ],
)
def test_loop_is_two_runs_that_ended_in_a_row_until_one_holds_for_ten_minutes(row, is_loop):
    assert is_crash_looping(row, NOW_MS) is is_loop


@pytest.mark.parametrize(
    ("row", "note"),
    [
        (task(), "crash-looping: 3 runs in a row ended"),
        (
            task(TaskState.READY, desired=TaskState.READY, start_at_ms=NOW_MS + 19_001),
            "crash-looping: 3 runs in a row ended, next try in 20 s",
        ),
        (
            task(
                TaskState.READY,
                desired=TaskState.READY,
                start_at_ms=NOW_MS + 5_000,
                attempt=1,
                short_runs=1,
            ),
            "the run before failed, next try in 5 s",
        ),
        (task(TaskState.READY, attempt=1, short_runs=1), ""),
        (task(TaskState.PENDING, desired=TaskState.READY, start_at_ms=NOW_MS + 5_000), ""),
        (task(TaskState.FAILED), ""),
        (task(short_runs=0), ""),
    ],
)
def test_note_says_what_loops_and_when_the_next_try_is(row, note):
    assert restart_note(row, NOW_MS) == note
