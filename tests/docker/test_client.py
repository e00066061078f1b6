"""The client against an engine that says what a script tells it to: odd, half, late, or nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError
from swarmlet.runtime.docker import client as client_module
from swarmlet.runtime.docker.client import (
    EngineClient,
    EngineDownError,
    EngineRefusedError,
    probe,
)
from swarmlet.runtime.docker.distribution import read_distribution
from swarmlet.runtime.docker.engine import Engine
from swarmlet.runtime.docker.events import EngineInfo, Event
from swarmlet.wire.messages import LogOptions
from tests.docker.world import at_work, open_runtime, shell, until

VERSION = b'{"ApiVersion":"1.41","MinAPIVersion":"1.12","Version":"20.10"}'


def answer(body: bytes, status: str = "200 OK", *, size_b: int | None = None) -> bytes:
    size_b = len(body) if size_b is None else size_b
    return f"HTTP/1.1 {status}\r\nContent-Length: {size_b}\r\n\r\n".encode() + body


def chunked(*parts: bytes, ended: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + body + (b"0\r\n\r\n" if ended else b"")


class Script:
    """Answers by the first part that is in a request's line; what has no answer never gets one.
    The connection is closed after an answer of `closing`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.answers: dict[str, bytes] = {"/version": answer(VERSION)}
        self.closing: set[str] = set()
        self.seen: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line = head.partition("\r\n")[0]
                self.seen.append(line)
                part = next((part for part in self.answers if part in line), None)
                if part is None:
                    continue
                writer.write(self.answers[part])
                await writer.drain()
                if part in self.closing:
                    break
        writer.close()


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[Script]:
    path = tmp_path / "fake.sock"
    script = Script(f"unix://{path}")
    server = await asyncio.start_unix_server(script.serve, str(path))
    yield script
    server.close()


@pytest.fixture
async def client(script):
    client = EngineClient(script.host)
    yield client
    await client.close()


@pytest.mark.parametrize(
    "host", ["", "docker", "http://x:1", "ssh://me@host", "unix://rel", "tcp://host", "npipe:////."]
)
async def test_host_of_another_kind_is_refused_in_a_sentence(host):
    with pytest.raises(InvalidArgumentError, match="neither unix:///PATH nor tcp://HOST:PORT"):
        EngineClient(host)
    assert "neither unix:///PATH" in await probe(host)


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [
        ("1.41", "1.12", "1.41"),
        ("1.47", "1.24", "1.47"),
        ("1.52", "1.44", "1.47"),
        ("1.24", "", "1.24"),
    ],
)
async def test_newest_version_both_know_is_spoken(script, client, newest, oldest, spoken):
    script.answers = {
        "/version": answer(
            f'{{"ApiVersion":"{newest}","MinAPIVersion":"{oldest}","Other":[1]}}'.encode()
        ),
        "/info": answer(b'{"NCPU":2,"Plugins":{"Log":null}}'),
    }
    assert (await client.ask(EngineInfo, "/info")).cpus == 2
    assert script.seen[-1] == f"GET /v{spoken}/info HTTP/1.1"


@pytest.mark.parametrize(("newest", "oldest"), [("1.23", "1.10"), ("1.60", "1.48"), ("x", "")])
async def test_engine_without_a_common_version_is_no_engine(script, client, newest, oldest):
    body = f'{{"ApiVersion":"{newest}","MinAPIVersion":"{oldest}"}}'.encode()
    script.answers["/version"] = answer(body)
    with pytest.raises(EngineDownError, match=r"1\.24 to 1\.47 is understood here"):
        await client.negotiate()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (answer(b"<html>"), "not understood"),
        (answer(b'{"NCPU":"many"}'), "not understood"),
        (answer(b'{"NCPU":', size_b=100), "broke off"),
        (answer(b"[]"), "not understood"),
        (answer(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not understood"),
        (b"\x00\x01\x02garbage\r\n\r\n", ""),
        (b"", "broke off"),
        (chunked(b'{"NC', ended=False), "broke off"),
    ],
)
async def test_malformed_answer_is_an_engine_that_does_not_answer(script, client, sent, words):
    script.answers["/info"] = sent
    script.closing = {"/info"}
    with pytest.raises(
        EngineDownError, match=f"Engine at {script.host} does not answer: .*{words}"
    ):
        await client.ask(EngineInfo, "/info")


