"""What befalls a simulated swarm: its managers as in a group of managers, and its agents."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.sim.disk import WHERES
from tests.sim.fleet import Fleet, Machine
from tests.sim.world import AWAY_S

AWAY_FOR_S = (0.5, 1.5, 5.0, 15.0, 70.0)
CUT_S = (0.5, 2.0, 6.0, 20.0, 45.0)
LONG_CUT_S = (*CUT_S, 75.0)  # of a worker: what stops by itself has long been replaced
PAUSE_S = (0.5, 2.0, 5.0, 12.0, 30.0)
SLOW_DISK_S = (0.02, 0.1, 0.4)  # that each call takes
BACK_IN_S = 20.0  # at most, after the power of all went
SKEW_MAX_MS = 40_000
JUMP_MAX_MS = 10 * 24 * 3600 * 1000  # of a clock that is set right soon


class Nemesis:
    """Does something every now and then; managers' faults leave a majority most of the time."""

    def __init__(self, fleet: Fleet, group: asyncio.TaskGroup) -> None:
        self._fleet, self._rng = fleet, Random(f"{fleet.seed}/nemesis")
        self._group, self._busy = group, 0
        self._acts: tuple[tuple[float, Callable[[], Coroutine[Any, Any, None]]], ...] = (
            (6, self._end_worker),
            (3, self._end_manager),
            (5, self._cut_worker),
            (3, self._cut_manager),
            (2, self._cut_pair),
            (3, self._flap),
            (3, self._lose_runtime),
            (3, self._power_at_operation),
            (1, self._rack),
            (2, self._fill_disk),
            (1, self._slow_net),
            (2, self._turn_clock),
            (3, self._pause),
            (2, self._slow_disk),
            (0.4, self._blackout),
        )

    @property
    def is_busy(self) -> bool:
        return bool(self._busy)

    async def run(self, mean_s: float) -> None:
        weights, acts = zip(*self._acts, strict=True)
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / mean_s))
            await self._fleet.bury()
            if not self._fleet.is_calm:
                self._group.create_task(self._do(self._rng.choices(acts, weights)[0]))

    async def _do(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._busy += 1
        try:
            await act()
        finally:
            self._busy -= 1

    def _worker(self) -> Machine:
        return self._rng.choice([m for m in self._fleet.machines if m not in self._fleet.founders])

    def _manager(self) -> Machine:
        leader = self._fleet.leader()
        if leader is not None and self._rng.random() < 0.4:
            return leader
        return self._rng.choice(self._fleet.founders)

    async def _end(self, machine: Machine) -> None:
        if not machine.is_running or machine.disk.is_dead or machine.is_paused:
            return
        await machine.end(self._rng.choice(("stop", "kill", "kill", "power", "power")))
        await asyncio.sleep(self._rng.choice(AWAY_FOR_S))
        if not machine.is_running:
            await machine.boot()

    async def _end_worker(self) -> None:
        await self._end(self._worker())

    async def _end_manager(self) -> None:
        await self._end(self._manager())

    async def _cut(self, machine: Machine) -> None:
        if machine.is_cut:
            return
        machine.isolate()
        is_founder = machine in self._fleet.founders
        await asyncio.sleep(self._rng.choice(CUT_S if is_founder else LONG_CUT_S))
        if machine.is_cut:
            machine.reconnect()

    async def _cut_worker(self) -> None:
        await self._cut(self._worker())

    async def _cut_manager(self) -> None:
        await self._cut(self._manager())

    async def _cut_pair(self) -> None:
        """Some two managers do not reach each other, or one way only."""
        one, other = self._rng.sample(self._fleet.founders, 2)
        self._fleet.tell(f"cut-pair {one.host} {other.host}")
        self._fleet.net.cut(one.host, other.host, both_ways=self._rng.random() < 0.5)
        await asyncio.sleep(self._rng.choice(CUT_S))
        self._fleet.net.mend(one.host, other.host)

    async def _flap(self) -> None:
        machine = self._worker()
        self._fleet.tell(f"flap {machine.host}")
        for _ in range(self._rng.randint(3, 6)):
            await self._cut(machine)
            await asyncio.sleep(self._rng.uniform(0.5, 8.0))

    async def _rack(self) -> None:
        """Half of the workers lose the net, or power, at once."""
        workers = [one for one in self._fleet.machines if one not in self._fleet.founders]
        many = self._rng.sample(workers, len(workers) // 2)
        self._fleet.tell(f"rack {len(many)}")
        work = self._rng.choice((self._cut, self._end))
        async with asyncio.TaskGroup() as group:
            for machine in many:
                group.create_task(work(machine))

    async def _lose_runtime(self) -> None:
        machine = self._worker()
        if machine.is_running and not machine.runtime.condition.problem:
            self._fleet.tell(f"runtime-away {machine.host}")
            machine.runtime.lose(self._rng.choice(AWAY_S[:3]))

    async def _power_at_operation(self) -> None:
        machine = self._rng.choice((self._worker(), self._manager()))
        machine.disk.fail_at(self._rng.randrange(12), self._rng.choice(WHERES))
        await asyncio.sleep(self._rng.choice(AWAY_FOR_S))
        await self._fleet.bury()
        if not machine.is_running:
            await machine.boot()

    async def _fill_disk(self) -> None:
        machine = self._rng.choice((self._worker(), self._manager()))
        self._fleet.tell(f"full-disk {machine.host}")
        disk, before_b = machine.disk, machine.disk.capacity_b
        disk.capacity_b = disk.used_b + self._rng.randrange(3000)
        await asyncio.sleep(self._rng.choice((1.0, 4.0)))
        disk.capacity_b = before_b

    async def _slow_net(self) -> None:
        self._fleet.tell("slow-net")
        rng, net = self._rng, self._fleet.net
        net.frame_delay_s = lambda _one, _other: rng.uniform(0.001, 0.08)
        await asyncio.sleep(self._rng.choice((2.0, 8.0)))
        net.frame_delay_s = lambda _one, _other: net.delay_s

    async def _turn_clock(self) -> None:
        """By seconds for good, or by days until somebody sets it right. Managers' stay right where
        stop-after is judged: it relies on them."""
        has_wrong = self._fleet.has_wrong_clocks
        machine = self._manager() if has_wrong and self._rng.random() < 0.5 else self._worker()
        if machine.member is not None and not has_wrong:
            return
        if self._rng.random() < 0.5:
            self._fleet.tell(f"clock {machine.host}")
            machine.clock.skew_ms = self._rng.randint(-SKEW_MAX_MS, SKEW_MAX_MS)
            return
        self._fleet.tell(f"clock-by-days {machine.host}")
        machine.clock.skew_ms = self._rng.randint(-JUMP_MAX_MS, JUMP_MAX_MS)
        await asyncio.sleep(self._rng.choice(CUT_S))
        machine.clock.skew_ms = 0

    async def _pause(self) -> None:
        machine = self._rng.choice((self._worker(), self._manager()))
        await machine.pause(self._rng.choice(PAUSE_S))

    async def _slow_disk(self) -> None:
        machine = self._rng.choice((self._worker(), self._manager()))
        self._fleet.tell(f"slow-disk {machine.host}")
        machine.disk_s = self._rng.choice(SLOW_DISK_S)
        await asyncio.sleep(self._rng.choice(CUT_S))
        machine.disk_s = 0.0

    async def _blackout(self) -> None:
        """The power of the whole swarm goes, and its hosts are back one after the other."""
        self._fleet.tell("blackout")

        async def back(machine: Machine) -> None:
            await machine.end("power")
            await asyncio.sleep(self._rng.uniform(0.2, BACK_IN_S))
            if not machine.is_running:
                await machine.boot()

        async with asyncio.TaskGroup() as group:
            for machine in self._fleet.machines:
                group.create_task(back(machine))
