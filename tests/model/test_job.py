"""Iterations of jobs: which are open, and how the next one begins."""

import msgspec
import pytest

from swarmlet.core.ids import ServiceID
from swarmlet.model.base import Empty
from swarmlet.model.job import (
    BESIDE_MAX,
    first_iteration,
    is_job,
    job_status_of,
    next_iteration,
    no_iteration_yet,
    open_iterations,
)
from swarmlet.model.service import (
    JobStatus,
    ReplicatedJobMode,
    ReplicatedMode,
    Service,
    ServiceMode,
)

SERVICE = Service(id=ServiceID("s"), name="s", job_status=first_iteration(5))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (ServiceMode(), False),
        (ServiceMode(replicated=ReplicatedMode()), False),
        (ServiceMode(global_=Empty()), False),
        (ServiceMode(replicated_job=ReplicatedJobMode()), True),
        (ServiceMode(global_job=Empty()), True),
    ],
)
def test_a_job_is_what_has_a_mode_of_jobs(mode, expected):
    assert is_job(mode) is expected


def test_a_new_job_is_in_iteration_zero():
    assert SERVICE.job_status == JobStatus(iteration=0, last_execution_ms=5)
    assert open_iterations(SERVICE) == (0,)


def test_a_job_stored_without_a_status_is_in_iteration_zero():
    assert job_status_of(msgspec.structs.replace(SERVICE, job_status=None)) == JobStatus()


def test_the_next_iteration_takes_the_place_of_the_one_before():
    after = next_iteration(SERVICE, 9)
    assert after.job_status == JobStatus(iteration=1, last_execution_ms=9)
    assert open_iterations(after) == (1,)
    assert msgspec.structs.replace(after, job_status=SERVICE.job_status) == SERVICE


def test_the_iterations_before_stay_open_where_the_next_one_goes_beside_them():
    after = next_iteration(next_iteration(SERVICE, 9, is_beside=True), 10, is_beside=True)
    assert open_iterations(after) == (0, 1, 2)
    assert open_iterations(next_iteration(after, 11)) == (3,)


def test_the_oldest_iteration_is_closed_when_too_many_are_open():
    service = SERVICE
    for now_ms in range(BESIDE_MAX + 2):
        service = next_iteration(service, now_ms, is_beside=True)
    assert open_iterations(service) == tuple(range(2, BESIDE_MAX + 3))


def test_a_job_that_waits_for_its_schedule_has_no_iteration_before_the_first():
    idle = msgspec.structs.replace(SERVICE, job_status=no_iteration_yet())
    assert open_iterations(idle) == ()
    assert open_iterations(next_iteration(idle, 9, is_beside=True)) == (1,)
