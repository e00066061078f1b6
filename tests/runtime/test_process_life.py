"""A task's life on the process runtime, with real processes; as root and as an ordinary user."""

import asyncio
import ctypes
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import uvloop

from swarmlet.core.ids import TaskID
from swarmlet.env.real import RealClock, RealDisk
from swarmlet.model.container import Ulimit
from swarmlet.model.service import Limit, ResourceRequirements
from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError
from swarmlet.runtime.process.bundle import Bundle
from swarmlet.runtime.process.host import look_at_host
from swarmlet.runtime.process.supervised import Supervised
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
    run,
    shell,
    until,
    zombies,
)

PR_SET_CHILD_SUBREAPER = 36


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255)],
)
async def test_exit_code_is_told(runtime, script, code):
    before_ms = time.time() * 1000 - 1
    end = await run(runtime, shell("t", script))
    assert (end.exit_code, end.problem) == (code, "")
    assert before_ms <= end.at_ms <= time.time() * 1000 + 1
    assert await runtime.wait(TaskID("t")) == end


async def test_start_repeated_gives_the_same_answer_and_one_process(runtime):
    task = assigned("t", "sleep", f"{MARK}.5")
    first = await begin(runtime, task)
    assert await runtime.start(task) == first
    assert len(processes_with(f"{MARK}.5")) == 1
    assert first.pid in processes_with(f"{MARK}.5")


async def test_cancelled_start_is_joined_by_the_next(runtime):
    task = assigned("t", "sleep", f"{MARK}.6")
    await runtime.prepare(task)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await runtime.start(task)
    started = await runtime.start(task)
    assert processes_with(f"{MARK}.6") == [started.pid]


