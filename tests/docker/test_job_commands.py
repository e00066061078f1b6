"""Jobs with the docker CLI, against a whole daemon with the process runtime."""

import re

import pytest

from tests.daemon.harness import running_daemon, wait_for
from tests.docker.cli import NEEDS_CLI, docker_of

pytestmark = [*NEEDS_CLI, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def daemon():
    with running_daemon("--runtime", "process") as daemon:
        daemon.init()
        yield daemon


@pytest.fixture(scope="module")
def docker(daemon):
    with docker_of(daemon.socket) as docker:
        yield docker


def create(docker, name, mode, *flags, command=("true",), code=0):
    words = ("service", "create", "--no-resolve-image", "--name", name, "--mode", mode, *flags)
    return docker(*words, "host", *command, code=code)


def replicas(docker, name):
    form = "{{.Mode}} {{.Replicas}}"
    return docker("service", "ls", "--filter", f"name={name}", "--format", form).strip()


def states(docker, name):
    said = docker("service", "ps", "--format", "{{.DesiredState}} {{.CurrentState}}", name)
    return [re.sub(r" (about|less|\d).*", "", line) for line in said.splitlines()]


def test_create_of_a_replicated_job_shows_its_progress_to_the_end(docker):
    said = create(docker, "many", "replicated-job", "--replicas", "3", "--max-concurrent", "2")
    assert "job complete" in said
    assert replicas(docker, "many") == "replicated job 0/2 (3/3 completed)"
    assert states(docker, "many") == ["Complete Complete"] * 3
    found = docker("service", "inspect", "--format", "{{json .JobStatus}}", "many")
    assert '"JobIteration":{}' in found
    docker("service", "rm", "many")


def test_create_of_a_global_job_shows_its_progress_to_the_end(docker):
    assert "job complete" in create(docker, "each", "global-job")
    assert replicas(docker, "each") == "global job 0/0 (1/1 completed)"
    docker("service", "rm", "each")


def test_every_update_of_a_job_runs_it_again(docker):
    create(docker, "again", "replicated-job", "--replicas", "2")
    assert "job complete" in docker("service", "update", "--force", "again")
    assert states(docker, "again") == ["Complete Complete"] * 4
    said = docker("service", "scale", "again=3")
    assert "job complete" in said
    assert replicas(docker, "again") == "replicated job 0/2 (3/3 completed)"
    assert "job complete" in docker("service", "update", "--label-add", "a=b", "again")
    found = docker("service", "inspect", "--format", "{{json .JobStatus.JobIteration}}", "again")
    assert '"Index":3' in found
    assert "job complete" in docker("service", "rollback", "again")
    docker("service", "rm", "again")


def test_a_job_that_fails_is_tried_again_as_often_as_it_may_be(docker):
    flags = ("-d", "--restart-max-attempts", "1", "--restart-delay", "10ms")
    create(docker, "bad", "replicated-job", *flags, command=("false",))
    wait_for(lambda: states(docker, "bad") == ["Shutdown Failed"] * 2, what="two failures")
    assert replicas(docker, "bad") == "replicated job 0/1 (0/1 completed)"
    docker("service", "update", "-d", "--label-add", "a=b", "bad")
    wait_for(lambda: states(docker, "bad") == ["Shutdown Failed"] * 4, what="two more")
    docker("service", "rm", "bad")


def test_a_slot_that_was_given_up_stays_so_while_others_end(docker):
    """`{{.Task.Slot}}` tells the tasks which of them they are, from 0."""
    flags = ("-d", "--replicas", "3", "--max-concurrent", "1", "--restart-condition", "none")
    script = 'test "$SLOT" != 0'
    words = (*flags, "--env", "SLOT={{.Task.Slot}}")
    create(docker, "some", "replicated-job", *words, command=("sh", "-c", script))
    done = "replicated job 0/1 (2/3 completed)"
    wait_for(lambda: replicas(docker, "some") == done, what="two of three")
    assert sorted(states(docker, "some")) == ["Complete Complete"] * 2 + ["Shutdown Failed"]
    docker("service", "rm", "some")


def test_a_new_iteration_stops_what_still_runs(docker):
    flags = ("-d", "--stop-grace-period", "1s")
    create(docker, "long", "replicated-job", *flags, command=("sleep", "1000"))
    wait_for(lambda: states(docker, "long") == ["Complete Running"], what="the first")
    docker("service", "update", "-d", "--args", "sleep 0.1", "long")
    wait_for(lambda: states(docker, "long") == ["Complete Complete"], what="the second alone")
    docker("service", "rm", "long")


@pytest.mark.parametrize("mode", ["replicated-job", "global-job"])
def test_settings_of_an_update_are_refused(docker, mode):
    said = create(docker, "no", mode, "--update-parallelism", "2", code=1)
    assert "update" in said


def test_a_removed_job_leaves_nothing(docker, daemon):
    create(docker, "gone", "replicated-job", "-d", "--replicas", "3", command=("sleep", "1000"))
    client = daemon.client()
    service_id = client.get("/services/gone")["ID"]
    docker("service", "rm", "gone")

    def is_empty():
        return service_id not in [task["ServiceID"] for task in client.get("/tasks")]

    wait_for(is_empty, what="its tasks to go")
