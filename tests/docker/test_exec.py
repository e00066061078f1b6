"""Programs in containers, and connections to their ports, with a real engine."""

import asyncio
import logging
import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker import access, killing
from tests.docker.world import begin, host, lines, shell
from tests.runtime.exec_cases import Stage, every_case
from tests.runtime.process_world import MARK, processes_with

pytestmark = [pytest.mark.docker_engine, pytest.mark.timeout(120)]


@pytest.fixture
def own() -> str:
    """A task id of this test alone: tests beside it use the same engine."""
    return f"x{os.urandom(5).hex()}"


@pytest.fixture
async def stage(runtime, own) -> Stage:
    async def another(script: str) -> TaskID:
        await begin(runtime, shell(f"{own}b", script))
        return TaskID(f"{own}b")

    await begin(runtime, shell(own, "exec sleep 1000", env=["KEY=task"]))
    return Stage(runtime, TaskID(own), another)


@every_case
async def test_program_in_a_container(case, stage):
    await case(stage)


async def test_user_is_the_images_or_the_one_that_is_named(stage):
    assert (await stage.run("id -u")).out == b"0\n"
    assert (await stage.run("id -u", user="nobody")).out == b"65534\n"
    with pytest.raises(RuntimeProblemError, match="nosuch"):
        await stage.open("id", user="nosuch")


async def test_paused_container_takes_no_program_in_the_engines_words(stage, engine):
    container = (await stage.runtime.list_tasks())[0].started.container_id
    engine("POST", f"/containers/{container}/pause")
    try:
        with pytest.raises(RuntimeProblemError, match="paused"):
            await stage.open("true")
    finally:
        engine("POST", f"/containers/{container}/unpause")


async def test_program_that_cannot_be_killed_is_told_in_the_log(stage, monkeypatch, caplog):
    monkeypatch.setattr(killing, "_is_in", lambda pid, container_id: False)
    program = await stage.open("/bin/sleep", f"{MARK}.4")
    with caplog.at_level(logging.WARNING, "swarmlet.runtime"):
        await program.close()
    (record,) = [one for one in caplog.records if one.message == "exec.not_killed"]
    assert "not to be seen from here" in record.problem
    assert processes_with(f"sleep\0{MARK}.4") != []


async def test_process_of_no_container_is_never_signalled():
    with subprocess.Popen(["sleep", f"{MARK}.5"]) as stranger:  # noqa: ASYNC220 - it only lives
        problem = killing.signal_program(stranger.pid, "a" * 64, killing.KILL)
        assert "not to be seen" in problem
        assert stranger.poll() is None
        stranger.kill()
    assert killing.signal_program(stranger.pid, "a" * 64, killing.KILL) == ""


DIAL = """
import asyncio, sys
from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import RuntimeProblemError
from tests.docker.world import at_work, open_runtime

async def main():
    async with at_work(open_runtime(sys.argv[1], sys.argv[2])) as runtime:
        try:
            connection = await runtime.dial(TaskID(sys.argv[4]), int(sys.argv[3]))
        except RuntimeProblemError as problem:
            print(problem.message)
            return
        await connection.write(b"hello")
        await connection.end_input()
        seen = b""
        while part := await connection.read():
            seen += part
        await connection.close()
        print(seen.decode())

asyncio.run(main())
"""


async def dial(engine_id: str, port: int, task_id: str) -> str:
    """From within the network that the engine's host is in the tests."""
    folder = host().removeprefix("unix://").removesuffix("/docker.sock")
    namespace = f"--net=/run/netns/{os.path.basename(folder)}"
    words = (sys.executable, "-c", DIAL, host(), engine_id, str(port), task_id)
    process = await asyncio.create_subprocess_exec(
        *("nsenter", namespace, *words),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    async with asyncio.timeout(60):
        return (await process.communicate())[0].decode().strip()


SERVE = "echo up; while :; do nc -l -p 80 -e /bin/cat; done"


async def up(runtime, task_id: str) -> None:
    """When it has said that it is, and a little later, when it listens."""
    async with asyncio.timeout(20):
        while not await lines(runtime, task_id):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)


async def test_port_of_a_container_is_reached_by_its_address(runtime, engine_id, own):
    await begin(runtime, shell(own, SERVE))
    await up(runtime, own)
    assert await dial(engine_id, 80, own) == "hello"
    assert "cannot be reached from its node" in await dial(engine_id, 81, own)


async def test_port_of_a_container_on_the_hosts_network_is_the_hosts(runtime, engine_id, own):
    task = replace(shell(own, SERVE.replace("80", "8081")), network_mode="host")
    await begin(runtime, task)
    await up(runtime, own)
    assert await dial(engine_id, 8081, own) == "hello"
    assert "Nothing listens on port 8082" in await dial(engine_id, 8082, own)


async def test_container_without_an_address_cannot_be_reached(runtime, own):
    await begin(runtime, replace(shell(own, "sleep 100"), network_mode="none"))
    with pytest.raises(RuntimeProblemError, match="no address of its own"):
        await runtime.dial(TaskID(own), 80)


async def test_container_of_an_engine_elsewhere_cannot_be_reached(runtime, own, monkeypatch):
    await begin(runtime, shell(own, "sleep 100"))
    monkeypatch.setattr(access, "_HERE", ("tcp://",))
    with pytest.raises(RuntimeProblemError, match="is on another host"):
        await runtime.dial(TaskID(own), 80)
