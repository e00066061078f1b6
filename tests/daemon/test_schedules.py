"""Jobs with a schedule over a real daemon: runs by hand, by the clock, and what becomes of them."""

import subprocess
import sys

import pytest

from tests.daemon.harness import ApiError, Client, Daemon, running_daemon, tasks_of, wait_for

pytestmark = pytest.mark.timeout(180)

NEVER_SOON = "0 0 29 2 *"
LABEL = "swarmlet.schedule"


@pytest.fixture
def daemon():
    with running_daemon() as one:
        one.init()
        yield one


def cli(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarmlet", "--host", f"unix://{daemon.socket}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def create(client: Client, script: str, *, total: int = 1, **said: str) -> None:
    labels = {LABEL: said.pop("schedule", NEVER_SOON)}
    labels |= {f"{LABEL}.{key.replace('_', '-')}": value for key, value in said.items()}
    client.post(
        "/services/create",
        {
            "Name": "job",
            "Labels": labels,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "host",
                    "Command": ["/bin/sh", "-c", script],
                    "StopGracePeriod": 200_000_000,
                },
                "RestartPolicy": {"Condition": "none"},
            },
            "Mode": {"ReplicatedJob": {"MaxConcurrent": total, "TotalCompletions": total}},
        },
    )


def runs(client: Client) -> list[dict]:
    return client.get("/swarmlet/v1/services/job/runs")["Runs"]


def outcomes(client: Client) -> list[tuple[int | None, str]]:
    return [(run["Iteration"], run["Outcome"]) for run in runs(client)]


def test_a_job_with_a_schedule_runs_by_hand_and_keeps_its_exit_codes(daemon):
    client = daemon.client()
    create(client, "true", total=2)
    assert tasks_of(client, "job") == []
    done = cli(daemon, "service", "run", "--now", "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "job: run 1 complete, 2 complete"
    (run,) = runs(client)
    assert (run["Trigger"], run["Outcome"], run["ExitCodes"]) == ("manual", "complete", {"0": 2})
    shown = cli(daemon, "service", "runs", "job")
    assert "next run: 2028-02-29 00:00:00 UTC" in shown.stdout
    assert "0 x2" in shown.stdout


def test_a_run_that_fails_ends_the_command_with_an_error(daemon):
    create(daemon.client(), "exit 3")
    failed = cli(daemon, "service", "run", "--now", "job")
    assert failed.returncode == 1
    assert "Run 1 of job is not complete, but failed" in failed.stderr
    (run,) = runs(daemon.client())
    assert (run["ExitCodes"], run["Failed"]) == ({"3": 1}, 1)
    assert "given up" in cli(daemon, "service", "why", "job").stdout


def test_runs_that_may_not_overlap_do_not(daemon):
    client = daemon.client()
    create(client, "sleep 100000", concurrency="forbid")
    assert client.post("/swarmlet/v1/services/job/runs") == {"Iteration": 1}
    with pytest.raises(ApiError, match="forbids another"):
        client.post("/swarmlet/v1/services/job/runs")
    assert outcomes(client) == [(1, "running")]


@pytest.mark.parametrize(
    ("concurrency", "expected", "left"),
    [
        ("replace", [(2, "running"), (1, "replaced")], 1),
        ("allow", [(2, "running"), (1, "running")], 2),
    ],
)
def test_runs_overlap_or_replace_each_other(daemon, concurrency, expected, left):
    client = daemon.client()
    create(client, "sleep 100000", concurrency=concurrency)

    def alive() -> int:
        return sum(task["Status"]["State"] == "running" for task in tasks_of(client, "job"))

    client.post("/swarmlet/v1/services/job/runs")
    wait_for(lambda: alive() == 1, what="the first run's task")
    client.post("/swarmlet/v1/services/job/runs")
    states = {"running": left}
    wait_for(lambda: alive() == left and outcomes(client) == expected, what=f"{states}")


def test_a_job_runs_by_the_clock_and_goes_on_after_a_restart_of_the_daemon(daemon):
    create(daemon.client(), "true", schedule="* * * * *")
    daemon.kill()
    daemon.start()
    client = daemon.client()
    wait_for(
        lambda: "complete" in [run["Outcome"] for run in runs(client)],
        what="a run by the clock",
        limit_s=90.0,
    )
    run = runs(client)[-1]
    assert (run["Iteration"], run["Trigger"]) == (1, "schedule")
    assert run["ScheduledAt"].endswith(":00Z")
    made = cli(daemon, "events", "--since", "5m", "--until", "0s", "--filter", "type=service")
    assert "run.started=1" in made.stdout
