"""Log streams: frames, contexts, times, and what happens when one side leaves."""

import asyncio
import struct
import time

import pytest

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import TaskID
from swarmlet.wire.messages import LogLine

AT_NS = 1_767_323_045_678_000_001


def frames(raw):
    found = []
    while raw:
        number, length = struct.unpack(">BxxxI", raw[:8])
        found.append((number, raw[8 : 8 + length]))
        raw = raw[8 + length :]
    return found


@pytest.fixture
async def task(api):
    task = await api.world.add_task(await api.service("web"))
    api.world.logs.lines = [
        LogLine(task.id, AT_NS, 1, b"out\n"),
        LogLine(task.id, AT_NS + 1, 2, b"err\n"),
    ]
    return task


async def test_one_frame_a_line(api, task):
    async with api.client.get("/v1.42/services/web/logs?stdout=1&stderr=1") as response:
        assert response.content_type == "application/vnd.docker.multiplexed-stream"
        assert frames(await response.read()) == [(1, b"out\n"), (2, b"err\n")]


async def test_old_clients_are_told_of_a_raw_stream_but_get_frames(api, task):
    async with api.client.get(f"/v1.41/tasks/{task.id}/logs?stdout=1") as response:
        assert response.content_type == "application/vnd.docker.raw-stream"
        assert frames(await response.read())[0] == (1, b"out\n")


async def test_output_of_a_terminal_is_sent_as_it_is(api):
    service_id = await api.service("tty", TaskTemplate={
        "ContainerSpec": {"Image": "host", "TTY": True}})  # fmt: skip
    task = await api.world.add_task(service_id)
    api.world.logs.lines = [LogLine(task.id, AT_NS, 1, b"out\r\n")]
    for path in ("/services/tty", f"/tasks/{task.id}"):
        async with api.client.get(f"{path}/logs?stdout=1") as response:
            assert response.content_type == "application/vnd.docker.raw-stream"
            assert await response.read() == b"out\r\n"


async def test_details_and_times_stand_before_the_line(api, task):
    context = (
        f"com.docker.swarm.node.id={task.node_id},"
        f"com.docker.swarm.service.id={task.service_id},com.docker.swarm.task.id={task.id}"
    )
    async with api.client.get(
        "/services/web/logs?stdout=1&stderr=1&details=1&timestamps=1"
    ) as response:
        first, _ = frames(await response.read())
    assert first == (1, f"2026-01-02T03:04:05.678000001Z {context} out\n".encode())


async def test_task_that_came_later_has_its_context(api, task):
    newer = await api.world.add_task(task.service_id, slot=2)
    gone = TaskID("g" * 25)
    api.world.logs.lines = [LogLine(newer.id, AT_NS, 1, b"a\n"), LogLine(gone, AT_NS, 1, b"b\n")]
    async with api.client.get(f"/tasks/{task.id}/logs?stdout=1&details=1") as response:
        (_, first), (_, second) = frames(await response.read())
    assert f"node.id={newer.node_id},".encode() in first
    assert first.endswith(f"task.id={newer.id} a\n".encode())
    assert second.endswith(f"task.id={gone} b\n".encode())


async def test_options_reach_the_reader(api, task):
    path = "/services/web/logs?stdout=1&tail=3&since=1700000000.5&until=1700000001"
    assert (await api("GET", path))[0] == 200
    ((ids, services, options),) = api.world.logs.asked
    assert (ids, services) == ([task.id], [task.service_id])
    assert (options.follow, options.stdout, options.stderr) == (False, True, False)
    assert (options.tail, options.since_ns, options.until_ns) == (
        3,
        1_700_000_000_500_000_000,
        1_700_000_001_000_000_000,
    )


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "must specify at least one of 'stdout' or 'stderr'"),
        ("stdout=0&stderr=false", "must specify at least one"),
        ("stdout=1&tail=x", "invalid value for tail: x"),
        ("stdout=1&tail=-1", "invalid value for tail: -1"),
        ("stdout=1&since=yesterday", "invalid value for since: yesterday"),
        ("stdout=1&since=1.1234567890", "invalid value for since"),
    ],
)
async def test_bad_query_is_refused_before_the_stream_begins(api, task, query, text):
    status, answer = await api("GET", f"/services/web/logs?{query}")
    assert status == 400
    assert text in answer["message"]
    assert api.world.logs.asked == []


async def test_service_without_tasks_has_an_empty_log_and_is_waited_for_when_followed(api):
    service_id = await api.service("idle")
    async with api.client.get("/services/idle/logs?stdout=1") as response:
        assert (response.status, await response.read()) == (200, b"")
    async with api.client.get("/services/idle/logs?stdout=1&follow=1") as response:
        await until(lambda: api.world.logs.is_reading)
        response.close()
    assert [services for _, services, _ in api.world.logs.asked] == [[service_id]] * 2


async def test_log_of_one_task_is_of_no_other(api, task):
    assert (await api("GET", f"/tasks/{task.id}/logs?stdout=1"))[0] == 200
    ((ids, services, _),) = api.world.logs.asked
    assert (ids, services) == ([task.id], [])


async def test_missing_service_or_task_is_404(api):
    assert (await api("GET", "/services/nope/logs?stdout=1"))[0] == 404
    assert (await api("GET", "/tasks/nope/logs?stdout=1"))[0] == 404


async def test_problem_after_the_head_ends_the_stream_as_a_system_error(api, task):
    api.world.logs.lines.append(UnavailableError("node box does not answer"))
    async with api.client.get("/services/web/logs?stdout=1&stderr=1") as response:
        assert response.status == 200
        last = frames(await response.read())[-1]
    assert last == (3, b"Error grabbing logs: node box does not answer\n")


async def test_unexpected_exception_after_the_head_is_logged_and_ends_the_stream(api, task, caplog):
    api.world.logs.lines.append(ZeroDivisionError("detail"))
    async with api.client.get("/services/web/logs?stdout=1&stderr=1") as response:
        last = frames(await response.read())[-1]
    assert last == (3, b"Error grabbing logs: internal error: see the daemon's log\n")
    assert "api.stream_failed" in caplog.messages


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true in 5 s")


async def test_head_and_lines_leave_at_once_and_reading_stops_with_the_client(api, task):
    logs = api.world.logs
    async with api.client.get("/services/web/logs?stdout=1&stderr=1&follow=1") as response:
        assert response.status == 200
        assert await response.content.readexactly(12) == b"\x01\0\0\0\0\0\0\x04out\n"
        assert logs.is_reading
        response.close()
    await until(lambda: not logs.is_reading)


async def test_client_that_left_mid_flood_stops_the_reader(api, task):
    api.world.logs.lines = [LogLine(TaskID(task.id), AT_NS, 1, b"x" * 65_536)] * 500
    async with api.client.get("/services/web/logs?stdout=1&follow=1") as response:
        await response.content.readexactly(10)
        response.close()
    await until(lambda: not api.world.logs.is_reading)


async def test_streams_end_when_the_server_stops(api, task):
    async with api.client.get("/services/web/logs?stdout=1&stderr=1&follow=1") as response:
        await response.content.readexactly(24)
        began = time.monotonic()
        await api.client.server.close()
        assert await response.content.read() == b""
    assert time.monotonic() - began < 2
    assert not api.world.logs.is_reading