async def test_cancelled_wait_leaves_the_task_alone(runtime):
    started = await begin(runtime, assigned("t", "sleep", "100"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await runtime.wait(TaskID("t"))
    assert is_alive(started.pid)


async def test_stop_signal_reaches_the_whole_group(runtime):
    await begin(runtime, shell("t", "trap 'echo got; exit 3' USR1; echo up; sleep 100 & wait"))
    await line_of(runtime, "t")
    end = await runtime.stop(TaskID("t"), "SIGUSR1", 10)
    assert end.exit_code == 3
    assert "got" in await output(runtime, "t")


async def test_stop_ends_a_plain_program_at_once(runtime):
    await begin(runtime, assigned("t", "sleep", "100"))
    began = time.monotonic()
    assert (await runtime.stop(TaskID("t"), "term", 10)).exit_code == 143
    assert time.monotonic() - began < 5


async def test_stop_kills_after_the_grace_period(runtime):
    await begin(runtime, shell("t", "trap '' TERM; echo up; while :; do sleep 1; done"))
    await line_of(runtime, "t")
    began = time.monotonic()
    end = await runtime.stop(TaskID("t"), "SIGTERM", 0.3)
    assert end.exit_code == 137
    assert 0.3 <= time.monotonic() - began < 5


@pytest.mark.parametrize("number", ["SIGKILL", "SIGABRT", "SIGRTMIN+3"])
async def test_stop_passes_any_signal(runtime, number):
    await begin(runtime, assigned("t", "sleep", "100"))
    expected = {"SIGKILL": 9, "SIGABRT": 6, "SIGRTMIN+3": signal.SIGRTMIN + 3}[number]
    assert (await runtime.stop(TaskID("t"), number, 10)).exit_code == 128 + expected


async def test_stop_of_a_task_never_started_says_so(runtime):
    await runtime.prepare(assigned("t", "sleep", "1"))
    assert "never started" in (await runtime.stop(TaskID("t"), "SIGTERM", 1)).problem


async def test_nothing_of_a_task_outlives_its_main_process(runtime):
    orphans = f"setsid sleep {MARK}.1 & (setsid sh -c 'sleep {MARK}.2 & sleep {MARK}.3' &)"
    script = f"{orphans}; sleep 0.3; exit 5"
    assert (await run(runtime, shell("t", script))).exit_code == 5
    assert processes_with(MARK) == []


async def test_orphans_are_buried_while_the_task_runs(runtime, tmp_path):
    script = "for i in 1 2 3 4 5; do (true & ) ; done; echo up; sleep 100"
    await begin(runtime, shell("t", script))
    await line_of(runtime, "t")
    shim = pid_of(tmp_path, "t", "shim")

    def dead_below(parent):
        stats = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat") as file:
                    stats.append((int(name), *file.read().rpartition(")")[2].split()[:2]))
            except OSError:
                continue
        family = {parent}
        for _ in range(4):
            family |= {pid for pid, _, up in stats if int(up) in family}
        return [pid for pid, state, _ in stats if pid in family and state == "Z"]

    await until(lambda: not dead_below(shim))


async def test_killed_task_is_told_as_137(runtime):
    started = await begin(runtime, assigned("t", "sleep", "100"))
    os.kill(started.pid, signal.SIGKILL)
    end = await runtime.wait(TaskID("t"))
    assert (end.exit_code, end.problem) == (137, "")


async def test_killed_supervisor_takes_the_task_along_and_is_told(runtime, tmp_path):
    started = await begin(runtime, shell(OWN, f"sleep {MARK}.1 & sleep {MARK}.2"))
    await until(lambda: len(processes_with(f"sleep\0{MARK}.")) == 2)
    os.kill(pid_of(tmp_path, OWN, "shim"), signal.SIGKILL)
    end = await runtime.wait(TaskID(OWN))
    assert end.exit_code == 137
    assert "supervisor was killed" in end.problem
    assert not is_alive(started.pid)
    await until(lambda: not processes_with(MARK))
    assert await runtime.wait(TaskID(OWN)) == end


async def test_killed_supervisor_takes_daemons_of_the_task_along(tmp_path):
    here = look_at_host()
    bare = dataclasses.replace(here, isolation_problem="none here") if here.is_root else here
    runtime = open_runtime(tmp_path, host=bare, allow_root_tasks=True)
    stranger = await asyncio.create_subprocess_exec("sleep", f"{MARK}.9", start_new_session=True)
    script = f"(setsid sh -c 'setsid sleep {MARK}.1 & sleep {MARK}.2' &); sleep {MARK}.1"
    await begin(runtime, shell(OWN, script))
    await begin(runtime, shell("other", f"setsid sleep {MARK}.3 & sleep {MARK}.3"))
    await until(lambda: len(processes_with(f"sleep\0{MARK}.")) == 6)
    os.kill(pid_of(tmp_path, OWN, "shim"), signal.SIGKILL)
    assert (await runtime.wait(TaskID(OWN))).exit_code == 137
    assert not [p for n in (1, 2) for p in processes_with(f"sleep\0{MARK}.{n}") if is_alive(p)]
    assert len(processes_with(f"sleep\0{MARK}.3")) == 2
    assert is_alive(stranger.pid)
    stranger.kill()
    await stranger.wait()
    for name in (OWN, "other"):
        await runtime.remove(TaskID(name))
    await runtime.close()
    assert processes_with(MARK) == []


async def test_nothing_becomes_a_zombie_where_orphans_fall_to_the_daemon(runtime, tmp_path):
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0  # as a daemon that is pid 1
    try:
        await run(runtime, shell("a", "exit 1"))
        await begin(runtime, assigned("b", "sleep", "100"))
        await runtime.stop(TaskID("b"), "SIGTERM", 5)
        await begin(runtime, assigned("c", "sleep", "100"))
        os.kill(pid_of(tmp_path, "c", "shim"), signal.SIGKILL)
        await runtime.wait(TaskID("c"))
        await until(lambda: zombies() == [])
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("/bin/nope",), "exec: no such file: /bin/nope"),
        (("nope-nope",), "exec: no such command: nope-nope"),
        (("/etc/passwd",), "exec: permission denied: /etc/passwd"),
        (("/",), "exec: permission denied: /"),
    ],
)
async def test_command_that_cannot_be_executed_is_named(runtime, command, sentence):
    task = assigned("t", *command)
    await runtime.prepare(task)
    for _ in range(2):  # asked again, it says the same
        with pytest.raises(RuntimeProblemError) as caught:
            await runtime.start(task)
        assert caught.value.message == sentence
        assert caught.value.remedy
    (found,) = await runtime.list_tasks()
    assert found.started is None
    assert found.exit is not None
    assert found.exit.exit_code in (126, 127)
    assert "exec failed" in found.exit.problem


@pytest.fixture
def orphaned_script():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        script = Path(folder, "script")
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)
        yield str(script)


