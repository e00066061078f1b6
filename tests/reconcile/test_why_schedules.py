"""What `service why` says of a schedule."""

import pytest
from msgspec.structs import replace

from swarmlet.core.ids import ServiceID
from swarmlet.model.job import no_iteration_yet
from swarmlet.model.job_history import begun, decided, ended, going_on, not_run
from swarmlet.model.service import JobRun, Service
from swarmlet.reconcile.why.answers import Verdict
from swarmlet.reconcile.why.schedules import schedule_reasons
from swarmlet.reconcile.why.services import explain_service
from tests.reconcile.test_schedules import (
    FAILED,
    HOUR_MS,
    MINUTE_MS,
    NOON_MS,
    end,
    job,
    job_spec,
    scene,
)

KEY = "0 * * * * UTC"
IDLE = Service(
    id=ServiceID("job"), name="job", job_status=no_iteration_yet(), updated_ms=NOON_MS - HOUR_MS
)
DECIDED = decided(IDLE, KEY, NOON_MS)


def said(service, spec, now_ms=NOON_MS + 10 * MINUTE_MS):
    return list(schedule_reasons(service, spec, now_ms))


def test_nothing_is_said_of_a_job_without_one():
    assert said(IDLE, job_spec()) == []


@pytest.mark.parametrize(
    ("service", "now_ms"),
    [(DECIDED, NOON_MS + 10 * MINUTE_MS), (IDLE, NOON_MS - 50 * MINUTE_MS)],
)
def test_when_it_runs_next_is_said(service, now_ms):
    (reason,) = said(service, job_spec("@hourly"), now_ms)
    assert reason.code == "scheduled"
    assert (
        reason.sentence == "It runs when its schedule says so, `0 * * * *` in UTC: next in 50 min."
    )
    assert (reason.until_ms, reason.verdict) == (now_ms + 50 * MINUTE_MS, Verdict.WELL)


def test_a_schedule_that_cannot_be_read_is_not_well():
    (reason,) = said(IDLE, job_spec("@hourly", timezone="Europe/Atlantis"))
    assert (reason.code, reason.verdict) == ("schedule-unreadable", Verdict.UNSETTLED)
    assert "unknown time zone 'Europe/Atlantis'" in reason.sentence


def test_a_run_that_waits_for_another_says_for_which_and_how_long():
    service = begun(DECIDED, NOON_MS, JobRun(trigger="schedule"), is_beside=False)
    spec = job_spec("@hourly", concurrency="forbid", starting_deadline="10m")
    (reason,) = said(service, spec, NOON_MS + HOUR_MS + 4 * MINUTE_MS)
    assert reason.code == "waits-for-run"
    assert reason.sentence == (
        "It was due 4 min ago and waits for run 1 to end, for 6 min at most."
    )
    assert reason.until_ms == NOON_MS + HOUR_MS + 10 * MINUTE_MS


@pytest.mark.parametrize(
    ("outcome", "fires", "concurrency", "words"),
    [
        ("missed", 1, "allow", "The last time it was due, 5 min ago, it did not run: nobody"),
        ("missed", 3, "allow", "The last 3 times it was due, 5 min ago, it did not run: nobody"),
        ("skipped", 1, "forbid", "an earlier run went on"),
        ("skipped", 2, "allow", "as many runs went on as may at once"),
    ],
)
def test_why_the_last_one_did_not_run_is_said(outcome, fires, concurrency, words):
    service = not_run(DECIDED, NOON_MS + 5 * MINUTE_MS, outcome, NOON_MS, fires)
    _, reason = said(service, job_spec("@hourly", concurrency=concurrency))
    assert reason.code == f"run-{outcome}"
    assert words in reason.sentence
    assert reason.remedy


def test_what_was_skipped_before_the_last_run_is_past():
    service = not_run(DECIDED, NOON_MS, "skipped", NOON_MS, 1)
    service = begun(service, NOON_MS, JobRun(trigger="manual"), is_beside=False)
    over = [replace(run, outcome="complete") for run in going_on(service)]
    assert [r.code for r in said(ended(service, over), job_spec("@hourly"))] == ["scheduled"]


def explained(world):
    steps = explain_service(world, job(world), world.now_ms)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_a_job_that_waits_for_its_first_run_is_well():
    world, _ = scene()
    found = explained(world)
    assert (found.verdict, found.running, found.wanted) == (Verdict.WELL, 0, 0)
    assert [reason.code for reason in found.reasons] == ["scheduled"]


def test_a_run_that_failed_is_said_beside_the_next():
    world, leader = scene()
    leader.run_for(30 * MINUTE_MS)
    leader.tell(end(world, FAILED))
    leader.run()
    found = explained(world)
    given_up, next_one = found.reasons
    assert given_up.code == "given-up"
    assert given_up.remedy == "`swarmlet service run --now job` begins the next iteration"
    assert next_one.code == "scheduled"
    assert found.waiting[0].reason.remedy == "`swarmlet service run --now job`"
