"""Secrets and configs of real processes: where they lie, whose they are, and when they are gone."""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.model.container import (
    ConfigReference,
    FileTarget,
    HealthConfig,
    Mount,
    SecretReference,
)
from swarmlet.runtime.base import RuntimeProblemError, TaskFile
from swarmlet.runtime.process import shim
from swarmlet.runtime.process.host import look_at_host
from swarmlet.runtime.process.runtime import ProcessRuntime
from swarmlet.wire.messages import AssignedTask
from tests.runtime.exec_cases import Stage
from tests.runtime.process_world import (
    IS_ROOT,
    MARK,
    is_alive,
    line_of,
    open_runtime,
    output,
    pid_of,
    processes_with,
    shell,
)

TREASURE = b"tr3asure-of-this-test"
SHM = "/dev/shm"

as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: uids and namespaces of tasks")
as_user = pytest.mark.skipif(IS_ROOT, reason="for an ordinary user's daemon")


def secret(name: str = "key", data: bytes = TREASURE, **file) -> TaskFile:
    return TaskFile(kind="secret", **{"name": name, "data": data, **file})


def config(name: str = "/app.conf", data: bytes = TREASURE, **file) -> TaskFile:
    return TaskFile(kind="config", **{"name": name, "data": data, **file})


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def asking(task_id: str, script: str, *files: TaskFile, **more) -> AssignedTask:
    """A task whose spec refers to these files."""
    targets = [
        FileTarget(name=one.name, uid=str(one.uid), gid=str(one.gid), mode=one.mode)
        for one in files
    ]
    pairs = list(zip(files, targets, strict=True))
    return shell(
        task_id,
        script,
        secrets=[
            SecretReference(file=target, secret_id="s", secret_name="key")
            for one, target in pairs
            if one.kind == "secret"
        ],
        configs=[
            ConfigReference(file=target, config_id="c", config_name="app.conf")
            for one, target in pairs
            if one.kind == "config"
        ],
        **more,
    )


async def begin(runtime: ProcessRuntime, task: AssignedTask, *files: TaskFile) -> None:
    await runtime.prepare(task)
    await runtime.start(task, files)


async def run(runtime: ProcessRuntime, script: str, *files: TaskFile, **more) -> str:
    task = asking("t", script, *files, **more)
    await begin(runtime, task, *files)
    await runtime.wait(task.id)
    return await output(runtime, "t")


def files_in_memory() -> list[str]:
    """Files below /dev/shm that hold the treasure."""
    found = []
    for path in Path(SHM).rglob("*"):
        try:
            if path.is_file() and TREASURE in path.read_bytes():
                found.append(str(path))
        except (PermissionError, FileNotFoundError):
            continue
    return found


async def test_task_reads_its_secrets_and_configs_where_the_variables_say(runtime):
    script = "cat $SWARMLET_SECRETS/key $SWARMLET_SECRETS/in/deep $SWARMLET_CONFIGS/app.conf"
    deep = secret("in/deep", bytes(range(256)) * 2000)
    await begin(runtime, task := asking("t", f"{script} | md5sum", secret(), deep, config()),
                secret(), deep, config())  # fmt: skip
    assert (await runtime.wait(task.id)).exit_code == 0
    whole = TREASURE + deep.data + TREASURE
    wanted = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    assert (await output(runtime, "t")).split()[0] == wanted


async def test_environment_tells_only_of_what_is_there(runtime):
    assert await run(runtime, "env | grep -c SWARMLET_ ; true", secret()) == "2\n"  # and the id
    await runtime.remove(TaskID("t"))
    assert await run(runtime, "env | grep -c SWARMLET_ ; true") == "1\n"
    await runtime.remove(TaskID("t"))
    text = await run(runtime, "echo $SWARMLET_SECRETS", secret(), env=["SWARMLET_SECRETS=mine"])
    assert text == "mine\n"  # what the spec sets is never replaced


async def test_no_byte_of_a_payload_is_in_the_folder_or_on_a_command_line(runtime, tmp_path):
    task = asking("t", f"sleep {MARK}", secret(), config())
    await begin(runtime, task, secret(), config())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TREASURE not in path.read_bytes()
    assert processes_with(TREASURE.decode()) == []
    await runtime.stop(TaskID("t"), "SIGKILL", 5)


async def test_payloads_are_gone_once_the_task_has_ended_or_was_removed(runtime, tmp_path):
    assert await run(runtime, "cat $SWARMLET_SECRETS/key", secret()) == TREASURE.decode()
    assert files_in_memory() == []
    await runtime.remove(TaskID("t"))
    task = asking("u", f"echo; sleep {MARK}", secret(), config())
    await begin(runtime, task, secret(), config())
    await line_of(runtime, "u")
    shim = pid_of(tmp_path, "u", "shim")
    await runtime.remove(TaskID("u"))
    assert files_in_memory() == []
    assert not is_alive(shim)


