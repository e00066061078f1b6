"""`/swarmlet/v1/services/{id}/runs`, and jobs with a schedule in Docker's own paths."""

import pytest
from msgspec.structs import replace

from swarmlet.model.change import Update
from swarmlet.model.job_history import begun, decided, ended, not_run
from swarmlet.model.service import JobRun, Service
from tests.api.world import NOW_MS

LABEL = "swarmlet.schedule"
JOB = {
    "Name": "job",
    "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}},
    "TaskTemplate": {"ContainerSpec": {"Image": "host", "Args": ["true"]}},
}
DAILY = {**JOB, "Labels": {LABEL: "0 0 * * *", f"{LABEL}.timezone": "Europe/Berlin"}}
PATH = "/swarmlet/v1/services/job/runs"


def row_of(api):
    (row,) = api.world.store.view().services.all()
    return row


async def put(api, row: Service) -> None:
    await api.world.commit(Update(obj=row, seen=row_of(api).version))


async def test_a_job_with_a_schedule_waits_for_it(api):
    status, _ = await api("POST", "/services/create", DAILY)
    assert status == 201
    status, answer = await api("GET", PATH)
    assert status == 200
    assert answer["ServiceName"] == "job"
    assert answer["Runs"] == []
    assert answer["Schedule"] == {
        "Expression": "0 0 * * *",
        "TimeZone": "Europe/Berlin",
        "Concurrency": "allow",
        "StartingDeadline": None,
        "NextRun": "2026-01-02T23:00:00Z",
        "Problem": "",
    }
    _, shown = await api("GET", "/services/job")
    assert shown["Spec"]["Labels"] == DAILY["Labels"]
    assert shown["JobStatus"]["LastExecution"] == "0001-01-01T00:00:00Z"


async def test_a_run_by_hand_is_in_the_history(api):
    await api("POST", "/services/create", DAILY)
    assert await api("POST", PATH) == (201, {"Iteration": 1})
    _, answer = await api("GET", PATH)
    (run,) = answer["Runs"]
    assert (run["Iteration"], run["Trigger"], run["Outcome"]) == (1, "manual", "running")
    assert (run["ScheduledAt"], run["EndedAt"]) == (None, None)
    assert run["StartedAt"] == "2026-01-02T03:04:05.678Z"


async def test_the_newest_runs_come_first_with_their_exit_codes(api):
    await api("POST", "/services/create", DAILY)
    row = begun(
        row_of(api), NOW_MS, JobRun(trigger="schedule", scheduled_ms=NOW_MS), is_beside=False
    )
    (run,) = row.job_history.runs
    over = replace(
        run,
        outcome="failed",
        ended_ms=NOW_MS + 1_000,
        completed=1,
        failed=2,
        exit_codes=((0, 1), (3, 2)),
        err="exit 3",
    )
    row = not_run(ended(row, [over]), NOW_MS + 3_000, "skipped", NOW_MS + 2_000, 2)
    await put(api, decided(row, "0 0 * * * Europe/Berlin", NOW_MS))
    _, answer = await api("GET", PATH)
    skipped, failed = answer["Runs"]
    assert (skipped["Iteration"], skipped["Outcome"], skipped["Count"]) == (None, "skipped", 2)
    assert (failed["Iteration"], failed["Completed"], failed["Failed"]) == (1, 1, 2)
    assert (failed["ExitCodes"], failed["Err"]) == ({"0": 1, "3": 2}, "exit 3")


async def test_a_run_by_hand_keeps_to_the_schedules_concurrency(api):
    labels = {**DAILY["Labels"], f"{LABEL}.concurrency": "forbid"}
    await api("POST", "/services/create", {**DAILY, "Labels": labels})
    assert await api("POST", PATH) == (201, {"Iteration": 1})
    status, answer = await api("POST", PATH)
    assert status == 400
    assert "run 1 of service job goes on, and its schedule forbids another" in answer["message"]
    _, answer = await api("GET", PATH)
    assert len(answer["Runs"]) == 1


async def test_an_update_of_a_job_with_a_schedule_begins_no_run(api):
    _, made = await api("POST", "/services/create", DAILY)
    _, shown = await api("GET", "/services/job")
    path = f"/services/{made['ID']}/update?version={shown['Version']['Index']}"
    hourly = {**DAILY, "Labels": {LABEL: "@hourly"}}
    status, _ = await api("POST", path, hourly)
    assert status == 200
    _, shown = await api("GET", "/services/job")
    assert shown["JobStatus"]["JobIteration"] == {}


async def test_taking_the_schedule_away_begins_no_run_but_the_update_after_it_does(api):
    await api("POST", "/services/create", DAILY)
    for iteration in ({}, {"Index": 1}):
        _, shown = await api("GET", "/services/job")
        path = f"/services/job/update?version={shown['Version']['Index']}"
        assert (await api("POST", path, JOB))[0] == 200
        _, shown = await api("GET", "/services/job")
        assert shown["JobStatus"]["JobIteration"] == iteration


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**DAILY, "Mode": {"Replicated": {"Replicas": 1}}}, "is for jobs"),
        ({**JOB, "Labels": {LABEL: "0 25 * * *"}}, "its hour is not valid"),
        ({**JOB, "Labels": {LABEL: "@daily", f"{LABEL}.concurrency": "x"}}, "concurrency is 'x'"),
        ({**JOB, "Labels": {f"{LABEL}.timezone": "UTC"}}, "is given without swarmlet.schedule"),
    ],
)
async def test_a_schedule_that_means_nothing_is_refused_and_nothing_made(api, spec, message):
    status, answer = await api("POST", "/services/create", spec)
    assert status == 400
    assert message in answer["message"]
    assert await api("GET", "/services") == (200, [])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_no_job_has_no_runs(api, method):
    web = {**JOB, "Name": "job", "Mode": {"Replicated": {"Replicas": 1}}}
    await api("POST", "/services/create", web)
    status, answer = await api(method, PATH)
    assert status == 400
    assert "service job is no job" in answer["message"]


async def test_runs_of_no_service_are_not_found(api):
    assert (await api("GET", PATH))[0] == 404
    assert (await api("POST", PATH))[0] == 404


async def test_events_tell_of_runs(api):
    await api("POST", "/services/create", DAILY)
    await api("POST", PATH)
    row = row_of(api)
    over = [replace(run, outcome="complete") for run in row.job_history.runs]
    await put(api, ended(row, over))
    seen = api.world.store.history.read()
    told = [m.attributes for one in seen for m in one.messages if m.kind == "service"]
    assert told == [
        {"name": "job"},
        {"name": "job", "run.started": "1"},
        {"name": "job", "run.complete": "1"},
    ]
