"""Watching: every entry once, in order, without a gap, within a bound."""

import asyncio

import pytest

from swarmlet.core.errors import UnavailableError
from swarmlet.model.change import Create, Remove
from swarmlet.model.config import Config
from swarmlet.store.watch import Watch
from tests.store.worlds import config, new_store


async def test_watch_and_view_meet_exactly():
    store, _ = new_store()
    await store.commit([Create(obj=config("c0"))])
    watch = Watch(store)
    known = {row.id for row in store.view().configs.all()}
    assert watch.position == store.index == 1
    await store.commit([Create(obj=config("c1")), Create(obj=config("c2"))])
    await store.commit([Remove(table=Config, id="c0")])
    watch.close()
    seen = []
    async for applied in watch:
        assert watch.position == applied.index
        seen.append(applied.index)
        for event in applied.events:
            (known.discard if event.new is None else known.add)(event.id)
    assert seen == [2, 3]
    assert known == {row.id for row in store.view().configs.all()} == {"c1", "c2"}


async def test_reader_waits_for_the_next_entry():
    store, _ = new_store()
    with Watch(store) as watch:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(anext(watch))
            await asyncio.sleep(0)
            assert not reading.done()
            group.create_task(store.commit([Create(obj=config())]))
    applied = reading.result()
    assert (applied.index, [event.id for event in applied.events]) == (1, ["c0"])


async def test_closing_ends_a_waiting_reader():
    store, _ = new_store()
    watch = Watch(store)

    async def read() -> list[int]:
        return [applied.index async for applied in watch]

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        await asyncio.sleep(0)
        watch.close()
    assert reading.result() == []
    await store.commit([Create(obj=config())])
    assert [applied.index async for applied in watch] == []


async def test_slow_reader_is_told_and_costs_nothing_more():
    store, _ = new_store()
    watch = Watch(store, events_max=10)
    await store.commit([Create(obj=config(f"a{i}")) for i in range(10)])
    assert (await anext(watch)).index == 1
    await store.commit([Create(obj=config(f"b{i}")) for i in range(6)])
    await store.commit([Create(obj=config(f"c{i}")) for i in range(5)])
    for _ in range(2):
        with pytest.raises(UnavailableError, match="more than 10 changes behind"):
            await anext(watch)
    assert store._subscribers == ()
    assert watch.position == 1


async def test_reader_that_keeps_up_reads_for_ever():
    store, _ = new_store()
    with Watch(store, events_max=2) as watch:
        for number in range(5):
            await store.commit([Create(obj=config(f"a{number}")), Create(obj=config(f"b{number}"))])
            assert (await anext(watch)).index == number + 1


async def test_unsubscribing_during_an_event_ends_only_that_subscriber():
    store, _ = new_store()
    told = []

    def once(events):
        told.append("once")
        end()

    end = store.subscribe(once)
    store.subscribe(lambda events: told.append("always"))
    await store.commit([Create(obj=config("c0"))])
    await store.commit([Create(obj=config("c1"))])
    assert told == ["once", "always", "always"]