async def test_files_of_a_stopped_task_are_gone_although_it_is_not_removed(tmp_path):
    host = dataclasses.replace(look_at_host(), isolation_problem="none here")
    runtime = open_runtime(tmp_path, host=host, allow_root_tasks=True)
    os.chmod(tmp_path, 0o711)
    task = asking("t", f"echo; exec sleep {MARK}", secret())
    await begin(runtime, task, secret())
    await line_of(runtime, "t")
    assert len(files_in_memory()) == 1
    await runtime.stop(task.id, "SIGTERM", 5)
    assert files_in_memory() == []
    await runtime.remove(task.id)
    await runtime.close()


async def test_next_daemon_keeps_the_files_of_what_runs_and_sweeps_those_of_what_ended(tmp_path):
    first = open_runtime(tmp_path)
    for name in ("runs", "ends"):
        task = asking(name, f"echo; exec sleep {MARK}", secret())
        await begin(first, task, secret())
        await line_of(first, name)
    await first.close()
    os.kill(pid_of(tmp_path, "ends", "task"), 9)
    again = open_runtime(tmp_path)
    await again.wait(TaskID("ends"))
    await again.list_tasks()
    held = files_in_memory()
    assert not any("/ends/" in path for path in held)
    assert len(held) == (0 if IS_ROOT else 1)  # root's are in the task's own namespace
    for name in ("runs", "ends"):
        await again.remove(TaskID(name))
    assert files_in_memory() == []
    await again.close()


async def test_check_of_health_sees_the_secrets(runtime):
    health = HealthConfig(
        test=["CMD-SHELL", "grep -q tr3asure $SWARMLET_SECRETS/key"], interval=50_000_000
    )
    task = asking("t", f"sleep {MARK}", secret(), healthcheck=health)
    await begin(runtime, task, secret())
    assert await runtime.healthy(task) is None
    await runtime.stop(TaskID("t"), "SIGKILL", 5)


async def test_program_beside_the_task_sees_the_secrets(runtime):
    task = asking("t", f"sleep {MARK}", secret(), config())
    await begin(runtime, task, secret(), config())
    stage = Stage(runtime, task.id, None)
    script = "cat $SWARMLET_SECRETS/key $SWARMLET_CONFIGS/app.conf"
    assert (await stage.run(script)).out == TREASURE * 2
    await runtime.stop(TaskID("t"), "SIGKILL", 5)


async def test_start_without_the_files_the_spec_names_is_refused(runtime):
    task = asking("t", "true", secret())
    await runtime.prepare(task)
    with pytest.raises(RuntimeProblemError, match="was not given its secrets"):
        await runtime.start(task)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((secret("a"), secret("./a")), "in each other's way"),
        ((secret("a"), secret("a/b")), "in each other's way"),
        ((secret("/run/secrets/a"), config("/run/secrets/a")), "in each other's way"),
        ((secret("."),), "no file's name"),
        ((config("/"),), "no file's name"),
    ],
)
def test_targets_that_cannot_be_are_refused(runtime, files, words):
    with pytest.raises(RuntimeProblemError, match=words):
        runtime.check(asking("t", "true", *files))


def test_files_never_show_what_they_hold():
    assert "tr3asure" not in repr(secret()) + repr([config()])


# As root -----------------------------------------------------------------------------------------
@as_root
async def test_root_gives_files_their_owner_and_mode_on_a_tmpfs_of_the_task(runtime):
    files = (
        secret("key", uid=1234, gid=4321, mode=0o440),
        config(mode=0o755, data=b"#!/bin/sh\nid"),
    )
    script = (
        "stat -c '%u %g %a' $SWARMLET_SECRETS/key $SWARMLET_CONFIGS/app.conf;"
        "stat -f -c %T $SWARMLET_SECRETS $SWARMLET_CONFIGS; $SWARMLET_CONFIGS/app.conf > /dev/null;"
        "echo $?; echo $SWARMLET_SECRETS; (echo x > $SWARMLET_SECRETS/new) 2>&1 | grep -o Read-only"
    )
    lines = (await run(runtime, script, *files)).split("\n")
    assert lines[:2] == ["1234 4321 440", "0 0 755"]
    assert lines[2:4] == ["tmpfs", "tmpfs"]
    assert lines[4:7] == ["0", "/run/secrets", "Read-only"]


@as_root
async def test_root_task_without_the_right_cannot_read_a_secret_and_no_other_task_sees_it(runtime):
    await begin(runtime, task := asking("a", f"echo; sleep {MARK}", secret()), secret())
    await line_of(runtime, "a")
    other = shell("b", "ls /run/secrets /proc/*/root/run/secrets 2>&1; echo done")
    await runtime.prepare(other)
    await runtime.start(other)
    await runtime.wait(other.id)
    assert "key" not in await output(runtime, "b")
    await runtime.stop(task.id, "SIGKILL", 5)
    hidden_one = secret("key", uid=1, mode=0o400)
    assert "denied" in await run(runtime, "cat $SWARMLET_SECRETS/key 2>&1", hidden_one)


