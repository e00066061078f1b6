"""Where a log that broke off goes on: no line is lost, and none comes twice."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.manager.log_progress import ALL, OWN, Progress, Skip
from swarmlet.wire.messages import LOG_MARKS_MAX, LogLine, LogMark, LogOptions

A, B = TaskID("a"), TaskID("b")
FOLLOW, TAIL = LogOptions(follow=True), LogOptions(follow=True, tail=2)


def line(task_id: TaskID, at_ns: int, text: str = "x", stream: int = 1) -> LogLine:
    return LogLine(task_id, at_ns, stream, text.encode())


def file_of(rng: Random, task_id: TaskID, count: int) -> list[LogLine]:
    """Lines as a task wrote them: many at one time."""
    at_ns, lines = 1_000, []
    for number in range(count):
        at_ns += rng.choice([0, 0, 0, 1, 50])
        lines.append(line(task_id, at_ns, f"{task_id}{number}", rng.choice([1, 2])))
    return lines


def read(lines: list[LogLine], since_ns: int, tail: int) -> list[LogLine]:
    """As a node reads a file."""
    found = [one for one in lines if one.at_ns >= since_ns]
    return found if tail < 0 else found[len(found) - min(tail, len(found)) :]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([-1, 0, 3, 10]))
def test_what_is_read_in_pieces_is_what_was_written(seed, tail):
    rng = Random(seed)
    lines = file_of(rng, A, 60)
    there = rng.randint(0, 30)  # of them when the reading begins
    while 0 < there < 59 and lines[there].at_ns == lines[there - 1].at_ns:
        there += 1  # what bears one time was written at once
    began_ns = lines[there].at_ns
    progress = Progress(LogOptions(follow=True, tail=tail), began_ns)
    first = read(lines[:there], 0, tail)
    rest = lines[there:]
    got = first + rest[: rng.randint(0, len(rest))]
    for one in got:
        progress.note(one)
    again = Skip(progress.marks([A]))
    got += [one for one in read(lines, progress.since_ns([A]), -1) if again.passes(one)]
    assert got == first + rest


def test_lines_of_one_time_are_counted():
    progress = Progress(FOLLOW, 0)
    for _ in range(3):
        progress.note(line(A, 5))
    progress.note(line(B, 7))
    assert progress.marks() == [LogMark(A, 5, 3), LogMark(B, 7, 1)]
    skip = Skip(progress.marks())
    assert [skip.passes(line(A, 5)) for _ in range(5)] == [False] * 3 + [True] * 2
    assert not skip.passes(line(A, 4))
    assert skip.passes(line(A, 6))


def test_last_lines_of_one_time_are_all_of_it():
    progress = Progress(TAIL, 6)
    for _ in range(2):
        progress.note(line(A, 5))
    assert progress.marks() == [LogMark(A, 5, ALL)]
    skip = Skip(progress.marks())
    assert not any(skip.passes(line(A, 5)) for _ in range(9))


def test_line_of_a_manager_is_no_progress_of_a_task_and_always_passes():
    progress = Progress(FOLLOW, 0)
    progress.note(line(A, 5))
    progress.note(line(A, 99, stream=OWN))
    skip = Skip(progress.marks())
    assert progress.marks() == [LogMark(A, 5, 1)]
    assert skip.passes(line(A, 3, stream=OWN))


def test_task_that_wrote_nothing_is_read_from_the_beginning_of_the_reading():
    assert Progress(TAIL, 700).since_ns([A]) == 700
    assert Progress(FOLLOW, 700).since_ns([A]) == 0
    assert Progress(LogOptions(follow=True, since_ns=9), 700).since_ns([A]) == 9
    progress = Progress(TAIL, 700)
    progress.note(line(B, 800))
    assert progress.since_ns([A, B]) == 700
    assert progress.since_ns([B]) == 800
    progress.forget(B)
    assert progress.since_ns([B]) == 700


def test_tasks_that_are_gone_are_forgotten_once_there_are_many():
    progress, there = Progress(FOLLOW, 0), {TaskID(f"t{number}") for number in range(3)}
    for number in range(LOG_MARKS_MAX):
        progress.note(line(TaskID(f"t{number}"), number))
    progress.forget_gone(there.__contains__)
    assert len(progress.marks()) == LOG_MARKS_MAX
    progress.note(line(A, 1))
    progress.forget_gone(there.__contains__)
    assert {mark.task_id for mark in progress.marks()} == there


def test_tasks_that_are_there_are_not_looked_at_with_every_line():
    progress, looked = Progress(FOLLOW, 0), []
    for number in range(2 * LOG_MARKS_MAX):
        progress.note(line(TaskID(f"t{number}"), number))
        progress.forget_gone(lambda task_id: looked.append(task_id) or True)
    assert len(looked) == LOG_MARKS_MAX + 1
    assert len(progress.marks()) == 2 * LOG_MARKS_MAX
