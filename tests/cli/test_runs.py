"""`service run`, `service runs` and the flags of schedules."""

import pytest

from swarmlet.cli.service import runs
from swarmlet.cli.service.job_progress import has_schedule
from tests.cli.recorded import service

SERVICE_ID = "j877x32im7k8b5vwj28l97tvd"

PATH = f"/swarmlet/v1/services/{SERVICE_ID}/runs"
SCHEDULE = {
    "Expression": "0 */6 * * *",
    "TimeZone": "Europe/Berlin",
    "Concurrency": "allow",
    "StartingDeadline": None,
    "NextRun": "2026-11-23T17:00:00Z",
    "Problem": "",
}
LABELS = {
    "swarmlet.schedule": "@daily",
    "swarmlet.schedule.timezone": "UTC",
    "swarmlet.schedule.concurrency": "forbid",
    "swarmlet.schedule.starting-deadline": "10m",
}


def entry(iteration=1, outcome="complete", **fields):
    known = {
        "Iteration": iteration,
        "Trigger": "schedule",
        "ScheduledAt": "2026-11-23T11:00:00Z",
        "StartedAt": "2026-11-23T11:00:00.04Z",
        "EndedAt": "2026-11-23T11:00:24.5Z",
        "Outcome": outcome,
        "Count": 1,
        "Completed": 1,
        "Failed": 0,
        "ExitCodes": {"0": 1},
        "Err": "",
    }
    return {**known, **fields}


SKIPPED = entry(
    None, "skipped", Count=4, StartedAt=None, EndedAt="2026-11-23T12:00:00Z", ExitCodes={}
)


