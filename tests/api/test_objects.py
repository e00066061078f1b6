"""Services, tasks, nodes, secrets, configs and networks over HTTP."""

import base64
import json
from urllib.parse import quote

import pytest

from swarmlet.model.change import SetDesired
from swarmlet.model.task import TaskState
from tests.api.world import NODE_ID, service_body


def filters(**values):
    """As the CLI encodes them."""
    named = {key.replace("_", "-"): dict.fromkeys(value, True) for key, value in values.items()}
    return "filters=" + quote(json.dumps(named))


async def test_service_is_created_listed_inspected_and_removed(api):
    service_id = await api.service("web", Labels={"a": "b"})
    _, listed = await api("GET", "/v1.50/services")
    _, found = await api("GET", f"/services/{service_id[:6]}")
    assert listed == [found]
    assert found["ID"] == service_id
    assert found["Spec"]["Labels"] == {"a": "b"}
    assert found["Endpoint"] == {"Spec": {}}
    assert "ServiceStatus" not in found
    assert await api("DELETE", "/services/web") == (200, b"")
    status, answer = await api("GET", "/services/web")
    assert (status, answer["message"]) == (404, "service web not found")


async def test_service_create_answers_as_docker_does(api):
    async with api.client.post("/services/create", json=service_body()) as response:
        raw = await response.read()
        assert response.status == 201
    assert raw == b'{"ID":"%b","Warnings":null}\n' % json.loads(raw)["ID"].encode()
    status, answer = await api("POST", "/services/create", service_body())
    assert status == 409
    assert "web already exists" in answer["message"]


