"""What a manager that does not lead passes on, and what it passes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from swarmlet.core.errors import NotLeaderError, UnavailableError
from swarmlet.wire import relay
from swarmlet.wire.answers import OWN_HEADERS
from swarmlet.wire.forward import (
    FORWARDED_HEADER,
    PROBLEM_HEADER,
    PROTOCOL_HEADER,
    decode_problem,
)
from swarmlet.wire.tls import MANAGER_NAME, client_context
from tests.wire import port_world
from tests.wire.port_world import MANAGER, OURS, opened

OTHER_MANAGER = OURS.credentials("m2", "manager")
API = "/node/v1/api"
LARGE = bytes(range(256)) * 8_192  # 2 MiB


class LeaderApi:
    """What the leader's API was asked, and several ways of answering."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.ended = asyncio.Event()

    async def __call__(self, request: web.Request, path: str) -> web.StreamResponse:
        self.requests.append(request)
        name = path.partition("?")[0].rpartition("/")[2]
        return await getattr(self, name)(request)

    async def echo(self, request):
        return web.Response(status=201, body=await request.read(), headers={"Left": "behind"})

    async def refuse(self, request):
        raise UnavailableError("not now", "later")

    async def step_down(self, request):
        raise NotLeaderError("not me", managers=("10.0.0.2:2377",))

    async def stream(self, request):
        response = web.StreamResponse(headers={"Content-Type": "application/x-lines"})
        await response.prepare(request)
        try:
            await response.write(b"first\n")
            await relay._until_gone(request)
        finally:
            self.ended.set()
        return response

    async def broken(self, request):
        response = web.StreamResponse()
        if request.query.get("length"):
            response.content_length = 100
        await response.prepare(request)
        await response.write(b"half")
        request.transport.abort()
        return response


@pytest.fixture
async def leader(monkeypatch) -> LeaderApi:
    api = LeaderApi()
    monkeypatch.setattr(port_world, "echo_api", api)
    monkeypatch.setattr(relay, "GONE_CHECK_PERIOD_S", 0.05)
    return api


@asynccontextmanager
async def client() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A manager's, and where the one is that does not lead."""
    async with opened() as leading, opened(OTHER_MANAGER) as other:
        other.service.leader = leading.addr
        connector = aiohttp.TCPConnector(ssl=client_context(MANAGER))
        async with aiohttp.ClientSession(connector=connector, headers=OWN_HEADERS) as session:
            yield session, f"https://{other.addr}{API}"


def at(base: str, path: str):
    return {"url": URL(base + path, encoded=True), "server_hostname": MANAGER_NAME}


@pytest.mark.parametrize("body", [b"", b"x", LARGE])
async def test_bodies_and_headers_arrive_as_they_were(leader, body):
    async with client() as (session, base):
        sent = {"X-Registry-Auth": "a", "Content-Type": "text/odd", "Expect": "100-continue"}
        where = at(base, "/v1.52/echo?a=b%2Fc&d")
        async with session.post(**where, data=BytesIO(body), headers=sent) as answer:
            assert (answer.status, answer.headers["Left"]) == (201, "behind")
            assert await answer.read() == body
    (request,) = leader.requests
    assert request.method == "POST"
    assert request.rel_url.raw_path_qs == f"{API}/v1.52/echo?a=b%2Fc&d"
    assert request.headers["X-Registry-Auth"] == "a"
    assert request.headers["Content-Type"] == "text/odd"
    assert request.content_length == len(body)
    assert "Expect" not in request.headers


async def test_a_body_of_unknown_length_streams(leader):
    async def parts():
        for _ in range(3):
            yield b"abc"

    async with client() as (session, base):
        answer = await session.post(**at(base, "/echo"), data=parts())
        assert await answer.read() == b"abcabcabc"


async def test_a_refusal_is_passed_back_whole(leader):
    async with client() as (session, base), session.get(**at(base, "/refuse")) as answer:
        assert answer.status == 503
        problem = decode_problem(answer.headers[PROBLEM_HEADER])
        assert (problem.message, problem.remedy) == ("not now", "later")


async def test_a_stream_arrives_as_it_is_written_and_ends_with_its_reader(leader):
    async with client() as (session, base):
        answer = await session.get(**at(base, "/stream"))
        assert answer.headers["Content-Type"] == "application/x-lines"
        assert await answer.content.readany() == b"first\n"
        assert not leader.ended.is_set()
        answer.close()
        async with asyncio.timeout(2):
            await leader.ended.wait()


@pytest.mark.parametrize("path", ["/broken", "/broken?length=100"])
async def test_an_answer_that_breaks_off_is_broken_off_here_too(leader, path):
    async with client() as (session, base):
        with pytest.raises(aiohttp.ClientError):
            await (await session.get(**at(base, path))).read()


async def test_many_calls_go_over_few_connections(leader):
    async with client() as (session, base):
        for _ in range(20):
            async with session.post(**at(base, "/echo"), data=b"x") as answer:
                assert await answer.read() == b"x"
    assert len(leader.requests) == 20
    assert len({id(request.protocol) for request in leader.requests}) == 1


async def test_a_user_of_a_manager_s_own_api_speaks_for_nobody_else(leader):
    forged = {FORWARDED_HEADER: "x", PROTOCOL_HEADER: "0", "Connection": "close"}
    async with opened() as leading:

        async def handle(request: web.Request) -> web.StreamResponse:
            return await leading.link.forward(
                leading.addr, request, f"{API}/echo", origin=None, credentials=OTHER_MANAGER
            )

        app = web.Application()
        app.router.add_route("*", "/any", handle)
        async with TestClient(TestServer(app)) as user:
            answer = await user.put("/any", data=b"body", headers=forged)
            assert (answer.status, await answer.read()) == (201, b"body")
    (request,) = leader.requests
    assert FORWARDED_HEADER not in request.headers
    assert request.headers.getall(PROTOCOL_HEADER) == ["1"]


async def test_who_does_not_lead_any_more_answers_nobody_s_user(leader):
    async with opened() as leading:
        raised: list[NotLeaderError] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await leading.link.forward(
                    leading.addr,
                    request,
                    f"{API}/step_down",
                    origin=None,
                    credentials=OTHER_MANAGER,
                )
            except NotLeaderError as problem:
                raised.append(problem)
                return web.Response(status=204)

        app = web.Application()
        app.router.add_route("*", "/any", handle)
        async with TestClient(TestServer(app)) as user:
            assert (await user.put("/any", data=b"body")).status == 204
    assert [(one.message, one.managers) for one in raised] == [("not me", ("10.0.0.2:2377",))]