@pytest.mark.parametrize(
    "name", ["../containers/json", "..", "a/../../info?x=", "a#", "a%2f..", "a b", "a\r\nb", "a/B"]
)
async def test_distribution_asks_for_nothing_but_an_image(script, client, name):
    with pytest.raises(InvalidArgumentError, match="invalid image reference"):
        await read_distribution(client, name, "")
    assert script.seen == []


async def test_redirection_is_a_refusal_that_nobody_follows(script, client):
    moved = answer(b"").replace(b"200 OK", b"301 Moved\r\nLocation: /v1.41/elsewhere")
    script.answers = {"/version": answer(VERSION), "/elsewhere": answer(b"{}"), "/here": moved}
    with pytest.raises(EngineRefusedError, match="HTTP status 301"):
        await client.call("GET", "/here", headers={"X-Registry-Auth": "e30="})
    assert not any("elsewhere" in line for line in script.seen)


@pytest.mark.parametrize(
    ("text", "code"), [("0", 0), ("137", 137), ("9" * 5000, None), ("-1", None), ("٣", None)]
)
def test_exit_code_of_an_event_is_one_whatever_a_label_says(text, code):
    actor = Event.Actor_(attributes={"exitCode": text})
    assert Event(action="die", actor=actor).exit_code == code


async def test_answer_without_end_is_cut_off(script, client, monkeypatch):
    monkeypatch.setattr(client_module, "ANSWER_SIZE_MAX_B", 1000)
    script.answers["/info"] = chunked(*[b"x" * 500] * 10, ended=False)
    with pytest.raises(EngineDownError, match="longer than 1000 bytes"):
        await client.ask(EngineInfo, "/info")


async def test_silence_ends_at_the_deadline(client):
    with pytest.raises(EngineDownError, match=r"nothing came within 0\.1 s"):
        await client.call("GET", "/info", timeout_s=0.1)


async def test_stream_that_does_not_begin_ends_at_the_deadline(client, monkeypatch):
    monkeypatch.setattr(client_module, "CALL_TIMEOUT_S", 0.1)
    with pytest.raises(EngineDownError, match=r"nothing came within 0\.1 s"):
        async with client.stream("GET", "/events", {}):
            pass


async def test_engine_of_another_version_than_the_one_before_is_asked_anew(script, client):
    words = b'{"message":"client version 1.41 is too old. Minimum supported API version is 1.44"}'
    script.answers = {
        "/version": answer(VERSION),
        "/v1.41/": answer(words, "400 Bad Request"),
        "/v1.47/info": answer(b'{"NCPU":2}'),
    }
    with pytest.raises(EngineDownError, match=r"1\.41 is too old"):
        await client.ask(EngineInfo, "/info")
    script.answers["/version"] = answer(b'{"ApiVersion":"1.52","MinAPIVersion":"1.44"}')
    assert (await client.ask(EngineInfo, "/info")).cpus == 2


async def test_container_that_the_engine_cannot_show_does_not_hide_the_others(script):
    listed = b'[{"Id":"c%d","Labels":{"com.docker.swarm.task.id":"t%d"}}]'
    two = listed[:-1] % (1, 1) + b"," + listed[1:] % (2, 2)
    whole = b'{"Id":"c2","Config":{"Labels":{"com.docker.swarm.task.id":"t2"}}}'
    script.answers |= {
        "/containers/json": answer(two),
        "/c1/json": answer(b'{"message":"RWLayer is unexpectedly nil"}', "500 Server Error"),
        "/c2/json": answer(whole),
    }
    async with at_work(open_runtime(script.host, "e")) as runtime:
        broken, other = await runtime.list_tasks()
        assert (broken.task_id, other.task_id, other.started) == ("t1", "t2", None)
        assert broken.started is not None  # so that it is stopped
        with pytest.raises(RuntimeProblemError, match="RWLayer"):
            await runtime.wait(TaskID("t1"))


