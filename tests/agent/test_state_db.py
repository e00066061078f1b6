"""The task database: what is noted is there after a restart, however the file was compacted or
full."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.agent.state_db import StateDB, open_state
from swarmlet.core.errors import DamagedError, DiskFullError
from swarmlet.core.ids import TaskID
from swarmlet.env.real import RealDisk
from swarmlet.env.sealed import SealedLog, seal_key
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


def opened(directory: Path) -> StateDB:
    return StateDB(lambda: open_state(ENV, str(directory), KEY), blocking)


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
        db = StateDB(lambda: log, blocking)
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
        db = StateDB(lambda: log, blocking)
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


def test_state_db_refuses_a_wrong_key(tmp_path: Path):
    async def story():
        db = opened(tmp_path)
        await db.load()
        db.put(assigned("a"))
        await db.close()
        other = StateDB(lambda: open_state(ENV, str(tmp_path), seal_key(bytes(32))), blocking)
        with pytest.raises(DamagedError):
            await other.load()

    run_virtual(story())


def test_state_db_refuses_a_record_of_another_kind(tmp_path: Path):
    async def story():
        log = open_state(ENV, str(tmp_path), KEY)
        log.replay()
        log.append([msgspec.msgpack.encode(["Mystery", 1])])
        log.close()
        with pytest.raises(DamagedError, match="cannot be read"):
            await opened(tmp_path).load()

    run_virtual(story())
