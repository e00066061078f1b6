"""The unmodified docker CLI against the API alone; tests/daemon drives a whole daemon with it."""

import asyncio
import json
import os
import shutil
import tempfile
from types import SimpleNamespace

import pytest

from swarmlet.api.app import build_app
from swarmlet.api.listener import serve_unix
from swarmlet.wire.messages import LogLine
from tests.api.world import NOW_MS, World

pytestmark = [
    pytest.mark.docker_cli,
    pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI on PATH"),
]


class Docker:
    def __init__(self, path: str, config: str) -> None:
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": config,
            "DOCKER_CONFIG": config,
            "DOCKER_HOST": f"unix://{path}",
        }

    async def __call__(self, *words, code=0, stdin=b""):
        process = await asyncio.create_subprocess_exec(
            "docker",
            *words,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(30):
            said, _ = await process.communicate(stdin)
        assert process.returncode == code, said.decode()
        return said.decode()


@pytest.fixture
def world():
    return World()


@pytest.fixture
async def docker(world):
    with tempfile.TemporaryDirectory(prefix="swd-", dir="/tmp") as directory:
        path = f"{directory}/s.sock"
        async with serve_unix(build_app(world), path):
            yield Docker(path, directory)


@pytest.fixture
async def swarm(docker):
    assert "is now a manager" in await docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    return docker


async def test_docker_info_and_version_of_a_node_in_no_swarm(docker):
    assert "API version:      1.52 (minimum version 1.24)" in await docker("version")
    said = await docker("info")
    assert "Swarm: inactive" in said
    assert "Operating System: Linux" in said
    assert "not a swarm manager" in await docker("node", "ls", code=1)


async def test_docker_drives_the_swarm_itself(swarm):
    assert "SWMTKN-1-" in await swarm("swarm", "join-token", "worker")
    assert "no unlock key is set" in await swarm("swarm", "unlock-key", code=1)
    await swarm("swarm", "update", "--task-history-limit", "3")
    assert "Task History Retention Limit: 3" in await swarm("info")
    assert "BEGIN CERTIFICATE" in await swarm("swarm", "ca")
    assert "`--force`" in await swarm("swarm", "leave", code=1)
    await swarm("swarm", "leave", "--force")
    assert "inactive" in await swarm("info", "--format", "{{.Swarm.LocalNodeState}}")


async def test_docker_node_verbs(swarm):
    assert "Leader" in await swarm("node", "ls")
    await swarm("node", "update", "--label-add", "zone=a", "box")
    (node,) = json.loads(await swarm("node", "inspect", "box"))
    assert node["Spec"]["Labels"] == {"zone": "a"}
    assert "Hostname" in await swarm("node", "inspect", "--pretty", "self")


async def test_docker_service_verbs(swarm, world):
    said = await swarm(
        "service", "create", "-d", "--name", "web", "--replicas", "2", "host", "sleep", "9"
    )
    service_id = said.splitlines()[-1]
    await world.add_task(service_id, slot=1)
    await world.add_task(service_id, slot=2)
    assert "2/2" in await swarm("service", "ls")
    assert (await swarm("service", "ps", "web")).count("Running") == 4  # two columns, two tasks
    assert "Replicas:\t2" in (await swarm("service", "inspect", "--pretty", "web")).replace(" ", "")
    await swarm("service", "scale", "-d", "web=3")
    assert "2/3" in await swarm("service", "ls")
    await swarm("service", "update", "-d", "--label-add", "a=b", "web")
    (found,) = json.loads(await swarm("service", "inspect", "web"))
    assert found["Spec"]["Labels"] == {"a": "b"}
    (untyped,) = json.loads(await swarm("inspect", "web"))
    assert untyped["ID"] == service_id
    await swarm("service", "rm", "web")
    assert "no such service" in await swarm("service", "ps", "web", code=1)


async def first_service(world):
    for _ in range(200):
        for service in world.store.view().services.all():
            return service.id
        await asyncio.sleep(0.05)
    raise AssertionError("no service was created in 10 s")


async def test_docker_service_create_waits_until_converged(swarm, world):
    async with asyncio.TaskGroup() as group:
        created = group.create_task(
            swarm(
                "service", "create", "--name", "web", "--update-monitor", "1s", "host", "sleep", "9"
            )
        )
        await world.add_task(await first_service(world))
    assert "converged" in created.result()


async def test_docker_service_logs(swarm, world):
    said = await swarm("service", "create", "-d", "--name", "web", "host", "sleep", "9")
    task = await world.add_task(said.splitlines()[-1])
    world.logs.lines = [LogLine(task.id, 1_000_000_000, 1, b"hello\n")]
    said = await swarm("service", "logs", "--no-trunc", "-t", "web")
    assert said.split() == ["1970-01-01T00:00:01.000000000Z", f"web.1.{task.id}@box", "|", "hello"]


@pytest.mark.parametrize("kind", ["config", "secret"])
async def test_docker_payload_verbs(swarm, kind):
    await swarm(kind, "create", "--label", "a=b", "one", "-", stdin=b"payload")
    assert "one" in await swarm(kind, "ls", "--filter", "name=on")
    (found,) = json.loads(await swarm(kind, "inspect", "one"))
    assert found["Spec"]["Labels"] == {"a": "b"}
    assert "already exists" in await swarm(kind, "create", "one", "-", stdin=b"x", code=1)
    await swarm(kind, "rm", "one")
    assert "not found" in await swarm(kind, "inspect", "one", code=1)


async def test_docker_network_ls_and_empty_lists(swarm):
    assert "ingress" in await swarm("network", "ls")
    assert "CONTAINER ID" in await swarm("ps")
    assert "DRIVER" in await swarm("volume", "ls")
    assert "RECLAIMABLE" in await swarm("system", "df")


async def test_docker_events_prints_what_happened(swarm, world):
    await swarm("config", "create", "one", "-", stdin=b"x")
    until = str(NOW_MS // 1000 + 1)
    world.events._clock = SimpleNamespace(wall_ms=lambda: NOW_MS + 2_000)
    said = await swarm("events", "--since", "1", "--until", until, "--filter", "type=config")
    (config,) = json.loads(await swarm("config", "inspect", "one"))
    assert said.endswith(f" config create {config['ID']} (name=one)\n")
