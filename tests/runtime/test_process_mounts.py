"""Mounts of the process runtime: what is refused in words, and what a root daemon's tasks get."""

import asyncio
import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.env.real import real_env
from swarmlet.model.base import Driver
from swarmlet.model.container import BindOptions, HealthConfig, Mount, TmpfsOptions, VolumeOptions
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process import runtime as process_runtime
from swarmlet.runtime.process.host import Host
from swarmlet.runtime.process.mounts import is_within, plan_mounts
from swarmlet.runtime.process.runtime import ProcessRuntime
from swarmlet.runtime.process.volumes import remove_content
from tests.runtime.process_world import (
    IS_ROOT,
    assigned,
    begin,
    open_runtime,
    output,
    run,
    shell,
)

needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: mounts of tasks")
HOST = Host(boot_id="b", uid=0, hostname="h", unprivileged_port_min=1024, isolation_problem="")
DATA = "/var/lib/swarmlet"


def bind(source: str, target: str, *, read_only: bool = False, **options) -> Mount:
    return Mount(
        type="bind",
        source=source,
        target=target,
        read_only=read_only,
        bind_options=BindOptions(**options),
    )


def volume(source: str, target: str, **options) -> Mount:
    return Mount(
        type="volume", source=source, target=target, volume_options=VolumeOptions(**options)
    )


def tmpfs(target: str, **options) -> Mount:
    return Mount(type="tmpfs", target=target, tmpfs_options=TmpfsOptions(**options))


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount(type="npipe", source="a", target="/b"), '"npipe"'),
        (Mount(type="image", source="a", target="/b"), '"image"'),
        (Mount(type="cluster", source="a", target="/b"), '"cluster"'),
        (bind("relative", "/b"), "must be absolute"),
        (bind("/a", "relative"), "absolute path"),
        (bind("/a", "/"), "absolute path"),
        (bind("/a", "/x/.."), "absolute path"),
        (bind("/a", "//"), "absolute path"),
        (bind("/a", "/proc"), "/proc"),
        (bind("/a", "/proc/sys"), "/proc"),
        (bind("/a", DATA), "belongs to the daemon"),
        (bind("/a", f"/srv/../{DATA}/tasks"), "belongs to the daemon"),
        (bind("/a\0", "/b"), "NUL"),
        (bind("/a", "/b", propagation="rshared"), "rshared"),
        (bind("/a", "/b", create_mountpoint=True), "make their source"),
        (bind("/a", "/b", read_only_non_recursive=True), "top alone"),
        (volume("x", "/b"), '"x"'),
        (volume("../x", "/b"), '"../x"'),
        (volume("a/b", "/b"), '"a/b"'),
        (volume("v" * 256, "/b"), "no name for a volume"),
        (volume("vol", "/b", subpath="x"), "within a volume"),
        (volume("vol", "/b", driver_config=Driver(name="nfs")), "another driver"),
        (volume("vol", "/b", driver_config=Driver(options={"type": "nfs"})), "another driver"),
        (Mount(type="tmpfs", source="a", target="/b"), "Source must not"),
        (tmpfs("/b", options=[["uid", "0"]]), "uid=0"),
    ],
)
def test_mount_that_cannot_be_given_is_refused_in_words(mount, words):
    with pytest.raises(RuntimeProblemError) as caught:
        plan_mounts([mount], HOST, [DATA])
    assert words in caught.value.message


def test_mounts_without_namespaces_are_refused_with_what_is_needed():
    for uid, problem in ((65534, ""), (0, "namespaces: Operation not permitted")):
        host = Host(
            boot_id="b",
            uid=uid,
            hostname="h",
            unprivileged_port_min=1024,
            isolation_problem=problem,
        )
        assert plan_mounts([], host, [DATA]) == ()
        with pytest.raises(RuntimeProblemError, match="a daemon gives that runs as root"):
            plan_mounts([tmpfs("/mnt")], host, [DATA])


def test_what_lies_deeper_is_mounted_later_and_equals_keep_their_order():
    mounts = [tmpfs("/a/b/c"), tmpfs("/a/d"), tmpfs("/a"), tmpfs("/a/b/")]
    targets = [plan.target for plan in plan_mounts(mounts, HOST, [DATA])]
    assert targets == ["/a", "/a/d", "/a/b", "/a/b/c"]


