"""What a manager that does not lead answers itself, passes on, makes again, and refuses."""

import asyncio
import json
import zlib
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.test_utils import TestClient, TestServer

from swarmlet.api import leading
from swarmlet.api.app import Door, build_app
from swarmlet.api.leading import is_nothing_done
from swarmlet.core.errors import (
    NotLeaderError,
    OutcomeUnknownError,
    UnavailableError,
)
from swarmlet.core.ids import ConfigID
from swarmlet.model.change import Create
from swarmlet.model.config import Config, ConfigSpec
from tests.api.group import LOST, OTHER
from tests.api.world import NOW_MS, Api, service_body
from tests.store.memory_log import ME


def refused(addr: str) -> UnavailableError:
    """As the wire says it of an address where nothing listens."""
    key = ConnectionKey(addr, 2377, True, None, None, None, None)
    cause = aiohttp.ClientConnectorError(key, ConnectionRefusedError())
    problem = UnavailableError(f"Nothing listens at {addr}")
    problem.__cause__ = cause
    return problem


class Leader:
    """Answers what is passed on to it, or raises what is next in `problems`."""

    def __init__(self, *problems: Exception, on_call: Callable[[], None] | None = None) -> None:
        self.problems, self.on_call = list(problems), on_call
        self.asked: list[tuple[str, str, bytes]] = []

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        body = await request.content.read() if request.can_read_body else b""
        self.asked.append((request.method, request.raw_path, body))
        if self.on_call is not None:
            self.on_call()
        if self.problems:
            raise self.problems.pop(0)
        return web.json_response({"by": "leader"})


@pytest.fixture
def led(api: Api) -> Api:
    """The API of a manager that another one leads."""
    api.world.leader = Leader()
    api.world.log.leader = OTHER.raft_id
    return api


async def test_reads_are_answered_here_and_changes_passed_on(led):
    _, nodes = await led("GET", "/v1.41/nodes")
    assert len(nodes) == 1
    assert led.world.log.barriers == 1
    for path in ("/swarm", "/services", "/tasks", "/secrets", "/configs", "/networks"):
        assert (await led("GET", path))[0] == 200
    assert led.world.leader.asked == []
    body = service_body("web")
    assert await led("POST", "/v1.41/services/create?x=y", body) == (200, {"by": "leader"})
    assert await led("DELETE", "/secrets/a%2Fb") == (200, {"by": "leader"})
    (method, path, sent), *others = led.world.leader.asked
    assert (method, path, json.loads(sent)) == ("POST", "/v1.41/services/create?x=y", body)
    assert others == [("DELETE", "/secrets/a%2Fb", b"")]


async def test_what_is_about_this_daemon_is_never_passed_on(led):
    for path in ("/version", "/info", "/_ping", "/swarmlet/v1/daemon", "/swarmlet/v1/members"):
        assert (await led("GET", path))[0] == 200
    assert (await led.client.get("/_ping")).headers["Swarm"] == "active/manager"
    assert led.world.leader.asked == []


@pytest.mark.parametrize("problem", [NotLeaderError("not me"), refused("10.0.0.2:2377")])
async def test_call_that_was_not_made_is_made_again_with_its_body(led, problem):
    led.world.leader.problems = [problem, problem]
    assert await led("POST", "/services/create", service_body("web")) == (200, {"by": "leader"})
    bodies = [json.loads(body) for _, _, body in led.world.leader.asked]
    assert bodies == [service_body("web")] * 3


async def test_body_that_was_compressed_arrives_whole(led):
    led.world.leader.problems = [NotLeaderError("not me")]
    body = json.dumps(service_body("web"))
    headers = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
    data = zlib.compress(body.encode())
    async with led.client.post("/services/create", data=data, headers=headers) as answer:
        assert answer.status == 200
    assert [sent for *_, sent in led.world.leader.asked] == [body.encode()] * 2


async def test_call_goes_on_here_once_this_manager_leads(led):
    def elected() -> None:
        led.world.leader = None
        led.world.log.leader = ME.raft_id

    led.world.leader = Leader(NotLeaderError("not me"), on_call=elected)
    status, made = await led("POST", "/services/create", service_body("web"))
    assert status == 201
    assert (await led("GET", f"/services/{made['ID']}"))[0] == 200


async def test_leader_that_is_none_any_more_passes_its_call_on(api):
    api.world.log.is_leader = False

    async def soon() -> None:
        await asyncio.sleep(0.05)
        api.world.leader = Leader()

    async with asyncio.TaskGroup() as group:
        group.create_task(soon())
        assert await api("POST", "/services/create", service_body()) == (200, {"by": "leader"})


@pytest.mark.parametrize(
    "problem",
    [
        OutcomeUnknownError("Nobody knows."),
        UnavailableError("it closed the connection without an answer"),
    ],
)
async def test_call_that_may_have_been_made_is_not_made_again(led, problem):
    led.world.leader.problems = [problem]
    status, answer = await led("POST", "/services/create", service_body())
    assert (status, answer["message"], answer["code"]) == (503, problem.message, problem.code)
    assert len(led.world.leader.asked) == 1


async def test_change_whose_answer_was_cut_off_is_of_unknown_outcome_and_a_read_is_asked_again(led):
    cut_off = UnavailableError("it closed the connection without an answer")
    cut_off.__cause__ = aiohttp.ServerDisconnectedError()
    led.world.leader.problems = [cut_off]
    status, answer = await led("POST", "/services/create", service_body())
    assert (status, answer["code"]) == (503, OutcomeUnknownError.code)
    assert len(led.world.leader.asked) == 1
    led.world.leader.problems = [cut_off]
    assert (await led("GET", "/services/web/logs?stdout=1"))[0] != 503