async def test_service_status_counts_its_tasks(api):
    service_id = await api.service("web", Mode={"Replicated": {"Replicas": 3}})
    await api.world.add_task(service_id, slot=1)
    await api.world.add_task(service_id, slot=2, state=TaskState.FAILED)
    _, (found,) = await api("GET", "/services?status=true")
    assert found["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 3, "CompletedTasks": 0}
    await api.world.add_task(service_id, slot=3, short_runs=2)
    _, (looping,) = await api("GET", "/services?status=true")
    assert looping["ServiceStatus"]["CrashLoopingTasks"] == 1
    _, (bare,) = await api("GET", "/services?status=false")
    assert "ServiceStatus" not in bare
    status, answer = await api("GET", "/services?status=zzz")
    assert (status, answer["message"]) == (400, "invalid value for status: zzz")


async def test_inspect_with_defaults_fills_in_what_was_not_said(api):
    await api.service("web")
    _, plain = await api("GET", "/services/web?insertDefaults=0")
    _, full = await api("GET", "/services/web?insertDefaults=true")
    assert "RestartPolicy" not in plain["Spec"]["TaskTemplate"]
    assert full["Spec"]["TaskTemplate"]["RestartPolicy"] == {
        "Condition": "any",
        "Delay": 5_000_000_000,
        "MaxAttempts": 0,
    }
    assert full["Spec"]["UpdateConfig"]["FailureAction"] == "pause"
    assert (await api("GET", "/services/web?insertDefaults=zzz"))[0] == 400


@pytest.mark.parametrize("query", ["", "?insertDefaults=true"])
async def test_service_is_scaled_with_what_was_read(api, query):
    await api.world.add_task(await api.service("web"))
    _, found = await api("GET", f"/services/web{query}")
    path = f"/services/{found['ID']}/update?version={found['Version']['Index']}"
    spec = found["Spec"]
    spec["Mode"]["Replicated"]["Replicas"] = 5
    query = "&registryAuthFrom=spec&rollback=none"
    assert await api("POST", path + query, spec) == (200, {"Warnings": None})
    _, after = await api("GET", "/services/web")
    assert after["Spec"]["Mode"] == {"Replicated": {"Replicas": 5}}
    assert after["PreviousSpec"]["Mode"] == {"Replicated": {"Replicas": 1}}
    assert (await api("POST", path, spec))[0] == 500
    assert (await api("POST", "/services/web/update?version=1&rollback=zzz", spec))[0] == 500
    assert (await api("POST", "/services/web/update", spec))[0] == 400


async def test_task_lists_follow_every_filter(api):
    web = await api.service("web", Labels={"stack": "x"})
    db = await api.service("db")
    one = await api.world.add_task(web, slot=1)
    two = await api.world.add_task(web, slot=2)
    await api.world.commit(SetDesired(id=two.id, desired=TaskState.SHUTDOWN))
    three = await api.world.add_task(db)
    expected = {
        "": {one.id, two.id, three.id},
        filters(service=["web"]): {one.id, two.id},
        filters(service=[web[:8]], desired_state=["running"]): {one.id},
        filters(service=["web", "db"]): {one.id, two.id, three.id},
        filters(node=["box"]): {one.id, two.id, three.id},
        filters(node=[NODE_ID], service=["db"]): {three.id},
        filters(label=["stack"]): {one.id, two.id},
        filters(label=["stack=y"]): set(),
        filters(name=["web.2"]): {two.id},
        filters(name=["web.1." + one.id]): {one.id},
        filters(id=[three.id[:10]]): {three.id},
        filters(_up_to_date=["true"], service=["db"]).replace("-up-to", "_up-to"): {three.id},
        filters(runtime=["plugin"]): set(),
    }
    for query, ids in expected.items():
        status, found = await api("GET", f"/tasks?{query}")
        assert status == 200, query
        assert {task["ID"] for task in found} == ids, query
        assert [task["ID"] for task in found] == sorted(task["ID"] for task in found)


async def test_tasks_of_a_removed_service_keep_its_name_and_labels(api):
    web = await api.service("web", Labels={"stack": "x"})
    task = await api.world.add_task(web)
    await api("DELETE", "/services/web")
    _, found = await api("GET", "/tasks?" + filters(label=["stack=x"], name=["web.1"]))
    assert [row["ID"] for row in found] == [task.id]
    query = filters(_up_to_date=["1"], label=["stack"]).replace("-up-to", "_up-to")
    assert await api("GET", f"/tasks?{query}") == (200, [])


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/tasks?filters=zzz", 400, "invalid filter"),
        ("/tasks?filters=[]", 400, "invalid filter"),
        ('/tasks?filters={"service":"x"}', 400, "invalid filter"),
        ('/tasks?filters={"bogus":["x"]}', 400, "invalid filter 'bogus'"),
        ('/tasks?filters={"service":["nope"]}', 404, "service nope not found"),
        ('/tasks?filters={"node":{"nope":true}}', 404, "node nope not found"),
        ('/tasks?filters={"desired-state":["zzz"]}', 500, "Invalid desired-state filter: 'zzz'"),
        ('/nodes?filters={"role":["zzz"]}', 500, "Invalid role filter: 'zzz'"),
        ('/nodes?filters={"membership":["zzz"]}', 500, "Invalid membership filter: 'zzz'"),
        ('/configs?filters={"names":["a"]}', 400, "invalid filter 'names'"),
        ('/networks?filters={"type":["zzz"]}', 500, "Invalid type filter: 'zzz'"),
    ],
)
async def test_bad_filter_is_refused(api, path, status, text):
    got, answer = await api("GET", path)
    assert got == status
    assert text in answer["message"]


async def test_task_is_inspected_and_its_attempt_told(api):
    task = await api.world.add_task(await api.service(), attempt=2, start_at_ms=1_000)
    status, found = await api("GET", f"/tasks/{task.id}")
    assert (status, found["Status"]["State"], found["DesiredState"]) == (200, "running", "running")
    assert found["Status"]["ContainerStatus"] == {"ContainerID": "c1", "PID": 7, "ExitCode": 0}
    assert found["Volumes"] is None
    _, attempt = await api("GET", f"/swarmlet/v1/tasks/{task.id}")
    assert (attempt["Attempt"], attempt["StartAt"]) == (2, "1970-01-01T00:00:01Z")
    assert (await api("GET", "/tasks/nope"))[0] == 404


async def test_long_task_list_is_printed_whole(api):
    service_id = await api.service()
    for slot in range(1, 302):
        await api.world.add_task(service_id, slot=slot)
    _, found = await api("GET", "/tasks")
    assert len({task["ID"] for task in found}) == 301


