"""Waiting for a job: it ends when its tasks have ended, well or not."""

import pytest

from swarmlet.cli.errors import CommandError
from swarmlet.cli.service import progress as progress_module
from swarmlet.cli.service.job_progress import check_job, is_job, job_progress_of, runs_at_all
from tests.cli import recorded

SERVICE_ID = "j877x32im7k8b5vwj28l97tvd"


def job(total=2, most=2, *, iteration=1, **extra):
    mode = {"ReplicatedJob": {"MaxConcurrent": most, "TotalCompletions": total}}
    status = {"JobIteration": {"Index": iteration}, "LastExecution": recorded.stamp(9)}
    return recorded.service(SERVICE_ID, "job", mode, JobStatus=status, **extra)


def global_job():
    status = {"JobIteration": {"Index": 1}, "LastExecution": recorded.stamp(9)}
    return recorded.service(SERVICE_ID, "job", {"GlobalJob": {}}, JobStatus=status)


def task(slot, state, *, iteration=1, wanted="complete", **extra):
    task_id = extra.pop("task_id", f"task{slot}{state}{iteration}")
    found = recorded.task(task_id, slot, state, DesiredState=wanted, **extra)
    return {**found, "JobIteration": {"Index": iteration}}


def test_only_the_present_iteration_counts():
    tasks = [task(0, "complete", iteration=0), task(0, "running"), task(1, "complete")]
    seen = job_progress_of(job(), tasks)
    assert (seen.completed, seen.active, seen.given_up, seen.places) == (1, 1, 0, 2)
    assert [(line.name, line.state) for line in seen.shown.lines] == [
        ("job.0", "running"),
        ("job.1", "complete"),
    ]
    assert seen.shown.headline == "job progress: 1 out of 2 complete, 1 active out of 1"


def test_a_slot_is_shown_by_what_goes_on_there():
    tasks = [
        task(0, "failed", wanted="shutdown", error="exit 1", ago_s=9),
        task(0, "ready", wanted="ready"),
        task(1, "shutdown", wanted="shutdown", ago_s=1),
        task(1, "complete", ago_s=5),
        task(1, "running", wanted="remove"),
    ]
    seen = job_progress_of(job(), tasks)
    assert [line.state for line in seen.shown.lines] == ["ready", "complete"]
    assert seen.shown.trouble == "job.0 failed: exit 1"
    assert not seen.is_over


def test_a_job_is_complete_when_every_slot_is():
    seen = job_progress_of(job(), [task(0, "complete"), task(1, "complete")])
    assert check_job(job(), seen)
    assert not check_job(job(3), job_progress_of(job(3), [task(0, "complete")]))


def test_a_job_with_tasks_given_up_ends_with_an_error_once_the_others_have_ended():
    failed = task(0, "failed", wanted="shutdown", error="task: non-zero exit (1)")
    assert not check_job(job(), job_progress_of(job(), [failed, task(1, "running")]))
    seen = job_progress_of(job(), [failed, task(1, "complete")])
    with pytest.raises(CommandError, match="1 of 2 tasks complete; 1 failed") as raised:
        check_job(job(), seen)
    assert "job.0 failed: task: non-zero exit (1)" in raised.value.message


def test_a_failure_whose_successor_is_not_made_yet_is_not_given_up():
    seen = job_progress_of(job(1), [task(0, "failed")])
    assert (seen.active, seen.given_up) == (1, 0)


def test_a_global_job_has_a_place_for_every_node_that_has_a_task():
    tasks = [task(0, "complete"), {**task(0, "running"), "NodeID": "another", "ID": "b"}]
    seen = job_progress_of(global_job(), tasks)
    assert (seen.completed, seen.active, seen.places) == (1, 1, 2)
    assert check_job(global_job(), job_progress_of(global_job(), tasks[:1]))


def test_a_global_job_without_any_node_is_blocked():
    seen = job_progress_of(global_job(), [])
    assert seen.shown.blocked == "no node is up, active and within its constraints"
    assert not seen.is_over


def test_a_job_that_may_run_nothing_is_not_waited_for():
    assert runs_at_all(job())
    assert runs_at_all(global_job())
    assert not runs_at_all(job(2, 0))
    assert not runs_at_all(job(0, 2))
    assert not runs_at_all({**job(), "JobStatus": None})


def test_services_are_no_jobs():
    assert is_job(job())
    assert is_job(global_job())
    assert not is_job(recorded.service(SERVICE_ID, "web", {"Replicated": {"Replicas": 1}}))