@pytest.mark.parametrize(
    ("path", "folder", "is_in"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/", "/a", False),
        ("/a", "/", True),
    ],
)
def test_folder_holds_itself_and_what_is_below(path, folder, is_in):
    assert is_within(path, [folder]) == is_in


# As root ------------------------------------------------------------------------------------------


@pytest.fixture
def place():
    """A folder every task can reach, with `source/file`, `target/` and `deep/` in it."""
    folder = Path(tempfile.mkdtemp(prefix="swarmlet-"))
    folder.chmod(0o755)
    for name in ("source", "target", "deep"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    (folder / "source" / "file").write_text("hello\n")
    yield folder
    shutil.rmtree(folder)


def mounts_below(*folders: Path) -> list[str]:
    """Lines of this process's mounts, that is the host's, which a task must not add to."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(str(folder) in line for folder in folders)]


async def said(runtime, script: str, *mounts: Mount, **more) -> str:
    task = shell("t", f"exec 2>&1; {script}", mounts=list(mounts), **more)
    await run(runtime, task)
    text = await output(runtime, "t")
    await runtime.remove(TaskID("t"))
    assert mounts_below(*(Path(mount.target) for mount in mounts)) == []
    return text


async def refused(runtime, *mounts: Mount, **more) -> str:
    task = assigned("t", "true", mounts=list(mounts), **more)
    with pytest.raises(RuntimeProblemError) as caught:
        await begin(runtime, task)
    await runtime.remove(TaskID("t"))
    return caught.value.message


@needs_root
async def test_bind_shows_a_folder_of_the_node_elsewhere(runtime, place):
    script = f"cat {place}/target/file; echo more > {place}/target/new; ls {place}/target"
    text = await said(runtime, script, bind(f"{place}/source", f"{place}/target"))
    assert text == "hello\nfile\nnew\n"
    assert (place / "source" / "new").read_text() == "more\n"
    assert list((place / "target").iterdir()) == []


@needs_root
async def test_read_only_bind_takes_no_writing(runtime, place):
    mount = bind(f"{place}/source", f"{place}/target", read_only=True)
    text = await said(runtime, f"echo x > {place}/target/new", mount)
    assert "Read-only file system" in text


@needs_root
async def test_file_is_bound_on_a_file(runtime, place):
    (place / "config").write_text("old\n")
    text = await said(
        runtime, f"cat {place}/config", bind(f"{place}/source/file", f"{place}/config")
    )
    assert text == "hello\n"


@needs_root
async def test_mounts_bring_no_devices_and_no_setuid(runtime, place):
    shutil.copy("/usr/bin/id", place / "source" / "id")
    (place / "source" / "id").chmod(0o4755)
    os.mknod(place / "source" / "null", 0o20666, os.makedev(1, 3))
    (place / "source" / "null").chmod(0o666)
    script = (
        f"{place}/target/id -u; cat < {place}/target/null; grep {place}/target /proc/self/mounts"
    )
    text = await said(runtime, script, bind(f"{place}/source", f"{place}/target"))
    uid, problem, line = text.splitlines()
    assert int(uid) >= 100_000
    assert "ermission denied" in problem
    assert "nosuid,nodev" in line


@needs_root
async def test_missing_source_is_refused_in_dockers_words(runtime, place):
    assert await refused(runtime, bind(f"{place}/nowhere", f"{place}/target")) == (
        f'invalid mount config for type "bind": bind source path does not exist: {place}/nowhere'
    )


@needs_root
async def test_looking_for_a_source_does_not_hold_up_the_event_loop(place, tmp_path):
    """A file system that is gone, as NFS, keeps whoever asks it for a file."""
    gone, back = asyncio.Event(), asyncio.Event()

    async def asked(work):
        gone.set()
        await back.wait()
        return work()

    env = dataclasses.replace(real_env(), blocking=asked)
    runtime = ProcessRuntime(env, state_dir=f"{tmp_path}/tasks", data_dir=str(tmp_path))
    task = shell("hung", "exit 3", mounts=[bind(f"{place}/source", f"{place}/target")])
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        starting = [group.create_task(runtime.start(task)) for _ in range(2)]
        await gone.wait()
        assert await runtime.list_tasks() == []
        back.set()
    assert starting[0].result() == starting[1].result()
    assert (await runtime.wait(task.id)).exit_code == 3
    await runtime.remove(task.id)


@needs_root
async def test_target_must_be_there_and_of_the_same_kind(runtime, place):
    missing = await refused(runtime, bind(f"{place}/source", f"{place}/nowhere"))
    assert f"target {place}/nowhere does not exist" in missing
    assert "no folder, its source is a folder" in await refused(
        runtime, bind(f"{place}/source", f"{place}/source/file")
    )
    assert "a folder, its source is no folder" in await refused(
        runtime, bind(f"{place}/source/file", f"{place}/target")
    )


@needs_root
async def test_data_directory_is_no_source_and_no_target_even_by_a_link(place):
    data = place / "data"
    (data / "volumes").mkdir(parents=True)
    (data / "secret").write_text("treasure")
    data.chmod(0o755)
    (place / "link").symlink_to(data)
    (place / "target" / "link").symlink_to(data / "volumes")
    runtime = open_runtime(data)
    for source in (data, data / "secret", place / "link", place / "link" / "secret"):
        message = await refused(runtime, bind(str(source), f"{place}/target"))
        assert "belongs to the daemon" in message
    message = await refused(runtime, bind(f"{place}/source", f"{place}/target/link"))
    assert "belongs to the daemon" in message
    message = await refused(runtime, bind("/proc/1/environ", f"{place}/config"))
    assert "view of the daemon's" in message
    await runtime.close()


@needs_root
async def test_bind_of_a_folder_above_keeps_the_data_directory_hidden(place):
    data = place / "data"
    data.mkdir()
    (data / "secret").write_text("treasure")
    runtime = open_runtime(data)
    data.chmod(0o755)
    above = bind(str(place), f"{place}/target")
    text = await said(
        runtime, f"cat {place}/target/data/secret; cat {place}/target/source/*", above
    )
    assert "treasure" not in text
    assert "hello" in text
    bare = bind(str(place), f"{place}/target", non_recursive=True)
    assert "only a recursive bind keeps it hidden" in await refused(runtime, bare)
    await runtime.close()


@needs_root
async def test_bind_gives_a_task_no_more_than_its_user_may_reach(runtime, place):
    (place / "closed").mkdir(mode=0o700)
    (place / "closed" / "inner").mkdir(mode=0o755)
    (place / "closed" / "inner" / "file").write_text("treasure")
    mount = bind(f"{place}/closed/inner", f"{place}/target")
    assert "may not enter" in await refused(runtime, mount)
    assert "may not enter" in await refused(runtime, mount, user="daemon")
    (place / "closed").chmod(0o755)
    assert await said(runtime, f"cat {place}/target/file", mount) == "treasure"


@needs_root
async def test_link_swapped_in_after_the_look_is_not_followed(runtime, place):
    mount = bind(f"{place}/source", f"{place}/target")
    task = assigned("t", "true", mounts=[mount])
    await runtime.prepare(task)
    swap_for_a_link(place / "source", place / "gone")
    with pytest.raises(RuntimeProblemError, match="bind source path does not exist"):
        await runtime.start(task)


def swap_for_a_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


@needs_root
async def test_shim_itself_follows_no_link(runtime, place, monkeypatch):
    """The last moment before the mount: what was a folder when it was looked up is a link now."""
    task = assigned("t", "true", mounts=[bind(f"{place}/source", f"{place}/target")])
    await runtime.prepare(task)
    config = process_runtime.shim_config

    def swapped_then_told(*arguments):
        swap_for_a_link(place / "source", Path("/root"))
        return config(*arguments)

    monkeypatch.setattr(process_runtime, "shim_config", swapped_then_told)
    with pytest.raises(RuntimeProblemError, match="a link was put into its path just now"):
        await runtime.start(task)


@needs_root
async def test_tmpfs_is_the_tasks_own_with_size_and_mode(runtime, place):
    target = f"{place}/target"
    script = f"stat -c '%a %u' {target}; id -u; head -c 3000000 /dev/zero > {target}/x; df {target}"
    text = await said(runtime, script, tmpfs(target, size_bytes=1 << 20, mode=0o700))
    mode, owner, uid = text.split()[:3]
    assert (mode, owner) == ("700", uid)
    assert "No space left" in text
    assert " 1024 " in text
    text = await said(
        runtime, f"stat -c %a {target}; cp /bin/true {target}; {target}/true", tmpfs(target)
    )
    assert text.startswith("1777\n")
    assert "Permission denied" in text  # noexec, as in Docker
    script = f"cp /bin/true {target}; {target}/true && echo ran"
    assert await said(runtime, script, tmpfs(target, options=[["exec"]])) == "ran\n"


@needs_root
async def test_named_volume_stays_and_is_reached_by_its_mount_alone(runtime, place, tmp_path):
    mount = volume("shop", f"{place}/target", labels={"team": "a"}, no_copy=True)
    await said(runtime, f"echo kept > {place}/target/file", mount)
    folder = tmp_path / "volumes" / "shop"
    assert (folder / "_data" / "file").read_text() == "kept\n"
    assert (folder / "_data").stat().st_mode & 0o777 == 0o777
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    assert '"team":"a"' in (folder / "volume.json").read_text()
    other = volume("shop", f"{place}/target", labels={"team": "b"})
    assert await said(runtime, f"cat {place}/target/file", other) == "kept\n"
    assert '"team":"a"' in (folder / "volume.json").read_text()
    assert "kept" not in await said(runtime, f"cat {folder}/_data/file")


@needs_root
async def test_volume_without_a_name_goes_with_its_task(runtime, place, tmp_path):
    deep = "i=0; while [ $i -lt 1500 ]; do mkdir -m 700 d && cd d; i=$((i+1)); done; touch x"
    script = f"cd {place}/target && touch a && mkdir -m 0 closed && ln -s / root && {deep}; echo $i"
    assert await said(runtime, script, volume("", f"{place}/target")) == "1500\n"
    assert list((tmp_path / "tasks").iterdir()) == []
    assert not (tmp_path / "volumes").exists()
    assert os.path.exists("/usr")  # noqa: ASYNC240 - the test waits for nothing else


@needs_root
async def test_mounts_may_lie_in_each_other(runtime, place, tmp_path):
    await said(runtime, f"mkdir {place}/target/cache", volume("vol", f"{place}/target"))
    text = await said(
        runtime,
        f"echo x > {place}/target/cache/x; df {place}/target/cache | grep -c tmpfs",
        tmpfs(f"{place}/target/cache"),
        volume("vol", f"{place}/target"),
    )
    assert text == "1\n"
    assert list((tmp_path / "volumes" / "vol" / "_data" / "cache").iterdir()) == []


@needs_root
async def test_links_a_task_left_in_its_volume_are_not_followed(runtime, place):
    await said(runtime, f"ln -s /usr {place}/target/cache", volume("vol", f"{place}/target"))
    message = await refused(
        runtime, volume("vol", f"{place}/target"), tmpfs(f"{place}/target/cache")
    )
    assert (
        message
        == f"Nothing can be mounted on {place}/target/cache: a link was put into its path just now."
    )


@needs_root
async def test_sources_are_the_hosts_whatever_else_is_mounted(runtime, place):
    text = await said(
        runtime,
        f"ls {place}/source; cat {place}/target/file",
        tmpfs(f"{place}/source"),
        bind(f"{place}/source", f"{place}/target"),
    )
    assert text == "hello\n"


@needs_root
async def test_check_of_a_tasks_health_sees_its_mounts(runtime, place):
    health = HealthConfig(
        test=["CMD-SHELL", f"test -e {place}/target/file"], interval=20_000_000, retries=1
    )
    mounts = [bind(f"{place}/source", f"{place}/target")]
    task = assigned("t", "sleep", "100", mounts=mounts, healthcheck=health)
    await begin(runtime, task)
    assert await runtime.healthy(task) is None


def test_removal_takes_turns_and_is_taken_up_again(tmp_path):
    top = tmp_path / "volumes"
    (top / "removed-0" / "x").mkdir(parents=True)
    for index in range(1200):
        (top / "removed-0" / f"f{index}").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (top / "removed-0" / "link").symlink_to(tmp_path / "kept")
    assert sum(1 for _ in remove_content(str(top))) == 2
    assert list(top.iterdir()) == []
    assert (tmp_path / "kept" / "file").exists()
    assert list(remove_content(str(tmp_path / "nowhere"))) == []
