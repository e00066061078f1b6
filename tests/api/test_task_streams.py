"""Exec and port-forward at the API: what is asked, what is refused, frames, and how they end; the
leader's side is a stream in memory."""

import asyncio
import json
import os
import tempfile
from contextlib import asynccontextmanager

import pytest

from swarmlet.api.app import Door, build_app
from swarmlet.api.listener import serve_unix
from swarmlet.core.errors import (
    FailedPreconditionError,
    NotLeaderError,
    OutcomeUnknownError,
    UnavailableError,
)
from swarmlet.core.framing import END, EXIT, INPUT, PROBLEM, RESIZE, STDERR, STDOUT, Unpacker, pack
from swarmlet.wire.channel import ChannelClosedError, memory_stream
from swarmlet.wire.messages import (
    STREAM_DATA_MAX_B,
    DialRequest,
    ExecRequest,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamResize,
)
from tests.api.world import Api

BODY = {
    "Cmd": ["sh", "-c", "true"],
    "Env": ["A=1"],
    "User": "www",
    "WorkingDir": "/srv",
    "Tty": True,
    "AttachStdin": True,
    "ConsoleSize": [40, 120],
}
REQUEST = ExecRequest(
    argv=("sh", "-c", "true"),
    env=("A=1",),
    user="www",
    workdir="/srv",
    is_tty=True,
    has_stdin=True,
    rows=40,
    columns=120,
)


class Streams:
    """Implements TaskStreams; `far` is the task's side of the newest one."""

    def __init__(self) -> None:
        self.asks, self.refusals = [], []
        self.far = None

    async def open(self, ask):
        self.asks.append(ask)
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.pop(0)
        near, self.far = memory_stream()
        return near


class Client:
    """A connection that may be taken over."""

    def __init__(self, reader, writer) -> None:
        self.reader, self.writer = reader, writer
        self.unpacker, self.frames = Unpacker(), []

    async def ask(self, path, body=None):
        """Status, and the answer's message where it is refused."""
        raw = b"" if body is None else json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: tcp"]
        if body is not None:
            head.append("Content-Type: application/json")
        head.append(f"Content-Length: {len(raw)}")
        self.writer.write("\r\n".join((*head, "", "")).encode() + raw)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(lines[0].split()[1])
        if status == 101:
            return status, ""
        length = next(int(line[15:]) for line in lines if line.lower().startswith("content-length"))
        return status, json.loads(await self.reader.readexactly(length))["message"]

    def send(self, kind, payload=b""):
        self.writer.write(pack(kind, payload))

    async def frame(self):
        """The next one, None at the end."""
        while not self.frames:
            data = await self.reader.read(65_536)
            if not data:
                return None
            self.frames += self.unpacker.feed(data)
        return tuple(self.frames.pop(0))


@asynccontextmanager
async def served(api: Api):
    """Streams behind the API's own socket, a task's id, and how to connect."""
    service = await api.service()
    task = await api.world.add_task(service)
    streams = api.world.control().streams = Streams()
    door = Door(api.world)
    with tempfile.TemporaryDirectory(prefix="swt-", dir="/tmp") as directory:
        async with serve_unix(build_app(api.world, door), f"{directory}/s.sock") as path:
            writers = []

            async def connect():
                reader, writer = await asyncio.open_unix_connection(path)
                writers.append(writer)
                return Client(reader, writer)

            yield streams, f"/swarmlet/v1/tasks/{task.id}", connect
            for writer in writers:
                writer.close()
                await writer.wait_closed()


async def test_what_is_asked_comes_to_the_leader_with_who_asks(api: Api):
    async with served(api) as (streams, path, connect):
        assert (await (await connect()).ask(f"/v1.52{path}/exec", BODY))[0] == 101
        assert (await (await connect()).ask(f"{path}/forward?port=80"))[0] == 101
        first, second = streams.asks
        assert (first.request, second.request) == (REQUEST, DialRequest(port=80))
        assert first.task_id == path.rpartition("/")[2]
        assert f"(uid {os.getuid()}) at box" in first.who


async def test_frames_go_both_ways_to_the_exit_code(api: Api):
    async with served(api) as (streams, path, connect):
        client = await connect()
        await client.ask(f"{path}/exec", BODY)
        far = streams.far
        client.send(INPUT, b"x" * (STREAM_DATA_MAX_B + 5))
        client.send(RESIZE, b"50 99")
        client.send(END)
        assert await far.receive() == StreamData(stream=0, data=b"x" * STREAM_DATA_MAX_B)
        assert await far.receive() == StreamData(stream=0, data=b"x" * 5)
        assert await far.receive() == StreamResize(rows=50, columns=99)
        assert await far.receive() == StreamEnd()
        for frame in (
            StreamData(stream=1, data=b"out"),
            StreamData(stream=2, data=b"err"),
            StreamEnd(),
            StreamExit(exit_code=7),
        ):
            await far.send(frame)
        expected = [(STDOUT, b"out"), (STDERR, b"err"), (END, b""), (EXIT, b"7"), None]
        assert [await client.frame() for _ in expected] == expected
        with pytest.raises(ChannelClosedError):
            await far.receive()


