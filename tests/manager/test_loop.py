"""The control loop with toy deciders: it rests, wakes, survives refusals and full disks, and
says when a decider never rests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
import pytest

from swarmlet.core.errors import NotLeaderError, StaleVersionError
from swarmlet.core.ids import ConfigID
from swarmlet.env.real import RealDisk
from swarmlet.manager.loop import (
    ROUNDS_MAX,
    START_STEPS_MAX,
    STARTS_MAX,
    TURN_KEYS_MAX,
    ControlLoop,
    RestlessKeyError,
)
from swarmlet.model.change import Create, Event, Remove, Update
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.view import View
from swarmlet.reconcile.base import REST, Decision, Key, Moment
from swarmlet.store.store import Store
from tests.agent.virtual_time import START_MS, run_virtual, until, virtual_env
from tests.store.memory_log import MemoryLog


def config(name: str, **labels: str) -> Config:
    return Config(id=ConfigID(name), spec=ConfigSpec(name=name, labels=labels))


@dataclass
class Toy:
    """Decides each config's key by a function of its row, or of None once it is gone."""

    rule: Callable[[Config | None, Moment], Decision]
    decided: list[Key] = field(default_factory=list)
    name: str = "toy"
    tables: frozenset[type] = frozenset({Config})

    def start(self, view: View) -> Iterable[Key]:
        return [("config", row.id) for row in view.configs.all()]

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        return [("config", event.id)] if event.table is Config else []

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        self.decided.append(key)
        return self.rule(view.configs.get(key[1]), moment)


def relabel(row: Config, **labels: str) -> Update:
    spec = msgspec.structs.replace(row.spec, labels={**row.spec.labels, **labels})
    return Update(obj=msgspec.structs.replace(row, spec=spec), seen=row.version)


def mark_done(row: Config | None, _: Moment) -> Decision:
    if row is None or "done" in row.spec.labels:
        return REST
    return Decision(changes=(relabel(row, done="yes"),), reasons=("not done yet",))


class Ground:
    def __init__(self, decider: Toy) -> None:
        env = self.env = virtual_env(RealDisk())
        self.store = Store(env)
        self.log = MemoryLog(self.store)
        self.store.attach(self.log)
        self.decider = decider
        self.loop = ControlLoop(decider, self.store, env)

    def labels(self, name: str) -> dict[str, str]:
        row = self.store.view().configs.get(name)
        assert row is not None
        return row.spec.labels

    def is_done(self, *names: str) -> bool:
        return all("done" in self.labels(name) for name in names)

    async def create(self, *rows: Config) -> None:
        await self.store.commit([Create(obj=row) for row in rows])

    async def rests(self) -> None:
        await until(self.loop.is_at_rest)


@dataclass
class SlowToy(Toy):
    """Counts rows, and takes many turns to start."""

    count: int = 0
    starts: int = 0
    is_starting: bool = False

    def start(self, view: View) -> Iterator[Key | None]:
        self.starts, self.count, self.is_starting = self.starts + 1, 0, True
        for _ in range(20 * START_STEPS_MAX):
            yield None
        for row in view.configs.all():
            self.count += 1
            yield "config", row.id
        self.is_starting = False

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        assert not self.is_starting
        self.count += (event.old is None) - (event.new is None)
        return super().keys_of(event, view)


async def soon(is_so: Callable[[], bool]) -> None:
    """Wait for a few turns of the loop at most."""
    for _ in range(100):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("waited in vain")


def play(decider: Toy, story: Callable[[Ground], Awaitable[None]]):
    async def main():
        ground = Ground(decider)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            await asyncio.sleep(0)
            await story(ground)
            running.cancel()

    run_virtual(main())


def test_loop_brings_every_key_to_rest_and_then_does_nothing():
    async def story(ground: Ground):
        names = [f"c{number:03}" for number in range(3 * TURN_KEYS_MAX)]
        await ground.create(*map(config, names))
        await until(lambda: ground.is_done(*names))
        await ground.rests()
        proposals, decided = ground.log.proposals, len(ground.decider.decided)
        assert proposals <= 5  # many decisions shared an entry
        await asyncio.sleep(1000)
        assert (ground.log.proposals, len(ground.decider.decided)) == (proposals, decided)

    play(Toy(mark_done), story)


def test_loop_decides_what_was_there_when_it_starts():
    async def main():
        ground = Ground(Toy(mark_done))
        await ground.create(config("a"))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            await until(lambda: ground.is_done("a"))
            running.cancel()
        await ground.create(config("b"))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            await until(lambda: ground.is_done("b"))
            running.cancel()

    run_virtual(main())


