"""Missing images: pulled once, with the credentials given, or refused in Docker's words."""

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from swarmlet.core.errors import SwarmError
from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError
from swarmlet.runtime.docker.pull import auth_headers, pull_query
from tests.docker.world import begin, host, shell, until

AUTH = base64.urlsafe_b64encode(b'{"username":"user","password":"secret"}').decode()


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("busybox", "busybox", "latest"),
        ("a/b:1", "a/b", "1"),
        ("reg:5000/a/b:1", "reg:5000/a/b", "1"),
        (f"a:1@sha256:{'0' * 64}", "a", f"sha256:{'0' * 64}"),
    ],
)
def test_one_tag_or_digest_is_pulled(image, name, tag):
    assert pull_query(image) == {"fromImage": name, "tag": tag}


def test_what_is_no_reference_or_no_credential_is_refused():
    with pytest.raises(RuntimeProblemError, match="64 hexadecimal digits"):
        pull_query("0" * 64)
    with pytest.raises(RuntimeProblemError, match="not base64"):
        auth_headers("abc\r\nEvil: 1")
    assert auth_headers("") == {}


class Registry:
    def __init__(self, port: int, log: Path) -> None:
        self.at, self._log = f"127.0.0.1:{port}", log

    def requests(self, what: str) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if what in line]


@pytest.fixture
def registry(engine, tmp_path):
    """Beside the engine, in its network, plain HTTP: engines allow that on loopback."""
    namespace = Path(host().removeprefix("unix://")).parent.name
    if not Path("/run/netns", namespace).exists():
        pytest.skip("the Docker Engine is not in a network of its own")
    log = tmp_path / "requests"
    log.touch()
    command = [sys.executable, "-m", "tests.docker.registry", str(log)]
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{namespace}", *command], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        found = Registry(int(process.stdout.readline()), log)
        yield found
        process.kill()
    for image in engine("GET", "/images/json"):
        for tag in image["RepoTags"] or ():
            if tag.startswith(found.at):
                engine("DELETE", f"/images/{tag}?force=1")


@pytest.mark.docker_engine
async def test_many_tasks_of_a_missing_image_pull_it_once_though_the_first_gives_up(
    runtime, registry
):
    image = f"{registry.at}/slow/one:1"
    tasks = [shell(f"pa{n}", "sleep 60", image=image, auth=AUTH) for n in range(12)]
    async with asyncio.TaskGroup() as group:
        first = group.create_task(begin(runtime, tasks[0]))
        await until(lambda: registry.requests("manifests") != [])
        rest = [group.create_task(runtime.prepare(task)) for task in tasks[1:]]
        await asyncio.sleep(0.2)
        first.cancel()
    assert all(one.done() for one in rest)
    assert len([line for line in registry.requests("/blobs/") if "GET" in line]) == 2
    again = shell("pb", "exit 2", image=image, auth=AUTH)
    before = registry.requests("")
    await begin(runtime, again)
    assert (await runtime.wait(again.id)).exit_code == 2
    assert registry.requests("") == before  # what is there is not pulled


@pytest.mark.docker_engine
async def test_pull_nobody_waits_for_is_given_up(runtime, registry, engine):
    image = f"{registry.at}/slow/two:1"
    async with asyncio.TaskGroup() as group:
        only = group.create_task(runtime.prepare(shell("pc", "true", image=image, auth=AUTH)))
        await until(lambda: registry.requests("manifests") != [])
        only.cancel()
    await asyncio.sleep(1.5)
    assert [i for i in engine("GET", "/images/json") if image in (i["RepoTags"] or ())] == []


@pytest.mark.docker_engine
async def test_private_image_is_pulled_with_the_credentials_of_the_service(runtime, registry):
    image = f"{registry.at}/private/one:1"
    with pytest.raises(RuntimeProblemError, match=f"^No such image: {image}: .*no basic auth"):
        await begin(runtime, shell("pd", "true", image=image))
    task = shell("pe", "exit 0", image=image, auth=AUTH)
    await begin(runtime, task)
    assert (await runtime.wait(task.id)).exit_code == 0


@pytest.mark.docker_engine
@pytest.mark.parametrize(
    ("name", "words"),
    [("forbidden/a:1", "not for you|denied"), ("unknown/a:1", "name unknown|not known")],
)
async def test_registry_that_refuses_is_the_tasks_error(
    runtime, registry, engine, engine_id, name, words
):
    image = f"{registry.at}/{name}"
    with pytest.raises(RuntimeProblemError, match=f"^No such image: {image}: .*({words})") as error:
        await begin(runtime, shell("pf", "true", image=image, auth=AUTH))
    assert not isinstance(error.value, TemporaryProblemError)
    assert engine.containers(engine_id) == []


@pytest.mark.docker_engine
async def test_distribution_is_passed_through_with_status_and_words(runtime, registry):
    said = json.loads(await runtime.distribution(f"{registry.at}/open/one:1", AUTH))
    assert said["Descriptor"]["digest"].startswith("sha256:")
    with pytest.raises(SwarmError) as error:
        await runtime.distribution(f"{registry.at}/private/one:1", "")
    assert error.value.http_status in (401, 403, 500)
    assert error.value.message
