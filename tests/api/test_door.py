"""Versions, headers, unknown routes, bodies and errors: what every request meets."""

import asyncio
import io
import logging

import pytest

from swarmlet.api.call import API_VERSION, BODY_SIZE_MAX_B
from swarmlet.core.errors import (
    DiskFullError,
    OutcomeUnknownError,
    StaleVersionError,
    UnavailableError,
)
from swarmlet.core.version import VERSION
from tests.api.world import service_body

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/nodes", "/nope", "/v1.99/version", "/nodes"])
async def test_every_answer_carries_the_common_headers(lonely, path):
    async with lonely.client.get(path) as response:
        assert response.headers["Api-Version"] == "1.52"
        assert response.headers["Ostype"] == "linux"
        assert response.headers["Docker-Experimental"] == "false"
        assert response.headers["Server"] == f"Docker/{VERSION} (linux)"


async def test_ping_answers_without_a_body_to_head(lonely):
    async with lonely.client.head("/_ping") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == "0"
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["Builder-Version"] == "1"
        assert response.headers["Swarm"] == "inactive"
        assert "no-store" in response.headers["Cache-Control"]


async def test_ping_names_the_role_of_a_node_in_a_swarm(api):
    async with api.client.get("/v1.41/_ping") as response:
        assert await response.read() == b"OK"
        assert response.headers["Swarm"] == "active/manager"


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [
        ("1.24", 200, ""),
        ("1.52", 200, ""),
        ("1.23", 400, "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("0", 400, "client version 0 is too old"),
        ("...", 400, "client version ... is too old"),
        ("1.53", 400, "client version 1.53 is too new. Maximum supported API version is 1.52"),
        ("2.0", 400, "client version 2.0 is too new"),
        ("1.100", 400, "too new"),
        ("9" * 17, 404, "page not found"),
        ("1.x", 404, "page not found"),
    ],
)
async def test_version_in_the_path_is_checked(lonely, version, status, text):
    got, answer = await lonely("GET", f"/v{version}/version")
    assert got == status
    assert text in answer.get("message", "")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1.50"),
        ("GET", "/v1.50/nope"),
        ("PUT", "/v1.50/services/create"),
        ("HEAD", "/nodes"),
        ("DELETE", "/nodes"),
        ("GET", "/nodes/"),
        ("GET", "/nodes/a/b"),
        ("GET", "/../etc/passwd"),
        ("PROPFIND", "/nodes"),
        ("GET", "/a%0Ab"),
    ],
)
async def test_unknown_route_or_method_is_404(lonely, method, path):
    status, answer = await lonely(method, path)
    assert status == 404
    assert answer in ({"message": "page not found"}, b"")


async def test_options_is_answered_on_any_path(lonely):
    assert await lonely("OPTIONS", "/whatever/there/is") == (200, b"")


@pytest.mark.parametrize(
    ("headers", "data", "status", "text"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 400, "(text/plain): must be 'application/json'"),
        ({"Content-Type": ""}, b"{}", 400, "malformed Content-Type header"),
        (JSON | {"Content-Encoding": "deflate"}, b"abcde", 400, "body cannot be read"),
        (JSON, b"{", 400, "invalid JSON"),
        (JSON, b'{"Name":"a"} x', 400, "invalid JSON"),
        (JSON, b"[]", 400, "object"),
        (JSON, b'{"Name":5}', 400, "Name must be a string"),
        (JSON, b'{"Data":"!!"}', 400, "Data must be base64"),
        (JSON, b"", 400, "name"),
        (JSON, b"null", 400, "name"),
        (JSON, b"[" * 100_000, 400, "nested"),
        (JSON, b'"' + b"x" * BODY_SIZE_MAX_B + b'"', 413, "larger than"),
        (
            {"Content-Type": "application/json; charset=utf-8"},
            b'{"name":"a","DATA":"eA=="}',
            201,
            "",
        ),
    ],
)
async def test_body_is_checked(api, headers, data, status, text):
    if not headers["Content-Type"]:
        headers = {}
    options = {"data": io.BytesIO(data), "headers": headers, "skip_auto_headers": ["Content-Type"]}
    got, answer = await api("POST", "/configs/create", **options)
    assert got == status
    assert text in answer.get("message", "")


async def test_answer_may_repeat_bytes_that_are_no_text(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(
        b"POST /configs/create HTTP/1.1\r\nHost: box\r\nConnection: close\r\n"
        b"Content-Type: \xe9\r\nContent-Length: 2\r\n\r\n{}"
    )
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"unsupported Content-Type header (?)" in answer


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (UnavailableError("No quorum.", remedy="Bring back 1."), 503, "No quorum."),
        (DiskFullError("There is no room."), 507, "There is no room."),
        (StaleVersionError("x"), 500, "update out of sequence"),
        (OutcomeUnknownError("Nobody knows."), 503, "Nobody knows."),
        (TimeoutError(), 503, "not known whether it was committed"),
    ],
)
async def test_problem_becomes_its_status_and_sentence(api, problem, status, text):
    api.world.problem = problem
    got, answer = await api("POST", "/services/create", service_body())
    assert got == status
    assert text in answer["message"]
    assert answer.get("remedy", "") == (getattr(problem, "remedy", "") or answer.get("remedy", ""))


async def test_unexpected_exception_is_logged_and_tells_the_client_nothing(api, caplog):
    api.world.problem = ZeroDivisionError("secret detail")
    with caplog.at_level(logging.ERROR):
        status, answer = await api("GET", "/nodes")
    assert (status, answer) == (500, {"message": "internal error: see the daemon's log"})
    (record,) = [record for record in caplog.records if record.name == "swarmlet.api"]
    assert record.message == "api.request_failed"
    assert record.path == "/nodes"
    assert record.exc_info is not None


async def test_answers_end_in_a_newline_as_docker_s_do(lonely):
    async with lonely.client.get("/nope") as response:
        assert await response.read() == b'{"message":"page not found"}\n'
        assert response.headers["Content-Length"] == "29"
        assert response.headers["Content-Type"] == "application/json"


async def test_version_names_the_engine_and_its_api(lonely):
    _, version = await lonely("GET", "/version")
    assert version["ApiVersion"] == f"{API_VERSION[0]}.{API_VERSION[1]}"
    assert version["MinAPIVersion"] == "1.24"
    assert version["Arch"] == "amd64"
    assert version["Components"][0]["Name"] == "Engine"
    assert version["Components"][0]["Details"]["ApiVersion"] == version["ApiVersion"]
    assert version["Platform"] == {"Name": "swarmlet"}


async def test_metrics_are_prometheus_text(lonely):
    async with lonely.client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert (await response.text()).splitlines() == [
            "# TYPE loop_lag_s gauge",
            "loop_lag_s 0.25",
            "# TYPE tasks gauge",
            'tasks{state="running"} 3',
            "# TYPE writes_total counter",
            "writes_total 7",
        ]