def test_loop_tells_what_is_applied_during_a_slow_start_once_and_afterwards():
    async def main():
        toy = SlowToy(mark_done)
        ground = Ground(toy)
        await ground.create(config("a"), config("b"))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            await soon(lambda: toy.is_starting)
            await ground.create(config("c"))
            await ground.store.commit([Remove(table=Config, id=ConfigID("a"))])
            assert toy.is_starting
            assert not ground.loop.is_at_rest()
            await ground.rests()
            assert (toy.starts, toy.count) == (1, 2)
            assert ground.is_done("b", "c")
            running.cancel()

    run_virtual(main())


def test_loop_that_is_overtaken_begins_again_and_at_last_starts_in_one_turn(monkeypatch):
    monkeypatch.setattr("swarmlet.manager.loop.START_EVENTS_MAX", 0)

    async def main():
        toy = SlowToy(mark_done)
        ground = Ground(toy)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            for number in range(STARTS_MAX - 1):
                await soon(lambda starts=number + 1: toy.starts == starts)
                assert toy.is_starting
                await ground.create(config(f"c{number}"))
            await ground.rests()
            assert (toy.starts, toy.count) == (STARTS_MAX, STARTS_MAX - 1)
            assert ground.is_done(*(f"c{number}" for number in range(STARTS_MAX - 1)))
            running.cancel()

    run_virtual(main())


def test_loops_of_one_turnstile_start_one_after_the_other():
    async def main():
        toys = [SlowToy(mark_done) for _ in range(3)]
        ground, turnstile = Ground(toys[0]), asyncio.Lock()
        await ground.create(config("a"))
        loops = [ControlLoop(toy, ground.store, ground.env, turnstile) for toy in toys]
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(loop.run()) for loop in loops]
            while any(toy.count == 0 for toy in toys):
                await asyncio.sleep(0)
                assert sum(toy.is_starting for toy in toys) <= 1
            for loop in loops:
                await until(loop.is_at_rest)
            assert [toy.count for toy in toys] == [1, 1, 1]
            for task in running:
                task.cancel()

    run_virtual(main())


def test_loop_decides_only_the_keys_that_changed():
    async def story(ground: Ground):
        await ground.create(config("a"), config("b"))
        await until(lambda: ground.is_done("a", "b"))
        await ground.rests()
        ground.decider.decided.clear()
        row = ground.store.view().configs.get("a")
        await ground.store.commit([relabel(row, more="yes")])
        await ground.rests()
        assert ground.decider.decided == [("config", "a")]

    play(Toy(mark_done), story)


def test_loop_wakes_at_the_moment_asked_for_and_forgets_it_when_it_is_taken_back():
    def rule(row: Config | None, moment: Moment) -> Decision:
        if row is None or "done" in row.spec.labels:
            return REST
        at_ms = START_MS + int(row.spec.labels["after_ms"])
        if moment.now_ms < at_ms:
            return Decision(wake_at_ms=at_ms)
        return Decision(changes=(relabel(row, done=str(moment.now_ms - START_MS)),))

    async def story(ground: Ground):
        await ground.create(config("a", after_ms="50000"), config("b", after_ms="500"))
        await ground.rests()
        assert ground.loop.next_wake_ms() == START_MS + 500
        await until(lambda: "done" in ground.labels("a"))
        assert ground.labels("b")["done"] == "500"
        assert 50_000 <= int(ground.labels("a")["done"]) < 50_010
        assert ground.loop.next_wake_ms() is None
        await ground.create(config("c", after_ms="99000"))
        await ground.rests()
        await ground.store.commit([Remove(table=Config, id="c")])
        await ground.rests()
        assert ground.loop.next_wake_ms() is None

    play(Toy(rule), story)


def test_loop_asks_again_at_once_when_the_clock_was_set_back():
    async def story(ground: Ground):
        await ground.create(config("a"))
        await ground.rests()
        decided = len(ground.decider.decided)
        ground.loop._seen_ms += 3_600_000  # as if the clock had shown an hour more
        await until(lambda: len(ground.decider.decided) > decided)

    play(Toy(lambda row, moment: Decision(wake_at_ms=START_MS + 10**9)), story)