async def test_stop_that_is_refused_is_tried_again(script):
    script.answers |= {
        "/stop": answer(b'{"message":"cannot stop container"}', "500 Internal Server Error"),
        "/containers/json": answer(b'[{"Id":"c1"}]'),
    }
    async with at_work(open_runtime(script.host, "e")) as runtime:
        with pytest.raises(TemporaryProblemError, match="cannot stop container"):
            await runtime.stop(TaskID("t"), "SIGTERM", 1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message":"No such container: x"}', "No such container: x"),
        (b"page not found\n", "page not found"),
        (b"", "HTTP status 404"),
    ],
)
async def test_refusal_bears_status_and_words(script, client, body, words):
    script.answers["/info"] = answer(body, "404 Not Found")
    with pytest.raises(EngineRefusedError) as error:
        await client.ask(EngineInfo, "/info")
    assert (error.value.status, error.value.message) == (404, words)


async def test_probe_tells_engines_from_what_is_none(script, tmp_path):
    assert await probe(script.host) == ""
    assert "no such file" in await probe(f"unix://{tmp_path}/none.sock")
    script.answers["/version"] = answer(
        b'{"ApiVersion":"1.41","Platform":{"Name":"swarmlet"},"Version":"1"}'
    )
    assert "swarmlet itself" in await probe(script.host)
    script.answers["/version"] = answer(b"hello")
    assert "not understood" in await probe(script.host)
    script.answers["/version"] = answer(b"no", "403 Forbidden")
    assert await probe(script.host) != ""


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (
            chunked(b'{"status":"Pulling"}\r\n', b'{"errorDetail":{"message":"no space"}}'),
            "no space",
        ),
        (chunked(b'{"status":"Pu', b'lling"}\r\n{"error":"late"}\r\n'), "late"),
        (chunked(b'{"status":"Pulling"}\r\n', ended=False), "broke off"),
        (chunked(b"what?\n"), "not understood"),
        (answer(b'{"message":"pull access denied for a"}', "404 Not Found"), "pull access denied"),
    ],
)
async def test_pull_that_fails_midway_is_a_problem(script, sent, words):
    script.answers |= {
        "/images/create": sent,
        "/containers/create": answer(b'{"message":"No such image: a:1"}', "404 Not Found"),
    }
    script.closing = {"/images/create"}
    async with at_work(open_runtime(script.host, "e")) as runtime:
        with pytest.raises(RuntimeProblemError, match=words):
            await runtime.prepare(shell("a", "true", image="a:1"))


async def test_half_a_log_frame_ends_as_an_engine_that_broke_off(script, client):
    frame = b"\x01\x00\x00\x00\x00\x00\x00\x10half"
    script.answers |= {
        "/logs": chunked(frame, ended=False),
        "/containers/json": answer(b'[{"Id":"c"}]'),
        "/containers/c/json": answer(b'{"Id":"c"}'),
    }
    script.closing = {"/logs"}
    async with at_work(open_runtime(script.host, "e")) as runtime:
        with pytest.raises(EngineDownError, match="broke off"):
            await anext(runtime.logs(TaskID("a"), LogOptions()))


@pytest.mark.parametrize("event", [b"what?\n", b'{"Action":5}\n', b"x" * 2_000_000])
async def test_odd_event_opens_the_stream_again(script, event):
    script.answers |= {"/info": answer(b"{}"), "/events": chunked(event, ended=False)}
    async with at_work(open_runtime(script.host, "e")) as runtime:
        await until(lambda: sum("/events" in line for line in script.seen) >= 2)
        assert runtime.condition.problem == ""


async def test_removal_in_progress_is_waited_for(script, client):
    script.answers["DELETE"] = answer(
        b'{"message":"removal of container c is already in progress"}', "409 Conflict"
    )
    engine = Engine(client, "e")
    assert await engine.delete("c") is False
    script.answers["DELETE"] = answer(b'{"message":"No such container: c"}', "404 Not Found")
    assert await engine.delete("c") is True
