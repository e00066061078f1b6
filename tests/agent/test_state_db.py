"""The task database: what is noted is there after a restart, however the file was compacted or
full."""

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.agent.state_db import KEY_FILE, TASKS_FILE, StateDB, open_state, set_state_aside
from swarmlet.core.errors import DamagedError, DiskFullError
from swarmlet.core.ids import TaskID
from swarmlet.env.real import RealDisk
from swarmlet.env.sealed import SealedLog, SealKey, seal_key
from swarmlet.model.task import TaskState, TaskStatus
from tests.agent.fakes import assigned
from tests.agent.virtual_time import blocking, run_virtual, virtual_env

ENV = virtual_env(RealDisk())
KEY = seal_key(bytes(range(32)))


class FullableLog(SealedLog):
    is_full = False

    def append(self, records):
        if self.is_full:
            raise DiskFullError("no room")
        super().append(records)

    def rewrite(self, records):
        if self.is_full:
            raise DiskFullError("no room")
        super().rewrite(records)


def db_of(directory: Path, log: SealedLog) -> StateDB:
    return StateDB(lambda: log, blocking, lambda: set_state_aside(ENV.disk, str(directory)))


def opened(directory: Path, key: SealKey | None = KEY) -> StateDB:
    return StateDB(
        lambda: open_state(ENV, str(directory), key),
        blocking,
        lambda: set_state_aside(ENV.disk, str(directory)),
    )


async def reloaded(directory: Path) -> StateDB:
    db = opened(directory)
    await db.load()
    await db.close()
    return db


def running(pid: int) -> TaskStatus:
    return TaskStatus(state=int(TaskState.RUNNING), pid=pid)


NOTES = st.lists(
    st.tuples(st.sampled_from(["put", "status", "forget", "flush"]), st.sampled_from("abc")),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(NOTES)
def test_state_db_holds_after_a_restart_what_it_held_before(tmp_path_factory, notes):
    directory = tmp_path_factory.mktemp("db")

    async def story():
        db = opened(directory)
        await db.load()
        for number, (verb, name) in enumerate(notes):
            task_id = TaskID(name)
            match verb:
                case "put":
                    db.put(assigned(name))
                case "status":
                    db.set_status(task_id, running(number))
                case "forget":
                    db.forget(task_id)
                case "flush":
                    await db.flush()
        await db.close()
        again = await reloaded(directory)
        assert (again.tasks, again.statuses) == (db.tasks, db.statuses)
        assert list(again.tasks) == list(again.statuses)

    run_virtual(story())


def test_state_db_is_compacted_when_most_of_it_is_old(tmp_path: Path):
    async def story():
        db = opened(tmp_path)
        await db.load()
        db.put(assigned("a"))
        for pid in range(5_000):
            db.set_status(TaskID("a"), running(pid))
            if pid % 100 == 0:
                await db.flush()
        await db.close()
        assert (tmp_path / "tasks.log").stat().st_size < 16 << 20
        frames = open_state(ENV, str(tmp_path), KEY).replay()
        assert len(frames) < 1_200
        assert (await reloaded(tmp_path)).statuses == {"a": running(4_999)}

    run_virtual(story())


def test_state_db_waits_for_room_to_make_its_file(tmp_path: Path):
    log = open_state(ENV, str(tmp_path), KEY)
    log.__class__ = FullableLog
    log.is_full = True

    async def story():
        db = db_of(tmp_path, log)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            loading = group.create_task(db.load_when_room())
            await asyncio.sleep(10)
            assert (loading.done(), db.was_tried.is_set()) == (False, True)
            log.is_full = False
        db.put(assigned("a"))
        await db.close()
        assert list((await reloaded(tmp_path)).tasks) == ["a"]

    run_virtual(story())


def test_state_db_waits_for_room_and_loses_nothing_when_the_disk_is_full(tmp_path: Path):
    log = open_state(ENV, str(tmp_path), KEY)
    log.__class__ = FullableLog

    async def story():
        db = db_of(tmp_path, log)
        await db.load()
        log.is_full = True
        db.put(assigned("a"))
        for pid in range(12_000):
            db.set_status(TaskID("a"), running(pid))
        with pytest.raises(DiskFullError):
            await db.flush()

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(db.durable())
            await asyncio.sleep(10)
            assert not waiting.done()
            assert db.problem
            log.is_full = False
        assert not db.problem
        await db.close()
        assert (await reloaded(tmp_path)).statuses == {"a": running(11_999)}

    run_virtual(story())


# What cannot be read is set aside -----------------------------------------------------------------
def with_task(directory: Path, key: SealKey | None = KEY) -> Path:
    """The file of a database that remembers a task."""

    async def story():
        db = opened(directory, key)
        await db.load()
        db.put(assigned("a"))
        await db.flush()
        db.set_status(TaskID("a"), running(7))
        await db.close()

    run_virtual(story())
    return directory / TASKS_FILE


def begins_anew(directory: Path, caplog, key: SealKey | None = KEY) -> None:
    """It is empty and works, it was said, and what was there lies aside."""

    async def story():
        db = opened(directory, key)
        await db.load_when_room()
        assert (db.tasks, db.statuses) == ({}, {})
        db.put(assigned("b"))
        await db.close()
        again = opened(directory, key)
        await again.load()
        await again.close()
        assert list(again.tasks) == ["b"]

    with caplog.at_level("ERROR", "swarmlet.agent"):
        run_virtual(story())
    assert [record.message for record in caplog.records] == ["agent.state_damaged"]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 9, 40, 60, 150], ids="byte {}".format)
