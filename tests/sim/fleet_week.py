"""A week of a simulated swarm whose users update, scale and drain without pause for minutes on end,
while its leaders and workers are killed; then nothing happens for hours, which are skipped.

Each time all services must come to run their last spec, whoever led meanwhile, and rest; and never
may the swarm itself have stopped more of a service than its user allows (`reconcile/floor`).
"""

import asyncio
from random import Random

from msgspec.structs import replace

from swarmlet.model.base import Empty
from swarmlet.model.rebalance import LABEL
from swarmlet.model.service import ServiceMode, ServiceSpec, UpdateConfig
from swarmlet.model.view import spec_of
from tests.sim.fleet import BROKEN, LOOK_S, Fleet, Machine
from tests.sim.group_loop import run_group_sim
from tests.sim.world import service_spec

HOUR_MS = 3_600_000
IDLE_MS = 12 * HOUR_MS
BUSY_S = 25.0
ACT_S = 1.2  # on average, between two things that happen
CALL_S = 10.0
SETTLES_WITHIN_S = 900.0  # rebalancing takes its time on purpose
REPLICAS_MAX = 8
WAYS = {  # order, parallelism, rebalance
    "ahead": ("start-first", 2, "continuous"),
    "behind": ("stop-first", 2, "continuous"),
    "plain": ("", 1, "on-join"),
    "alone": ("stop-first", 1, ""),
}
EVERYWHERE = "everywhere"


