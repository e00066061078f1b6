"""`/swarm`, `/info` and what a node says of its state."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace

from swarmlet.api.app import Door
from swarmlet.api.engine import SwarmState
from swarmlet.ca.root import new_root
from swarmlet.ca.unlock_key import parse_unlock_key, unlock_key_text
from swarmlet.core.errors import swarm_locked
from swarmlet.core.ids import NodeID
from swarmlet.model.change import Update
from swarmlet.model.node import NodeCertificate
from tests.api.world import NODE_ID, NOW_MS, service_body

CLI_INIT = {
    "ListenAddr": "0.0.0.0:2377",
    "AdvertiseAddr": "127.0.0.1",
    "DataPathAddr": "",
    "DataPathPort": 0,
    "ForceNewCluster": False,
    "Spec": {
        "Labels": None,
        "Orchestration": {},
        "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
        "Dispatcher": {},
        "CAConfig": {},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": False},
    },
    "AutoLockManagers": False,
    "Availability": "",
    "DefaultAddrPool": [],
    "SubnetSize": 24,
}
SDK_INIT = {
    "AdvertiseAddr": None,
    "ListenAddr": "0.0.0.0:2377",
    "DefaultAddrPool": None,
    "SubnetSize": None,
    "ForceNewCluster": False,
    "Spec": None,
}
NOT_A_MANAGER = "This node is not a swarm manager. Use"
MANAGER_ONLY = [
    ("GET", "/swarm"),
    ("POST", "/swarm/update?version=1"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    *[("GET", f"/{kind}") for kind in ("nodes", "services", "tasks", "secrets", "configs")],
    *[("GET", f"/{kind}/x") for kind in ("nodes", "services", "tasks", "secrets", "configs")],
    *[("POST", f"/{kind}/create") for kind in ("services", "secrets", "configs")],
    *[
        ("POST", f"/{kind}/x/update?version=1")
        for kind in ("nodes", "services", "secrets", "configs")
    ],
    *[("DELETE", f"/{kind}/x") for kind in ("nodes", "services", "secrets", "configs")],
    ("GET", "/services/x/logs?stdout=1"),
    ("GET", "/tasks/x/logs?stdout=1"),
    ("GET", "/swarmlet/v1/members"),
    ("GET", "/swarmlet/v1/tasks/x"),
]


@pytest.mark.parametrize(("method", "path"), MANAGER_ONLY)
async def test_node_in_no_swarm_says_so(lonely, method, path):
    status, answer = await lonely(method, path)
    assert status == 503
    assert answer["message"].startswith(NOT_A_MANAGER)
    assert "swarmlet init" in answer["remedy"]


async def test_init_of_the_cli_is_understood(lonely):
    status, node_id = await lonely("POST", "/v1.50/swarm/init", CLI_INIT)
    assert (status, node_id) == (200, NODE_ID)
    (request,) = lonely.world.inits
    assert request.listen_addr == "0.0.0.0:2377"
    assert request.advertise_addr == "127.0.0.1"
    assert (request.default_addr_pool, request.subnet_size) == ((), 24)
    _, swarm = await lonely("GET", "/swarm")
    assert swarm["DefaultAddrPool"] is None
    assert swarm["Spec"]["Raft"]["ElectionTick"] == 10


async def test_init_of_the_sdk_for_python_is_understood(lonely):
    status, _ = await lonely("POST", "/v1.45/swarm/init", SDK_INIT)
    assert status == 200
    assert lonely.world.inits[0].default_addr_pool is None
    _, swarm = await lonely("GET", "/swarm")
    assert (swarm["DefaultAddrPool"], swarm["SubnetSize"]) == (["10.0.0.0/8"], 24)


async def test_autolock_reaches_the_engine_from_either_place(lonely):
    await lonely("POST", "/swarm/init", {"AutoLockManagers": True})
    assert lonely.world.inits[0].spec.encryption_config.auto_lock_managers


async def test_second_init_and_join_are_refused(api):
    for verb in ("init", "join"):
        status, answer = await api("POST", f"/swarm/{verb}", {"ListenAddr": "0.0.0.0:2377"})
        assert status == 503
        assert answer["message"].startswith("This node is already part of a swarm.")


TOKEN = f"SWMTKN-1-{'a' * 50}-{'b' * 25}"
JOIN = {"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": ["10.0.0.1"], "JoinToken": TOKEN}


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"ListenAddr": ""}, 400, 'invalid ListenAddr "": invalid empty address'),
        ({"ListenAddr": "0.0.0.0:99999"}, 400, 'invalid ListenAddr "0.0.0.0:99999"'),
        ({"RemoteAddrs": []}, 400, "at least 1 RemoteAddr is required to join"),
        ({"RemoteAddrs": ["a b"]}, 400, 'invalid remoteAddr "a b"'),
        ({"JoinToken": ""}, 500, "invalid join token"),
        ({"JoinToken": TOKEN[:-1]}, 500, "invalid join token"),
    ],
)
async def test_join_with_a_bad_body_is_refused(lonely, change, status, text):
    answered, answer = await lonely("POST", "/swarm/join", {**JOIN, **change})
    assert (answered, text in answer["message"]) == (status, True), answer
    assert lonely.world.joins == []


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("10.0.0.1", "10.0.0.1:2377"),
        ("10.0.0.1:9", "10.0.0.1:9"),
        ("::1", "[::1]:2377"),
        ("[fd00::5]:24", "[fd00::5]:24"),
        ("m1.example.org", "m1.example.org:2377"),
    ],
)
async def test_join_asks_the_engine_with_whole_addresses(lonely, address, meant):
    body = {**JOIN, "RemoteAddrs": [address], "Availability": "drain"}
    assert await lonely("POST", "/swarm/join", body) == (200, b"")
    (asked,) = lonely.world.joins
    assert (asked.remote_addrs, asked.token, asked.availability) == ((meant,), TOKEN, "drain")


async def test_join_without_addresses_is_for_those_who_ask_to_discover(lonely):
    body = {**JOIN, "RemoteAddrs": [], "Discover": True, "Announce": True}
    assert (await lonely("POST", "/swarm/join", body))[0] == 200
    assert (lonely.world.joins[0].remote_addrs, lonely.world.joins[0].announce) == ((), True)


async def test_worker_says_so_and_shows_the_managers_it_knows(lonely):
    await lonely("POST", "/swarm/join", JOIN)
    known = ((NodeID("m1"), "10.0.0.1:2377"),)
    lonely.world.state = SwarmState(state="active", node_id=NODE_ID, managers=known)
    status, answer = await lonely("GET", "/nodes")
    assert (status, "Worker nodes can't be used" in answer["message"]) == (503, True)
    _, info = await lonely("GET", "/info")
    assert info["Swarm"]["RemoteManagers"] == [{"NodeID": "m1", "Addr": "10.0.0.1:2377"}]
    assert not info["Swarm"]["ControlAvailable"]
    assert "Cluster" not in info["Swarm"]


async def test_what_another_manager_passes_on_is_answered_but_never_about_this_host(api):
    door = Door(api.world)
    app = web.Application()

    async def port(request):
        return await door.answer_forwarded(request, request.rel_url.raw_path.removeprefix("/x"))

    app.router.add_route("*", "/x/{path:.*}", port)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/x/v1.41/nodes?filters=%7B%22role%22%3A%5B%22worker%22%5D%7D")
        assert (answer.status, await answer.json()) == (200, [])
        assert len(await (await client.get("/x/nodes")).json()) == 1
        assert (await client.get("/x/swarm")).status == 200
        assert (await client.get("/x/info")).status == 403
        for path in ("swarm/leave?force=1", "swarmlet/v1/daemon/stop", "swarm/init"):
            assert (await client.post(f"/x/{path}")).status == 403
        assert (await client.get("/x/nothing")).status == 404
        body = json.dumps(service_body("web"))
        headers = {"Content-Type": "application/json"}
        made = await client.post("/x/services/create", data=body, headers=headers)
        assert made.status == 201
    assert not api.world.is_stopped


async def test_nodes_certificate_is_shown(api):
    view = api.world.store.view()
    node = view.nodes.get(NODE_ID)
    root = new_root(NOW_MS, api.world.env.entropy)
    row = NodeCertificate(state=5, certificate=root.cert_pem, role="worker", err="slow")
    await api.world.commit(Update(obj=replace(node, certificate=row), seen=node.version))
    _, shown = await api("GET", f"/swarmlet/v1/nodes/{NODE_ID}")
    assert shown["ID"] == NODE_ID
    certificate = shown["Certificate"]
    assert (certificate["State"], certificate["Err"]) == ("rotate", "slow")
    assert (certificate["Subject"], certificate["Issuer"]) == ("CN=swarm-ca", "CN=swarm-ca")
    assert certificate["NotBefore"] < certificate["NotAfter"]


async def test_swarm_is_left_and_made_anew(api):
    status, answer = await api("POST", "/swarm/leave")
    assert status == 503
    assert answer["message"].endswith("Use `--force` to ignore this message. ")
    assert await api("POST", "/swarm/leave?force=1") == (200, b"")
    status, answer = await api("POST", "/swarm/leave?force=True")
    expected = {"code": "swarm-state", "message": "This node is not part of a swarm"}
    assert (status, answer) == (503, expected)
    assert (await api("POST", "/swarm/init", CLI_INIT))[0] == 200


async def test_swarm_is_updated_with_its_version(api):
    _, swarm = await api("GET", "/swarm")
    spec = {**swarm["Spec"], "Labels": {"a": "b"}}
    path = f"/swarm/update?version={swarm['Version']['Index']}"
    rotate = "&rotateWorkerToken=true&rotateManagerToken=false&rotateManagerUnlockKey=false"
    assert await api("POST", path + rotate, spec) == (200, b"")
    _, after = await api("GET", "/swarm")
    assert after["Spec"]["Labels"] == {"a": "b"}
    assert after["JoinTokens"]["Worker"] != swarm["JoinTokens"]["Worker"]
    assert after["JoinTokens"]["Manager"] == swarm["JoinTokens"]["Manager"]
    status, answer = await api("POST", path, spec)
    assert (status, "update out of sequence" in answer["message"]) == (500, True)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "invalid swarm version '': strconv.ParseUint: parsing \"\": invalid syntax"),
        ("?version=-1", 'parsing "-1": invalid syntax'),
        ("?version=1.5", "invalid syntax"),
        ("?version=18446744073709551616", "value out of range"),
        ("?version=" + "9" * 5000, "value out of range"),
        ("?version=1&rotateWorkerToken=zzz", "invalid value for rotateWorkerToken: zzz"),
    ],
)
async def test_bad_query_of_an_update_is_refused(api, query, text):
    status, answer = await api("POST", f"/swarm/update{query}", {})
    assert status == 400
    assert text in answer["message"]


async def test_swarm_without_autolock_has_no_key(api):
    assert await api("GET", "/swarm/unlockkey") == (200, {"UnlockKey": ""})
    status, answer = await api("POST", "/swarm/unlock", {"UnlockKey": "x"})
    assert (status, answer["message"]) == (409, "swarm is not locked")


async def test_locked_node_says_how_to_go_on(lonely):
    lonely.world.state = SwarmState(state="locked")
    lonely.world.problem = swarm_locked()
    status, answer = await lonely("GET", "/nodes")
    assert status == 503
    assert answer["message"].startswith("Swarm is encrypted and needs to be unlocked")
    info = (await lonely("GET", "/info"))[1]["Swarm"]
    assert (info["LocalNodeState"], info["ControlAvailable"]) == ("locked", False)


async def test_locked_node_is_unlocked_with_its_key_alone(lonely):
    lonely.world.state = SwarmState(state="locked")
    lonely.world.problem = swarm_locked()
    lonely.world.unlock_key = bytes(range(32))
    answers = []
    for key in ("x", "", unlock_key_text(bytes(32)), unlock_key_text(bytes(range(32)))):
        status, answer = await lonely("POST", "/swarm/unlock", {"UnlockKey": key})
        answers.append((status, (answer or {}).get("message", "")))
    assert answers == [
        (400, "invalid key string"),
        (400, "invalid key string"),
        (401, "swarm could not be unlocked: invalid key provided"),
        (200, ""),
    ]
    assert lonely.world.state.state == "active"


async def test_unlocking_a_node_in_no_swarm_says_so_before_it_looks_at_the_key(lonely):
    status, answer = await lonely("POST", "/swarm/unlock", {"UnlockKey": "x"})
    assert status == 503
    assert "is not a swarm manager" in answer["message"]


async def test_key_is_shown_while_managers_are_locked(api):
    _, swarm = await api("GET", "/swarm")
    spec = {**swarm["Spec"], "EncryptionConfig": {"AutoLockManagers": True}}
    path = f"/swarm/update?version={swarm['Version']['Index']}&rotateManagerUnlockKey=true"
    assert (await api("POST", path, spec))[0] == 200
    _, answer = await api("GET", "/swarm/unlockkey")
    assert len(parse_unlock_key(answer["UnlockKey"])) == 32
    _, swarm = await api("GET", "/swarm")
    assert answer["UnlockKey"][9:] not in str(swarm)


async def test_info_of_a_node_in_no_swarm(lonely):
    status, info = await lonely("GET", "/info")
    assert status == 200
    assert info["Swarm"] == {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    }
    assert (info["Name"], info["NCPU"], info["Architecture"]) == ("box", 2, "x86_64")
    assert info["Plugins"]["Network"] == ["host"]


async def test_info_of_a_manager_shows_the_swarm_without_its_tokens(api):
    _, info = await api("GET", "/info")
    swarm = info["Swarm"]
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("active", True)
    assert (swarm["Nodes"], swarm["Managers"]) == (1, 1)
    assert swarm["RemoteManagers"] == [
        {"NodeID": "node-1", "Addr": "127.0.0.1:2377"},
        {"NodeID": "node-2", "Addr": "10.0.0.2:2377"},
    ]
    assert "JoinTokens" not in swarm["Cluster"]
    assert swarm["Cluster"]["TLSInfo"]["TrustRoot"].startswith("-----BEGIN CERTIFICATE")


async def test_info_answers_at_once_and_says_what_is_lost(api):
    api.world.log.lost(NOW_MS - 3_000)
    async with asyncio.timeout(1.0):
        status, info = await api("GET", "/info")
    assert status == 200
    sentence = info["Swarm"]["Error"]
    assert sentence.startswith("1 of 2 managers answers, and 2 are needed: node-2 (10.0.0.2:2377)")
    (warning,) = info["Warnings"]
    assert warning.startswith(f"WARNING: {sentence} ")
    assert "--force-new-cluster" in warning
    assert (info["Swarm"]["Nodes"], info["Swarm"]["ControlAvailable"]) == (1, True)


async def test_info_says_nothing_of_an_election_that_may_still_end_well(api):
    api.world.log.lost(NOW_MS - 500)
    async with asyncio.timeout(1.0):
        _, info = await api("GET", "/info")
    assert info["Swarm"]["Error"] == ""


async def test_daemon_is_described_and_stopped(api):
    _, daemon = await api("GET", "/swarmlet/v1/daemon")
    assert (daemon["Runtime"], daemon["SwarmState"]) == ("process", "active")
    _, raft = await api("GET", "/swarmlet/v1/members")
    assert raft["Members"][0]["IsLeader"] is True
    assert (await api("POST", "/swarmlet/v1/daemon/stop"))[0] == 204
    assert (api.world.is_stopped, api.world.is_host_stopping) == (True, False)
    assert (await api("POST", "/swarmlet/v1/daemon/stop?hostStopping=1"))[0] == 204
    assert api.world.is_host_stopping


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/images/json?manifests=1", 200, []),
        ("GET", "/containers/json?all=1", 200, []),
        ("GET", "/volumes", 200, {"Volumes": [], "Warnings": None}),
        ("GET", "/plugins", 200, []),
        ("GET", "/containers/x/json", 404, "No such container: x"),
        ("GET", "/images/a/b:1/json", 404, "No such image: a/b:1"),
        ("GET", "/volumes/v", 404, "get v: no such volume"),
        ("GET", "/plugins/p/json", 404, "plugin p not found"),
        ("POST", "/containers/create", 501, "Containers are not kept"),
        ("GET", "/distribution/docker.io/library/x:1/json", 501, "no images"),
        ("POST", "/auth", 501, "not checked"),
        ("POST", "/build", 501, "not built"),
    ],
)
async def test_what_a_docker_engine_keeps_is_empty_missing_or_refused(
    lonely, method, path, status, answer
):
    got, said = await lonely(method, path)
    assert got == status
    if status == 200:
        assert said == answer
    else:
        assert answer in said["message"]
