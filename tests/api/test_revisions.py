"""A service's history, differences, rollback and plan over HTTP."""

import pytest

from swarmlet.model.task import TaskState
from tests.api.world import NODE_ID, service_body


async def changed(api, **container):
    """The service with another container spec, as docker updates it."""
    _, found = await api("GET", "/services/web")
    spec = found["Spec"]
    spec["TaskTemplate"]["ContainerSpec"] |= container
    version = found["Version"]["Index"]
    assert (await api("POST", f"/services/web/update?version={version}", spec))[0] == 200


async def rolled_back(api, path="/services/web/update", query="&rollback=previous"):
    _, found = await api("GET", "/services/web")
    return await api("POST", f"{path}?version={found['Version']['Index']}{query}", found["Spec"])


async def env_of(api):
    _, found = await api("GET", "/services/web")
    return found["Spec"]["TaskTemplate"]["ContainerSpec"].get("Env")


ROLLBACK = "/swarmlet/v1/services/web/rollback"
PLAN = "/swarmlet/v1/services/web/plan"


async def test_dockers_rollback_swaps_the_spec_and_the_one_before(api):
    await api.service("web")
    await changed(api, Env=["A=2"])
    assert await rolled_back(api) == (200, {"Warnings": None})
    _, found = await api("GET", "/services/web")
    assert await env_of(api) is None
    assert found["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=2"]
    status = found["UpdateStatus"]
    assert (status["State"], status["Message"]) == (
        "rollback_started",
        "manually requested rollback",
    )
    assert "StartedAt" in status
    assert "CompletedAt" not in status
    await rolled_back(api)
    assert await env_of(api) == ["A=2"]


async def test_rollback_without_a_previous_spec_is_refused_as_docker_refuses_it(api):
    service_id = await api.service("web")
    status, answer = await rolled_back(api)
    assert (status, answer["message"]) == (
        400,
        f"service {service_id} does not have a previous spec",
    )


async def test_history_lists_the_newest_first_with_what_each_changed(api):
    await api.service("web")
    await changed(api, Env=["A=2"])
    await changed(api, Env=["A=3"], User="u")
    await rolled_back(api, ROLLBACK, "&to=1")
    _, found = await api("GET", "/swarmlet/v1/services/web/history")
    assert [one["Number"] for one in found] == [4, 3, 2, 1]
    container = "TaskTemplate.ContainerSpec"
    assert [one.get("Changed") for one in found] == [
        [f"{container}.Env", f"{container}.User"],
        [f"{container}.Env", f"{container}.User"],
        [f"{container}.Env"],
        None,
    ]
    assert (found[0]["Repeats"], found[0]["Cause"]) == (1, "manually requested rollback")
    assert [one["IsCurrent"] for one in found] == [True, False, False, False]
    assert [one["IsPrevious"] for one in found] == [False, True, False, False]
    assert found[3]["Spec"] == found[0]["Spec"]


async def test_difference_is_of_the_last_two_unless_others_are_named(api):
    await api.service("web")
    await changed(api, Env=["A=2"])
    await changed(api, Env=["A=3"])
    path = "/swarmlet/v1/services/web/diff"
    field = "TaskTemplate.ContainerSpec.Env"
    expected = {
        "": (2, 3, ["A=2"], ["A=3"]),
        "?from=1": (1, 3, None, ["A=3"]),
        "?from=3&to=1": (3, 1, ["A=3"], None),
        "?to=2": (1, 2, None, ["A=2"]),
    }
    for query, (old, new, before, after) in expected.items():
        assert await api("GET", path + query) == (
            200,
            {"Old": old, "New": new, "Changes": [{"Path": field, "Old": before, "New": after}]},
        )
    assert (await api("GET", path + "?from=9"))[0] == 404
    assert (await api("GET", path + "?from=x"))[0] == 400
    assert (await api("GET", path + "?to=1"))[0] == 400
    assert (await api("GET", path + "?from=2&to=2"))[1]["Changes"] == []


async def test_rollback_goes_to_the_number_that_is_named(api):
    await api.service("web")
    for number in (2, 3, 4):
        await changed(api, Env=[f"A={number}"])
    assert await rolled_back(api, ROLLBACK, "&to=2") == (200, {"Warnings": None})
    assert await env_of(api) == ["A=2"]
    assert (await rolled_back(api, ROLLBACK, "&to=77"))[0] == 404
    assert (await rolled_back(api, ROLLBACK, "&to=5"))[0] == 400
    assert (await api("POST", f"{ROLLBACK}?version=1", {}))[0] == 500
    assert (await api("POST", ROLLBACK, {}))[0] == 400


async def test_plan_says_what_would_change_and_where_the_tasks_would_go(api):
    service_id = await api.service("web", Mode={"Replicated": {"Replicas": 1}})
    task = await api.world.add_task(service_id)
    _, found = await api("GET", "/services/web")
    spec = found["Spec"]
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["A=2"]
    spec["Mode"]["Replicated"]["Replicas"] = 2
    before = api.world.store.view().index
    status, plan = await api("POST", PLAN, spec)
    assert status == 200
    assert plan["Version"] == found["Version"]
    assert plan["Revision"] == 2
    assert [change["Path"] for change in plan["Changes"]] == [
        "Mode.Replicated.Replicas",
        "TaskTemplate.ContainerSpec.Env",
    ]
    replaced, created = plan["Tasks"]
    assert (replaced["Slot"], replaced["Action"]) == (1, "replace")
    assert (replaced["TaskID"], replaced["FromNodeID"]) == (task.id, NODE_ID)
    assert (created["Slot"], created["Action"]) == (2, "create")
    assert api.world.store.view().index == before
    path = f"/services/web/update?version={plan['Version']['Index']}"
    assert (await api("POST", path, spec))[0] == 200


@pytest.mark.parametrize(
    ("query", "paths"), [("?rollback=previous", 1), ("?to=1", 1), ("?to=2", 0)]
)
async def test_plan_of_a_rollback_is_of_the_spec_it_returns_to(api, query, paths):
    service_id = await api.service("web")
    await api.world.add_task(service_id, state=TaskState.RUNNING)
    await changed(api, Env=["A=2"])
    status, plan = await api("POST", PLAN + query, {})
    assert (status, len(plan["Changes"])) == (200, paths)


async def test_plan_is_refused_as_the_update_would_be(api):
    await api.service("web")
    status, answer = await api("POST", PLAN, service_body("other"))
    assert (status, answer["message"]) == (501, "renaming services is not supported")
    assert (await api("POST", PLAN + "?rollback=zzz", {}))[0] == 500
    assert (await api("POST", PLAN + "?rollback=previous", {}))[0] == 400
    assert (await api("POST", "/swarmlet/v1/services/nope/plan", service_body()))[0] == 404
