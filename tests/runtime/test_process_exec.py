"""Programs beside tasks of the process runtime; as root and as an ordinary user."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import NotExecutedError, RuntimeProblemError
from swarmlet.runtime.process import exec_process
from swarmlet.wire.messages import ExecRequest, LogOptions
from tests.runtime.exec_cases import Stage, every_case, finish, read_until
from tests.runtime.process_world import (
    IS_ROOT,
    MARK,
    begin,
    open_runtime,
    processes_with,
    shell,
    until,
    zombies,
)

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def stage(runtime) -> Stage:
    async def another(script: str) -> TaskID:
        await begin(runtime, shell("other", script))
        return TaskID("other")

    await begin(runtime, shell("t", "exec sleep 1000", env=["KEY=task"]))
    return Stage(runtime, TaskID("t"), another)


@every_case
async def test_program_beside_a_task(case, stage):
    await case(stage)
    await until(lambda: zombies() == [])


def test_all_is_the_same_on_the_daemons_loop(tmp_path):
    async def story() -> None:
        runtime = open_runtime(tmp_path)
        await begin(runtime, shell("t", "exec sleep 1000"))
        stage = Stage(runtime, TaskID("t"), None)
        assert (await stage.run("cat; exit 3", b"x" * 500_000)).code == 3
        assert b"x" in (await stage.run("cat", b"x\n", is_tty=True)).out
        program = await stage.open("/bin/sleep", MARK, has_stdin=True)
        await program.close()
        await runtime.remove(TaskID("t"))
        await runtime.close()

    uvloop.run(story())


async def test_program_is_as_the_task_to_the_kernel(stage):
    script = (
        "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ulimit -a; umask"
    )
    of_exec = (await stage.run(script)).out
    task_id = await stage.begin(f"{script}; sleep 100")
    seen = b""
    async for line in stage.runtime.logs(task_id, LogOptions(follow=True)):
        seen += line.data
        if line.data == b"0022\n":
            break
    strip = [line for line in of_exec.splitlines() if not line.startswith((b"Uid", b"Gid", b"Gro"))]
    assert strip == [
        line for line in seen.splitlines() if not line.startswith((b"Uid", b"Gid", b"Gro"))
    ]
    assert b"NoNewPrivs:\t1" in of_exec


async def test_program_has_a_session_of_its_own_and_no_other_descriptor(stage):
    done = await stage.run("cut -d' ' -f1,5,6 /proc/self/stat; ls -1 /proc/self/fd", b"")
    ids, *fds = done.out.decode().splitlines()
    leader = ids.split()[1]
    assert ids.split()[2] == leader
    assert [fd for fd in fds if int(fd) > 3] == []  # 3 is ls's own, of the folder


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def read_proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def take_file(path: str) -> str:
    text = Path(path).read_text()
    Path(path).unlink()
    return text


async def test_nothing_of_a_request_is_in_sight_of_others(stage):
    program = await stage.open("/bin/sleep", MARK, env=("PASSWORD=treasure",), is_tty=True)
    (pid,) = await until(lambda: processes_with(f"sleep\0{MARK}"))
    helpers = set()
    while pid > 1 and pid != os.getpid():
        pid = parent_of(pid)
        if pid not in (os.getpid(), 0, 1):
            helpers.add(pid)
    assert helpers
    for helper in helpers:
        for name in ("cmdline", "environ"):
            text = read_proc(helper, name)
            assert MARK.encode() not in text
            assert b"treasure" not in text
    await program.close()


async def test_what_a_program_leaves_is_killed_when_it_ends(stage):
    lines = f"sleep {MARK}.3 & setsid sleep {MARK}.4 & (setsid sleep {MARK}.5 &) ; exit 4"
    began = time.monotonic()
    assert (await stage.run(lines)).code == 4
    assert time.monotonic() - began < 5
    assert processes_with(f"sleep\0{MARK}") == []


async def test_closed_terminal_is_hung_up_first(stage):
    on_hangup = "sleep 0.1; echo bye > /dev/shm/$NAME; exit"
    script = f"trap '{on_hangup}' HUP; echo up; while :; do sleep 0.05; done"
    name = f"swarmlet-{MARK}"
    program = await stage.shell(script, is_tty=True, has_stdin=True, env=(f"NAME={name}",))
    await read_until(program, b"up")
    await program.close()
    assert take_file(f"/dev/shm/{name}") == "bye\n"


async def test_three_hundred_programs_leave_nothing(stage):
    await stage.run("true")
    fds = len(os.listdir("/proc/self/fd"))
    for number in range(300):
        program = await stage.open("/bin/true", is_tty=number % 3 == 0, has_stdin=number % 2 == 0)
        await finish(program)
    assert len(os.listdir("/proc/self/fd")) == fds
    assert zombies() == []
    assert stage.runtime._beside._execs._all == []


async def test_node_short_of_open_files_says_so_and_leaks_none(stage):
    await stage.run("true")
    fds = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = started = 0
    for more in range(16):
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(fds) - 1 + more, hard))
        try:
            program = await stage.open("/bin/true", has_stdin=True)
        except NotExecutedError as problem:
            assert "Too many open files" in problem.message  # noqa: PT017 - not always
            refused += 1
        else:
            started += 1
            await finish(program)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: zombies() == [])
        assert len(os.listdir("/proc/self/fd")) == len(fds)
    assert refused > 4
    assert started > 0


async def test_program_starts_soon(stage):
    times = []
    for _ in range(10):
        began = time.perf_counter()
        program = await stage.open("/bin/true")
        times.append(time.perf_counter() - began)
        await program.close()
    assert sorted(times)[len(times) // 2] < 0.15


async def test_only_so_many_run_at_once(stage, monkeypatch):
    monkeypatch.setattr(exec_process, "EXECS_MAX", 1)
    program = await stage.open("/bin/sleep", MARK)
    with pytest.raises(RuntimeProblemError, match="1 programs"):
        await stage.open("true")
    await program.close()
    await stage.open("true")


async def test_word_with_a_nul_is_refused(stage):
    for request in (
        ExecRequest(argv=("echo", "a\0arg\0b")),
        ExecRequest(argv=("true",), env=("A=\0uid\x000",)),
        ExecRequest(argv=("true",), workdir="/\0uid\x000"),
    ):
        with pytest.raises(RuntimeProblemError, match="NUL"):
            await stage.runtime.exec(stage.task_id, request)


async def test_folder_that_is_not_there_is_told(stage):
    with pytest.raises(RuntimeProblemError, match=r"working directory .*No such file"):
        await stage.open("true", workdir="/nowhere")


async def test_next_daemon_runs_programs_beside_a_task_it_took_over(stage, tmp_path):
    again = open_runtime(tmp_path)
    theirs = Stage(again, stage.task_id, stage.begin)
    assert (await theirs.run("echo $KEY")).out == b"task\n"
    await again.close()


DAEMON = """
import asyncio, sys
from pathlib import Path
from swarmlet.core.ids import TaskID
from swarmlet.wire.messages import ExecRequest, LogOptions
from tests.runtime.process_world import open_runtime
async def main():
    runtime = open_runtime(Path(sys.argv[1]))
    script = f"setsid sleep {sys.argv[2]}.1 & sleep {sys.argv[2]}.2"
    request = ExecRequest(argv=("/bin/sh", "-c", script))
    program = await runtime.exec(TaskID("t"), request)
    print("up", flush=True)
    await program.wait()