@as_root
async def test_root_puts_a_config_over_a_file_of_the_node_for_its_task_alone(runtime):
    with tempfile.NamedTemporaryFile() as there:
        there.write(b"the node's own")
        there.flush()
        assert await run(runtime, f"cat {there.name}", config(there.name)) == TREASURE.decode()
        assert there.seek(0) == 0
        assert there.read() == b"the node's own"


@as_root
async def test_config_at_its_default_place_needs_no_file_on_the_node_but_a_named_one_does(runtime):
    assert await run(runtime, "cat $SWARMLET_CONFIGS/app.conf", config()) == TREASURE.decode()
    await runtime.remove(TaskID("t"))
    missing = config("/etc/not-there-at-all.conf")
    with pytest.raises(RuntimeProblemError, match="does not exist on this node as a file"):
        await run(runtime, "true", missing)


@as_root
def test_target_of_the_daemons_own_is_refused(runtime, tmp_path):
    with pytest.raises(RuntimeProblemError, match="belongs to the daemon"):
        runtime.check(asking("t", "true", config(f"{tmp_path}/tasks/x")))
    with pytest.raises(RuntimeProblemError, match="Nothing can be mounted over"):
        runtime.check(asking("t", "true", secret("/proc/1/x")))


@as_root
async def test_mount_over_run_leaves_the_secrets_seen(runtime):
    mounts = [Mount(type="tmpfs", target="/run")]
    text = await run(runtime, "ls /run; cat /run/secrets/key", secret(), mounts=mounts)
    assert text == "secrets\n" + TREASURE.decode()


@as_root
async def test_program_of_the_runtime_that_a_mount_covers_is_not_run_as_root(runtime):
    """Whatever becomes a task is root still when the task's mounts are made."""
    with tempfile.TemporaryDirectory(prefix="swt-") as folder:
        os.chmod(folder, 0o755)
        for name in ("__init__.py", "delivery.py", "mounting.py"):
            write(f"{folder}/{name}", "raise SystemExit('run as root')\n")
        package = os.path.dirname(shim.__file__)
        mounts = [Mount(type="bind", source=folder, target=package, read_only=True)]
        script = f"cat /run/secrets/key; head -c 5 {package}/delivery.py"
        text = await run(runtime, script, secret(), mounts=mounts)
    assert text == TREASURE.decode() + "raise"


@as_root
async def test_root_without_namespaces_gives_each_task_a_folder_that_it_alone_enters(tmp_path):
    host = dataclasses.replace(look_at_host(), isolation_problem="none here")
    folders = (f"{SHM}/swarmlet-test-{MARK}/payloads",)
    runtime = open_runtime(tmp_path, host=host, allow_root_tasks=True, payload_folders=folders)
    os.chmod(tmp_path, 0o711)
    script = "id -u; cat $SWARMLET_SECRETS/key; stat -c '%u %g %a' $SWARMLET_SECRETS/key"
    try:
        lines = (
            await run(runtime, f"{script}; stat -c '%u %a' $SWARMLET_SECRETS/..", secret(gid=7))
        ).split("\n")
        uid = lines[0]
        assert lines[1].startswith(TREASURE.decode() + "0 7 444")
        assert lines[2] == f"{uid} 700"
        assert files_in_memory() == []
        await runtime.remove(TaskID("t"))
    finally:
        shutil.rmtree(f"{SHM}/swarmlet-test-{MARK}")


# As an ordinary user -----------------------------------------------------------------------------
@as_user
async def test_user_has_a_private_folder_in_memory(runtime):
    script = (
        "cat $SWARMLET_SECRETS/key; echo; stat -f -c %T $SWARMLET_SECRETS;"
        "stat -c '%u %a' $SWARMLET_SECRETS/.. $SWARMLET_SECRETS/../.. $SWARMLET_SECRETS/key"
    )
    lines = (await run(runtime, script, secret(mode=0o400))).split("\n")
    me = os.geteuid()
    assert lines[:5] == [TREASURE.decode(), "tmpfs", f"{me} 700", f"{me} 700", f"{me} 400"]


@as_user
def test_user_is_refused_what_only_root_can_give(runtime):
    with pytest.raises(RuntimeProblemError, match="cannot belong to 1234:0"):
        runtime.check(asking("t", "true", secret(uid=1234)))
    with pytest.raises(RuntimeProblemError, match="needs a mount namespace"):
        runtime.check(asking("t", "true", config("/etc/app.conf")))
    runtime.check(asking("t", "true", config(), secret("/run/secrets/key")))


@as_user
async def test_disk_is_refused_as_a_place_for_secrets(tmp_path):
    runtime = open_runtime(tmp_path, payload_folders=("/var/tmp/swarmlet-nobody/x",))
    with pytest.raises(RuntimeProblemError, match="never written to a disk"):
        await runtime.prepare(asking("t", "true", secret()))
    assert os.listdir(tmp_path) == []