async def test_script_without_its_interpreter_is_not_a_missing_file(runtime, orphaned_script):
    task = assigned("t", orphaned_script)
    await runtime.prepare(task)
    with pytest.raises(RuntimeProblemError, match="no such interpreter"):
        await runtime.start(task)


async def test_missing_working_directory_is_named(runtime):
    task = assigned("t", "true", dir="/no/such/folder")
    await runtime.prepare(task)
    with pytest.raises(RuntimeProblemError, match=r"/no/such/folder cannot be entered: No such"):
        await runtime.start(task)


async def test_environment_is_what_the_spec_gives_and_little_more(runtime):
    task = assigned("t", "env", env=["A=1", "B=x=y", "C=", "D", "A=2"], hostname="box")
    await run(runtime, task)
    found = dict(line.split("=", 1) for line in (await output(runtime, "t")).splitlines())
    assert set(found) == {"A", "B", "C", "PATH", "HOME", "HOSTNAME", "SWARMLET_TASK_ID"}
    assert (found["A"], found["B"], found["C"], found["HOSTNAME"]) == ("2", "x=y", "", "box")


async def test_large_environment_arrives_and_a_too_large_one_is_refused(runtime):
    many = [f"V{n}={'x' * 1000}" for n in range(500)]
    assert (await run(runtime, shell("t", 'test "${#V499}" = 1000', env=many))).exit_code == 0
    task = assigned("u", "true", env=["V=" + "x" * 200_000])
    await runtime.prepare(task)
    with pytest.raises(RuntimeProblemError, match="exec: argument list too long: true"):
        await runtime.start(task)


async def test_command_is_found_along_the_tasks_own_path(runtime):
    task = assigned("t", "sleep", "0", env=["PATH=/no/such/folder"])
    await runtime.prepare(task)
    with pytest.raises(RuntimeProblemError, match="no such command: sleep"):
        await runtime.start(task)


async def test_task_starts_clean(runtime):
    own = "cat; grep -E 'SigIgn|NoNew' /proc/self/status"
    script = f"pwd; umask; ls -l /proc/self/fd | grep -c -- '->'; {own}"
    await run(runtime, shell("t", script, dir="/usr"))
    lines = (await output(runtime, "t")).split("\n")
    assert lines[:3] == ["/usr", "0022", "4"]  # 0, 1, 2 and the one ls opened
    assert int(lines[3].split()[1], 16) & 0x7FFFFFFF == 0  # 32 and 33 are the C library's own
    assert lines[4].split() == ["NoNewPrivs:", "1"]


async def test_ulimits_hold_and_are_clipped_to_what_we_may_give(runtime):
    limits = [
        Ulimit(name="nofile", soft=64, hard=128),
        Ulimit(name="core", soft=0, hard=0),
        Ulimit(name="sigpending", soft=-1, hard=-1),
    ]
    script = "ulimit -Sn; ulimit -Hn; ulimit -c"
    task = shell("t", script, ulimits=limits)
    assert (await run(runtime, task)).exit_code == 0
    assert (await output(runtime, "t")).split() == ["64", "128", "0"]