def answer(*entries, schedule=None):
    return {"ServiceID": SERVICE_ID, "ServiceName": "job", "Schedule": schedule, "Runs": entries}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes only while the command sleeps."""
    now = [0.0]
    monkeypatch.setattr(runs, "mono_s", lambda: now[0])

    def sleep(duration_s):
        now[0] += duration_s

    monkeypatch.setattr(runs, "sleep_s", sleep)
    return now


def script(daemon, *answers, began=5):
    daemon.script = {
        "GET /services/job": (200, service(SERVICE_ID, "job", {"ReplicatedJob": {}})),
        f"GET {PATH}": [(200, one) for one in answers],
        f"POST {PATH}": (201, {"Iteration": began}),
    }


def test_runs_are_a_table_below_what_the_schedule_says(swarmlet, daemon):
    failed = entry(1, "failed", Completed=1, Failed=2, ExitCodes={"3": 2, "0": 1}, Err="exit 3")
    script(daemon, answer(SKIPPED, entry(2), failed, schedule=SCHEDULE))
    result = swarmlet("service", "runs", "job")
    head, *lines = result.out.splitlines()
    assert head == "Schedule: 0 */6 * * * (Europe/Berlin), next run: 2026-11-23 17:00:00 UTC"
    cells = [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in lines]
    due = "2026-11-23 11:00:00"
    assert cells == [
        list(runs.HEADINGS.values()),
        ["-", "schedule", due, "-", "-", "skipped x4", "-"],
        ["2", "schedule", due, due, "24s", "complete", "1 complete", "0"],
        ["1", "schedule", due, due, "24s", "failed", "1 complete, 2 failed", "0, 3 x2", "exit 3"],
    ]


def test_a_format_shows_the_runs_alone(swarmlet, daemon):
    script(daemon, answer(entry(2), schedule=SCHEDULE))
    result = swarmlet("service", "runs", "--format", "{{.Run}} {{.Outcome}} {{.ExitCodes}}", "job")
    assert result.out == "2 complete 0\n"


def test_long_errors_are_cut_unless_they_are_asked_for(swarmlet, daemon):
    script(daemon, answer(entry(1, "failed", Err="x" * 60)))
    assert "x" * 39 + "…" in swarmlet("service", "runs", "job").out
    assert "x" * 60 in swarmlet("service", "runs", "--no-trunc", "job").out


def test_a_schedule_that_cannot_be_read_says_that_nothing_runs(swarmlet, daemon):
    broken = {**SCHEDULE, "NextRun": None, "Problem": "unknown time zone 'X'"}
    script(daemon, answer(schedule=broken))
    out = swarmlet("service", "runs", "job").out
    assert out.startswith("It does not run: unknown time zone 'X'.\n")


def test_run_waits_for_the_run_it_began_and_says_how_it_goes(swarmlet, daemon):
    going = entry(5, "running", Completed=0, EndedAt=None)
    script(daemon, answer(going, entry(4)), answer(going), answer(entry(5)))
    result = swarmlet("service", "run", "--now", "job")
    assert result.code == 0
    assert result.out.splitlines() == [
        "job: run 5 running, 0 complete",
        "job: run 5 complete, 1 complete",
    ]


@pytest.mark.parametrize("outcome", ["failed", "replaced"])
def test_a_run_that_is_not_complete_is_an_error(swarmlet, daemon, outcome):
    script(daemon, answer(entry(5, outcome, Completed=0, Failed=1, Err="exit 3")))
    result = swarmlet("service", "run", "--now", "--quiet", "job")
    assert (result.code, result.out) == (1, "")
    assert f"Run 5 of job is not complete, but {outcome}: exit 3" in result.err


def test_a_run_that_is_forgotten_is_an_error(swarmlet, daemon):
    script(daemon, answer(entry(40)))
    result = swarmlet("service", "run", "--now", "job")
    assert result.code == 1
    assert "forgotten" in result.err


def test_waiting_for_a_run_ends_with_the_timeout(swarmlet, daemon):
    script(daemon, answer(entry(5, "running", Completed=0, EndedAt=None)))
    result = swarmlet("service", "run", "--now", "--timeout", "3s", "job")
    assert result.code == 5
    assert "run 5 of job goes on: running, 0 complete" in result.err


def test_help_of_run_promises_no_earlier_end_than_the_timeout(swarmlet, daemon):
    out = " ".join(swarmlet("service", "run", "--help").out.split())
    assert "Do not wait for the run to end." in out
    assert "How long to wait for it; 0 for ever. [default: 10m]" in out


def test_run_may_be_left_to_itself(swarmlet, daemon):
    script(daemon, answer())
    result = swarmlet("service", "run", "--now", "--detach", "job")
    assert (result.code, result.out) == (0, "job: run 5\n")


def test_run_without_now_is_wrong_usage(swarmlet, daemon):
    script(daemon, answer())
    result = swarmlet("service", "run", "job")
    assert result.code == 2
    assert "Say --now" in result.err
    assert not daemon.posted()


def test_a_plan_for_a_job_with_a_schedule_says_that_it_does_not_run_for_it(swarmlet, daemon):
    plan = {"Version": {"Index": 7}, "Revision": 2, "Changes": [], "Tasks": [], "IsJob": True}
    daemon.script = {
        "GET /services/job": (200, service(SERVICE_ID, "job", {"ReplicatedJob": {}})),
        "GET /nodes": (200, []),
        f"POST /swarmlet/v1/services/{SERVICE_ID}/plan": (200, {**plan, "IsScheduled": True}),
    }
    out = swarmlet("service", "plan", "--replicas", "2", "job").out
    assert "Tasks: nothing happens; the job runs by its schedule, not for this.\n" in out


def test_flags_of_schedules_are_labels(swarmlet, daemon):
    daemon.script = {"POST /services/create": (201, {"ID": SERVICE_ID})}
    flags = ("--schedule", "@daily", "--schedule-timezone", "UTC", "--concurrency", "forbid")
    flags += ("--starting-deadline", "10m", "--label", "a=b", "--mode", "replicated-job")
    swarmlet("service", "create", "--detach", "--no-resolve-image", *flags, "host", "true")
    assert daemon.posted()[-1].body["Labels"] == {"a": "b", **LABELS}


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        (("--schedule", ""), {"a": "b", "swarmlet.scheduler": "x"}),
        (
            ("--schedule", "@hourly"),
            {"a": "b", "swarmlet.scheduler": "x", **LABELS, "swarmlet.schedule": "@hourly"},
        ),
    ],
)
def test_an_empty_schedule_takes_all_that_belongs_to_it_away(swarmlet, daemon, flags, labels):
    had = {"a": "b", "swarmlet.scheduler": "x", **LABELS}
    found = service(SERVICE_ID, "job", {"ReplicatedJob": {}})
    found["Spec"]["Labels"] = had
    daemon.script = {
        "GET /services/job": (200, found),
        f"POST /services/{SERVICE_ID}/update": (200, {}),
    }
    swarmlet("service", "update", "--detach", *flags, "job")
    assert daemon.posted()[-1].body["Labels"] == labels


def test_create_says_when_a_job_with_a_schedule_runs_and_does_not_wait(swarmlet, daemon):
    found = service(SERVICE_ID, "job", {"ReplicatedJob": {}})
    found["Spec"]["Labels"] = LABELS
    assert has_schedule(found)
    daemon.script = {
        "POST /services/create": (201, {"ID": SERVICE_ID}),
        f"GET /services/{SERVICE_ID}": (200, found),
        "GET /tasks": (200, []),
        "GET /nodes": (200, []),
        f"GET {PATH}": (200, answer(schedule=SCHEDULE)),
    }
    flags = ("--no-resolve-image", "--mode", "replicated-job", "--schedule", "@daily")
    result = swarmlet("service", "create", *flags, "host", "true")
    assert result.code == 0
    assert result.out.splitlines()[-1] == (
        "Schedule: 0 */6 * * * (Europe/Berlin), next run: 2026-11-23 17:00:00 UTC"
    )
