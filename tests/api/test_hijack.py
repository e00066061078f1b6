"""A connection taken over: heads, half-close, back-pressure, and how it ends, on both loops."""

import asyncio
import functools
import logging
from contextlib import suppress
from types import SimpleNamespace

import pytest
import uvloop
from aiohttp import web_protocol
from aiohttp.http_parser import HttpRequestParserPy

from swarmlet.api.call import Route, reply_error
from swarmlet.api.hijack import hijack
from swarmlet.core.errors import UnavailableError
from tests.api.hijack_stub import served

BIG_B = 5_000_000
HELD_MAX_B = 1_500_000
"""What a peer that does not read may make both sides hold: buffers, and two sockets'."""


def on_both_loops(case):
    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(case)
    def test(run, caplog):
        async def main():
            async with asyncio.timeout(30):
                await case(Ground(caplog))

        caplog.set_level(logging.INFO)
        run(main())

    del test.__wrapped__  # pytest would take the arguments from there
    return test


class Ground:
    """A server whose one route does what the case says, and clients of it."""

    def __init__(self, caplog):
        self.caplog = caplog
        self.ends = []
        self.ended = asyncio.Event()

    def serving(self, serve, *, is_tty=True, before_s=0.0):
        async def noted(raw):
            try:
                await serve(raw)
                self.ends.append("done")
            except asyncio.CancelledError:
                self.ends.append("cancelled")
                raise
            except ConnectionError:
                self.ends.append("lost")
                raise
            finally:
                self.ended.set()

        async def handler(call):
            await asyncio.sleep(before_s)
            return await hijack(call, noted, is_tty=is_tty)

        return served([Route("POST", "/it", handler)])

    async def until_ended(self, *how):
        await self.ended.wait()
        assert self.ends[0] in how

    def problems(self):
        records = self.caplog.records
        return [record.message for record in records if record.levelno >= logging.WARNING]


