"""Long lists: in order, in turns, and sent on as they are printed."""

import asyncio
import json

import pytest

from swarmlet.api.call import Route
from swarmlet.api.listing import PIECE_B, SORTED_ROWS, in_order, reply_list, stream_list
from swarmlet.model.change import Create, Update
from swarmlet.model.node import NodeSpec
from tests.api.hijack_stub import served
from tests.api.world import NODE_ID
from tests.reconcile.world import replace


@pytest.mark.parametrize("count", [0, 1, SORTED_ROWS, 3 * SORTED_ROWS + 7])
def test_rows_come_in_order(count):
    names = [f"{n * 7919 % 100_003:06}" for n in range(count)]

    async def story():
        return list(await in_order(iter(names), key=str))

    assert asyncio.run(story()) == sorted(names)


def test_others_have_their_turns_while_a_list_is_printed():
    turns = 0

    async def other():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def story():
        asyncio.get_running_loop().time = iter(range(10**6)).__next__  # a turn is over at each look
        beside = asyncio.create_task(other())
        rows = await in_order((str(n) for n in range(100)), key=str)
        assert turns > 90
        answer = await reply_list({"n": row} if row != "50" else None for row in rows)
        assert turns > 180
        beside.cancel()
        return json.loads(answer.body)

    found = asyncio.run(story())
    assert [row["n"] for row in found] == sorted(str(n) for n in range(100) if n != 50)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_list_is_the_same_in_one_or_in_pieces(count):
    """A row is a third of a piece."""
    rows = [{"number": n, "text": "x" * (PIECE_B // 3)} for n in range(count)]

    async def long(call):
        return await stream_list(call, iter(rows))

    async def whole(call):
        return await reply_list(iter(rows))

    async def ask(path, name):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"GET /{name} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head, body

    async def story():
        async with served([Route("GET", "/long", long), Route("GET", "/whole", whole)]) as (
            path,
            _,
        ):
            return await ask(path, "long"), await ask(path, "whole")

    (head, body), (head_whole, expected) = asyncio.run(story())
    assert json.loads(expected) == rows
    assert f"Content-Length: {len(expected)}".encode() in head_whole
    is_streamed = b"Transfer-Encoding: chunked" in head
    assert is_streamed == (count > 3)
    assert b"Content-Type: application/json\r\n" in head
    assert (unchunked(body) if is_streamed else body) == expected


def unchunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        whole, data = whole + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return whole


async def test_list_shows_one_moment_whatever_is_written_while_it_is_printed(api, monkeypatch):
    service_id = await api.service()
    for slot in range(1, 4):
        await api.world.add_task(service_id, slot=slot)
    node = api.world.store.view().nodes.get(NODE_ID)

    async def write_meanwhile(_turn):
        if not hasattr(write_meanwhile, "is_done"):
            write_meanwhile.is_done = True
            labels = replace(node.spec, labels={"new": "yes"})
            await api.world.commit(
                Update(obj=replace(node, spec=labels), seen=node.version),
                Create(obj=replace(node, id="z" * 25, spec=NodeSpec(), manager=None)),
            )

    monkeypatch.setattr("swarmlet.api.listing._Turn.may_end", write_meanwhile)
    _, nodes = await api("GET", "/nodes")
    assert [(row["ID"], row["Spec"]["Labels"]) for row in nodes] == [(NODE_ID, {})]
    monkeypatch.undo()
    _, nodes = await api("GET", "/nodes")
    assert len(nodes) == 2
    _, tasks = await api("GET", "/tasks")
    assert [row["Slot"] for row in sorted(tasks, key=lambda row: row["Slot"])] == [1, 2, 3]
    _, services = await api("GET", "/services?status=true")
    assert services[0]["ServiceStatus"]["RunningTasks"] == 3


async def test_nobody_holds_a_view_while_a_client_takes_its_time(api, monkeypatch):
    service_id = await api.service()
    for slot in range(1, 9):
        await api.world.add_task(service_id, slot=slot)
    held = []

    async def write(out, data):
        held.append(api.world.store.gauges().views_held)
        await out.write(data)

    monkeypatch.setattr("swarmlet.api.listing.PIECE_B", 100)
    monkeypatch.setattr("swarmlet.api.listing._write", write)
    status, tasks = await api("GET", "/tasks")
    assert (status, len(tasks), held) == (200, 8, [0] * 8)


@pytest.mark.parametrize("problem", [ValueError("a bug"), ConnectionResetError("left")])
def test_list_that_breaks_off_is_cut_off(problem, caplog):
    """No second head, and no proper end."""

    def broken():
        yield "x" * PIECE_B
        yield "y" * PIECE_B
        raise problem

    async def story():
        async def long(call):
            return await stream_list(call, broken())

        async with served([Route("GET", "/long", long)]) as (path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /long HTTP/1.1\r\nHost: d\r\n\r\n")
            data = await reader.read()
            writer.close()
            return data

    data = asyncio.run(story())
    assert data.count(b"HTTP/1.1") == 1
    assert not data.endswith(b"0\r\n\r\n")
    assert ("api.list_failed" in caplog.messages) == isinstance(problem, ValueError)


def test_client_that_reads_no_more_is_left(monkeypatch):
    monkeypatch.setattr("swarmlet.api.listing.STALL_TIMEOUT_S", 0.2)
    made = 0

    def rows():
        nonlocal made
        while made < 1_000:
            made += 1
            yield "x" * PIECE_B

    async def story():
        async def long(call):
            return await stream_list(call, rows())

        async with served([Route("GET", "/long", long)]) as (path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /long HTTP/1.1\r\nHost: d\r\n\r\n")
            await reader.read(100)
            await asyncio.sleep(1)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(900 * PIECE_B)
            writer.close()

    asyncio.run(story())
    assert made < 900
