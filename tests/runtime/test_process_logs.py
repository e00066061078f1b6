"""The log files of the process runtime: written by LogWriter, read by read_log."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.model.base import Driver
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.log_reader import read_log
from swarmlet.runtime.process.log_writer import LINE_MAX_B, LogWriter
from swarmlet.wire.messages import LogOptions
from tests.runtime.process_world import IS_ROOT, assigned, begin, read, run, shell, until

OUT, ERR = b"stdout", b"stderr"


def writer(folder: Path, size_max_b: int = 1 << 20, files_max: int = 3) -> LogWriter:
    return LogWriter(os.fsencode(folder), size_max_b, files_max)


def lines_of(folder: Path, **options):
    async def gather():
        lines = read_log(str(folder), TaskID("t"), LogOptions(**options), lambda: True)
        return [line async for line in lines]

    return asyncio.run(gather())


def data_of(folder: Path, **options) -> list[bytes]:
    return [line.data for line in lines_of(folder, **options)]


def test_record_has_the_k8s_form(tmp_path):
    before_ns = time.time_ns()
    log = writer(tmp_path)
    log.take(OUT, b"one\ntwo")
    log.take(ERR, b"three\n")
    log.finish()
    records = (tmp_path / "log").read_bytes().splitlines()
    assert [record[35:] for record in records] == [
        b" stdout F one",
        b" stderr F three",
        b" stdout P two",
    ]
    assert all(record[19:20] == b"." and record[29:35] == b"+00:00" for record in records)
    found = lines_of(tmp_path)
    assert [(line.stream, line.data) for line in found] == [
        (1, b"one\n"),
        (2, b"three\n"),
        (1, b"two"),
    ]
    assert all(before_ns <= line.at_ns <= time.time_ns() for line in found)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([OUT, ERR]),
            st.one_of(
                st.binary(max_size=40),
                st.builds(lambda n, end: b"x" * n + end, st.integers(0, 40_000), st.just(b"\n")),
            ),
        ),
        max_size=12,
    ),
    st.integers(2_000, 200_000),
)
def test_every_byte_comes_back_in_order(tmp_path_factory, writes, size_max_b):
    folder = tmp_path_factory.mktemp("log")
    log = writer(folder, size_max_b, files_max=1000)
    for stream, data in writes:
        log.take(stream, data)
    log.finish()
    found = lines_of(folder)
    for number, stream in ((1, OUT), (2, ERR)):
        assert b"".join(line.data for line in found if line.stream == number) == b"".join(
            data for name, data in writes if name == stream
        )
    assert all(len(line.data) <= LINE_MAX_B + 1 for line in found)


def test_long_line_is_cut_into_parts_and_its_end_is_whole(tmp_path):
    log = writer(tmp_path)
    log.take(OUT, b"a" * (2 * LINE_MAX_B + 5) + b"\nb\n")
    assert [(len(data), data[-1:]) for data in data_of(tmp_path)] == [
        (LINE_MAX_B, b"a"),
        (LINE_MAX_B, b"a"),
        (6, b"\n"),
        (2, b"\n"),
    ]


def test_rotation_keeps_the_newest_files_within_their_size(tmp_path):
    log = writer(tmp_path, size_max_b=1_000, files_max=3)
    for number in range(200):
        log.take(OUT, b"line %d\n" % number)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    assert all((tmp_path / name).stat().st_size <= 1_000 for name in os.listdir(tmp_path))
    found = data_of(tmp_path)
    assert found == [b"line %d\n" % number for number in range(200 - len(found), 200)]
    assert len(found) > 35


def test_single_file_starts_anew(tmp_path):
    log = writer(tmp_path, size_max_b=200, files_max=1)
    for number in range(20):
        log.take(OUT, b"line %d\n" % number)
    assert os.listdir(tmp_path) == ["log"]
    assert data_of(tmp_path)[-1] == b"line 19\n"


def test_driver_none_keeps_nothing(tmp_path):
    log = writer(tmp_path, size_max_b=0)
    log.take(OUT, b"x\n")
    assert os.listdir(tmp_path) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 120), st.integers(0, 130), st.integers(200, 5_000), st.booleans())
def test_tail_is_the_end_of_everything(tmp_path_factory, count, tail, size_max_b, only_err):
    folder = tmp_path_factory.mktemp("log")
    log = writer(folder, size_max_b, files_max=1000)
    for number in range(count):
        log.take(ERR if number % 3 == 0 else OUT, b"line %d " % number + b"x" * number * 5 + b"\n")
    everything = data_of(folder, stdout=not only_err)
    last = everything[max(0, len(everything) - tail) :]
    assert data_of(folder, stdout=not only_err, tail=tail) == last


def test_tail_of_a_long_log_reads_little(tmp_path):
    log = writer(tmp_path, size_max_b=1 << 30)
    for _ in range(40):
        log.take(OUT, b"0123456789" * 5 * 1000 + b"\n" + b"short\n" * 5_000)
    began = time.perf_counter()
    assert data_of(tmp_path, tail=5) == [b"short\n"] * 5
    tail_s = time.perf_counter() - began
    began = time.perf_counter()
    assert len(data_of(tmp_path)) > 200_000
    assert tail_s < (time.perf_counter() - began) / 5


def test_since_and_until_bound_the_lines(tmp_path):
    log = writer(tmp_path)
    log.take(OUT, b"one\n")
    time.sleep(0.002)
    log.take(OUT, b"two\n")
    time.sleep(0.002)
    log.take(OUT, b"three\n")
    one, two, three = (line.at_ns for line in lines_of(tmp_path))
    assert data_of(tmp_path, since_ns=two) == [b"two\n", b"three\n"]
    assert data_of(tmp_path, until_ns=two) == [b"one\n", b"two\n"]
    assert data_of(tmp_path, since_ns=one + 1, until_ns=three - 1) == [b"two\n"]
    assert data_of(tmp_path, until_ns=two, tail=1) == [b"two\n"]
    assert data_of(tmp_path, since_ns=time.time_ns() + 10**9) == []


def test_torn_and_foreign_records_are_skipped(tmp_path):
    log = writer(tmp_path)
    log.take(OUT, b"good\n")
    with (tmp_path / "log").open("ab") as file:
        file.write(
            b"2026-11-22T18:17:14.41\ngarbage\n\n9999-99-99T99:99:99.000000000+00:00 stdout F x\n"
        )
        file.write(b"2026-11-22T18:17:14.417904595+00:00 stdout F torn at the end")
    assert data_of(tmp_path) == [b"good\n"]
    assert data_of(tmp_path, tail=5)[0] == b"good\n"


@pytest.mark.root
@pytest.mark.skipif(not IS_ROOT, reason="needs root: mounts a small filesystem")
def test_full_disk_loses_records_says_so_and_recovers(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        log = writer(tmp_path)
        log.take(OUT, b"before\n")
        (tmp_path / "ballast").write_bytes(b"x" * 40_000)
        for number in range(50):
            log.take(OUT, b"%d " % number + b"y" * 1_000 + b"\n")
        log.take(OUT, b"z" * 60_000 + b"\n")
        (tmp_path / "ballast").unlink()
        log.take(OUT, b"after\n")
        found = data_of(tmp_path)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
    assert found[0] == b"before\n"
    assert found[-1] == b"after\n"
    lost = int(found[-2].split()[4])
    assert found[-2] == b"swarmlet: the disk refused %d records of this log\n" % lost
    assert len(found) - 3 + lost == 50 + 4  # the long line came in four parts


async def test_unknown_task_has_no_log(runtime):
    with pytest.raises(RuntimeProblemError, match="not on this node"):
        await read(runtime, "unknown")


async def test_task_that_said_nothing_has_an_empty_log(runtime):
    await run(runtime, assigned("t", "true"))
    assert await read(runtime, "t") == []
    assert await read(runtime, "t", follow=True) == []


async def test_follow_goes_on_until_the_task_ends(runtime):
    script = "for i in 1 2 3; do echo $i; sleep 0.05; done; printf end"
    await begin(runtime, shell("t", script))
    found = await read(runtime, "t", follow=True)
    assert [line.data for line in found] == [b"1\n", b"2\n", b"3\n", b"end"]


async def test_follow_starts_before_the_task_does(runtime):
    task = shell("t", "echo late")
    await runtime.prepare(task)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(runtime, "t", follow=True))
        await asyncio.sleep(0.15)
        await runtime.start(task)
    assert [line.data for line in reading.result()] == [b"late\n"]


async def test_follow_ends_when_the_task_is_removed(runtime):
    await begin(runtime, shell("t", "echo up; sleep 100"))
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(runtime, "t", follow=True))
        await asyncio.sleep(0.1)
        await runtime.remove(TaskID("t"))
    assert [line.data for line in reading.result()] == [b"up\n"]


async def test_follow_loses_nothing_across_rotation(runtime):
    count = 20_000
    driver = Driver(options={"max-size": "200k", "max-file": "20"})
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); done"
    task = shell("t", script, log_driver=driver)
    await runtime.prepare(task)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(runtime, "t", follow=True))
        await runtime.start(task)
    assert [line.data for line in reading.result()] == [b"line %d\n" % n for n in range(count)]


async def test_both_streams_are_told_apart(runtime):
    await run(runtime, shell("t", "echo out; echo err >&2"))
    assert [line.data for line in await read(runtime, "t", stderr=False)] == [b"out\n"]
    assert [line.data for line in await read(runtime, "t", stdout=False)] == [b"err\n"]


async def test_last_output_is_complete_where_a_stranger_holds_the_pipe(runtime, tmp_path):
    script = "echo first; head -c 60000 /dev/zero | tr '\\0' x; exit 3"
    end = await run(runtime, shell("t", script))
    assert end.exit_code == 3
    found = b"".join(line.data for line in await read(runtime, "t"))
    assert found == b"first\n" + b"x" * 60_000


async def test_log_is_rotated_as_the_log_driver_says(runtime, tmp_path):
    driver = Driver(name="json-file", options={"max-size": "2k", "max-file": "2"})
    await run(runtime, shell("t", "seq 1 1000", log_driver=driver))
    names = sorted(path.name for path in (tmp_path / "tasks" / "t").glob("log*"))
    assert names == ["log", "log.1"]
    await until(lambda: True)
    assert (await read(runtime, "t", tail=1))[0].data == b"1000\n"
