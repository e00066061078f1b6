"""The daemon dies and comes back: tasks run on, are found again and end as if nothing had been."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.runtime.process.host import look_at_host
from tests.runtime.process_world import (
    MARK,
    OWN,
    assigned,
    begin,
    is_alive,
    line_of,
    open_runtime,
    output,
    pid_of,
    processes_with,
    shell,
    until,
)

ROOT = Path(__file__).parent.parent.parent
DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.runtime.process_world import begin, open_runtime, shell

async def main():
    runtime = open_runtime(Path(sys.argv[1]))
    started = await begin(runtime, shell(sys.argv[3], sys.argv[2], ports=(("tcp", 80, 0),)))
    print(started.pid, started.ports[0].published_port, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def daemon(folder: Path, script: str, task_id: str = "t") -> subprocess.Popen:
    """Another process that runs one task and would stay."""
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(folder), script, task_id],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


async def test_task_survives_a_killed_daemon_and_is_adopted(tmp_path):
    process = daemon(tmp_path, "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done")
    pid, port = map(int, process.stdout.readline().split())
    kill(process)
    runtime = open_runtime(tmp_path)
    (found,) = await runtime.list_tasks()
    assert found.exit is None
    assert (found.started.pid, found.started.ports[0].published_port) == (pid, port)
    assert await begin(runtime, shell("t", "exit 9", ports=(("tcp", 80, 0),))) == found.started
    written = len((await output(runtime, "t")).splitlines())
    await asyncio.sleep(0.2)
    numbers = (await output(runtime, "t")).split()
    assert len(numbers) > written
    assert numbers == [str(number) for number in range(len(numbers))]
    assert (await runtime.stop(TaskID("t"), "SIGTERM", 5)).exit_code == 143
    assert not is_alive(pid)
    await runtime.remove(TaskID("t"))
    await runtime.close()


async def test_end_while_no_daemon_was_there_is_told(tmp_path):
    process = daemon(tmp_path, "echo $$; sleep 0.3; echo last words; exit 6")
    pid, _ = map(int, process.stdout.readline().split())
    kill(process)
    await until(lambda: not is_alive(pid))
    bundle = tmp_path / "tasks" / "t"
    shim = int((bundle / "shim.pid").read_text().split()[0])
    await until(lambda: (bundle / "exit").exists() and not is_alive(shim))
    runtime = open_runtime(tmp_path)
    (found,) = await runtime.list_tasks()
    assert (found.exit.exit_code, found.exit.problem) == (6, "")
    assert await runtime.wait(TaskID("t")) == found.exit
    assert "last words" in await output(runtime, "t")
    await runtime.remove(TaskID("t"))


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.008, 0.015, 0.03])
async def test_daemon_killed_in_the_middle_of_a_start_never_makes_two(tmp_path, delay_s):
    script = f"exec sleep {MARK}.1"  # a shell's child has its parent's words until it executes
    process = daemon(tmp_path, script)
    await until(lambda: (tmp_path / "tasks" / "t" / "lock").exists())
    await asyncio.sleep(delay_s)
    kill(process)
    runtime = open_runtime(tmp_path)
    await runtime.list_tasks()
    started = await begin(runtime, shell("t", script, ports=(("tcp", 80, 0),)))
    assert is_alive(started.pid)
    await until(lambda: started.pid in processes_with(f"{MARK}.1"))  # no words while it executes
    assert processes_with(f"{MARK}.1") == [started.pid]
    await runtime.remove(TaskID("t"))
    await runtime.close()
    assert processes_with(MARK) == []


async def test_supervisor_killed_while_no_daemon_was_there_is_told(tmp_path):
    process = daemon(tmp_path, f"sleep {MARK}.1; true", OWN)
    pid, _ = map(int, process.stdout.readline().split())
    kill(process)
    os.kill(pid_of(tmp_path, OWN, "shim"), signal.SIGKILL)
    await until(lambda: not is_alive(pid))
    runtime = open_runtime(tmp_path)
    (found,) = await runtime.list_tasks()
    assert found.exit.exit_code == 137
    assert "supervisor was killed" in found.exit.problem
    await until(lambda: not processes_with(MARK))
    await runtime.remove(TaskID(OWN))


async def test_prepared_task_is_listed_as_not_started(tmp_path):
    runtime = open_runtime(tmp_path)
    await runtime.prepare(assigned("t", "true"))
    again = open_runtime(tmp_path)
    (found,) = await again.list_tasks()
    assert (found.started, found.exit) == (None, None)
    assert (await begin(again, assigned("t", "true"))).pid
    assert (await again.wait(TaskID("t"))).exit_code == 0
    await again.remove(TaskID("t"))


async def test_all_have_ended_after_a_reboot_whatever_their_pids_are_now(tmp_path):
    runtime = open_runtime(tmp_path)
    await begin(runtime, assigned("t", "sleep", "100"))
    await runtime.prepare(assigned("u", "true"))
    await runtime.close()
    rebooted = dataclasses.replace(look_at_host(), boot_id="another")
    after = open_runtime(tmp_path, host=rebooted)
    found = {task.task_id: task for task in await after.list_tasks()}
    assert found["t"].exit.problem == "task: the host was restarted"
    assert (found["u"].started, found["u"].exit) == (None, None)
    assert (await begin(after, assigned("u", "true"))).pid  # prepared anew
    await after.wait(TaskID("u"))
    await after.close()
    (tmp_path / "tasks" / "t" / "exit").unlink()
    back = open_runtime(tmp_path)  # it runs really: let it go
    await back.remove(TaskID("t"))
    await back.remove(TaskID("u"))


async def test_pid_of_another_process_is_nobodys_task(tmp_path):
    runtime = open_runtime(tmp_path)
    await begin(runtime, assigned(OWN, "sleep", "100"))
    await runtime.stop(TaskID(OWN), "SIGKILL", 5)
    await runtime.close()
    folder = tmp_path / "tasks" / OWN
    (folder / "exit").unlink()
    for name in ("shim.pid", "task.pid", "init.pid"):
        (folder / name).write_text(f"{os.getpid()} 12345\n")
    again = open_runtime(tmp_path)
    (found,) = await again.list_tasks()
    assert found.exit.exit_code == 137
    await again.remove(TaskID(OWN))  # and this process still lives


async def test_damaged_bundle_is_an_ended_task(tmp_path):
    runtime = open_runtime(tmp_path)
    await begin(runtime, shell("t", "echo up; sleep 0.1"))
    await line_of(runtime, "t")
    await runtime.wait(TaskID("t"))
    await runtime.close()
    folder = tmp_path / "tasks" / "t"
    (folder / "bundle.json").write_text("")
    (folder / "exit").unlink()
    (tmp_path / "tasks" / "a stranger's file").write_text("")
    again = open_runtime(tmp_path)
    (found,) = await again.list_tasks()
    assert found.exit.problem == "task: the host was restarted"
    await again.remove(TaskID("t"))