asyncio.run(main())
"""


async def test_killed_daemon_takes_its_programs_along_and_no_task(stage, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    }
    with subprocess.Popen(  # noqa: ASYNC220 - it is read once
        [sys.executable, "-c", DAEMON, str(tmp_path), MARK],
        env=environment,
        stdout=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdout.readline() == b"up\n"
        await until(lambda: len(processes_with(f"sleep\0{MARK}")) >= 2)
        daemon.kill()
    await until(lambda: processes_with(f"sleep\0{MARK}") == [])
    assert (await stage.run("echo on")).out == b"on\n"


async def test_account_that_is_not_the_tasks_is_refused_where_it_has_more_power(stage):
    if not IS_ROOT:
        with pytest.raises(RuntimeProblemError, match="runs as"):
            await stage.open("id", user="root")
        assert (await stage.run("id -u", user=str(os.getuid()))).code == 0
        return
    with pytest.raises(RuntimeProblemError, match="no task with root's power"):
        await stage.open("id", user="root")
    with pytest.raises(RuntimeProblemError, match="no account"):
        await stage.open("id", user="100001")
    uid = (await stage.run("id -u")).out.decode().strip()
    assert (await stage.run("id -u", user=uid)).out.decode().strip() == uid
    assert (await stage.run("id -un; id -Gn; echo $HOME", user="daemon")).out == (
        b"daemon\ndaemon\n/usr/sbin\n"
    )
