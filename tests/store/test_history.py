"""The history: bounded, of the same content on every manager, however each came to it."""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import DamagedError
from swarmlet.model.change import Create, Note, SetStatus
from swarmlet.model.task import TaskStatus
from swarmlet.store import history as module
from swarmlet.store.codec import encode_change, encode_entry
from swarmlet.store.history import (
    BLOCK_EVENTS,
    KEPT_MS,
    OBJECT_EVENTS_MAX,
    TASK_EVENTS_MAX,
    History,
    encode_history,
)
from swarmlet.store.store import Store
from tests.store.test_histories import histories
from tests.store.worlds import START_MS, Direct, config, new_store, seeded_env, service, task

SEEDS = st.integers(0, 2**32)


def told(history: History, **asked):
    """All of it, in words that do not depend on how it is kept."""
    return [
        (one.index, one.at_ms, tuple(one.messages), tuple(map(msgspec.structs.astuple, one.tasks)))
        for one in history.read(with_tasks=True, **asked)
    ]


class Stamped(Direct):
    """Applies entries of any stamp."""

    def at(self, stamp_ms: int, *changes) -> None:
        self.number = getattr(self, "number", 10) + 1
        raws = [encode_change(change) for change in changes]
        self.store.apply(self.store.index + 1, encode_entry(self.number, stamp_ms, raws, ()))


@pytest.fixture
def small(monkeypatch):
    """Blocks and rings that fill within a test."""
    monkeypatch.setattr(module, "BLOCK_EVENTS", 7)
    monkeypatch.setattr(module, "OBJECT_EVENTS_MAX", 30)
    monkeypatch.setattr(module, "TASK_EVENTS_MAX", 40)


def test_both_rings_are_a_hundred_thousand():
    assert OBJECT_EVENTS_MAX + TASK_EVENTS_MAX == 100_000
    assert KEPT_MS == 7 * 86_400_000


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_history_of_a_restored_store_goes_on_as_that_of_one_that_never_stopped(seed):
    rng = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_EVENTS", rng.choice([2, 5, 9]))
        patch.setattr(module, "TASK_EVENTS_MAX", 12)
        copy = Store(seeded_env())
        entries = []
        for direct, _, _ in histories(Random(seed), 40):
            entries.append(direct.entries[-1])
            if rng.random() < 0.15:
                copy = Store(seeded_env())
                copy.restore(direct.store.snapshot())
            else:
                copy.apply(direct.store.index, entries[-1])
            assert told(copy.history) == told(direct.store.history)
            assert len(copy.history) == len(direct.store.history)
        assert list(copy.snapshot()) == list(direct.store.snapshot())


def test_oldest_are_forgotten_in_whole_blocks_each_ring_by_itself(small):
    direct = Stamped()
    direct.at(START_MS, Create(obj=config("c", "kept")))
    for number in range(200):
        direct.at(START_MS + number, Create(obj=task(f"t{number}")))
    found = told(direct.store.history)
    assert [message.id for _, _, messages, _ in found for message in messages] == ["c"]
    tasks = [row[0] for *_, rows in found for row in rows]
    assert 40 - 7 < len(tasks) <= 40
    assert tasks == [f"t{number}" for number in range(200 - len(tasks), 200)]


def test_what_is_a_week_older_than_the_newest_is_forgotten_when_a_block_is_sealed(small):
    direct = Stamped()
    for number in range(7):
        direct.at(START_MS + number, Create(obj=config(f"old{number}")))
    for number in range(6):
        direct.at(START_MS + KEPT_MS + 100, Create(obj=config(f"new{number}")))
    assert len(direct.store.history) == 13
    direct.at(START_MS + KEPT_MS + 100, Create(obj=config("new6")))
    assert [messages[0].id for _, _, messages, _ in told(direct.store.history)] == [
        f"new{number}" for number in range(7)
    ]