def request(*headers, body=b"", version="", path="/it"):
    lines = [f"POST {version}{path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode() + body


UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")


async def ask(path, *headers, **more):
    """Returns the two sides of the connection and the answer's head."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request(*headers, **more))
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    return SimpleNamespace(reader=reader, writer=writer, first=head[0], headers=head[1:-2])


async def leave(client):
    client.writer.close()
    await client.writer.wait_closed()


async def echo(raw):
    while data := await raw.read():
        await raw.write(data)


@on_both_loops
async def test_upgrade_is_answered_with_dockers_head_and_the_outputs_type(ground):
    async with ground.serving(echo, is_tty=False) as (path, _):
        for version, kind in (("", "multiplexed"), ("/v1.42", "multiplexed"), ("/v1.41", "raw")):
            client = await ask(path, *UPGRADE, version=version)
            assert client.first == "HTTP/1.1 101 UPGRADED"
            assert {"Connection: Upgrade", "Upgrade: tcp"} < set(client.headers)
            assert f"Content-Type: application/vnd.docker.{kind}-stream" in client.headers
            assert "Api-Version: 1.52" in client.headers
            await leave(client)


@on_both_loops
async def test_without_upgrade_the_same_stream_comes_raw_behind_200(ground):
    async with ground.serving(echo, is_tty=False) as (path, _):
        client = await ask(path)
        assert client.first == "HTTP/1.1 200 OK"
        assert "Content-Type: application/vnd.docker.raw-stream" in client.headers
        named = {line.split(":")[0].lower() for line in client.headers}
        assert not named & {"content-length", "transfer-encoding", "upgrade", "connection"}
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")  # bytes like others
        assert await client.reader.readexactly(18) == b"GET / HTTP/1.1\r\n\r\n"
        client.writer.write_eof()
        assert await client.reader.read() == b""
        await leave(client)


@on_both_loops
async def test_body_of_the_request_is_not_input_and_what_follows_the_answer_is(ground):
    async with ground.serving(echo) as (path, _):
        client = await ask(path, *UPGRADE, "Content-Type: application/json", body=b'{"Tty":true}')
        client.writer.write(b"hello")
        client.writer.write_eof()
        assert await client.reader.read() == b"hello"
        await leave(client)


async def early_and_late(ground):
    """What the work reads of input that comes with the request's head, and behind the answer's."""
    async with ground.serving(echo) as (path, _):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request(*UPGRADE, body=b"{}") + b"early,")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"late")
        writer.write_eof()
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert ground.problems() == []
    return got


@on_both_loops
async def test_bytes_sent_with_the_head_are_whole_or_not_there(ground):
    assert await early_and_late(ground) in (b"early,late", b"late")


async def test_bytes_sent_with_the_head_are_input_where_the_parser_keeps_them(caplog, monkeypatch):
    monkeypatch.setattr(web_protocol, "HttpRequestParser", HttpRequestParserPy)
    assert await early_and_late(Ground(caplog)) == b"early,late"


@on_both_loops
async def test_bytes_sent_before_the_answer_do_no_harm_to_what_follows_it(ground):
    async with ground.serving(echo, before_s=0.2) as (path, _):
        reader, writer = await asyncio.open_unix_connection(path)
        for part in (request(*UPGRADE), b"hel", b"lo\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            writer.write(part)
            await asyncio.sleep(0.04)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"late")
        writer.write_eof()
        assert await reader.read() == b"late"
        writer.close()
        await writer.wait_closed()
    assert ground.problems() == []


@on_both_loops
async def test_client_that_half_closes_before_the_answer_is_gone(ground):
    async with ground.serving(echo) as (path, _):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request(*UPGRADE))
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert ground.ends in ([], ["cancelled"], ["done"])
    assert ground.problems() == []


@on_both_loops
async def test_output_goes_on_after_the_client_s_half_close(ground):
    async def count(raw):
        size = 0
        while data := await raw.read():
            size += len(data)
        await asyncio.sleep(0.7)  # longer than a look for clients that are gone takes
        await raw.write(b"%d bytes" % size)

    async with ground.serving(count) as (path, _):
        client = await ask(path, *UPGRADE)
        client.writer.write(b"x" * 100_000)
        client.writer.write_eof()
        assert await client.reader.read() == b"100000 bytes"
        await leave(client)
        await ground.until_ended("done")


@on_both_loops
async def test_slow_reader_makes_the_output_wait_and_gets_all_of_it(ground):
    written = 0

    async def pour(raw):
        nonlocal written
        while written < BIG_B:
            await raw.write(b"x" * 20_000)
            written += 20_000

    async with ground.serving(pour) as (path, _):
        client = await ask(path, *UPGRADE)
        await asyncio.sleep(0.8)
        assert written < HELD_MAX_B
        assert len(await client.reader.read(-1)) == BIG_B
        await leave(client)
        await ground.until_ended("done")


@on_both_loops
async def test_input_nobody_reads_makes_the_client_wait_and_none_is_lost(ground):
    may_read, sent = asyncio.Event(), 0

    async def late(raw):
        await may_read.wait()
        size = 0
        while data := await raw.read():
            size += len(data)
        await raw.write(b"%d" % size)

    async with ground.serving(late) as (path, _):
        client = await ask(path, *UPGRADE)

        async def send():
            nonlocal sent
            while sent < BIG_B:
                client.writer.write(b"y" * 20_000)
                await client.writer.drain()
                sent += 20_000
            client.writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            await asyncio.sleep(0.8)
            assert sent < HELD_MAX_B
            may_read.set()
            assert await client.reader.read() == b"%d" % BIG_B
        await leave(client)


@on_both_loops
async def test_five_megabytes_pass_both_ways_at_once(ground):
    async with ground.serving(echo) as (path, _):
        client = await ask(path, *UPGRADE)

        async def send():
            for _ in range(BIG_B // 50_000):
                client.writer.write(b"0123456789" * 5_000)
                await client.writer.drain()
            client.writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            got = await client.reader.read()
        assert got == b"0123456789" * (BIG_B // 10)
        await leave(client)


@on_both_loops
async def test_client_that_leaves_ends_a_silent_stream(ground):
    async with ground.serving(lambda _: asyncio.Event().wait()) as (path, _):
        await leave(await ask(path, *UPGRADE))
        await ground.until_ended("cancelled")
    assert ground.problems() == []


@on_both_loops
async def test_end_of_the_output_behind_the_client_s_is_a_lost_connection(ground):
    async def write_until_lost(raw):
        await raw.read()
        with suppress(ConnectionError):
            while True:
                await raw.write(b"more")
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the transport is closed, and not only closing
        await raw.finish()

    async with ground.serving(write_until_lost) as (path, _):
        await leave(await ask(path, *UPGRADE))
        await ground.until_ended("lost", "cancelled")
    assert ground.problems() == []


@on_both_loops
async def test_client_that_leaves_after_its_half_close_ends_a_silent_stream(ground):
    async def read_and_be_silent(raw):
        await echo(raw)
        await asyncio.Event().wait()

    async with ground.serving(read_and_be_silent) as (path, _):
        client = await ask(path, *UPGRADE)
        client.writer.write_eof()
        await asyncio.sleep(0.7)
        assert ground.ends == []
        await leave(client)
        await ground.until_ended("cancelled")


@on_both_loops
async def test_client_that_leaves_while_output_waits_for_it_ends_the_stream(ground):
    async def pour(raw):
        while True:
            await raw.write(b"x" * 20_000)

    async with ground.serving(pour) as (path, _):
        client = await ask(path, *UPGRADE)
        await asyncio.sleep(0.1)
        client.writer.transport.abort()
        await ground.until_ended("cancelled", "lost")
    assert ground.problems() == []


@on_both_loops
async def test_end_of_the_daemon_ends_streams_even_where_the_client_reads_nothing(ground):
    async def pour(raw):
        while True:
            await raw.write(b"x" * 20_000)

    loop = asyncio.get_running_loop()
    async with ground.serving(pour) as (path, _):
        client = await ask(path, *UPGRADE)
        await asyncio.sleep(0.1)
        start_s = loop.time()
    assert loop.time() - start_s < 1.5
    assert ground.ends == ["cancelled"]
    await leave(client)


@on_both_loops
async def test_end_of_the_daemon_does_not_wait_for_output_that_nobody_fetches(ground):
    async def leave_much(raw):
        raw._transport.set_write_buffer_limits(high=2 * BIG_B)
        await raw.write(b"x" * BIG_B)

    loop = asyncio.get_running_loop()
    async with ground.serving(leave_much) as (path, _):
        client = await ask(path, *UPGRADE)
        await ground.until_ended("done")
        await asyncio.sleep(0.7)  # the client is slow, not gone
        client.writer.write(b"x")
        await client.writer.drain()
        start_s = loop.time()
    assert loop.time() - start_s < 1.5
    assert len(await client.reader.read()) < BIG_B
    await leave(client)


@on_both_loops
async def test_end_of_the_output_comes_to_a_client_whose_input_was_not_read(ground):
    async with ground.serving(lambda raw: raw.write(b"enough")) as (path, _):
        client = await ask(path, *UPGRADE)
        client.writer.write(b"x" * 300_000)
        assert await client.reader.read() == b"enough"  # and no ConnectionResetError
        await leave(client)
        await ground.until_ended("done")


@on_both_loops
async def test_client_that_never_closes_is_left_after_the_end_of_the_output(ground):
    async with ground.serving(lambda raw: raw.write(b"all")) as (path, _):
        client = await ask(path, *UPGRADE)
        assert await client.reader.read() == b"all"
        await asyncio.sleep(1.5)
        client.writer.write(b"x")
        with pytest.raises(ConnectionError):
            await client.writer.wait_closed()


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (UnavailableError("process is gone"), b"process is gone"),
        (ExceptionGroup("", [UnavailableError("process is gone")]), b"process is gone"),
        (ZeroDivisionError("detail"), b"internal error: see the daemon's log"),
    ],
)
@pytest.mark.parametrize("is_tty", [False, True])
async def test_problem_behind_the_head_is_a_line_of_the_output(caplog, problem, sentence, is_tty):
    async def fail(raw):
        raise problem

    async with Ground(caplog).serving(fail, is_tty=is_tty) as (path, _):
        client = await ask(path, *UPGRADE)
        said = await client.reader.read()
        size = (len(sentence) + 1).to_bytes(4, "big")
        assert said == (sentence + b"\r\n" if is_tty else b"\3\0\0\0" + size + sentence + b"\n")
        await leave(client)


@on_both_loops
async def test_refusal_before_the_takeover_is_an_answer_like_any_other(ground):
    async def refuse(call):
        return reply_error("is not running", 409)

    async with served([Route("POST", "/it", refuse)]) as (path, _):
        client = await ask(path, *UPGRADE)
        assert client.first == "HTTP/1.1 409 Conflict"
        assert await client.reader.readline() == b'{"message":"is not running"}\n'
        client.writer.write(request())
        assert await client.reader.readline() == b"HTTP/1.1 409 Conflict\r\n"
        await leave(client)


@on_both_loops
async def test_thirty_streams_at_once_keep_to_themselves(ground):
    async with ground.serving(echo) as (path, _):

        async def one(number):
            client = await ask(path, *UPGRADE)
            client.writer.write(b"%d;" % number * 20_000)
            client.writer.write_eof()
            assert await client.reader.read() == b"%d;" % number * 20_000
            await leave(client)

        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(one(number))
    assert ground.ends == ["done"] * 30
    assert ground.problems() == []
