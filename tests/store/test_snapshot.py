"""Snapshots: what was restored is what was there, and what is damaged is refused."""

import asyncio
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import DamagedError
from swarmlet.model.change import Create, Remove, SetStatus
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.task import Task, TaskStatus
from swarmlet.store.snapshot import CHUNK_SIZE_B, ROWS_MAX, decode_snapshot
from swarmlet.store.store import Store
from tests.store.memory_log import MemoryLog
from tests.store.test_commits import outcome, settle
from tests.store.test_histories import assert_view_is, histories
from tests.store.worlds import Direct, config, new_store, node, seeded_env, task


def restored(chunks: list[bytes]) -> Store:
    store = Store(seeded_env())
    store.restore(iter(chunks))
    return store


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_restored_store_is_the_store_byte_for_byte(seed):
    *_, (direct, reference, _) = histories(Random(seed), 25)
    chunks = list(direct.store.snapshot())
    copy = restored(chunks)
    assert list(copy.snapshot()) == chunks
    assert copy.index == direct.store.index
    assert list(copy._outcomes.items()) == direct.outcomes()
    assert_view_is(copy.view(), reference.rows)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_snapshot_is_of_the_moment_it_was_asked_for(seed):
    kept = None
    for direct, reference, _ in histories(Random(seed), 25):
        if direct.store.index == 12:
            outcomes, rows = direct.outcomes(), dict(reference.rows)
            kept = direct.store.snapshot()  # not one chunk is taken yet
    copy = restored(list(kept))
    assert (copy.index, list(copy._outcomes.items())) == (12, outcomes)
    assert_view_is(copy.view(), rows)


def many_tasks(count: int) -> Direct:
    direct = Direct()
    direct.apply(Create(obj=node("n0")))
    for start in range(0, count, 500):
        direct.apply(*(Create(obj=task(f"t{start + i}", node_id="n0")) for i in range(500)))
    return direct


def test_chunks_are_small_in_rows_and_bytes():
    direct = many_tasks(2500)
    for number in range(5):
        big = ConfigSpec(name=f"c{number}", data=b"x" * (CHUNK_SIZE_B // 2))
        direct.apply(Create(obj=Config(id=f"c{number}", spec=big)))
    chunks = list(direct.store.snapshot())
    assert all(len(chunk) < 2 * CHUNK_SIZE_B for chunk in chunks)
    decoder = msgspec.msgpack.Decoder(tuple[int, list[msgspec.Raw]])
    sizes = [(number, len(rows)) for number, rows in map(decoder.decode, chunks[1:])]
    assert sizes == [
        (1, 1),
        (4, ROWS_MAX),
        (4, ROWS_MAX),
        (4, 500),
        (7, 2),
        (7, 2),
        (7, 1),
        (255, 11),
        *([(254, 2)] * 4),  # of the swarm's objects, two full blocks of tasks and an open one
    ]
    assert restored(chunks).view().tasks.count("node", "n0") == 2500


def test_ids_of_nodes_and_services_are_one_string_after_a_restore():
    copy = restored(list(many_tasks(500).store.snapshot()))
    tasks = list(copy.view().tasks.all())
    assert (
        len({id(one.node_id) for one in tasks}) == len({id(one.service_id) for one in tasks}) == 1
    )


def test_snapshot_from_before_a_table_came_is_read():
    first, *others = many_tasks(500).store.snapshot()
    version, index, rows, outcomes, *_ = msgspec.msgpack.decode(first)
    assert rows[-1] == 0
    older = msgspec.msgpack.encode([version, index, rows[:-1], outcomes])
    rest = [chunk for chunk in others if msgspec.msgpack.decode(chunk)[0] != 254]
    assert len(rest) < len(others)
    assert restored([older, *rest]).view().tasks.count("node", "n0") == 500


def test_restore_while_running_tells_what_differs_and_nothing_else():
    old, new = Direct(), Direct()
    for direct in (old, new):
        direct.apply(Create(obj=config("c0", "a")), Create(obj=config("c1", "b")))
    new.apply(Remove(table=Config, id="c0"))
    new.apply(Create(obj=config("c2", "c")))
    told, untold = [], []
    old.store.subscribe(told.extend)
    old.store.subscribe(untold.extend, at_restore=False)
    old.store.restore(new.store.snapshot())
    assert {(event.id, event.old is None, event.new is None) for event in told} == {
        ("c2", True, False),
        ("c0", False, True),
    }
    assert untold == []
    assert {row.id for row in old.store.view().configs.all()} == {"c1", "c2"}


@pytest.mark.parametrize("drop", [0, 1, 2, -1])
def test_snapshot_with_a_chunk_missing_is_refused_and_nothing_is_replaced(drop):
    chunks = list(many_tasks(2000).store.snapshot())
    del chunks[drop]
    direct = Direct()
    direct.apply(Create(obj=config()))
    with pytest.raises(DamagedError, match="snapshot cannot be used"):
        direct.store.restore(iter(chunks))
    assert (direct.store.index, len(direct.store.view().configs)) == (1, 1)


@pytest.mark.parametrize(
    "chunks",
    [[], [b""], [b"\x94\x01\x01"], [b"\x94\x01\x00\x90\x00", b"\x92\x63\x90"]],
    ids=["nothing", "empty", "torn header", "unknown table"],
)
def test_what_is_no_snapshot_is_refused(chunks):
    with pytest.raises(DamagedError, match="snapshot cannot be used"):
        decode_snapshot(chunks)


def test_snapshot_of_a_later_version_is_refused_with_the_remedy():
    with pytest.raises(DamagedError, match="version 2") as caught:
        decode_snapshot([b"\x94\x02\x00\x90\x00"])
    assert "newer" in caught.value.remedy


def test_held_view_outlives_a_restore():
    direct = many_tasks(500)
    held = direct.store.hold()
    direct.store.restore(iter(list(Direct().store.snapshot())))
    assert (len(held.tasks), len(direct.store.view().tasks)) == (500, 0)
    direct.apply(Create(obj=task("t0")))
    assert held.index == 2
    assert held.tasks.get("t0").node_id == "n0"


def test_restored_store_goes_on_where_the_log_goes_on():
    direct = many_tasks(500)
    copy = Direct()
    copy.store.restore(iter(list(direct.store.snapshot())))
    copy.proposals = direct.proposals
    for one in (direct, copy):
        assert one.apply(Create(obj=task("t0")), repeat=102) == ""
        assert one.apply(SetStatus(id="t0", status=TaskStatus(state=512))) == ""
        assert one.apply(Remove(table=Task, id="t1", seen=2)) == ""
    assert list(copy.store.snapshot()) == list(direct.store.snapshot())


async def test_commit_in_flight_is_unknown_when_a_restore_takes_its_store_away():
    store, log = new_store()
    log.hold()
    chunks = list(store.snapshot())
    work = outcome(store.commit([Create(obj=config("c0"))]))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(work)
        await settle()
        store.restore(iter(chunks))
        log.lose()
    assert waiting.result() == "outcome-unknown"
    assert isinstance(log, MemoryLog)
    log.lead()
    log.release()
    assert await outcome(store.commit([Create(obj=config("c0"))])) == "done"
