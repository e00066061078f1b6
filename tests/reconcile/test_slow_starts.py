"""Deciders that start in slices on a view that is held, while the swarm goes on, against those that
start at once: they decide the same, and nothing that came meanwhile is lost or counted twice."""

from collections import deque
from collections.abc import Iterable, Iterator
from random import Random

import pytest

from swarmlet.model.change import Event
from swarmlet.reconcile.base import Key, started
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.mixed import Mixed, Watched
from tests.reconcile.world import Ids, World, assert_at_rest


def held(world: World) -> World:
    """The world as it is now."""
    copy = World()
    copy.index, copy.now_ms = world.index, world.now_ms
    for table, rows in world.tables.items():
        copy.tables[table].rows = dict(rows.rows)
    return copy


class Slow(Watched):
    """Its deciders start one after the other, a key a step; who has not started decides nothing."""

    def __init__(self, mixed: Mixed) -> None:
        self.waiting = deque(enumerate(all_deciders()))
        self.start: Iterator[Key | None] | None = None
        self.found: dict[tuple[int, Key], None] = {}
        self.later: list[Event] = []
        super().__init__(mixed.world, (), mixed.seed)
        self.new_id, self.floor = mixed.new_id, mixed.floor

    def step(self) -> None:
        number, decider = self.waiting[0]
        if self.start is None:
            self.start = iter(decider.start(held(self.world)))
        try:
            key = next(self.start)
        except StopIteration:
            self._has_started()
        else:
            if key is not None:
                self.found[number, key] = None

    def _has_started(self) -> None:
        number, decider = self.waiting.popleft()
        assert number == len(self.deciders)
        self.deciders = (*self.deciders, decider)
        self.dirty.update(self.found)
        for event in self.later:
            self._mark(number, event)
        self.start, self.found, self.later = None, {}, []

    def _mark(self, number: int, event: Event) -> None:
        decider = self.deciders[number]
        if event.table in decider.tables:
            for key in decider.keys_of(event, self.world):
                self.dirty[number, key] = None

    def tell(self, events: Iterable[Event]) -> None:
        events = list(events)
        if self.start is not None:
            self.later += events
        super().tell(events)


def befall(mixed: Mixed) -> None:
    """Something that users, nodes or tasks do."""
    acts = (mixed.fail, mixed.change, mixed.change_node, mixed.remove)
    mixed.rng.choice(acts)()
    mixed.obey(0.5)


def history(seed: int) -> tuple[Mixed, Slow, Random]:
    mixed = Mixed(seed, cuts=False)
    for _ in range(12):
        mixed.act()
    slow = mixed.leader = Slow(mixed)
    return mixed, slow, Random(seed)


@pytest.mark.parametrize("seed", range(60))
def test_deciders_started_in_slices_decide_as_those_started_at_once(seed):
    mixed, slow, rng = history(seed)
    while slow.waiting:
        for _ in range(rng.randint(1, 12)):
            if slow.waiting:
                slow.step()
        befall(mixed)
    for number, fresh in enumerate(all_deciders()):
        mine, theirs = Ids(seed), Ids(seed)
        for key in started(fresh, mixed.world):
            moment = slow.moment
            wanted = fresh.decide(mixed.world, key, type(moment)(moment.now_ms, theirs))
            decision = slow.deciders[number].decide(
                mixed.world, key, type(moment)(moment.now_ms, mine)
            )
            assert decision == wanted, (fresh.name, key)
            is_rest = not wanted.changes and wanted.wake_at_ms is None
            assert is_rest or (number, key) in slow.dirty, (fresh.name, key)


@pytest.mark.parametrize("seed", range(20))
def test_history_goes_on_while_a_leader_starts_in_slices(seed):
    mixed, slow, rng = history(seed)
    while slow.waiting:
        for _ in range(rng.randint(1, 12)):
            if slow.waiting:
                slow.step()
        befall(mixed)
        slow.run()
        mixed.check()
    for _ in range(5):
        mixed.act()
    mixed.finish()
    mixed.check_end()
    assert_at_rest(mixed.world, all_deciders)