def test_clock_that_was_set_back_forgets_nothing(small):
    direct = Stamped()
    for number in range(20):
        direct.at(START_MS - number * KEPT_MS // 40, Create(obj=config(f"c{number}")))
    assert len(told(direct.store.history)) == 20


def test_reading_begins_at_a_time_or_behind_an_entry(small):
    direct = Stamped()
    for number in range(20):
        direct.at(
            START_MS + number, Create(obj=config(f"c{number}")), Create(obj=task(f"t{number}"))
        )
    history = direct.store.history
    assert {at_ms for _, at_ms, _, _ in told(history, since_ms=START_MS + 11)} == set(
        range(START_MS + 11, START_MS + 20)
    )
    indexes = [index for index, *_ in told(history, after_index=12)]
    assert indexes == sorted([*range(13, 21)] * 2)
    assert [len(one.tasks) for one in history.read()] == [0] * 20


def test_reader_is_not_disturbed_by_what_is_applied_meanwhile(small):
    direct = Stamped()
    for number in range(25):
        direct.at(START_MS, Create(obj=config(f"c{number}")))
    reading = direct.store.history.read()
    first = next(reading).messages[0].id
    for number in range(25, 90):
        direct.at(START_MS, Create(obj=config(f"c{number}")))
    rest = [one.messages[0].id for one in reading]
    assert [first, *rest] == [f"c{number}" for number in range(25)]


async def test_listener_hears_what_is_new_and_nothing_of_a_repeat_or_a_refusal():
    store, _ = new_store()
    heard = []
    end = store.history.listen(heard.append)
    await store.commit([Create(obj=config("c0", "a"))], proposal_id=77)
    await store.commit([Create(obj=config("c0", "a"))], proposal_id=77)
    other = Store(seeded_env())
    other.history.listen(heard.append)
    other.restore(store.snapshot())
    assert [one.messages[0].id for one in heard] == ["c0"]
    end()
    await store.commit([Note(kind="task", action="exec", id="t")])
    assert len(heard) == 1
    assert [one.action for happening in store.history.read() for one in happening.messages] == [
        "create",
        "exec",
    ]


def test_storm_of_task_events_takes_a_bounded_place():
    direct = Stamped()
    direct.at(START_MS, Create(obj=service("s" * 25)))
    for start in range(0, TASK_EVENTS_MAX + 5_000, 1_000):
        tasks = (task(f"{start + n:025}", "s" * 25, node_id="n" * 25) for n in range(1_000))
        direct.at(START_MS + start, *(Create(obj=one) for one in tasks))
    history = direct.store.history
    assert len(history) == TASK_EVENTS_MAX + 1
    assert history.size_b() < 120 * TASK_EVENTS_MAX
    before_b = history.size_b()
    assert sum(len(chunk) for chunk in direct.store.snapshot())
    assert history.size_b() < before_b * 0.7


def test_snapshot_without_a_block_is_refused():
    direct = Stamped()
    for start in range(0, 2 * BLOCK_EVENTS, 500):
        direct.at(START_MS, *(Create(obj=task(f"t{start + n}")) for n in range(500)))
    *chunks, last = direct.store.snapshot()
    with pytest.raises(DamagedError, match="as many events"):
        Store(seeded_env()).restore(iter(chunks))
    Store(seeded_env()).restore(iter([*chunks, last]))


def test_ring_that_this_release_does_not_know_is_refused():
    chunk = msgspec.msgpack.encode((2, []))
    with pytest.raises(DamagedError, match="ring 2"):
        History().load(chunk)


def test_block_is_compressed_once_and_reads_the_same(small):
    direct = Stamped()
    direct.at(START_MS, *(Create(obj=task(f"t{n}")) for n in range(10)))
    direct.at(START_MS, SetStatus(id="t3", status=TaskStatus(state=512, message="started")))
    history = direct.store.history
    before = told(history)
    first = list(encode_history(history.parts()))
    assert [part.is_packed for _, parts in first for part in parts] == [True, False]
    assert told(history) == before
    assert list(encode_history(history.parts())) == first