@pytest.fixture
def swarm(daemon, monkeypatch):
    monkeypatch.setattr(progress_module, "POLL_PERIOD_S", 0.005)
    daemon.script = {
        "POST /services/create": (201, {"ID": SERVICE_ID, "Warnings": None}),
        f"GET /services/{SERVICE_ID}": (200, job()),
        "GET /services/job": (200, job()),
        f"POST /services/{SERVICE_ID}/update": (200, {"Warnings": None}),
        "GET /nodes": (200, [recorded.NODE]),
        "GET /tasks": [
            (200, []),
            (200, []),
            (200, [task(0, "running"), task(1, "pending")]),
            (200, [task(0, "complete"), task(1, "running")]),
            (200, [task(0, "complete"), task(1, "complete")]),
        ],
    }
    return daemon


def test_create_waits_until_the_job_is_complete(swarmlet, swarm):
    words = ("--mode", "replicated-job", "--replicas", "2", "--name", "job")
    result = swarmlet("service", "create", *words, "host", "x")
    assert result.code == 0
    assert result.out.splitlines() == [
        SERVICE_ID,
        "job progress: 0 out of 2 complete, 0 active out of 2",
        "job.0: running",
        "job.1: pending",
        "job progress: 0 out of 2 complete, 2 active out of 2",
        "job.0: complete",
        "job.1: running",
        "job progress: 1 out of 2 complete, 1 active out of 1",
        "job.1: complete",
        "job progress: 2 out of 2 complete, 0 active out of 0",
        "job complete",
    ]


def test_create_of_a_job_that_fails_says_so(swarmlet, swarm):
    ended = [task(n, "failed", wanted="shutdown", error="exit 7") for n in range(2)]
    swarm.script["GET /tasks"] = (200, ended)
    result = swarmlet("service", "create", "--mode", "replicated-job", "host", "x")
    assert result.code == 1
    assert "The job job ended with 0 of 2 tasks complete; 2 failed" in result.err
    assert "job.1 failed: exit 7" in result.err


def test_create_of_a_job_that_takes_too_long_ends_with_code_5(swarmlet, swarm):
    swarm.script["GET /tasks"] = (200, [task(0, "complete"), task(1, "running")])
    words = ("--mode", "replicated-job", "--timeout", "30ms")
    result = swarmlet("service", "create", *words, "host", "x")
    assert result.code == 5
    assert "1 of 2 tasks of job are complete" in result.err


def test_create_of_a_job_without_a_place_ends_with_code_3(swarmlet, swarm):
    blocked = task(0, "pending", error="no suitable node (1: constraint)", NodeID="")
    swarm.script["GET /tasks"] = (200, [blocked])
    words = ("--mode", "replicated-job", "--timeout", "30ms")
    result = swarmlet("service", "create", *words, "host", "x")
    assert result.code == 3
    assert "no suitable node (1: constraint)" in result.err


@pytest.mark.parametrize("mode", ["replicated-job", "global-job"])
@pytest.mark.parametrize("flag", ["--update-parallelism", "--rollback-parallelism"])
def test_create_refuses_settings_of_an_update_for_a_job(swarmlet, swarm, mode, flag):
    result = swarmlet("service", "create", "--mode", mode, flag, "2", "host", "x")
    assert result.code == 2
    assert "do not go with a job" in result.err


def test_update_changes_what_a_job_runs(swarmlet, swarm):
    words = ("--replicas", "5", "--max-concurrent", "3", "-d")
    assert swarmlet("service", "update", *words, "job").code == 0
    (sent,) = [r.body for r in swarm.requests if r.path.endswith("/update")]
    assert sent["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 5}}


@pytest.mark.parametrize("flag", ["--replicas", "--max-concurrent"])
def test_update_refuses_counts_for_a_global_job(swarmlet, swarm, flag):
    swarm.script["GET /services/job"] = (200, global_job())
    result = swarmlet("service", "update", flag, "2", "job")
    assert result.code == 2
    assert f"{flag} does not go with a global job service" in result.err


# Listings ----------------------------------------------------------------------------------------
def test_ps_counts_the_slots_of_a_job_from_zero(swarmlet, swarm):
    """Docker shows the node's id for the first of them."""
    swarm.script["GET /services"] = (200, [job()])
    swarm.script["GET /tasks"] = (200, [task(0, "running"), task(1, "running")])
    result = swarmlet("service", "ps", "--format", "{{.Name}}", "job")
    assert result.out.split() == ["job.0", "job.1"]
    swarm.script["GET /services"] = (200, [global_job()])
    swarm.script["GET /tasks"] = (200, [task(0, "running")])
    result = swarmlet("service", "ps", "--format", "{{.Name}}", "job")
    assert result.out.split() == [f"job.{recorded.NODE_ID}"]


def test_inspect_pretty_shows_the_counts_and_the_iteration_of_a_job(swarmlet, swarm):
    swarm.script["GET /services/job"] = (200, job(5, 2, iteration=3))
    out = swarmlet("service", "inspect", "--pretty", "job").out
    assert "Service Mode:\tReplicated Job\n Max Concurrent:\t2\n Total Completions:\t5\n" in out
    assert " Iteration:\t3\n" in out