class Week:
    """`half_days` busy times, with half a day of nothing after each."""

    def __init__(
        self, seed: int | str, half_days: int, managers: int = 3, workers: int = 6
    ) -> None:
        self.fleet, self.half_days = Fleet(f"week-{seed}", managers, workers), half_days
        self._rng = Random(f"{seed}/week")
        self._numbers: dict[str, int] = {}
        self._drained: list[Machine] = []
        self._moved: set[str] = set()
        self.fleet.has_wrong_clocks = False

    async def main(self) -> None:
        await self.fleet.form()
        for name in (*WAYS, EVERYWHERE):
            await self._create(name)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._look())
            for _ in range(self.half_days):
                await self._busy()
                await self._end_of_day()
            watch.cancel()
        await self.fleet.end()

    async def _look(self) -> None:
        while True:
            self.fleet.truth.look()
            leader = self.fleet.leader()
            if leader is not None:
                tasks = leader.member.store.view().tasks.all()
                self._moved.update(task.id for task in tasks if task.moved_ms)
            await asyncio.sleep(LOOK_S)

    @property
    def moved(self) -> int:
        """How many tasks came to where they run for balance."""
        return len(self._moved)

    async def _busy(self) -> None:
        acts = (self._update, self._update, self._scale, self._scale, self._drain, self._activate)
        deaths = (self._kill_leader, self._kill_worker, self._crash)
        until_s = self.fleet.now_s + BUSY_S
        async with asyncio.TaskGroup() as group:
            while self.fleet.now_s < until_s:
                await asyncio.sleep(self._rng.expovariate(1 / ACT_S))
                await self.fleet.bury()
                act = self._rng.choice((*acts, *deaths))
                if act in deaths:
                    group.create_task(act())
                else:
                    await act()

    async def _end_of_day(self) -> None:
        await self.fleet.heal()
        while self._drained:
            await self._activate()
        await self.fleet.settle(SETTLES_WITHIN_S)
        self.fleet.tell("night")
        self.fleet.clock.skew_ms += IDLE_MS
        await self.fleet.settle(SETTLES_WITHIN_S)

    # Users --------------------------------------------------------------------------------------
    def _spec(self, name: str) -> ServiceSpec:
        if name == EVERYWHERE:
            config = UpdateConfig(parallelism=1, order="stop-first", monitor=10**9)
            spec = replace(service_spec(name, 1), mode=ServiceMode(global_=Empty()))
            label = ""
        else:
            order, parallelism, label = WAYS[name]
            config = UpdateConfig(parallelism=parallelism, order=order, monitor=10**9)
            spec = service_spec(name, self._rng.randint(3, REPLICAS_MAX))
        config = replace(config, failure_action="continue")
        labels = {"number": "1", **({LABEL: label} if label else {})}
        return replace(spec, labels=labels, update_config=config)

    async def _create(self, name: str) -> None:
        spec = self._spec(name)
        self.fleet.truth.asked[name], self._numbers[name] = [1], 1
        control = (await self.fleet.until_led()).engine.control()
        await control.create_service(spec)
        self.fleet.truth.acknowledged[name] = 1

    async def _update(self) -> None:
        name = self._rng.choice((*WAYS, EVERYWHERE))

        def change(spec: ServiceSpec) -> ServiceSpec:
            container = spec.task_template.container_spec
            number = len(self.fleet.truth.asked[name])
            container = replace(container, env=[f"N={number}"])
            return replace(
                spec, task_template=replace(spec.task_template, container_spec=container)
            )

        await self._change(name, change)

    async def _scale(self) -> None:
        name = self._rng.choice(sorted(WAYS))
        mode = service_spec(name, self._rng.randint(1, REPLICAS_MAX)).mode
        await self._change(name, lambda spec: replace(spec, mode=mode))

    async def _change(self, name: str, change) -> None:
        """On what is there now, as a person would who reads before writing."""
        leader = self.fleet.leader()
        if leader is None:
            return
        control, truth = leader.engine.control(), self.fleet.truth
        number = truth.asked[name][-1] + 1
        truth.asked[name].append(number)

        async def verb() -> None:
            view = await control.read()
            row = control.find_service(view, name)
            spec = change(spec_of(view, row))
            spec = replace(spec, labels={**spec.labels, "number": str(number)})
            await control.update_service(name, row.version, spec)

        if await self._call(leader, verb()):
            truth.acknowledged[name] = number
            self.fleet.tell(f"update {name}")

    async def _drain(self) -> None:
        leader, host = self.fleet.leader(), self._rng.choice(self.fleet.machines)
        if leader is None or len(self._drained) > 1 or host in self._drained:
            return
        if await self._call(leader, leader.engine.control().drain_node(host.node_id)):
            self.fleet.tell(f"drain-gently {host.host}")
            self._drained.append(host)

    async def _activate(self) -> None:
        leader = await self.fleet.until_led()
        if not self._drained:
            return
        host, control = self._drained[0], leader.engine.control()

        async def verb() -> None:
            row = control.find_node(await control.read(), host.node_id)
            spec = replace(row.spec, availability="active")
            await control.update_node(host.node_id, row.version, spec)

        if await self._call(leader, verb()):
            self._drained.remove(host)
        else:
            await asyncio.sleep(0.5)

    async def _call(self, leader: Machine, verb) -> bool:
        try:
            await leader.within(verb, CALL_S)
        except BROKEN:
            return False
        return True

    # What befalls them --------------------------------------------------------------------------
    async def _kill_leader(self) -> None:
        leader = self.fleet.leader()
        if leader is not None and len(self.fleet.members()) == len(self.fleet.founders):
            await self._kill(leader)

    async def _kill_worker(self) -> None:
        workers = [one for one in self.fleet.machines if one not in self.fleet.founders]
        await self._kill(self._rng.choice(workers))

    async def _kill(self, host: Machine) -> None:
        if host.is_running and not host.disk.is_dead:
            await host.end(self._rng.choice(("kill", "power")))
            await asyncio.sleep(self._rng.choice((0.5, 2.0, 6.0)))
            if not host.is_running:
                await host.boot()

    async def _crash(self) -> None:
        running = [(one, task) for one in self.fleet.running() for task in one.runtime.running()]
        if running:
            host, task_id = self._rng.choice(running)
            host.runtime.kill(task_id, 1)


def run_week(seed: int | str, half_days: int = 14) -> Week:
    """The week as it was lived through."""
    week = Week(seed, half_days)
    try:
        run_group_sim(week.fleet.clock, week.main())
    except BaseException as error:
        story = "\n".join(week.fleet.told[-30:])
        raise AssertionError(f"week {seed}: {error!r}\n{story}") from error
    return week
