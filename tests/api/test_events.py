"""`GET /events`: the head, the past, what comes, filters, and the end of a stream."""

import asyncio
import json

import pytest

from swarmlet.core.ids import ConfigID
from swarmlet.model.change import Create, Event, Note, SetNodeStatus
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.event_message import messages_of
from swarmlet.model.node import NodeState, NodeStatus
from swarmlet.store.store import Store
from tests.api.world import NODE_ID, NOW_MS, Api
from tests.store.memory_log import MemoryLog

NOW_S = NOW_MS // 1000
WITHIN_S = 5.0


def parsed(raw: bytes):
    return [json.loads(line) for line in raw.splitlines()]


async def past(api: Api, filters=None, **query):
    """Events up to now, as (type, action, name)."""
    params = {"until": str(NOW_S + 1), "since": "1", **query}
    if filters is not None:
        params["filters"] = json.dumps(filters)
    api.world.events._clock = Later()
    async with api.client.get("/v1.50/events", params=params) as response:
        assert response.status == 200
        found = parsed(await response.read())
    return [(one["Type"], one["Action"], one["Actor"]["Attributes"]["name"]) for one in found]


async def until(condition):
    for _ in range(int(WITHIN_S / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {WITHIN_S} s")


class Later:
    """The wall clock, two seconds on: what `until` names is over."""

    def mono_s(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return NOW_MS + 2_000


@pytest.fixture
async def told(api: Api) -> Api:
    """A swarm in which a service, a secret and a node's status have changed."""
    await api.service("web")
    await api("POST", "/secrets/create", {"Name": "web-key", "Data": "eA==", "Labels": {}})
    status = NodeStatus(state=NodeState.DOWN)
    await api.world.commit(SetNodeStatus(id=NODE_ID, status=status))
    return api


async def test_event_has_dockers_fields_in_dockers_order(api):
    api.world.events._clock = Later()
    service_id = await api.service("web")
    filters = json.dumps({"type": {"service": True}})
    params = {"since": "1", "until": str(NOW_S + 1), "filters": filters}
    async with api.client.get("/v1.50/events", params=params) as response:
        assert await response.text() == (
            f'{{"Type":"service","Action":"create","Actor":{{"ID":"{service_id}",'
            f'"Attributes":{{"name":"web"}}}},"scope":"swarm","time":{NOW_S},'
            f'"timeNano":{NOW_MS}000000}}\n'
        )


async def test_init_tells_of_the_node_and_the_ingress_network(api):
    found = await past(api)
    assert ("network", "create", "ingress") in found
    assert ("node", "update", "box") in found


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": {"service": True}}, ["service create web"]),
        ({"type": ["service", "secret"]}, ["service create web", "secret create web-key"]),
        ({"service": {"we": True}}, ["service create web"]),
        ({"secret": ["web"]}, ["secret create web-key"]),
        ({"service": {"other": True}}, []),
        ({"service": ["web"], "secret": ["web"]}, []),
        ({"node": {NODE_ID: True}, "event": {"update": True}, "type": ["node"]}, None),
        ({"event": {"remove": True}}, []),
        ({"scope": {"local": True}}, []),
        ({"scope": {"swarm": True}, "type": ["service"]}, ["service create web"]),
        ({"label": {"name=web": True}}, ["service create web"]),
        ({"label": ["com.example"]}, []),
        ({"container": ["web"]}, []),
        ({"daemon": ["box"]}, []),
    ],
)
async def test_filters_select_as_docker_does_in_both_encodings(told, filters, expected):
    found = [" ".join(one) for one in await past(told, filters)]
    if expected is None:
        assert found
        assert set(found) == {"node update box"}
    else:
        assert found == expected


async def test_own_path_tells_of_tasks_and_what_was_done_in_them(api):
    task = await api.world.add_task(await api.service("web"))
    note = Note(kind="task", action="exec", id=task.id, attributes=(("who", "root"),))
    await api.world.commit(note)
    api.world.events._clock = Later()
    found = {}
    for name, filters in (
        ("all", {"task": [task.id[:8]]}),
        ("of the service", {"service": ["web"]}),
        ("of the node", {"node": ["box"], "type": ["task"]}),
        ("of another", {"service": ["api"]}),
        ("of none", {"task": ["zzz"]}),
    ):
        params = {"since": "1", "until": str(NOW_S + 1), "filters": json.dumps(filters)}
        async with api.client.get("/v1.52/swarmlet/v1/events", params=params) as response:
            found[name] = [(one["Type"], one["Action"]) for one in parsed(await response.read())]
    of_task = [("task", "create"), ("task", "update")]
    assert found == {
        "all": [*of_task, ("task", "exec")],
        "of the service": [("service", "create"), *of_task],
        "of the node": of_task,
        "of another": [],
        "of none": [],
    }
    assert "task" not in {kind for kind, _, _ in await past(api)}


async def test_dockers_path_knows_no_tasks(api):
    status, answer = await api("GET", '/events?filters={"task":["x"]}')
    assert (status, answer["message"]) == (400, "invalid filter 'task'")


async def test_past_is_asked_of_a_majority_or_said_to_be_stale(api):
    api.world.log.lost(NOW_MS - 1_000)
    params = {"since": "1", "until": str(NOW_S + 1)}
    status, _ = await api("GET", "/events", params=params)
    assert status == 503
    async with api.client.get("/events", params={**params, "stale": "1"}) as response:
        assert response.status == 200
        assert int(response.headers["Swarmlet-Stale-Ms"]) >= 0
        assert parsed(await response.read())


async def test_stream_goes_on_over_a_snapshot_that_replaces_the_state(api):
    async with api.client.get("/events") as response:
        store = api.world.store
        await api.world.commit(Create(obj=Config(id="a" * 25, spec=ConfigSpec(name="before"))))
        other = Store(api.world.env)
        other.restore(store.snapshot())
        other.attach(log := MemoryLog(other))
        log.entries = [b""] * store.index
        await other.commit([Create(obj=Config(id="b" * 25, spec=ConfigSpec(name="missed")))])
        store.restore(other.snapshot())
        api.world.log.entries = [b""] * store.index
        await api.world.commit(Create(obj=Config(id="c" * 25, spec=ConfigSpec(name="after"))))
        told = [
            json.loads(await asyncio.wait_for(response.content.readline(), WITHIN_S))
            for _ in range(2)
        ]
    assert [one["Actor"]["Attributes"]["name"] for one in told] == ["before", "after"]
    assert [one["Spec"]["Name"] for one in (await api("GET", "/configs"))[1]] == [
        "before",
        "missed",
        "after",
    ]


async def test_log_that_is_replayed_tells_nothing_twice(told):
    before = await past(told)
    again = Store(told.world.env)
    told.world.events.follow(again)
    told.world.log.replay(again)
    assert await past(told) == before
    again.attach(log := MemoryLog(again))
    log.entries = [b""] * again.index
    await again.commit([Create(obj=Config(id="c" * 25, spec=ConfigSpec(name="new")))])
    assert await past(told) == [*before, ("config", "create", "new")]


async def test_state_of_a_node_is_told_with_what_it_was(told):
    told.world.events._clock = Later()
    filters = json.dumps({"type": ["node"]})
    params = {"since": "1", "until": str(NOW_S + 1), "filters": filters}
    async with told.client.get("/events", params=params) as response:
        last = parsed(await response.read())[-1]
    assert last["Actor"]["Attributes"] == {
        "name": "box",
        "state.old": "ready",
        "state.new": "down",
    }


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("since=yesterday", "invalid value for since: yesterday"),
        ("until=x", "invalid value for until: x"),
        ("since=20&until=10", "`since` time (20) cannot be after `until` time (10)"),
        ("filters=%7B", "invalid filter"),
        ('filters={"bogus":["x"]}', "invalid filter 'bogus'"),
    ],
)
async def test_bad_question_is_400_with_a_sentence(api, query, said):
    status, answer = await api("GET", f"/events?{query}")
    assert (status, answer["message"]) == (400, said)


