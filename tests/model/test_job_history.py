"""A job's history, a step at a time."""

from msgspec.structs import replace

from swarmlet.core.ids import ServiceID
from swarmlet.model.job import first_iteration, next_iteration, no_iteration_yet
from swarmlet.model.job_history import (
    RUNS_KEPT,
    begun,
    decided,
    ended,
    going_on,
    history_of,
    not_run,
    told_changes,
    with_first_look,
)
from swarmlet.model.service import JobRun, Service

PLAIN = Service(id=ServiceID("s"), name="job", job_status=first_iteration(5))
IDLE = replace(PLAIN, job_status=no_iteration_yet())
BY_HAND = JobRun(trigger="manual")


def over(service, outcome="complete"):
    return ended(service, [replace(run, outcome=outcome) for run in going_on(service)])


def test_an_iteration_is_recorded_once():
    seen = with_first_look(PLAIN)
    assert history_of(seen).runs == (JobRun(iteration=0, trigger="service", started_ms=5),)
    assert with_first_look(seen) is seen


def test_a_job_that_waits_for_its_schedule_has_no_run():
    assert with_first_look(IDLE) is IDLE


def test_what_an_update_began_before_a_run_by_hand_is_in_the_history_too():
    after = begun(PLAIN, 9, BY_HAND, is_beside=False)
    assert [(run.iteration, run.trigger) for run in history_of(after).runs] == [
        (0, "service"),
        (1, "manual"),
    ]


def test_what_has_ended_stays_as_it_ended():
    service = over(begun(IDLE, 9, BY_HAND, is_beside=False), "failed")
    again = ended(service, [replace(run, outcome="complete") for run in history_of(service).runs])
    assert again == service


def test_fires_in_a_row_that_began_no_run_are_told_together():
    service = not_run(IDLE, 10, "skipped", 7, 1)
    service = not_run(service, 20, "skipped", 17, 2)
    (run,) = history_of(service).runs
    assert (run.scheduled_ms, run.ended_ms, run.count) == (7, 20, 3)
    service = not_run(service, 30, "missed", 27, 1)
    assert [run.outcome for run in history_of(service).runs] == ["skipped", "missed"]


def test_the_oldest_that_are_over_are_forgotten_and_never_recorded_again():
    service = begun(IDLE, 1, BY_HAND, is_beside=False)
    for at_ms in range(2, RUNS_KEPT + 5):
        service = begun(service, at_ms, BY_HAND, is_beside=True)
        last = going_on(service)[-1]
        service = ended(service, [replace(last, outcome="complete")])
    iterations = [run.iteration for run in history_of(service).runs]
    assert iterations[0] == 1, "it goes on"
    assert len(iterations) == RUNS_KEPT
    assert with_first_look(service) is service


def test_how_far_a_schedule_is_decided_does_not_touch_the_runs():
    service = begun(IDLE, 9, BY_HAND, is_beside=False)
    after = decided(service, "0 0 * * * UTC", 8)
    assert history_of(after).runs == history_of(service).runs
    assert (history_of(after).schedule, history_of(after).decided_ms) == ("0 0 * * * UTC", 8)


def test_what_is_told_of_a_change_is_what_happened_in_it():
    one = begun(IDLE, 9, BY_HAND, is_beside=False)
    assert told_changes(IDLE, one) == {"started": "1"}
    two = begun(over(one, "replaced"), 10, BY_HAND, is_beside=False)
    assert told_changes(one, two) == {"started": "2", "replaced": "1"}
    assert told_changes(two, over(two)) == {"complete": "2"}
    late = not_run(not_run(two, 20, "skipped", 15, 2), 30, "skipped", 25, 3)
    assert told_changes(two, late) == {"skipped": "5"}
    assert told_changes(two, two) == {}


def test_an_update_that_only_begins_an_iteration_tells_it_once_it_is_recorded():
    service = with_first_look(PLAIN)
    updated = next_iteration(service, 9)
    assert told_changes(service, updated) == {}
    assert told_changes(updated, with_first_look(updated)) == {"started": "1"}
