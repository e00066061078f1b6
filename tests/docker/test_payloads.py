"""Secrets and configs of containers: bound from memory, and gone with the container."""

import base64
import os
import tempfile
from pathlib import Path

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.model.container import ConfigReference, FileTarget, SecretReference
from swarmlet.runtime.base import RuntimeProblemError, TaskFile
from swarmlet.runtime.docker.deliveries import Deliveries, targets_of
from tests.daemon.harness import running_daemon, service, tasks_of, wait_for, wait_running
from tests.daemon.test_at_rest import files_holding
from tests.docker.engine import IMAGE
from tests.docker.world import at_work, host, lines, open_runtime, shell

TREASURE = b"tr3asure-of-a-container"
SECRET = TaskFile(kind="secret", name="key", data=TREASURE, uid=1234, gid=4321, mode=0o440)
PLAIN = TaskFile(kind="config", name="app.conf", data=bytes(range(256)) * 100)
CONFIG = TaskFile(kind="config", name="/etc/deep/app.conf", data=b"#!/bin/sh\nid -u", mode=0o755)
FILES = (SECRET, PLAIN, CONFIG)

needs_engine = pytest.mark.docker_engine


def asking(task_id: str, script: str, *files: TaskFile):
    def references(kind, make):
        return [
            make(FileTarget(name=f.name, uid=str(f.uid), gid=str(f.gid), mode=f.mode))
            for f in files
            if f.kind == kind
        ]

    return shell(
        task_id,
        script,
        secrets=references(
            "secret", lambda t: SecretReference(file=t, secret_id="s", secret_name="key")
        ),
        configs=references(
            "config", lambda t: ConfigReference(file=t, config_id="c", config_name="app")
        ),
    )


async def begin(runtime, task, *files):
    runtime.check(task)
    await runtime.prepare(task)
    return await runtime.start(task, files)


def in_memory() -> list[str]:
    folders = ("/dev/shm", "/run/swarmlet")
    paths = [path for folder in folders for path in Path(folder).rglob("*")]
    return [str(path) for path in paths if path.is_file() and TREASURE in path.read_bytes()]


@needs_engine
async def test_container_finds_its_files_with_owner_and_mode_and_cannot_change_them(runtime):
    script = (
        "cat /run/secrets/key; echo; wc -c < /app.conf; /etc/deep/app.conf;"
        "stat -c '%u %g %a' /run/secrets/key /app.conf /etc/deep/app.conf;"
        "echo x > /app.conf || echo refused"
    )
    task = asking("p1", script, *FILES)
    await begin(runtime, task, *FILES)
    await runtime.wait(task.id)
    text = [
        line.data.decode().rstrip("\n") for line in await lines(runtime, "p1") if line.stream == 1
    ]
    assert text[:3] == [TREASURE.decode(), "25600", "0"]
    assert text[3:] == ["1234 4321 440", "0 0 444", "0 0 755", "refused"]


@needs_engine
async def test_files_are_in_memory_alone_and_gone_with_the_container(runtime):
    task = asking("p2", "sleep 60", *FILES)
    await begin(runtime, task, *FILES)
    (held,) = in_memory()
    for folder in (Path(held).parent, Path(held).parent.parent):
        assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, 0)
    await runtime.stop(task.id, "SIGKILL", 0)
    assert in_memory() == []
    other = asking("p3", "sleep 60", SECRET)
    await begin(runtime, other, SECRET)
    await runtime.remove(other.id)
    assert in_memory() == []


@needs_engine
async def test_next_daemon_starts_what_was_prepared_and_keeps_what_runs(engine, engine_id):
    runs, waits = asking("p4", "sleep 60", SECRET), asking("p5", "cat /run/secrets/key", SECRET)
    async with at_work(open_runtime(host(), engine_id)) as first:
        await begin(first, runs, SECRET)
        await first.prepare(waits)
    async with at_work(open_runtime(host(), engine_id)) as again:
        assert len(await again.list_tasks()) == 2
        assert len(in_memory()) == 1
        await begin(again, runs, SECRET)  # it runs already
        await begin(again, waits, SECRET)
        await again.wait(waits.id)
        assert [line.data for line in await lines(again, "p5")] == [TREASURE]
        for task_id in ("p4", "p5"):
            await again.remove(TaskID(task_id))
    assert in_memory() == []