def test_loop_decides_again_when_somebody_wrote_first():
    ground_of: list[Ground] = []

    def rule(row: Config | None, moment: Moment) -> Decision:
        decision = mark_done(row, moment)
        ground = ground_of[0]
        if decision.changes and ground.log.proposals < 3:
            # decided on a row that has moved on by the time it is proposed
            stale = msgspec.structs.replace(decision.changes[0], seen=decision.changes[0].seen + 7)
            ground.log.proposals += 1
            return Decision(changes=(stale,))
        return decision

    async def story(ground: Ground):
        ground_of.append(ground)
        await ground.create(config("a"), config("b"))
        await until(lambda: ground.is_done("a", "b"))
        await ground.rests()
        assert any("refusals" in name and count for name, count in ground.loop.gauges().items())

    play(Toy(rule), story)


def test_loop_commits_one_by_one_when_one_decision_spoils_the_entry():
    def rule(row: Config | None, moment: Moment) -> Decision:
        if row is not None and row.id == "bad" and "fixed" not in row.spec.labels:
            return Decision(changes=(Create(obj=config("good0")),))  # the name is taken
        return mark_done(row, moment)

    async def story(ground: Ground):
        good = [f"good{number}" for number in range(20)]
        await ground.create(config("bad"), *map(config, good))
        await until(lambda: ground.is_done(*good), limit_s=1)
        assert not ground.loop.is_at_rest()
        before = ground.log.proposals
        await asyncio.sleep(10)
        assert ground.log.proposals - before < 20  # refused more and more rarely
        row = ground.store.view().configs.get("bad")
        await ground.store.commit([relabel(row, fixed="yes")])
        await until(lambda: ground.is_done("bad"), limit_s=0.1)
        await ground.rests()

    play(Toy(rule), story)


FAULTS = [("full", 1.0), ("lost", 1.0), ("unknown", 0.0), ("late", 1.0), ("silent", 21.0)]


@pytest.mark.parametrize(("fault", "pause_s"), FAULTS)
def test_loop_looks_again_after_a_pause_when_a_commit_fails(fault: str, pause_s: float):
    async def story(ground: Ground):
        await ground.rests()
        ground.log.hold()
        async with asyncio.TaskGroup() as group:
            group.create_task(ground.create(config("a")))
            await asyncio.sleep(0)
            ground.log.fail_next(fault)
            ground.log.release()
        began_s = asyncio.get_running_loop().time()
        await until(lambda: ground.is_done("a"))
        await ground.rests()
        assert pause_s <= asyncio.get_running_loop().time() - began_s < pause_s + 0.1
        assert ground.store.view().configs.get("a").spec.labels == {"done": "yes"}

    play(Toy(mark_done), story)


def test_loop_waits_for_the_end_of_leadership_without_hurry():
    async def story(ground: Ground):
        await ground.create(config("a"))
        ground.log.is_leader = False
        await asyncio.sleep(5)
        assert len(ground.decider.decided) <= 60
        with pytest.raises(NotLeaderError):
            await ground.create(config("b"))
        ground.log.is_leader = True
        await until(lambda: ground.is_done("a"))

    play(Toy(mark_done), story)


def dies_of(decider: Toy, *rows: Config) -> BaseException:
    async def main() -> BaseException:
        ground = Ground(decider)
        await ground.create(*rows)
        try:
            await ground.loop.run()
        except (RestlessKeyError, ValueError) as error:  # what it dies of is the result
            return error
        raise AssertionError("it ended by itself")

    return run_virtual(main())


def test_loop_dies_with_the_reasons_when_a_key_never_rests():
    count = [0]

    def rule(row: Config | None, _: Moment) -> Decision:
        count[0] += 1
        return Decision(changes=(relabel(row, n=str(count[0])),), reasons=("one more",))

    error = dies_of(Toy(rule), config("a"))
    assert isinstance(error, RestlessKeyError)
    assert "toy never rests on ('config', 'a'): one more" in str(error)
    assert count[0] == ROUNDS_MAX + 1


def test_loop_dies_when_a_key_is_refused_for_ever():
    def rule(_: Config | None, __: Moment) -> Decision:
        return Decision(changes=(Create(obj=config("a")),))

    assert isinstance(dies_of(Toy(rule), config("a")), RestlessKeyError)


def test_loop_dies_of_its_decider_and_leaves_the_store_unharmed():
    class Broken(Toy):
        def keys_of(self, event: Event, view: View) -> Iterable[Key]:
            raise ValueError("a bug in keys_of")

    async def main():
        ground = Ground(Broken(mark_done))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            await asyncio.sleep(0)
            await ground.create(config("a"))  # the subscriber does not raise
            with pytest.raises(ValueError, match="a bug in keys_of"):
                await asyncio.shield(asyncio.wait_for(waiting(running), 5))
        await ground.create(config("b"))

    async def waiting(task: asyncio.Task[None]):
        await asyncio.wait((task,))
        raise task.exception()

    with pytest.raises(BaseExceptionGroup) as caught:
        run_virtual(main())
    assert caught.group_contains(ValueError, match="a bug in keys_of")