async def test_tasks_begin_with_the_soft_limit_of_files_the_daemon_found(tmp_path):
    runtime = open_runtime(tmp_path, host=look_at_host(open_files=77))
    script = "ulimit -Sn; ulimit -Hn"
    await run(runtime, shell("t", script))
    await run(runtime, shell("u", script, ulimits=[Ulimit(name="nofile", soft=64, hard=128)]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert (await output(runtime, "t")).split() == ["77", str(hard)]
    assert (await output(runtime, "u")).split() == ["64", "128"]
    for task_id in ("t", "u"):
        await runtime.remove(TaskID(task_id))
    await runtime.close()


async def test_memory_limit_holds_for_private_memory(runtime):
    resources = ResourceRequirements(limits=Limit(memory_bytes=64 << 20))
    code = "import sys\ntry: x = bytearray(200 << 20)\nexcept MemoryError: sys.exit(9)"
    task = assigned("t", "/usr/bin/python3", "-c", code, resources=resources)
    assert (await run(runtime, task)).exit_code == 9


async def test_nothing_of_the_spec_is_on_disk(runtime, tmp_path):
    task = shell(
        "t", ": argument-mark; sleep 100", env=["KEY=env-mark"], labels={"l": "label-mark"}
    )
    await begin(runtime, task)
    await runtime.prepare(assigned("u", "command-mark"))
    with pytest.raises(RuntimeProblemError):
        await runtime.start(assigned("u", "command-mark"))
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        if path.is_file():
            assert b"-mark" not in path.read_bytes()
    shim = Path(f"/proc/{pid_of(tmp_path, 't', 'shim')}")
    assert b"-mark" not in (shim / "cmdline").read_bytes()
    assert (shim / "environ").read_bytes() == b""


async def test_remove_kills_and_forgets(runtime, tmp_path):
    started = await begin(runtime, assigned("t", "sleep", "100"))
    await runtime.remove(TaskID("t"))
    assert not is_alive(started.pid)
    assert os.listdir(tmp_path / "tasks") == []
    await runtime.remove(TaskID("t"))
    await runtime.remove(TaskID("never-known"))
    assert await runtime.list_tasks() == []


async def test_task_id_that_would_leave_the_folder_is_refused(runtime):
    with pytest.raises(RuntimeProblemError, match="not a task id"):
        await runtime.remove(TaskID("../../etc"))


async def test_ten_tasks_start_at_once(runtime):
    tasks = [assigned(f"t{n}", "sleep", "100") for n in range(10)]
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(begin(runtime, task))
    assert time.monotonic() - began < 5  # about 0.1 s alone; other tests may run beside
    assert len(await runtime.list_tasks()) == 10


async def test_shim_is_small_and_sleeps(runtime, tmp_path):
    await begin(runtime, assigned("t", "sleep", "100"))
    pid = pid_of(tmp_path, "t", "shim")

    def figures():
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")

    (ticks, rss_b), _ = figures(), await asyncio.sleep(0.5)
    assert figures()[0] == ticks
    assert rss_b < 12 << 20  # 7.5 MiB, of which 4.2 are the interpreter's shared text


def test_shim_imports_little():
    code = (
        "import sys; import os; before = set(sys.modules); sys.path.append(sys.argv[1]);"
        "import swarmlet.runtime.process.supervisor; print(*sorted(set(sys.modules) - before))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", code, root],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = "swarmlet swarmlet.runtime swarmlet.runtime.process"
    names = ["kernel", "log_writer", "sandbox", "supervisor"]
    parts = [f"swarmlet.runtime.process.{name}" for name in names]
    stdlib = {"ctypes", "_ctypes", "ctypes._endian", "_struct", "struct", "types"}
    stdlib |= {"errno", "resource", "select"}
    assert set(done.stdout.split()) - stdlib == {*ours.split(), *parts}


def test_life_works_in_uvloop(tmp_path):
    async def scenario():
        runtime = open_runtime(tmp_path)
        await begin(runtime, shell("t", "echo hello; sleep 100"))
        assert await line_of(runtime, "t") == "hello"
        assert (await runtime.stop(TaskID("t"), "SIGTERM", 5)).exit_code == 143
        await runtime.remove(TaskID("t"))
        await runtime.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_first_process_of_a_shim_is_buried_though_it_ends_after_the_task_is_let_go(tmp_path):
    known = Supervised(Bundle(RealDisk(), str(tmp_path), "t"), RealClock(), ())
    late = os.posix_spawn("/bin/sleep", ["sleep", "0.05"], {})  # noqa: ASYNC221 - returns at once
    known._bury_when_dead(late)
    known.close()
    assert late not in zombies()
    assert not is_alive(late)


async def test_file_of_somebody_among_the_tasks_is_none_of_them(tmp_path, runtime):
    task = assigned("t", "sleep", MARK)
    await begin(runtime, task)
    (tmp_path / "tasks" / "core").write_text("not a task")
    assert [one.task_id for one in await runtime.list_tasks()] == ["t"]
    await runtime.stop(task.id, "SIGKILL", 5)


async def test_task_whose_folder_cannot_be_read_is_a_problem_that_is_tried_again(tmp_path):
    (tmp_path / "tasks" / "t" / "lock").mkdir(parents=True)
    runtime = open_runtime(tmp_path)
    with pytest.raises(TemporaryProblemError, match="cannot be used: Is a directory"):
        await runtime.list_tasks()
    (tmp_path / "tasks" / "t" / "lock").rmdir()
    assert [one.task_id for one in await runtime.list_tasks()] == ["t"]
    await runtime.close()