@needs_engine
async def test_no_byte_of_a_secret_is_in_the_engines_folder(runtime):
    await begin(runtime, asking("p6", "sleep 60", *FILES), *FILES)
    folder = Path(host().removeprefix("unix://")).parent / "data"
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20:
            assert TREASURE not in path.read_bytes(), path


def deliveries(folder: str, **more) -> Deliveries:
    return Deliveries("unix:///run/docker.sock", "e", **{"uid": 0, "folders": (folder,), **more})


def test_targets_are_where_docker_puts_them():
    absolute = TaskFile(kind="secret", name="/etc/key", data=b"")
    assert targets_of(asking("t", "", SECRET, absolute, PLAIN, CONFIG)) == [
        "/run/secrets/key",
        "/etc/key",
        "/app.conf",
        "/etc/deep/app.conf",
    ]


def test_what_cannot_be_delivered_is_refused_in_words():
    task = asking("t", "", SECRET)
    far = Deliveries("tcp://10.0.0.1:2375", "e", uid=0)
    for refusing, words in (
        (far, "the Docker Engine is elsewhere"),
        (deliveries("/dev/shm/x", uid=1000), "Only a daemon that runs as root"),
    ):
        with pytest.raises(RuntimeProblemError, match=words) as refused:
            refusing.check(task)
        assert refused.value.remedy
        refusing.check(shell("t", ""))  # who needs none is not concerned
    ours = deliveries("/dev/shm/x")
    with pytest.raises(RuntimeProblemError, match="the same target"):
        ours.check(asking("t", "", SECRET, SECRET))
    with pytest.raises(RuntimeProblemError, match="can be at /"):
        ours.check(asking("t", "", TaskFile(kind="config", name=".", data=b"")))


def test_disk_is_no_place_for_a_secret():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as disk:
        task = asking("t", "", SECRET)
        with pytest.raises(RuntimeProblemError, match="never written to a disk"):
            deliveries(f"{disk}/payloads").make_room(task)
        assert os.listdir(disk) == []


# The whole daemon --------------------------------------------------------------------------------
@pytest.fixture
def daemon(engine):
    with running_daemon("--docker-host", host()) as daemon:
        daemon.init()
        yield daemon


@needs_engine
def test_service_has_its_secrets_after_a_crash_of_the_daemon_too_and_leaves_none(daemon):
    client = daemon.client()
    data = base64.b64encode(TREASURE).decode()
    secret_id = client.post("/secrets/create", {"Name": "key", "Data": data})["ID"]
    file = {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o400}
    reference = {"SecretID": secret_id, "SecretName": "key", "File": file}
    script = "while sleep 0.1; do test -s /run/secrets/key || exit 3; done"
    spec = service("web", "/bin/sh", "-c", script, replicas=2, Secrets=[reference])
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = IMAGE
    client.post("/services/create", spec)
    first = {task["ID"] for task in wait_running(client, "web", 2)}
    assert len(in_memory()) == 2
    daemon.kill()
    daemon.start()
    client = daemon.client()
    found = client.get("/services")[0]
    found["Spec"]["Mode"]["Replicated"]["Replicas"] = 3
    client.post(
        f"/services/{found['ID']}/update?version={found['Version']['Index']}", found["Spec"]
    )
    assert first < {task["ID"] for task in wait_running(client, "web", 3)}
    assert len(tasks_of(client, "web")) == 3  # none has failed
    assert len(in_memory()) == 3
    client.delete("/services/web")
    wait_for(lambda: in_memory() == [], what="the end of the secrets")
    assert files_holding(daemon.directory, TREASURE) == []