def test_loop_does_not_mistake_the_work_of_others_for_unrest():
    def rule(row: Config | None, _: Moment) -> Decision:
        """Follows a counter that somebody else moves."""
        if row is None or row.spec.labels.get("seen") == row.spec.labels["now"]:
            return REST
        return Decision(changes=(relabel(row, seen=row.spec.labels["now"]),))

    async def story(ground: Ground):
        await ground.create(config("a", now="0"))
        for number in range(1, 5 * ROUNDS_MAX):
            while True:
                row = ground.store.view().configs.get("a")
                try:
                    await ground.store.commit([relabel(row, now=str(number))])
                    break
                except StaleVersionError:
                    await asyncio.sleep(0)
        await until(lambda: ground.labels("a")["seen"] == str(5 * ROUNDS_MAX - 1))
        await ground.rests()

    play(Toy(rule), story)


def test_loop_goes_on_with_a_key_that_has_more_to_look_at_and_gives_others_their_turn():
    looked = dict.fromkeys("ab", 0)

    def rule(row: Config | None, _: Moment) -> Decision:
        if row is None or row.spec.labels.get("done"):
            return REST
        if row.id == "b":
            looked["b"] = looked["a"]
            return Decision(changes=(relabel(row, done="yes"),))
        looked["a"] += 1
        if looked["a"] < 3 * ROUNDS_MAX:
            return Decision(has_more=True)
        return Decision(changes=(relabel(row, done="yes"),))

    async def story(ground: Ground):
        await ground.create(config("a"), config("b"))
        await ground.rests()
        assert looked == {"a": 3 * ROUNDS_MAX, "b": 1}

    play(Toy(rule), story)


def test_loop_does_not_mistake_the_work_of_others_for_unrest_after_a_look():
    """The other moves on as soon as the loop's own change is in flight, so that it never rests."""
    looks = moved = 0

    def rule(row: Config | None, _: Moment) -> Decision:
        nonlocal looks
        if row is None or row.spec.labels.get("seen") == row.spec.labels["now"]:
            return REST
        looks += 1
        if looks % 2:
            return Decision(has_more=True)
        return Decision(changes=(relabel(row, seen=row.spec.labels["now"]),))

    def move(view: View):
        nonlocal moved
        row = view.configs.get("a")
        if moved and row.spec.labels.get("seen", "0") != row.spec.labels["now"]:
            return (), ()
        moved += 1
        return [relabel(row, now=str(moved))], ()

    async def story(ground: Ground):
        await ground.create(config("a", now="0"))
        while moved < 3 * ROUNDS_MAX:
            await ground.store.update(move)
            await asyncio.sleep(0)
        await until(lambda: ground.labels("a")["seen"] == str(moved))
        await ground.rests()

    play(Toy(rule), story)


def test_loop_dies_when_a_key_looks_for_ever():
    def rule(_: Config | None, __: Moment) -> Decision:
        return Decision(has_more=True, reasons=("there is more",))

    error = dies_of(Toy(rule), config("a"))
    assert isinstance(error, RestlessKeyError)
    assert "there is more" in str(error)


def test_loop_goes_on_with_a_key_that_has_more_to_do():
    def rule(row: Config | None, _: Moment) -> Decision:
        left = 0 if row is None else int(row.spec.labels["left"])
        if not left:
            return REST
        return Decision(changes=(relabel(row, left=str(left - 1)),), has_more=left > 1)

    async def story(ground: Ground):
        await ground.create(config("a", left=str(3 * ROUNDS_MAX)))
        await until(lambda: ground.labels("a")["left"] == "0")
        await ground.rests()

    play(Toy(rule), story)


def test_loop_sleeps_through_changes_of_rows_its_decider_does_not_want():
    class Deaf(Toy):
        def keys_of(self, event: Event, view: View) -> Iterable[Key]:
            raise AssertionError("told of what it does not want")

    toy = Deaf(mark_done, tables=frozenset())

    async def main():
        ground = Ground(toy)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(ground.loop.run())
            await asyncio.sleep(0)
            await ground.create(config("a"))
            assert ground.loop.is_at_rest()
            running.cancel()

    run_virtual(main())
    assert toy.decided == []
