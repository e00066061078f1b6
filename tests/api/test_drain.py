"""`/swarmlet/v1/nodes/{id}/drain`."""

import pytest
from msgspec.structs import replace

from swarmlet.model.change import SetStatus
from swarmlet.model.task import TaskState
from tests.api.world import NODE_ID

PATH = f"/swarmlet/v1/nodes/{NODE_ID}/drain"
SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "host", "Args": ["sleep"]}}}


async def test_drain_is_begun_looked_at_and_ended(api):
    _, made = await api("POST", "/services/create", SPEC)
    task = await api.world.add_task(made["ID"])
    status, answer = await api("POST", PATH, {"DeadlineNs": 60 * 10**9})
    assert status == 200
    (move,) = answer["Moves"]
    problem = move.pop("Problem")
    assert problem.startswith("no suitable node (1 node not available for new tasks")
    assert answer["NodeID"] == NODE_ID
    assert move == {
        "TaskID": task.id,
        "ServiceID": made["ID"],
        "ServiceName": "web",
        "Slot": 1,
        "Way": "start-first",
        "Reason": "",
        "NodeID": None,
        "Hostname": "",
    }
    status, shown = await api("GET", PATH)
    assert (status, shown["IsEmpty"], shown["Availability"]) == (200, False, "drain")
    assert shown["BeganAt"] == "2026-01-02T03:04:05.678Z"
    assert shown["Deadline"] == "2026-01-02T03:05:05.678Z"
    (left,) = shown["Left"]
    assert left["WaitsFor"] == "its replacement is about to be made"
    assert (left["State"], left["IsStuck"], left["ServiceName"]) == ("running", False, "web")
    over = replace(task.status, state=int(TaskState.SHUTDOWN))
    await api.world.commit(SetStatus(id=task.id, status=over))
    _, shown = await api("GET", PATH)
    assert (shown["IsEmpty"], shown["Left"]) == (True, [])


async def test_dry_run_says_the_same_and_changes_nothing(api):
    _, made = await api("POST", "/services/create", SPEC)
    await api.world.add_task(made["ID"])
    status, answer = await api("POST", f"{PATH}?dry-run=1")
    assert (status, len(answer["Moves"])) == (200, 1)
    _, shown = await api("GET", PATH)
    assert (shown["Availability"], shown["BeganAt"], shown["Deadline"]) == ("active", None, None)
    assert shown["Left"][0]["WaitsFor"] == "nothing: the node is not drained"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (PATH, {"DeadlineNs": "soon"}, (400, "DeadlineNs must be an integer, not a string")),
        (PATH, {"DeadlineNs": -1}, (400, "DeadlineNs must not be negative")),
        ("/swarmlet/v1/nodes/nobody/drain", {}, (404, "node nobody not found")),
    ],
)
async def test_bad_drain_is_refused_with_a_sentence(api, path, body, expected):
    status, answer = await api("POST", path, body)
    assert status == expected[0]
    assert expected[1] in answer["message"]


async def test_service_with_a_rule_that_is_none_is_refused(api):
    labels = {"swarmlet.on-disconnect": "stop-after 0s"}
    status, answer = await api("POST", "/services/create", {**SPEC, "Labels": labels})
    assert status == 400
    assert "no way to act on a disconnect" in answer["message"]
    assert await api("GET", "/services") == (200, [])
