"""A container's life as a task's: from its image to its removal."""

import asyncio

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.model.container import HealthConfig, Mount
from swarmlet.runtime.base import UNHEALTHY, RuntimeProblemError
from tests.docker.engine import IMAGE
from tests.docker.world import at_work, begin, host, open_runtime, shell, until

pytestmark = pytest.mark.docker_engine

SECOND_NS = 1_000_000_000


async def test_task_runs_and_ends_with_its_exit_code(runtime):
    task = shell("a1", "sleep 0.3; exit 7")
    started = await begin(runtime, task)
    assert len(started.container_id) == 64
    assert started.pid > 0
    assert await runtime.healthy(task) is None
    end = await runtime.wait(task.id)
    assert (end.exit_code, end.problem, end.was_oom) == (7, "", False)
    assert end.at_ms > 0


async def test_every_verb_repeated_is_success(runtime):
    task = shell("b1", "sleep 60")
    first = await begin(runtime, task)
    assert await begin(runtime, task) == first
    end = await runtime.stop(task.id, "SIGTERM", 0)
    assert end.exit_code == 137
    assert await runtime.stop(task.id, "SIGTERM", 0) == end
    await runtime.remove(task.id)
    await runtime.remove(task.id)
    assert await runtime.list_tasks() == []


async def test_task_that_ended_is_never_run_again(runtime, engine, engine_id):
    task = shell("c1", "echo once")
    await begin(runtime, task)
    end = await runtime.wait(task.id)
    again = await runtime.start(task)
    assert again.pid == 0
    assert await runtime.wait(task.id) == end
    state = engine("GET", f"/containers/{again.container_id}/json")["State"]
    assert state["Status"] == "exited"
    async with at_work(open_runtime(host(), engine_id)) as next_life:
        await next_life.prepare(task)
        await next_life.start(task)
        assert await next_life.wait(task.id) == end


async def test_stop_lets_the_task_end_by_its_signal_within_the_grace(runtime):
    task = shell("d1", "trap 'exit 5' USR1; while :; do sleep 0.05; done", stop_signal="SIGUSR1")
    await begin(runtime, task)
    await asyncio.sleep(0.3)
    assert (await runtime.stop(task.id, "SIGUSR1", 10)).exit_code == 5


async def test_stop_kills_after_the_grace(runtime):
    task = shell("e1", "trap '' TERM; while :; do sleep 0.1; done")
    await begin(runtime, task)
    await asyncio.sleep(0.2)
    assert (await runtime.stop(task.id, "SIGTERM", 0.4)).exit_code == 137


async def test_stop_of_what_never_started_says_so(runtime):
    assert (await runtime.stop(TaskID("none"), "SIGTERM", 1)).problem
    task = shell("f1", "sleep 60")
    await runtime.prepare(task)
    assert (await runtime.stop(task.id, "SIGTERM", 1)).problem
    with pytest.raises(RuntimeProblemError, match="not started here"):
        await runtime.wait(TaskID("none"))


async def test_memory_over_the_limit_is_told_as_such(runtime):
    task = shell("g1", "head -c 200m /dev/zero | tail", memory_b=16 * 1024 * 1024)
    await begin(runtime, task)
    end = await runtime.wait(task.id)
    assert end.exit_code != 0
    assert end.was_oom


async def test_kill_from_outside_ends_the_wait(runtime, engine):
    task = shell("h1", "sleep 60")
    started = await begin(runtime, task)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(runtime.wait(task.id))
        await asyncio.sleep(0.2)
        engine("POST", f"/containers/{started.container_id}/kill")
    assert waiting.result().exit_code == 137


async def test_removal_from_outside_ends_the_wait_with_the_reason(runtime, engine):
    task = shell("i1", "sleep 60")
    started = await begin(runtime, task)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(runtime.wait(task.id))
        await asyncio.sleep(0.2)
        engine("DELETE", f"/containers/{started.container_id}?force=1")
    end = waiting.result()
    assert end.exit_code == 137
    if end.problem:  # the die event may be looked at before the container is gone
        assert end.problem == "container destroyed"
    await runtime.remove(task.id)


@pytest.mark.parametrize("verb", ["restart?t=0", "start"])
async def test_container_that_is_started_again_from_outside_is_stopped(
    runtime, engine, engine_id, verb
):
    task = shell("i2", "sleep 60")
    path = f"/containers/{(await begin(runtime, task)).container_id}"
    if verb == "start":
        engine("POST", f"{path}/kill")
        await runtime.wait(task.id)
    await asyncio.to_thread(engine, "POST", f"{path}/{verb}")
    await until(lambda: engine("GET", f"{path}/json")["State"]["Status"] == "exited")
    assert (await runtime.wait(task.id)).exit_code == 137
    async with at_work(open_runtime(host(), engine_id)) as next_life:
        assert (await next_life.list_tasks())[0].exit is not None
        await until(lambda: next_life.describe().engine_version != "")
        await asyncio.to_thread(engine, "POST", f"{path}/start")
        await until(lambda: engine("GET", f"{path}/json")["State"]["Status"] == "exited")