@pytest.mark.parametrize(
    ("last", "frames"),
    [
        (StreamExit(exit_code=127, problem="no sh"), [(PROBLEM, b"no sh"), (EXIT, b"127")]),
        (StreamExit(problem="lost"), [(PROBLEM, b"lost")]),
        (StreamExit(), [(EXIT, b"0")]),
    ],
)
async def test_end_has_a_problem_an_exit_code_or_both(api: Api, last, frames):
    async with served(api) as (streams, path, connect):
        client = await connect()
        await client.ask(f"{path}/exec", BODY)
        await streams.far.send(last)
        assert [await client.frame() for _ in (*frames, None)] == [*frames, None]


async def test_lost_leader_is_said_in_a_sentence(api: Api):
    async with served(api) as (streams, path, connect):
        client = await connect()
        await client.ask(f"{path}/exec", BODY)
        streams.far.close()
        kind, sentence = await client.frame()
        assert kind == PROBLEM
        assert b"manager that leads the swarm was lost" in sentence
        assert await client.frame() is None


async def test_half_closed_client_has_ended_its_input_and_gets_the_rest(api: Api):
    async with served(api) as (streams, path, connect):
        client = await connect()
        await client.ask(f"{path}/forward?port=80")
        client.send(INPUT, b"x")
        client.writer.write_eof()
        far = streams.far
        assert await far.receive() == StreamData(stream=0, data=b"x")
        assert await far.receive() == StreamEnd()
        await far.send(StreamData(stream=1, data=b"y"))
        await far.send(StreamExit())
        assert [await client.frame() for _ in range(2)] == [(STDOUT, b"y"), (EXIT, b"0")]


@pytest.mark.parametrize("is_stuck", [False, True])
async def test_client_that_leaves_closes_the_stream(api: Api, is_stuck: bool):
    """Also one whose input nobody reads."""
    async with served(api) as (streams, path, connect):
        client = await connect()
        await client.ask(f"{path}/exec", BODY)
        if is_stuck:
            for _ in range(100):
                client.send(INPUT, b"x" * 32_768)
            await asyncio.sleep(0.3)
        client.writer.transport.abort()
        async with asyncio.timeout(3):
            await streams.far.left()


@pytest.mark.parametrize(
    "garbage",
    [
        pack(STDOUT, b"x"),
        pack(EXIT),
        b"GET / HTTP/1.1\r\n\r\n",
        pack(RESIZE, b"x"),
        b"\0" * 4 + b"\xff" * 4,
    ],
)
async def test_what_a_client_may_not_send_ends_the_stream_with_a_sentence(api: Api, garbage):
    async with served(api) as (streams, path, connect):
        client = await connect()
        await client.ask(f"{path}/exec", BODY)
        client.writer.write(garbage)
        kind, sentence = await client.frame()
        assert (kind, b"The client sent" in sentence) == (PROBLEM, True)
        async with asyncio.timeout(3):
            await streams.far.left()


async def test_refusals_are_answers_as_to_any_other_request(api: Api):
    async with served(api) as (streams, path, connect):
        for refused, body, status, words in (
            (f"{path}/exec", {"Cmd": "sh"}, 400, "Cmd"),
            (f"{path}/exec", {**BODY, "ConsoleSize": [1]}, 400, "ConsoleSize"),
            (f"{path}/exec", {**BODY, "ConsoleSize": [-1, 1]}, 400, "ConsoleSize"),
            (f"{path}/forward", None, 400, "invalid port ''"),
            (f"{path}/forward?port=65536", None, 400, "invalid port '65536'"),
            ("/swarmlet/v1/tasks/nix/exec", BODY, 404, "task nix not found"),
        ):
            answer = await (await connect()).ask(refused, body)
            assert answer[0] == status, answer
            assert words in answer[1]
        assert streams.asks == []
        for refusal, status in (
            (FailedPreconditionError("It does not run."), 400),
            (UnavailableError("Node w1 is not connected."), 503),
            (OutcomeUnknownError("Nobody knows."), 503),
        ):
            streams.refusals = [refusal]
            assert await (await connect()).ask(f"{path}/exec", BODY) == (status, refusal.message)
        assert len(streams.asks) == 3


async def test_stream_is_asked_for_again_while_nobody_leads_and_never_where_it_may_have_begun(
    api: Api,
):
    async with served(api) as (streams, path, connect):
        streams.refusals = [NotLeaderError("Not me."), NotLeaderError("Nor me.")]
        assert (await (await connect()).ask(f"{path}/exec", BODY))[0] == 101
        assert len(streams.asks) == 3
