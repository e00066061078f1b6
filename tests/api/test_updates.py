"""What clients see while an update replaces tasks: who is up to date, and what each was made of."""

import json

import pytest

from swarmlet.model.task import TaskState
from tests.api.world import Api

UP_TO_DATE = {"service": ["web"], "_up-to-date": ["true"]}


async def change(api: Api, **fields):
    """Update web with other fields of its container."""
    _, service = await api("GET", "/services/web")
    spec = service["Spec"]
    spec["TaskTemplate"]["ContainerSpec"] |= fields
    params = {"version": str(service["Version"]["Index"]), "registryAuthFrom": "spec"}
    assert (await api("POST", "/services/web/update", spec, params=params))[0] == 200


async def tasks(api: Api, filters):
    _, found = await api("GET", "/tasks", params={"filters": json.dumps(filters)})
    return {task["ID"]: task for task in found}


@pytest.fixture
async def updating(api: Api):
    """Two slots of web: the first has its new task, the second still the old one."""
    service_id = await api.service("web", Mode={"Replicated": {"Replicas": 2}})
    stopped = await api.world.add_task(
        service_id, slot=1, state=TaskState.SHUTDOWN, desired=TaskState.SHUTDOWN
    )
    old = await api.world.add_task(service_id, slot=2)
    await change(api, Image="nginx:2")
    new = await api.world.add_task(service_id, slot=1, spec_version=2)
    return service_id, stopped.id, old.id, new.id


async def test_tasks_the_update_has_yet_to_replace_are_not_up_to_date(api, updating):
    _, _, _, new = updating
    assert set(await tasks(api, UP_TO_DATE)) == {new}
    assert len(await tasks(api, {"service": ["web"]})) == 3


async def test_each_task_shows_the_image_it_was_made_of(api, updating):
    _, stopped, old, new = updating
    found = await tasks(api, {"service": ["web"]})
    images = {task_id: task["Spec"]["ContainerSpec"]["Image"] for task_id, task in found.items()}
    assert images == {stopped: "host", old: "host", new: "nginx:2"}


async def test_list_counts_old_and_new_tasks_that_run(api, updating):
    _, (service,) = await api("GET", "/services?status=true")
    assert service["ServiceStatus"] == {"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0}
    assert service["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "host"


async def test_update_that_replaces_nothing_leaves_every_task_up_to_date(api, updating):
    service_id, *_ = updating
    _, service = await api("GET", "/services/web")
    spec = {**service["Spec"], "Labels": {"a": "b"}}
    params = {"version": str(service["Version"]["Index"])}
    assert (await api("POST", "/services/web/update", spec, params=params))[0] == 200
    newest = await api.world.add_task(service_id, slot=2, spec_version=3)
    assert set(await tasks(api, UP_TO_DATE)) == {updating[3], newest.id}
