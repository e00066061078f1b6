"""Probes of real tasks: in their world, within their time, gone with whoever asked."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.model.container import HealthConfig
from swarmlet.runtime.base import UNHEALTHY, RuntimeProblemError
from swarmlet.runtime.process.kernel import start_time
from swarmlet.runtime.process.supervised import read_kept
from tests.runtime.process_world import (
    IS_ROOT,
    MARK,
    assigned,
    begin,
    is_alive,
    open_runtime,
    pid_of,
    processes_with,
    run,
    shell,
    until,
)

MS = 1_000_000
USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
OUR_USERS = "/proc/self/ns/user"


def check(line: str, **more) -> HealthConfig:
    given = {"interval": 50 * MS, "timeout": 5_000 * MS, "retries": 2, **more}
    return HealthConfig(test=["CMD-SHELL", line], **given)


def failed_probes(caplog) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.message == "task.probe_failed"]


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO, logger="swarmlet.runtime")


@pytest.fixture
def flag():
    """A file to be made where every task can see it."""
    folder = Path(tempfile.mkdtemp(prefix="swarmlet-"))
    folder.chmod(0o777)
    yield folder / "flag"
    shutil.rmtree(folder)


async def test_task_without_a_check_is_healthy_at_once(runtime):
    task = assigned("t", "sleep", "100", healthcheck=HealthConfig(test=["NONE"]))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None


async def test_task_is_healthy_at_the_first_success(runtime, flag):
    task = shell("t", "sleep 100", healthcheck=check(f"test -e {flag}", retries=1000))
    await begin(runtime, task)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await runtime.healthy(task)
    flag.touch()
    async with asyncio.timeout(10):
        assert await runtime.healthy(task) is None


async def test_task_that_fails_its_check_is_unhealthy(runtime, caplog):
    task = shell("t", "sleep 100", healthcheck=check("exit 3"))
    started = await begin(runtime, task)
    with pytest.raises(RuntimeProblemError) as caught:
        await runtime.healthy(task)
    assert caught.value.message == UNHEALTHY
    assert [r.exit_code for r in failed_probes(caplog)] == [3, 3]
    assert is_alive(started.pid)  # whoever waits stops it
    with pytest.raises(RuntimeProblemError, match=UNHEALTHY):
        await runtime.wait(TaskID("t"))


async def test_healthy_task_that_fails_later_is_told_by_wait(runtime, flag):
    task = shell("t", "sleep 100", healthcheck=check(f"test ! -e {flag}"))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_problem(runtime.wait(TaskID("t"))))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        flag.touch()
    assert waiting.result() == UNHEALTHY


async def test_end_of_a_healthy_task_is_told(runtime):
    task = shell("t", "sleep 0.5; exit 7", healthcheck=check("true"))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None
    assert (await runtime.wait(TaskID("t"))).exit_code == 7


async def test_end_before_the_first_success_is_told(runtime):
    task = shell("t", "sleep 0.3; exit 4", healthcheck=check("false", retries=1000))
    await begin(runtime, task)
    assert (await runtime.healthy(task)).exit_code == 4


async def test_check_runs_in_the_tasks_world(runtime, flag):
    probe = f"(pwd; echo $A $SWARMLET_TASK_ID; id -u; umask) > {flag}"
    task = shell("t", "sleep 100", env=["A=b"], dir="/usr", healthcheck=check(probe))
    started = await begin(runtime, task)
    assert await runtime.healthy(task) is None
    uid = os.stat(f"/proc/{started.pid}").st_uid
    assert flag.read_text() == f"/usr\nb t\n{uid}\n0022\n"


@pytest.mark.root
@pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces of tasks")
async def test_check_enters_the_tasks_namespaces(runtime, flag, tmp_path):
    probe = f"(hostname; ls -A {tmp_path}; kill -0 $(pgrep -o sleep) && echo reached) > {flag} 2>&1"
    task = shell("t", "sleep 100; true", hostname="box", healthcheck=check(probe))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None
    output = flag.read_text()
    assert output.startswith("box\n")
    assert output.endswith("reached\n")
    assert "Permission denied" in output  # the data directory is covered


async def test_check_over_its_time_is_killed_with_all_it_started(runtime, caplog):
    line = f"setsid sleep {MARK}.1 & sleep {MARK}.2"
    task = shell("t", "sleep 100", healthcheck=check(line, timeout=200 * MS, retries=1))
    await begin(runtime, task)
    with pytest.raises(RuntimeProblemError):
        await runtime.healthy(task)
    (record,) = [r for r in caplog.records if r.message == "task.probe_failed"]
    assert record.problem == "it took longer than its timeout"
    assert processes_with(MARK) == []


async def test_what_a_successful_check_leaves_is_killed_too(runtime):
    task = shell("t", "sleep 100", healthcheck=check(f"setsid sleep {MARK}.1 & exit 0"))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None
    assert processes_with(MARK) == []


async def test_cancelled_wait_takes_the_probe_along(runtime):
    task = shell("t", "sleep 100", healthcheck=check(f"setsid sleep {MARK}.1 & sleep {MARK}.2"))
    await begin(runtime, task)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await runtime.healthy(task)
    assert processes_with(MARK) == []


async def test_nothing_a_check_writes_is_logged_however_much_it_is(runtime, caplog):
    line = "head -c 300000 /dev/zero | tr '\\0' x; echo CANARY; exit 1"
    task = shell("t", "sleep 100", healthcheck=check(line, retries=1))
    await begin(runtime, task)
    with pytest.raises(RuntimeProblemError):
        await runtime.healthy(task)
    (record,) = failed_probes(caplog)
    assert record.exit_code == 1
    assert "CANARY" not in repr(vars(record))


async def test_endless_output_ends_with_the_checks_time(runtime, caplog):
    task = shell("t", "sleep 100", healthcheck=check("exec yes", timeout=300 * MS, retries=1))
    await begin(runtime, task)
    with pytest.raises(RuntimeProblemError):
        await runtime.healthy(task)
    (record,) = failed_probes(caplog)
    assert record.problem == "it took longer than its timeout"


async def test_check_may_have_more_time_than_the_kernel_waits_at_once(runtime):
    month_ns = 31 * 86_400 * 1000 * MS
    task = shell("t", "sleep 100", healthcheck=check("true", timeout=month_ns, retries=1))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None


async def test_check_that_cannot_be_run_is_a_failure_with_its_reason(runtime, caplog):
    health = HealthConfig(test=["CMD", "/no/such/check"], interval=50 * MS, retries=1)
    task = assigned("t", "sleep", "100", healthcheck=health)
    await begin(runtime, task)
    with pytest.raises(RuntimeProblemError, match=UNHEALTHY):
        await runtime.healthy(task)
    (record,) = [r for r in caplog.records if r.message == "task.probe_failed"]
    assert record.problem == "exec: No such file or directory"


async def test_two_who_wait_share_one_probe_at_a_time(runtime):
    health = check(f"sleep {MARK}.1", timeout=100 * MS, interval=1 * MS, retries=10_000)
    task = shell("t", "sleep 0.8", healthcheck=health)
    await begin(runtime, task)
    most = 0
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(runtime.wait(TaskID("t"))) for _ in range(3)]
        while not all(wait.done() for wait in waits):
            most = max(most, len(processes_with(f"sleep\0{MARK}.1")))
            await asyncio.sleep(0.005)
    assert most == 1
    assert {wait.result().exit_code for wait in waits} == {0}


async def test_next_daemon_goes_on_checking(tmp_path, flag):
    runtime = open_runtime(tmp_path)
    task = shell("t", "sleep 100", healthcheck=check(f"test ! -e {flag}"))
    await begin(runtime, task)
    assert await runtime.healthy(task) is None
    await runtime.close()
    again = open_runtime(tmp_path)
    (found,) = await again.list_tasks()
    assert found.exit is None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await again.wait(TaskID("t"))
    flag.touch()
    assert await _problem(again.wait(TaskID("t"))) == UNHEALTHY
    await again.remove(TaskID("t"))
    await again.close()


async def test_nothing_of_a_check_is_on_disk(runtime, tmp_path):
    task = shell("t", "sleep 100", healthcheck=check("echo treasure"), env=["KEY=treasure"])
    await begin(runtime, task)
    assert await runtime.healthy(task) is None
    for path in (tmp_path / "tasks").rglob("*"):
        assert path.is_dir() or b"treasure" not in path.read_bytes()


async def test_task_gets_no_descriptor_of_the_check(runtime, tmp_path):
    task = assigned("t", "sleep", "100", healthcheck=check("exit 0"))
    started = await begin(runtime, task)
    await until(lambda: sorted(os.listdir(f"/proc/{started.pid}/fd")) == ["0", "1", "2"])
    shim = pid_of(tmp_path, "t", "shim")
    assert os.readlink(f"/proc/{shim}/fd/4").startswith("/memfd:kept")


async def test_killed_probe_is_a_failure_and_leaves_no_zombie(runtime, caplog):
    task = shell("t", "sleep 100", healthcheck=check(f"sleep {MARK}.1", retries=1))
    await begin(runtime, task)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_problem(runtime.healthy(task)))
        (pid,) = await until(lambda: processes_with(f"sleep\0{MARK}.1"))
        os.kill(pid, signal.SIGKILL)
    assert waiting.result() == UNHEALTHY
    (record,) = [r for r in caplog.records if r.message == "task.probe_failed"]
    assert record.exit_code == 137


async def _problem(waiting) -> str:
    with pytest.raises(RuntimeProblemError) as caught:
        await waiting
    return caught.value.message


async def test_task_that_ends_takes_its_probe_along(runtime):
    task = shell("t", "sleep 0.4; exit 2", healthcheck=check(f"sleep {MARK}.1"))
    await begin(runtime, task)
    began = time.monotonic()
    assert (await runtime.healthy(task)).exit_code == 2
    assert time.monotonic() - began < 4
    assert processes_with(MARK) == []


async def test_stranger_in_the_supervisors_place_is_not_read(runtime, tmp_path):
    await begin(runtime, assigned("t", "sleep", "100"))
    known = await runtime._started(TaskID("t"))
    assert b"SWARMLET_TASK_ID=t" in read_kept(known)
    path = tmp_path / "tasks" / "t" / "shim.pid"
    shim = path.read_bytes()
    path.write_bytes(b"%d %s\n" % (os.getpid(), start_time("self")))
    assert read_kept(known) == b""
    path.write_bytes(shim)
    assert (await run(runtime, assigned("u", "true"))).exit_code == 0


def works_for_users(*command: str) -> bool:
    done = subprocess.run([*USER, *command], check=False, capture_output=True)
    return done.returncode == 0


@pytest.mark.root
@pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces of tasks")
async def test_root_follows_no_task_into_users_of_its_own(runtime, caplog):
    """There the task's own files could stand where the probe looks for the kernel's."""
    command = ("unshare", "--user", "--map-root-user", "--mount", "sleep", "100")
    if not works_for_users(*command[:-2], "true"):
        pytest.skip("this host gives ordinary users no user namespaces")
    task = assigned("t", *command, healthcheck=check("true", retries=1))
    started = await begin(runtime, task)
    await until(lambda: os.readlink(f"/proc/{started.pid}/ns/user") != os.readlink(OUR_USERS))
    with pytest.raises(RuntimeProblemError, match=UNHEALTHY):
        await runtime.healthy(task)
    (record,) = [r for r in caplog.records if r.message == "task.probe_failed"]
    assert record.problem == "the task went into a user namespace of its own"