async def test_change_of_unknown_outcome_is_told_with_what_is_lost(led):
    led.world.leader.problems = [OutcomeUnknownError("Nobody knows.", remedy="Look.")]
    led.world.log.lost(NOW_MS - 1_000)
    _, answer = await led("POST", "/services/create", service_body())
    assert answer["message"].startswith("Nobody knows. 1 of 2 managers answers, and 2 are needed")
    assert answer["remedy"].startswith("Look. Start the silent managers again")


async def test_nobody_who_leads_is_said_after_an_election_s_time(led, monkeypatch):
    monkeypatch.setattr(leading, "PAUSE_S", 0.2)
    led.world.leader.problems = [NotLeaderError("Nobody leads.")] * 1_000
    async with asyncio.timeout(2.0):
        status, answer = await led("POST", "/services/create", service_body())
    assert (status, answer["code"]) == (503, "not-leader")
    assert len(led.world.leader.asked) > 1


async def test_lost_majority_is_said_in_the_log_s_words_with_its_remedy(led):
    led.world.log.lost(NOW_MS - 60_000)
    led.world.leader.problems = [NotLeaderError("Nobody leads.")] * 1_000
    expected = {"message": LOST.message, "remedy": LOST.remedy, "code": "quorum-lost"}
    calls = [("GET", "/nodes", None), ("POST", "/services/create", service_body())]
    for method, path, body in calls:
        async with asyncio.timeout(1.0):
            assert await led(method, path, body) == (503, expected)


async def test_stale_read_answers_without_a_majority_and_says_its_age(led):
    led.world.log.lost(NOW_MS - 60_000)
    before = led.world.log.barriers
    for path in ("/nodes", "/services", "/tasks", "/swarm", "/swarmlet/v1/join-tokens"):
        async with led.client.get(path, params={"stale": "1"}) as answer:
            assert answer.status == 200
            assert answer.headers["Swarmlet-Stale-Ms"] == "60000"
    assert led.world.log.barriers == before


async def test_read_that_waits_for_the_majority_says_no_age(led):
    async with led.client.get("/nodes") as answer:
        assert "Swarmlet-Stale-Ms" not in answer.headers


async def test_leader_that_falls_silent_is_not_waited_for_once_another_leads(led, monkeypatch):
    for name in ("LEFT_CHECK_PERIOD_S", "ANSWER_WAIT_S"):
        monkeypatch.setattr(leading, name, 0.02)

    class Silent(Leader):
        async def pass_on(self, request: web.Request) -> web.StreamResponse:
            led.world.log.leader = 3
            return await asyncio.Event().wait()

    led.world.leader = Silent()
    async with asyncio.timeout(2.0):
        status, answer = await led("POST", "/services/create", service_body())
    assert (status, answer["code"]) == (503, "outcome-unknown")
    assert "which does not answer: it is not known whether it was made." in answer["message"]


async def test_stream_that_has_begun_outlasts_its_leader(led, monkeypatch):
    for name in ("LEFT_CHECK_PERIOD_S", "ANSWER_WAIT_S"):
        monkeypatch.setattr(leading, name, 0.02)

    class Streaming(Leader):
        async def pass_on(self, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"one ")
            led.world.log.leader = 3
            await asyncio.sleep(0.2)
            await response.write(b"two")
            return response

    led.world.leader = Streaming()
    assert await led("POST", "/services/create", service_body("web")) == (200, b"one two")


async def port_of(api: Api) -> TestClient:
    """What another manager's request meets; a refusal to lead is 421 here."""
    door = Door(api.world)

    async def port(request: web.Request) -> web.StreamResponse:
        try:
            return await door.answer_forwarded(request, request.rel_url.raw_path)
        except NotLeaderError as problem:
            return web.Response(text=problem.message, status=421)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", port)
    client = TestClient(TestServer(app))
    await client.start_server()
    return client


async def test_what_was_passed_on_is_never_passed_on_again(led):
    client = await port_of(led)
    for path in ("/secrets/create", "/services/x/update?version=1"):
        async with client.post(path, json={}) as answer:
            assert answer.status == 421
    async with client.get("/services/web/logs") as answer:
        assert answer.status == 421
    assert led.world.leader.asked == []
    await client.close()


async def test_what_was_passed_on_and_not_proposed_is_refused_at_once(api):
    api.world.log.is_leader = False
    client = await port_of(api)
    async with asyncio.timeout(1.0), client.post("/services/create", json=service_body()) as answer:
        assert answer.status == 421
    await client.close()


def test_only_what_was_not_sent_counts_as_not_done():
    assert is_nothing_done(NotLeaderError("x"))
    assert is_nothing_done(refused("x"))
    outer = UnavailableError("The manager that leads cannot be asked")
    outer.__cause__ = refused("x")
    assert is_nothing_done(outer)
    broken = UnavailableError("closed")
    broken.__cause__ = aiohttp.ServerDisconnectedError()
    assert not is_nothing_done(broken)
    assert not is_nothing_done(LOST)


async def test_events_of_a_manager_that_does_not_lead_are_its_own(led):
    app = build_app(led.world)
    async with TestClient(TestServer(app)) as client, client.get("/events") as answer:
        assert answer.status == 200
        config = Config(id=ConfigID("c" * 25), spec=ConfigSpec(name="c1"))
        await led.world.commit(Create(obj=config))
        line = await asyncio.wait_for(answer.content.readline(), 2.0)
    assert json.loads(line)["Actor"]["Attributes"] == {"name": "c1"}