async def test_node_is_listed_inspected_and_relabelled(api):
    _, (node,) = await api("GET", "/nodes?" + filters(role=["manager"], name=["bo"]))
    assert node["ManagerStatus"] == {
        "Leader": True,
        "Reachability": "reachable",
        "Addr": "127.0.0.1:2377",
    }
    assert await api("GET", "/nodes/box") == (200, node)
    path = f"/nodes/{NODE_ID}/update?version={node['Version']['Index']}"
    assert await api("POST", path, {**node["Spec"], "Labels": {"zone": "a"}}) == (200, b"")
    _, found = await api("GET", '/nodes?filters={"node.label":["zone=a"]}')
    assert [row["ID"] for row in found] == [NODE_ID]
    assert await api("GET", "/nodes?" + filters(role=["worker"])) == (200, [])
    status, answer = await api("DELETE", "/nodes/box?force=1")
    assert status == 400, answer


@pytest.mark.parametrize("kind", ["secrets", "configs"])
async def test_payload_lives_from_create_to_remove(api, kind):
    body = {"Name": "one", "Data": base64.b64encode(b"payload").decode(), "Labels": {"a": "b"}}
    status, created = await api("POST", f"/{kind}/create", body)
    assert (status, list(created)) == (201, ["ID"])
    _, found = await api("GET", f"/{kind}/one")
    data = {} if kind == "secrets" else {"Data": body["Data"]}
    assert found["Spec"] == {"Name": "one", "Labels": {"a": "b"}, **data}
    assert await api("GET", f"/{kind}?" + filters(name=["on"], label=["a"])) == (200, [found])
    path = f"/{kind}/{created['ID']}/update?version={found['Version']['Index']}"
    assert await api("POST", path, {**body, "Labels": {}}) == (200, b"")
    status, answer = await api("POST", path.replace("update", "update"), {"Name": "two"})
    assert status in (400, 500), answer
    assert await api("DELETE", f"/{kind}/one") == (204, b"")
    assert (await api("DELETE", f"/{kind}/one"))[0] == 404
    assert await api("GET", f"/{kind}") == (200, [])


async def test_secrets_are_found_by_exact_names(api):
    for name in ("a", "ab"):
        await api("POST", "/secrets/create", {"Name": name, "Data": "eA=="})
    _, found = await api("GET", '/secrets?filters={"names":["a"]}')
    assert [row["Spec"]["Name"] for row in found] == ["a"]
    assert "eA" not in json.dumps(found)


async def test_ingress_network_is_shown_and_host_is_hidden_but_known(api):
    _, (ingress,) = await api("GET", "/networks")
    assert (ingress["Name"], ingress["Scope"], ingress["Ingress"]) == ("ingress", "swarm", True)
    assert "Containers" not in ingress
    _, whole = await api("GET", "/networks/ingress?verbose=true&scope=swarm")
    assert whole == {**ingress, "Containers": {}}
    assert (await api("GET", "/networks/host?scope=swarm"))[0] == 200
    assert (await api("GET", "/networks/ingress?scope=local"))[0] == 404
    for query, count in {
        filters(scope=["local"]): 0,
        filters(driver=["overlay"]): 1,
        filters(name=["^ingress$"]): 1,
        filters(name=["gres"]): 1,
        filters(name=["^gres"]): 0,
        filters(dangling=["true"]): 0,
        filters(type=["builtin"]): 0,
    }.items():
        assert len((await api("GET", f"/networks?{query}"))[1]) == count, query


async def test_networks_of_a_node_in_no_swarm(lonely):
    assert await lonely("GET", "/networks/") == (200, [])
    status, answer = await lonely("POST", "/networks/create", {"Name": "o", "Driver": "overlay"})
    assert status == 403
    assert answer["message"].startswith("This node is not a swarm manager")
    assert (await lonely("GET", "/networks/x"))[0] == 404
    assert (await lonely("DELETE", "/networks/x"))[0] == 404


async def test_other_networks_are_refused(api):
    for body in ({"Name": "o", "Driver": "overlay"}, {"Name": "b", "Driver": "bridge"}):
        assert (await api("POST", "/networks/create", body))[0] == 501
    assert (await api("POST", "/networks/ingress/connect", {"Container": "x"}))[0] == 501
    assert (await api("DELETE", "/networks/host"))[0] == 403
