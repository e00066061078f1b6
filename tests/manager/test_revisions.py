"""Rolling back by hand: to the spec before, to any that is kept, and what stands in the way."""

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleVersionError,
)
from swarmlet.model.change import Create, Remove
from swarmlet.model.container import FileTarget, SecretReference
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import ReplicatedJobMode, ServiceMode, UpdateStatus
from swarmlet.model.view import spec_of, spec_version
from tests.manager.control_world import new_swarm, web


def current(swarm):
    return next(iter(swarm.view.services.all()))


async def updated(swarm, spec, **how):
    await swarm.control.update_service("web", current(swarm).version, spec, **how)


async def rolled_back(swarm, **how):
    return await swarm.control.roll_back_service("web", current(swarm).version, **how)


async def image_swarm(*images):
    """A service that had these environments, one after the other."""
    swarm = await new_swarm()
    await swarm.control.create_service(web(env=[images[0]]), registry_auth=images[0])
    for image in images[1:]:
        await updated(swarm, web(env=[image]), registry_auth=image)
    return swarm


def env_of(swarm):
    return spec_of(swarm.view, current(swarm)).task_template.container_spec.env


async def test_rollback_brings_the_spec_before_and_a_second_one_returns():
    swarm = await image_swarm("A=1", "A=2")
    assert await rolled_back(swarm) == ()
    row = current(swarm)
    assert env_of(swarm) == ["A=1"]
    assert (row.spec_version, row.previous_spec_version) == (3, 2)
    version = spec_version(swarm.view, row.id, 3)
    assert (version.repeats, version.cause) == (1, "manually requested rollback")
    assert version.registry_auth == "A=1"
    assert row.update_status == UpdateStatus(
        state="rollback_started",
        started_ms=row.update_status.started_ms,
        message="manually requested rollback",
    )
    assert row.update_status.started_ms
    await rolled_back(swarm)
    assert env_of(swarm) == ["A=2"]
    assert (current(swarm).spec_version, current(swarm).previous_spec_version) == (4, 3)


async def test_rollback_goes_to_any_spec_that_is_kept():
    swarm = await image_swarm("A=1", "A=2", "A=3", "A=4")
    await rolled_back(swarm, to=2)
    assert env_of(swarm) == ["A=2"]
    assert spec_version(swarm.view, current(swarm).id, 5).repeats == 2
    await rolled_back(swarm)
    assert env_of(swarm) == ["A=4"]
    await rolled_back(swarm, to=1, registry_auth="other")
    row = current(swarm)
    assert spec_version(swarm.view, row.id, row.spec_version).registry_auth == "other"


async def test_update_after_a_rollback_is_an_update_again():
    swarm = await image_swarm("A=1", "A=2")
    await rolled_back(swarm)
    await updated(swarm, web(env=["A=3"]))
    row = current(swarm)
    assert (row.spec_version, row.previous_spec_version, row.update_status) == (4, 3, None)
    version = spec_version(swarm.view, row.id, 4)
    assert (version.repeats, version.cause) == (0, "")


async def test_rollback_to_nowhere_is_refused():
    swarm = await image_swarm("A=1")
    with pytest.raises(FailedPreconditionError) as refused:
        await rolled_back(swarm)
    assert refused.value.message == f"service {current(swarm).id} does not have a previous spec"
    with pytest.raises(NotFoundError, match="spec 7 of service web not found"):
        await rolled_back(swarm, to=7)
    with pytest.raises(FailedPreconditionError, match="service web has spec 1 now"):
        await rolled_back(swarm, to=1)
    with pytest.raises(NotFoundError, match="service nope not found"):
        await swarm.control.roll_back_service("nope", 1)


async def test_stale_rollback_is_refused():
    swarm = await image_swarm("A=1", "A=2")
    version = current(swarm).version
    await updated(swarm, web(env=["A=3"]))
    before = swarm.view.index
    with pytest.raises(StaleVersionError):
        await swarm.control.roll_back_service("web", version)
    assert swarm.view.index == before


async def test_rollback_to_a_spec_whose_secret_is_gone_is_refused():
    swarm = await new_swarm()
    await swarm.put(Create(obj=Secret(id="s1", spec=SecretSpec(name="key", data=b"x"))))
    file = FileTarget(name="key", uid="0", gid="0", mode=0o444)
    reference = SecretReference(file=file, secret_id="s1", secret_name="key")
    await swarm.control.create_service(web(secrets=[reference]))
    await updated(swarm, web())
    await swarm.put(Remove(table=Secret, id="s1"))
    with pytest.raises(InvalidArgumentError, match="secret not found: key"):
        await rolled_back(swarm)
    assert current(swarm).spec_version == 2


async def test_rollback_of_a_job_is_its_next_iteration():
    swarm = await new_swarm()
    job = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=1, total_completions=1))
    await swarm.control.create_service(replace(web(env=["A=1"]), mode=job))
    await updated(swarm, replace(web(env=["A=2"]), mode=job))
    await rolled_back(swarm)
    row = current(swarm)
    assert env_of(swarm) == ["A=1"]
    assert (row.update_status, row.job_status.iteration) == (None, 2)