async def test_healthy_returns_once_the_check_passes(runtime):
    check = HealthConfig(test=["CMD-SHELL", "test -e /tmp/up"], interval=SECOND_NS // 5, retries=50)
    task = shell("j1", "sleep 1; touch /tmp/up; sleep 60", healthcheck=check)
    await begin(runtime, task)
    async with asyncio.timeout(20):
        assert await runtime.healthy(task) is None


async def test_unhealthy_task_fails_both_before_and_after_it_was_healthy(runtime):
    check = HealthConfig(test=["CMD-SHELL", "test -e /tmp/up"], interval=SECOND_NS // 5, retries=2)
    never = shell("k1", "sleep 60", healthcheck=check)
    await begin(runtime, never)
    with pytest.raises(RuntimeProblemError, match=UNHEALTHY):
        await runtime.healthy(never)
    once = shell("k2", "touch /tmp/up; sleep 2; rm /tmp/up; sleep 60", healthcheck=check)
    await begin(runtime, once)
    assert await runtime.healthy(once) is None
    with pytest.raises(RuntimeProblemError, match=UNHEALTHY):
        await runtime.wait(once.id)


async def test_end_before_health_is_told(runtime):
    check = HealthConfig(test=["CMD", "false"], interval=60 * SECOND_NS)
    task = shell("l1", "sleep 0.3; exit 3", healthcheck=check)
    await begin(runtime, task)
    end = await runtime.healthy(task)
    assert end is not None
    assert end.exit_code == 3


async def test_host_port_is_given_and_told(runtime):
    task = shell("m1", "sleep 60", ports=(("tcp", 80, 0), ("tcp", 81, 18081)))
    first, second = (await begin(runtime, task)).ports
    assert first.published_port > 0
    assert (first.target_port, first.publish_mode) == (80, "host")
    assert (second.target_port, second.published_port) == (81, 18081)


async def test_next_life_adopts_what_runs_and_what_ended(runtime, engine_id):
    runs, over, made = shell("n1", "sleep 60"), shell("n2", "exit 4"), shell("n3", "sleep 60")
    first = await begin(runtime, runs)
    await begin(runtime, over)
    await runtime.prepare(made)
    await runtime.wait(over.id)
    async with at_work(open_runtime(host(), engine_id)) as next_life:
        found = {task.task_id: task for task in await next_life.list_tasks()}
        assert found["n1"].started == first
        assert found["n1"].exit is None
        assert found["n2"].exit.exit_code == 4
        assert (found["n3"].started, found["n3"].exit) == (None, None)
        assert (await next_life.stop(runs.id, "SIGTERM", 0)).exit_code == 137


async def test_containers_of_others_are_left_alone(runtime, engine_id):
    other = open_runtime(host(), f"{engine_id}-other")
    async with at_work(other):
        task = shell("o1", "sleep 60")
        await begin(other, task)
        assert await runtime.list_tasks() == []
        await runtime.remove(task.id)
        assert [one.task_id for one in await other.list_tasks()] == ["o1"]
        await other.remove(task.id)


async def test_interrupted_create_leaves_no_container(runtime, engine, engine_id):
    for delay_s in (0.0, 0.002, 0.01, 0.03):
        task = shell(f"p{int(delay_s * 1000)}", "sleep 60")
        async with asyncio.TaskGroup() as group:
            making = group.create_task(begin(runtime, task))
            await asyncio.sleep(delay_s)
            making.cancel()
        await runtime.remove(task.id)
    await asyncio.sleep(0.3)
    assert engine.containers(engine_id) == []


async def test_engine_is_described(runtime):
    await until(lambda: runtime.describe().engine_version != "")
    said = runtime.describe()
    assert (said.name, said.os, said.architecture) == ("docker", "linux", "x86_64")
    assert said.resources.memory_bytes > 0
    assert {"cpu", "memory", "pids"} <= set(said.limits)  # swap only where the kernel counts it
    assert {("Volume", "local"), ("Network", "bridge"), ("Log", "json-file")} <= set(said.plugins)
    assert runtime.condition.problem == ""


# --- what cannot be done -----------------------------------------------------------------------


async def refused(runtime, task, words):
    with pytest.raises(RuntimeProblemError, match=words) as caught:
        await begin(runtime, task)
    assert type(caught.value).code != "runtime-temporary"
    await runtime.remove(task.id)


async def test_missing_image_is_told_in_dockers_words(runtime, engine, engine_id):
    task = shell("q1", "true", image="127.0.0.1:1/nope:1")
    await refused(runtime, task, "^No such image: 127.0.0.1:1/nope:1")
    assert engine.containers(engine_id) == []


async def test_bind_source_that_is_not_there_is_refused(runtime):
    mounts = [Mount(type="bind", source="/not/there", target="/data")]
    await refused(runtime, shell("r1", "true", mounts=mounts), "bind source path does not exist")


async def test_port_that_is_taken_is_refused(runtime):
    await begin(runtime, shell("s1", "sleep 60", ports=(("tcp", 80, 18080),)))
    task = shell("s2", "sleep 60", ports=(("tcp", 80, 18080),))
    await refused(runtime, task, "starting container failed: .*port is already allocated")


async def test_name_of_a_stranger_is_refused_and_the_stranger_kept(runtime, engine):
    made = engine("POST", "/containers/create?name=taken", {"Image": IMAGE, "Cmd": ["true"]})
    try:
        words = 'The container name "/taken" is already in use'
        await refused(runtime, shell("t1", "true", name="taken"), words)
        assert engine("GET", f"/containers/{made['Id']}/json")["Name"] == "/taken"
    finally:
        engine("DELETE", f"/containers/{made['Id']}?force=1")


async def test_entrypoint_that_is_not_there_is_refused(runtime):
    task = shell("u1", "true", command=["/not/there"])
    await refused(runtime, task, "starting container failed: .*no such file or directory")