@pytest.mark.parametrize(
    ("path", "accept", "kind", "start"),
    [
        ("/v1.51/events", "application/json-seq", "application/json", b"{"),
        ("/v1.52/events", "*/*", "application/jsonl", b"{"),
        ("/v1.52/events", "application/x-ndjson", "application/x-ndjson", b"{"),
        ("/events", "application/json-seq", "application/json-seq", b"\x1e{"),
    ],
)
async def test_media_type_depends_on_version_and_wish(api, path, accept, kind, start):
    api.world.events._clock = Later()
    params = {"since": "1", "until": str(NOW_S + 1)}
    async with api.client.get(path, params=params, headers={"Accept": accept}) as response:
        assert response.content_type == kind
        assert all(line.startswith(start) for line in (await response.read()).splitlines())


async def test_head_leaves_before_the_first_event_and_events_as_they_come(api):
    async with asyncio.timeout(WITHIN_S), api.client.get("/v1.50/events") as response:
        assert response.status == 200
        await api.service("web")
        assert json.loads(await response.content.readline())["Action"] == "create"
        await api("DELETE", "/services/web")
        assert json.loads(await response.content.readline())["Action"] == "remove"


async def test_without_since_the_past_stays_untold(told):
    async with asyncio.timeout(WITHIN_S), told.client.get("/v1.50/events") as response:
        await told.service("api")
        assert json.loads(await response.content.readline())["Actor"]["Attributes"] == {
            "name": "api"
        }


async def test_stream_ends_by_itself_when_until_comes(api):
    end = f"{NOW_S}.{NOW_MS % 1000 + 200:03d}000000"  # 0.2 s from now
    async with asyncio.timeout(WITHIN_S):
        async with api.client.get("/v1.50/events", params={"until": end}) as response:
            await api.service("web")
            (event,) = [one for one in parsed(await response.read()) if one["Type"] == "service"]
    assert event["Action"] == "create"


async def test_events_are_there_without_a_swarm(lonely):
    async with asyncio.timeout(WITHIN_S), lonely.client.get("/v1.50/events") as response:
        await lonely("POST", "/swarm/init", {"AdvertiseAddr": "127.0.0.1"})
        assert json.loads(await response.content.readline())["scope"] == "swarm"


async def test_client_that_leaves_is_noticed(api):
    async with api.client.get("/v1.50/events"):
        assert len(api.world.events._readers) == 1
    await until(lambda: not api.world.events._readers)


async def test_nothing_is_held_for_a_client_that_does_not_read(api):
    """The buffers of both sockets are full, then the queue: then there is the history."""
    named = Config(id=ConfigID("c"), spec=ConfigSpec(name="x" * 50_000))
    events = [Event(Config, None, named)]
    (message,) = messages_of(api.world.store.view(), events, NOW_MS)
    async with asyncio.timeout(30), api.client.get("/v1.50/events") as response:
        response.connection.transport.pause_reading()
        (reader,) = api.world.events._readers
        while reader._missed is None:
            reader.put((1, 0), message)
            await asyncio.sleep(0)
        assert not reader._queue
    await until(lambda: not api.world.events._readers)
