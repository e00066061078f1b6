"""`/swarmlet/v1/.../why` over HTTP: codes, times and amounts as programs read them."""

from msgspec.structs import replace

from swarmlet.core.ids import ServiceID, TaskID
from swarmlet.model.change import Create, Update
from swarmlet.model.node import RUNTIME_LABEL, EngineDescription
from swarmlet.model.task import Task, TaskState, TaskStatus
from tests.api.world import NODE_ID, NOW_MS, Api

GIB = 1 << 30


def service(memory_b: int = 0, **placement: object) -> dict[str, object]:
    template = {"ContainerSpec": {"Image": "host"}, "Placement": placement}
    if memory_b:
        template["Resources"] = {"Reservations": {"MemoryBytes": memory_b}}
    return {"TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 2}}}


async def able_node(api: Api) -> None:
    """The node says that it has the runtime of the image."""
    row = api.world.store.view().nodes.get(NODE_ID)
    engine = EngineDescription(labels={RUNTIME_LABEL: "process"})
    after = replace(row, description=replace(row.description, engine=engine))
    await api.world.commit(Update(obj=after, seen=row.version))


async def test_service_that_finds_no_place_says_what_the_nearest_node_lacks(api: Api):
    await able_node(api)
    service_id = await api.service("big", **service(3 * GIB))
    task = Task(
        id=TaskID("x" * 25),
        service_id=ServiceID(service_id),
        slot=1,
        status=TaskStatus(state=TaskState.PENDING, at_ms=NOW_MS, message="pending"),
    )
    await api.world.commit(Create(obj=task))
    status, found = await api("GET", "/swarmlet/v1/services/big/why")
    assert (status, found["Verdict"], found["Running"], found["Wanted"]) == (200, "unplaced", 0, 2)
    assert [reason["Code"] for reason in found["Reasons"]] == ["too-few"]
    (group,) = found["Waiting"]
    assert group["Tasks"] == [
        {"ID": task.id, "Name": "big.1", "State": "pending", "DesiredState": "running"}
    ]
    reason = group["Reason"]
    assert reason["Sentence"] == "The only node, box, lacks only 2 GiB of memory."
    assert reason["Since"] == "2026-01-02T03:04:05.678Z"
    assert reason["Placement"]["Filters"] == [{"Filter": "resource", "What": "memory", "Nodes": 1}]
    assert reason["Placement"]["Nearest"]["Lacks"] == [
        {"Filter": "resource", "What": "memory", "Missing": 2 * GIB, "Wanted": 3 * GIB}
    ]


async def test_node_says_what_runs_there(api: Api):
    service_id = await api.service()
    await api.world.add_task(service_id)
    status, found = await api("GET", f"/swarmlet/v1/nodes/{NODE_ID}/why")
    assert (status, found["Verdict"], found["Hostname"]) == (200, "well", "box")
    assert found["Services"] == [{"ServiceID": service_id, "ServiceName": "web", "Running": 1}]
    assert {"What": "memory", "Total": GIB, "Reserved": 0} in found["Resources"]
    by_name = await api("GET", "/swarmlet/v1/nodes/box/why")
    assert by_name == (200, found)


async def test_task_has_one_reason_with_an_absolute_time(api: Api):
    task = await api.world.add_task(await api.service())
    status, found = await api("GET", f"/swarmlet/v1/tasks/{task.id[:8]}/why")
    assert (status, found["ID"], found["Name"]) == (200, task.id, "web.1")
    assert found["Reason"] == {
        "Code": "running",
        "Sentence": "Runs on box for 0 s.",
        "Verdict": "well",
        "Since": "2026-01-02T03:04:05.678Z",
    }


async def test_what_is_not_there_is_404(api: Api):
    for kind in ("services", "nodes", "tasks"):
        status, answer = await api("GET", f"/swarmlet/v1/{kind}/nobody/why")
        assert (status, "nobody" in answer["message"]) == (404, True)


async def test_without_a_leader_it_is_told_what_is_known_and_how_old_that_is(api: Api):
    await api.service()
    assert api.world.log is not None
    api.world.log.lost(NOW_MS - 12_000)
    status, _ = await api("GET", "/swarmlet/v1/services/web/why")
    assert status == 503
    async with api.client.get("/swarmlet/v1/services/web/why?stale=1") as response:
        assert response.status == 200
        assert response.headers["Swarmlet-Stale-Ms"] == "12000"
