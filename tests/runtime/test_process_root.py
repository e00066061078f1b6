"""What a root daemon's tasks are kept from; and the same life as an ordinary user."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.model.service import Limit, ResourceRequirements
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.host import look_at_host
from tests.runtime.process_world import (
    IS_ROOT,
    MARK,
    assigned,
    begin,
    open_runtime,
    output,
    pid_of,
    processes_with,
    run,
    shell,
)

ROOT = Path(__file__).parent.parent.parent
NOBODY = 65_534
CAP_SYS_RESOURCE = 24

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: uids and namespaces of tasks"),
]


def has_capability(number: int) -> bool:
    text = Path("/proc/self/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("CapEff")]
    return bool(int(line.split()[1], 16) >> number & 1)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter, so that only what we do keeps a task out."""
    folder = Path(tempfile.mkdtemp(prefix="swarmlet-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


async def test_task_has_an_account_and_processes_of_its_own(runtime, tmp_path):
    await run(runtime, shell("a", "id -u; id -g; id -G; echo $HOME; ls /proc | grep -c '^[0-9]'"))
    await run(runtime, shell("b", "id -u"))
    uid, gid, groups, home, processes = (await output(runtime, "a")).split()
    assert uid == gid == groups
    assert 100_000 <= int(uid) < 165_536
    assert home == "/"
    assert int(processes) <= 5  # init, the shell, ls, grep and one in between
    assert uid != (await output(runtime, "b")).strip()


async def test_uid_of_a_task_is_kept_over_a_restart_and_given_to_nobody_else(tmp_path):
    runtime = open_runtime(tmp_path)
    await runtime.prepare(assigned("t", "id", "-u"))
    await runtime.close()
    again = open_runtime(tmp_path)
    await run(again, assigned("t", "id", "-u"))
    first = await output(again, "t")
    await again.remove(TaskID("t"))
    await run(again, assigned("t", "id", "-u"))
    assert await output(again, "t") == first  # free again, and chosen by the same rule
    await again.remove(TaskID("t"))


async def test_task_does_not_see_the_data_directory(open_folder):
    secret = open_folder / "data" / "secret"
    secret.parent.mkdir(mode=0o755)
    secret.write_text("treasure")
    runtime = open_runtime(open_folder / "data")
    (open_folder / "data").chmod(0o755)
    mounts = "cat /proc/self/mountinfo > /dev/null && echo mounts"
    task = shell("t", f"cat {secret}; ls {secret.parent}; ls /proc/1/root/; {mounts}", dir="/")
    await run(runtime, task)
    text = await output(runtime, "t")
    assert "treasure" not in text
    assert "mounts" in text
    assert str(secret.parent) in text  # in the complaints
    await runtime.remove(TaskID("t"))
    assert secret.read_text() == "treasure"


async def test_root_task_does_not_see_the_data_directory_either(open_folder):
    secret = open_folder / "data" / "secret"
    secret.parent.mkdir(mode=0o755)
    secret.write_text("treasure")
    runtime = open_runtime(open_folder / "data", allow_root_tasks=True)
    await run(runtime, shell("t", f"id -u; cat {secret}; ls -A {secret.parent}", user="root"))
    assert "treasure" not in (text := await output(runtime, "t"))
    assert text.startswith("0\n")
    await runtime.remove(TaskID("t"))


@pytest.mark.parametrize("folder_name", ["swarmlet", "other"])
async def test_task_does_not_see_the_daemons_socket(open_folder, folder_name):
    folder = open_folder / folder_name
    folder.mkdir(mode=0o755)
    path = folder / "api.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        runtime = open_runtime(open_folder / "data", socket_path=str(path))
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        assert (await run(runtime, assigned("t", "/usr/bin/python3", "-c", code))).exit_code == 1
        assert "Error" in await output(runtime, "t")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        await runtime.remove(TaskID("t"))


async def test_tasks_cannot_reach_each_other_or_the_daemon(runtime):
    other = await begin(runtime, assigned("other", "sleep", "100", env=["KEY=treasure"]))
    script = (
        f"cat /proc/{other.pid}/environ /proc/{os.getpid()}/environ; kill -9 {other.pid};"
        f"kill -9 {os.getppid()}; grep -s treasure /proc/*/environ; echo done"
    )
    await run(runtime, shell("t", script))
    text = await output(runtime, "t")
    assert "done\n" in text  # what it complained of comes by another pipe
    assert "treasure" not in text
    assert (await runtime.stop(TaskID("other"), "SIGTERM", 5)).exit_code == 143


async def test_task_has_no_capabilities_and_gains_none(runtime):
    await run(runtime, shell("t", "grep -E 'CapEff|CapPrm|CapInh|CapAmb' /proc/self/status"))
    sets = [int(line.split()[1], 16) for line in (await output(runtime, "t")).splitlines()]
    assert sets == [0, 0, 0, 0]


async def test_hostname_is_the_tasks_own(runtime):
    await run(runtime, shell("t", "hostname; echo $HOSTNAME", hostname="box"))
    assert (await output(runtime, "t")).split() == ["box", "box"]
    assert socket.gethostname() != "box"


def mounts_of(pid: str) -> str:
    return Path(f"/proc/{pid}/mountinfo").read_text()


async def test_mounts_stay_as_they_were(runtime, tmp_path):
    started = await begin(runtime, assigned("t", "sleep", "100", hostname="box"))
    assert str(tmp_path) not in mounts_of("self")
    assert str(tmp_path) in mounts_of(str(started.pid))


async def test_named_account_is_honoured(runtime):
    await run(runtime, shell("t", "id -un; id -gn; echo $HOME", user="daemon"))
    assert (await output(runtime, "t")).split() == ["daemon", "daemon", "/usr/sbin"]
    await run(runtime, shell("u", "id -u; id -G", user="1:2", groups=["games"]))
    assert (await output(runtime, "u")).split() == ["1", "2", "60"]


async def test_limit_of_processes_is_the_tasks_own(runtime):
    resources = ResourceRequirements(limits=Limit(pids=3))
    script = "sleep 100 & sleep 100 & sleep 100 & sleep 100 & echo never; exit 0"
    end = await run(runtime, shell("t", script, resources=resources))
    assert end.exit_code != 0
    assert "fork" in await output(runtime, "t")


async def test_lowered_oom_score_is_given_or_refused_in_words(runtime):
    task = shell("t", "cat /proc/self/oom_score_adj", oom_score_adj=-7)
    await runtime.prepare(task)
    if has_capability(CAP_SYS_RESOURCE):
        await run(runtime, task)
        assert await output(runtime, "t") == "-7\n"
    else:
        with pytest.raises(RuntimeProblemError, match="OOM score cannot be set to -7"):
            await runtime.start(task)


async def test_raised_oom_score_is_given(runtime):
    await run(runtime, shell("t", "cat /proc/self/oom_score_adj", oom_score_adj=300))
    assert await output(runtime, "t") == "300\n"


@pytest.mark.skipif(not has_capability(CAP_SYS_RESOURCE), reason="needs to bind an OOM score")
def test_score_that_nobody_may_lower_stays_where_none_is_asked_for():
    code = "from swarmlet.runtime.process.sandbox import _score; _score(0)"
    switch = "exec setpriv --bounding-set -sys_resource"
    show = "print(open('/proc/self/oom_score_adj').read())"
    line = f'echo 200 > /proc/self/oom_score_adj; {switch} {sys.executable} -c "{code}; {show}"'
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "200"


async def test_namespaces_first_process_killed_ends_the_task(runtime, tmp_path):
    await begin(runtime, shell("t", f"sleep {MARK}.1 & sleep {MARK}.2"))
    os.kill(pid_of(tmp_path, "t", "init"), 9)
    assert (await runtime.wait(TaskID("t"))).exit_code == 137
    assert processes_with(MARK) == []


async def test_full_disk_keeps_the_exit_code(tmp_path):
    with small_disk(tmp_path, "256k"):
        runtime = open_runtime(tmp_path)
        await begin(runtime, shell("t", "echo up; head -c 900000 /dev/zero; sleep 0.3; exit 5"))
        end = await runtime.wait(TaskID("t"))
        assert (end.exit_code, end.problem) == (5, "")
        await runtime.remove(TaskID("t"))


async def test_start_on_a_full_disk_is_tried_again(tmp_path):
    with small_disk(tmp_path, "64k"):
        runtime = open_runtime(tmp_path)
        task = assigned("t", "sleep", "0")
        await runtime.prepare(task)
        ballast = tmp_path / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(b"x" * 100_000)
        with pytest.raises(RuntimeProblemError) as caught:
            await runtime.start(task)
        assert type(caught.value).__name__ == "TemporaryProblemError"
        assert "None" not in caught.value.message
        ballast.unlink()
        await runtime.start(task)
        assert (await runtime.wait(TaskID("t"))).exit_code == 0
        await runtime.remove(TaskID("t"))


def test_this_host_isolates_or_says_why_not():
    host = look_at_host()
    assert host.isolates or host.isolation_problem


def as_nobody(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python as nobody, by an interpreter that nobody may use."""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    switch = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return subprocess.run(
        [*switch, f"/usr/bin/python3.{sys.version_info.minor}", "-B", *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{site}", "HOME": "/nonexistent"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(240)  # five files of tests in one
def test_life_is_the_same_as_an_ordinary_user(open_folder):
    """The other files of tests again, in the skin of nobody."""
    if as_nobody("-c", "import pytest, swarmlet.runtime.process.runtime").returncode:
        pytest.skip("no interpreter, or not the source, that an ordinary user may read")
    open_folder.chmod(0o777)
    names = ("life", "adoption", "ports", "probes", "payloads")
    files = [f"test_process_{name}.py" for name in names]
    done = as_nobody(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={open_folder}/base"),
        f"--rootdir={ROOT}",
        f"--config-file={ROOT}/pyproject.toml",
        *(f"{ROOT}/tests/runtime/{name}" for name in files),
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
