"""Batches: cut into entries within limits; only what is refused alone is dropped."""

import logging

import pytest

from swarmlet.core.errors import NotLeaderError
from swarmlet.core.limits import ENTRY_CHANGES_MAX, ENTRY_SIZE_MAX_B
from swarmlet.model.change import Assign, Create, SetDesired, SetStatus
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.task import TaskStatus
from swarmlet.store.batch import pieces
from swarmlet.store.codec import encode_entry
from tests.store.worlds import config, new_store, node, task


def test_pieces_stay_within_both_limits_and_lose_nothing():
    sizes = [10, 500_000, 900_000, 400_000, 20, 1_300_000, 10, *([5] * 2500)]
    changes = [
        Create(obj=Config(id=f"c{i}", spec=ConfigSpec(name=f"c{i}", data=b"x" * size)))
        for i, size in enumerate(sizes)
    ]
    cut = list(pieces(changes))
    assert sum(map(len, cut)) == len(changes)
    for piece in cut:
        assert len(piece) <= ENTRY_CHANGES_MAX
        assert len(encode_entry(2**63, 2**42, piece)) <= ENTRY_SIZE_MAX_B
    assert [len(piece) for piece in cut] == [3, 2, 1000, 1000, 502]


def test_pieces_are_encoded_only_as_they_are_taken():
    taken = []

    def changes():
        for number in range(5):
            taken.append(number)
            yield Create(obj=config(f"c{number}"))

    cut = pieces(changes(), count_max=2)
    assert len(next(cut)) == 2
    assert taken == [0, 1, 2]


def test_change_larger_than_an_entry_is_a_piece_of_its_own():
    big = Create(obj=Config(id="b", spec=ConfigSpec(name="b", data=b"x" * ENTRY_SIZE_MAX_B)))
    cut = list(pieces([Create(obj=config("c0")), big, Create(obj=config("c1"))]))
    assert [len(piece) for piece in cut] == [1, 1, 1]


async def test_batch_commits_any_number_of_changes():
    store, log = new_store()
    await store.batch(Create(obj=config(f"c{i}")) for i in range(2500))
    assert (len(store.view().configs), len(log.entries)) == (2500, 3)


async def test_batch_of_nothing_proposes_nothing():
    store, log = new_store()
    await store.batch([])
    assert log.proposals == 0


async def test_batch_drops_only_what_is_refused_alone(caplog):
    store, log = new_store()
    await store.commit([Create(obj=node()), Create(obj=task("t500", state=192))])
    await store.batch(Create(obj=task(f"t{i}")) for i in range(1000) if i != 500)
    proposed = log.proposals
    with caplog.at_level(logging.DEBUG, "swarmlet.store"):
        await store.batch(Assign(id=f"t{i}", node_id="n0") for i in range(1000))
    assert store.view().tasks.count("node", "n0") == 999
    assert store.view().tasks.get("t500").node_id == ""
    assert [record.message for record in caplog.records] == ["store.change_dropped"]
    assert log.proposals - proposed <= 12  # halves that fit, never a thousand


async def test_batch_drops_what_is_too_large_and_commits_the_rest():
    store, _ = new_store()
    big = Create(obj=Config(id="b", spec=ConfigSpec(name="b", data=b"x" * ENTRY_SIZE_MAX_B)))
    await store.batch([Create(obj=config("c0")), big, Create(obj=config("c1"))])
    assert sorted(one.id for one in store.view().configs.all()) == ["c0", "c1"]


async def test_batch_keeps_the_order_of_changes_of_one_row():
    store, _ = new_store()
    await store.batch(
        [
            Create(obj=task()),
            SetStatus(id="t0", status=TaskStatus(state=512, message="started")),
            SetStatus(id="t0", status=TaskStatus(state=704, err="crashed")),
            SetDesired(id="t0", desired=640),
        ]
    )
    row = store.view().tasks.get("t0")
    assert (row.status.state, row.status.err, row.desired) == (704, "crashed", 640)


async def test_batch_stops_when_leadership_is_lost():
    store, log = new_store()
    log.lose()
    with pytest.raises(NotLeaderError):
        await store.batch([Create(obj=config())])