def test_database_with_a_flipped_bit_is_set_aside(tmp_path: Path, caplog, at):
    path = with_task(tmp_path)
    flip(path, at)
    content = path.read_bytes()
    begins_anew(tmp_path, caplog)
    assert (tmp_path / "tasks.log.damaged").read_bytes() == content


def test_database_cut_within_its_header_is_set_aside(tmp_path: Path, caplog):
    path = with_task(tmp_path)
    path.write_bytes(path.read_bytes()[:17])
    begins_anew(tmp_path, caplog)


def test_database_sealed_by_a_key_that_is_gone_is_set_aside(tmp_path: Path, caplog):
    with_task(tmp_path, None)
    (tmp_path / KEY_FILE).unlink()
    begins_anew(tmp_path, caplog, None)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_key_that_is_none_is_set_aside_with_what_it_sealed(tmp_path: Path, caplog, content):
    with_task(tmp_path, None)
    (tmp_path / KEY_FILE).write_bytes(content)
    begins_anew(tmp_path, caplog, None)
    assert (tmp_path / "agent.key.damaged").read_bytes() == content


def test_database_with_a_record_of_another_kind_is_set_aside(tmp_path: Path, caplog):
    with_task(tmp_path)
    log = open_state(ENV, str(tmp_path), KEY)
    log.replay()
    log.append([msgspec.msgpack.encode(["Mystery", 1])])
    log.close()
    begins_anew(tmp_path, caplog)


def test_folder_in_the_databases_place_is_set_aside(tmp_path: Path, caplog):
    (tmp_path / TASKS_FILE).mkdir()
    begins_anew(tmp_path, caplog)


@pytest.mark.parametrize("cut_b", [1, 30])
def test_torn_last_write_loses_itself_alone(tmp_path: Path, cut_b):
    path = with_task(tmp_path)
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[:-cut_b] + bytes(5_000))

    async def story():
        db = await reloaded(tmp_path)
        assert list(db.tasks) == ["a"]
        assert db.statuses["a"] == assigned("a").status

    run_virtual(story())


def test_deleted_database_begins_anew_without_a_word(tmp_path: Path, caplog):
    with_task(tmp_path).unlink()

    async def story():
        assert (await reloaded(tmp_path)).tasks == {}

    run_virtual(story())
    assert caplog.records == []


class FailingLog(SealedLog):
    """A disk that fails, for all who use the file."""

    fails = False

    def append(self, records):
        if FailingLog.fails:
            raise OSError(5, "Input/output error", self.path)
        super().append(records)

    def rewrite(self, records):
        if FailingLog.fails:
            raise OSError(5, "Input/output error", self.path)
        super().rewrite(records)


def test_failing_disk_is_waited_for_and_then_everything_is_written_anew(tmp_path: Path):
    def failing() -> SealedLog:
        log = open_state(ENV, str(tmp_path), KEY)
        log.__class__ = FailingLog
        return log

    async def story():
        db = StateDB(failing, blocking, lambda: None)
        await db.load()
        db.put(assigned("a"))
        await db.flush()
        FailingLog.fails = True
        try:
            db.set_status(TaskID("a"), running(7))
            with pytest.raises(OSError, match="Input/output error"):
                await db.flush()
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(db.durable())
                await asyncio.sleep(10)
                assert not waiting.done()
                assert "Input/output error" in db.problem
                shutil.rmtree(tmp_path)  # and somebody tidies up meanwhile
                FailingLog.fails = False
        finally:
            FailingLog.fails = False
        assert not db.problem
        await db.close()
        assert (await reloaded(tmp_path)).statuses == {"a": running(7)}

    run_virtual(story())


def test_database_that_can_be_neither_read_nor_replaced_is_an_error(tmp_path: Path):
    flip(with_task(tmp_path), 9)

    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "tasks.log")

    async def story():
        db = StateDB(lambda: open_state(ENV, str(tmp_path), KEY), blocking, refuse)
        with pytest.raises(DamagedError, match="neither read nor replaced"):
            await db.load()

    run_virtual(story())
