"""An engine that dies, restarts, stops answering, or loses a connection in the middle of a call."""

import asyncio

import pytest

from swarmlet.runtime.base import TemporaryProblemError
from swarmlet.runtime.docker import events
from swarmlet.runtime.docker.client import probe
from swarmlet.runtime.docker.create import create_body
from tests.docker.engine import missing, running_engine
from tests.docker.proxy import proxied
from tests.docker.world import (
    WHY_SKIPPED,
    Api,
    at_work,
    begin,
    host,
    open_runtime,
    shell,
    until,
)

pytestmark = pytest.mark.docker_engine


@pytest.fixture
async def proxy(tmp_path, engine):
    async with proxied(tmp_path, host().removeprefix("unix://")) as proxy:
        yield proxy


@pytest.fixture
async def by_proxy(proxy, engine, engine_id):
    """A runtime that speaks to the engine through `proxy`."""
    async with at_work(open_runtime(proxy.host, engine_id)) as runtime:
        await until(lambda: runtime.describe().engine_version != "")
        yield runtime
    async with at_work(open_runtime(host(), engine_id)) as direct:
        for task in await direct.list_tasks():
            await direct.remove(task.task_id)
    assert engine.containers(engine_id) == []


async def stubbornly(verb):
    """Tried again as a node's agent does."""
    for _ in range(100):
        try:
            return await verb()
        except TemporaryProblemError:
            await asyncio.sleep(0.05)
    return await verb()


@pytest.mark.parametrize("request_line", [b"/containers/create", b"/start", b"/json"])
async def test_connection_lost_in_a_call_runs_the_task_once(
    by_proxy, proxy, engine, engine_id, request_line
):
    task = shell("xa", "echo once; sleep 60")
    proxy.cut_at = request_line
    await stubbornly(lambda: by_proxy.prepare(task))
    started = await stubbornly(lambda: by_proxy.start(task))
    assert proxy.cuts == 1
    assert [one["Id"] for one in engine.containers(engine_id)] == [started.container_id]
    await by_proxy.remove(task.id)


async def test_create_lost_with_the_connection_leaves_nothing_when_removed(
    by_proxy, proxy, engine, engine_id
):
    task = shell("xb", "sleep 60")
    proxy.cut_at = b"/containers/create"
    with pytest.raises(TemporaryProblemError, match="the connection broke off"):
        await by_proxy.prepare(task)
    await stubbornly(lambda: by_proxy.remove(task.id))
    await asyncio.sleep(1.5)  # for the engine to make of the lost request what it will
    await until(lambda: engine.containers(engine_id) == [])


async def test_container_that_comes_to_be_after_its_tasks_removal_is_removed(
    by_proxy, proxy, engine, engine_id
):
    task = shell("xe", "sleep 60")
    proxy.drop_at = b"/containers/create"
    with pytest.raises(TemporaryProblemError):
        await by_proxy.prepare(task)
    await stubbornly(lambda: by_proxy.remove(task.id))
    assert proxy.cuts == 1
    body = create_body(task, engine_id=engine_id, api_version="1.41")
    for _ in range(2):  # the lost request is carried out after all, and another one before it
        engine("POST", f"/containers/create?name={task.task_name}", body)
        await until(lambda: engine.containers(engine_id) == [])


async def test_socket_that_vanishes_is_the_condition_and_heals(by_proxy, proxy, engine):
    task = shell("xc", "sleep 60")
    started = await begin(by_proxy, task)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(by_proxy.wait(task.id))
        await asyncio.sleep(0.1)
        await proxy.stop()
        await until(lambda: by_proxy.condition.problem != "")
        assert by_proxy.condition.problem == (
            f"The Docker Engine at {proxy.host} does not answer: no such file or directory."
        )
        with pytest.raises(TemporaryProblemError):
            await by_proxy.stop(task.id, "SIGTERM", 1)
        engine("POST", f"/containers/{started.container_id}/kill")
        assert not waiting.done()
        await proxy.start()
        assert (await waiting).exit_code == 137
    await until(lambda: by_proxy.condition.problem == "")


async def test_silent_engine_is_the_condition_and_heals(by_proxy, proxy, monkeypatch):
    monkeypatch.setattr(events, "PING_PERIOD_S", 0.2)
    monkeypatch.setattr(events, "PING_TIMEOUT_S", 0.5)
    await begin(by_proxy, shell("xd", "sleep 60"))  # whose events end the first, long period
    proxy.speaks.clear()
    await until(lambda: "nothing came within 0.5 s" in by_proxy.condition.problem)
    proxy.speaks.set()
    await until(lambda: by_proxy.condition.problem == "", wait_s=40)


@pytest.mark.timeout(180)
async def test_engine_killed_and_stopped_in_mid_wait_ends_tasks_once(engine_id):
    if missing() or not host():
        pytest.skip(missing() or WHY_SKIPPED)
    with running_engine() as own:
        async with at_work(open_runtime(own.host, engine_id)) as runtime:
            for end_it in (own.kill, own.stop):
                await lose(own, end_it, runtime)
        assert Api(own.host).containers(engine_id) == []


async def lose(own, end_it, runtime):
    task = shell(f"y{end_it.__name__}", "sleep 600", stop_grace_period=1_000_000_000)
    ended = shell(f"z{end_it.__name__}", "exit 3")
    await begin(runtime, task)
    await begin(runtime, ended)
    assert (await runtime.wait(ended.id)).exit_code == 3
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(runtime.wait(task.id))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(end_it)
        await until(lambda: "does not answer" in runtime.condition.problem)
        with pytest.raises(TemporaryProblemError):
            await runtime.list_tasks()
        assert await probe(own.host) != ""
        await asyncio.to_thread(own.start)
        end = await waiting
    assert end.exit_code != 0
    await until(lambda: runtime.condition.problem == "")
    assert await probe(own.host) == ""
    assert (await runtime.start(task)).pid == 0  # it ran once
    assert {one.task_id: one.exit.exit_code for one in await runtime.list_tasks()} == {
        task.id: end.exit_code,
        ended.id: 3,
    }
    await runtime.remove(task.id)
    await runtime.remove(ended.id)
