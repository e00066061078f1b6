"""Jobs through the API's verbs: their iterations, counts, and what may not be asked of them."""

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import InvalidArgumentError, UnsupportedError
from swarmlet.manager.assignments import assigned_task
from swarmlet.model.base import Empty
from swarmlet.model.change import Create
from swarmlet.model.job import job_status_of
from swarmlet.model.service import (
    ReplicatedJobMode,
    Service,
    ServiceMode,
    UpdateConfig,
)
from swarmlet.model.task import Task
from swarmlet.model.view import spec_of
from tests.manager.control_world import new_swarm, web

REPLICATED = ServiceMode(replicated_job=ReplicatedJobMode())
GLOBAL = ServiceMode(global_job=Empty())


def job(mode=REPLICATED, **fields):
    return replace(web(name="job"), mode=mode, **fields)


def current(swarm) -> Service:
    return swarm.control.find_service(swarm.view, "job")


async def updated(swarm, spec):
    return await swarm.control.update_service("job", current(swarm).version, spec)


@pytest.mark.parametrize("mode", [REPLICATED, GLOBAL])
async def test_a_new_job_is_in_its_first_iteration(mode):
    swarm = await new_swarm()
    await swarm.control.create_service(job(mode))
    status = job_status_of(current(swarm))
    assert (status.iteration, status.earlier) == (0, ())
    assert status.last_execution_ms > 0


async def test_a_service_that_is_no_job_has_no_iteration():
    swarm = await new_swarm()
    await swarm.control.create_service(web())
    service = swarm.control.find_service(swarm.view, "web")
    await swarm.control.update_service("web", service.version, web(replicas=2))
    assert swarm.control.find_service(swarm.view, "web").job_status is None


@pytest.mark.parametrize("mode", [REPLICATED, GLOBAL])
async def test_every_update_of_a_job_begins_an_iteration_also_one_that_changes_nothing(mode):
    swarm = await new_swarm()
    await swarm.control.create_service(job(mode))
    await updated(swarm, job(mode))
    assert (job_status_of(current(swarm)).iteration, current(swarm).spec_version) == (1, 1)
    await updated(swarm, job(mode, labels={"a": "b"}))
    assert (job_status_of(current(swarm)).iteration, current(swarm).spec_version) == (2, 2)
    assert current(swarm).update_status is None


@pytest.mark.parametrize(
    ("given", "stored"),
    [((None, None), (1, 1)), ((3, None), (3, 3)), ((None, 4), (1, 4)), ((0, 0), (0, 0))],
)
async def test_a_job_is_stored_with_its_counts(given, stored):
    swarm = await new_swarm()
    most, total = given
    mode = ReplicatedJobMode(max_concurrent=most, total_completions=total)
    await swarm.control.create_service(job(ServiceMode(replicated_job=mode)))
    kept = spec_of(swarm.view, current(swarm)).mode.replicated_job
    assert (kept.max_concurrent, kept.total_completions) == stored


@pytest.mark.parametrize("mode", [REPLICATED, GLOBAL])
async def test_a_job_with_settings_of_an_update_is_refused(mode):
    swarm = await new_swarm()
    with pytest.raises(InvalidArgumentError, match="not supported for jobs"):
        await swarm.control.create_service(job(mode, update_config=UpdateConfig(parallelism=1)))


@pytest.mark.parametrize(
    ("most", "total", "words"),
    [(-1, None, "MaxConcurrent must not be negative"), (1, -1, "TotalCompletions must not be")],
)
async def test_a_job_with_counts_below_zero_is_refused(most, total, words):
    swarm = await new_swarm()
    mode = ReplicatedJobMode(max_concurrent=most, total_completions=total)
    with pytest.raises(InvalidArgumentError, match=words):
        await swarm.control.create_service(job(ServiceMode(replicated_job=mode)))


async def test_a_job_stays_of_its_mode():
    swarm = await new_swarm()
    await swarm.control.create_service(job())
    with pytest.raises(UnsupportedError, match="mode change"):
        await updated(swarm, job(GLOBAL))


@pytest.mark.parametrize(("mode", "is_numbered"), [(REPLICATED, True), (GLOBAL, False)])
async def test_an_agent_is_told_whether_slot_zero_is_a_slot(mode, is_numbered):
    swarm = await new_swarm()
    made = await swarm.control.create_service(job(mode))
    await swarm.put(Create(obj=Task(id="t", service_id=made.id)))
    assert assigned_task(swarm.view, swarm.view.tasks.get("t")).is_numbered is is_numbered
