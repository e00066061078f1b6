"""A swarm of several managers and many agents in simulation: whole daemons on one virtual time.

Each machine has a disk, a clock and a runtime of its own, which outlive its daemons; all share a
network in memory. The verbs are what befalls machines and what must come to hold behind it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from swarmlet.core.errors import SwarmError
from swarmlet.env.base import Env
from swarmlet.model.node import NodeState
from swarmlet.model.secret import SecretSpec
from swarmlet.wire.messages import AssignedTask
from tests.agent.fake_runtime import Script
from tests.daemon.sim_nodes import SimNode
from tests.sim.disk import ROOMY_B, SimCrash
from tests.sim.fleet_truth import SURE_S, Truth
from tests.sim.group_loop import group_loop
from tests.sim.loop import HostClock, SimClock, inline
from tests.sim.world import SimRuntime
from tests.wire.memory_link import MemoryNet

SETTLES_WITHIN_S = 180.0
RESTS_S = 12.0  # without a single log entry
LOOK_S = 0.25
SECRETS = 4
WRONG_CLOCKS = 0.3  # of all swarms have managers whose clocks are wrong
SLOW_IMAGES_S = (0.0, 0.0, 0.2, 2.0, 8.0)
T = TypeVar("T")

BROKEN = (SimCrash, SwarmError, BaseExceptionGroup, TimeoutError)


class Machine(SimNode):
    """A host of the swarm. `is_dark`: it has no power, so that nobody hears it end; `is_paused`:
    its daemon stands still, as behind SIGSTOP, and its tasks run on."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        super().__init__(fleet.net, name, HostClock(fleet.clock))
        self.fleet, self.runtime = fleet, _Runtime(fleet, name)
        self.node_id = ""
        self.is_cut = self.is_dark = self.is_paused = False
        self.disk_s = 0.0  # that each call of its disk takes
        self.there_since_s = 0.0
        self.was_unwatched = False  # its tasks ran on without their daemon; see `is_watching`

    @property
    def is_there(self) -> bool:
        return self.is_running and not self.is_cut and not self.is_paused

    def is_watching(self) -> bool:
        """Whether its daemon, and its runtime, have been there ever since its tasks began, or are
        well again."""
        if self.runtime.condition.problem:
            self.was_unwatched, self.there_since_s = True, self.fleet.now_s
        if self.was_unwatched and self.is_there and self.there_since_s < self.fleet.now_s - SURE_S:
            self.was_unwatched = False
        return self.is_running and not self.was_unwatched

    def _begin(self, life: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return group_loop().start(self.host, life)

    def _env(self) -> Env:
        return replace(super()._env(), blocking=_Pace(self))

    async def within(self, work: Coroutine[Any, Any, T], limit_s: float = 60.0) -> T:
        """Do it as the daemon would: not while it stands still. Raises TimeoutError."""
        task = self._begin(work)
        try:
            await asyncio.wait((task,), timeout=limit_s)
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(lambda one: one.cancelled() or one.exception())
        if not task.done():
            raise TimeoutError
        if task.cancelled():
            raise SimCrash("the daemon ended")
        return task.result()

    async def pause(self, for_s: float) -> None:
        if not self.is_running or self.is_paused or self.disk.is_dead:
            return
        self.is_paused = self.was_unwatched = True
        self.fleet.tell(f"pause {self.host}")
        group_loop().pause(self.host)
        await asyncio.sleep(for_s)
        self.go_on()

    def go_on(self) -> None:
        if self.is_paused:
            self.is_paused, self.there_since_s = False, self.fleet.now_s
            group_loop().go_on(self.host)

    async def boot(self) -> None:
        if self.is_running:
            return
        if self.is_dark:
            self.is_dark = False
            if not self.is_cut:
                self.net.mend(self.host)
        try:
            await self.start()
        except (SimCrash, BaseExceptionGroup):
            if not self.disk.is_dead:
                raise
            await self.fleet.bury()  # its power went again; somebody boots it later
        self.there_since_s = self.fleet.now_s

    async def end(self, how: str) -> None:
        """`stop` in order, `kill` (tasks run on), or `power` (they do not, and nobody hears it)."""
        if not self.is_running:
            return
        self.go_on()
        self.fleet.tell(f"{how} {self.host}")
        self.was_unwatched = how != "power"
        if how == "stop":
            with suppress(SimCrash, BaseExceptionGroup):
                await self.stop()
            if not self.disk.is_dead:
                self.net.end_process(self.host)
                self.disk.reopen()
                return
            how = "power"
        if how == "power":
            self.is_dark = True
            self.net.cut(self.host)
        await self.kill()
        if how == "kill":
            self.net.end_process(self.host)
            self.disk.reopen()
        else:
            self.runtime.reboot()
            self.disk.crash(self.fleet.rng)

    def isolate(self) -> None:
        self.is_cut = True
        self.net.cut(self.host)
        self.fleet.tell(f"cut {self.host}")

    def reconnect(self) -> None:
        self.is_cut, self.there_since_s = False, self.fleet.now_s
        if not self.is_dark:
            self.net.mend(self.host)
        self.fleet.tell(f"mend {self.host}")


class _Pace:
    """env.Blocking without threads: calls in order, each as long as the machine's disk takes."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._lock = machine, asyncio.Lock()

    async def __call__(self, work: Callable[[], T]) -> T:
        async with self._lock:
            if self._machine.disk_s:
                await asyncio.sleep(self._machine.disk_s)
            return await inline(work)


class _Runtime(SimRuntime):
    """Fetches images slowly, some of the time."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        super().__init__(fleet.clock)
        self._rng = Random(f"{name}/images")
        self._scripts = self._script

    def _script(self, _: AssignedTask) -> Script:
        return Script(
            prepare_s=self._rng.choice(SLOW_IMAGES_S),
            start_s=self._rng.choice((0.0, 0.05, 0.5)),
            stop_s=self._rng.choice((0.0, 0.1, 1.0)),
        )


class Fleet:
    """`managers` found the swarm; `workers` join it."""

    def __init__(self, seed: int | str, managers: int = 5, workers: int = 30) -> None:
        self.seed, self.rng = seed, Random(f"{seed}/fleet")
        self.clock, self.net = SimClock(), MemoryNet()
        self.net.is_frozen = lambda host: group_loop().is_paused(host)
        self.counts: Counter[str] = Counter()
        self.told: list[str] = []
        self.on_tell: Callable[[str], object] = lambda _what: None
        names = [f"m{n}.{seed}.x" for n in range(1, managers + 1)]
        names += [f"w{n}.{seed}.x" for n in range(1, workers + 1)]
        self.machines = [Machine(self, name) for name in names]
        self.founders = self.machines[:managers]
        self.truth = Truth(self)
        self.removed: list[Machine] = []
        self.secrets: dict[str, str] = {}  # ids by name
        self.is_calm = True
        self.has_wrong_clocks = self.rng.random() < WRONG_CLOCKS
        self.slowest_s = 0.0

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    def tell(self, what: str) -> None:
        self.counts[what.partition(" ")[0]] += 1
        self.told.append(f"{self.now_s:9.3f} {what}")
        self.on_tell(what)

    # Who is who -----------------------------------------------------------------------------------
    def running(self) -> list[Machine]:
        return [one for one in self.machines if one.is_running]

    def members(self) -> list[Machine]:
        return [one for one in self.running() if one.member is not None and one.member.is_ready]

    def leader(self) -> Machine | None:
        leading = [one for one in self.members() if one.member.leads()]
        return max(leading, key=lambda one: one.leadership.term, default=None)

    def by_node(self) -> dict[str, Machine]:
        return {one.node_id: one for one in self.machines if one.node_id}

    async def until_led(self, limit_s: float = 60.0) -> Machine:
        until_s = self.now_s + limit_s
        while (leader := self.leader()) is None:
            assert self.now_s < until_s, "nobody leads"
            await asyncio.sleep(0.05)
            await self.bury()
        return leader

    # Formation ------------------------------------------------------------------------------------
    async def form(self) -> None:
        for machine in self.machines:
            await machine.boot()
        founder = self.machines[0]
        await founder.within(founder.init())
        for machine in self.machines[1:]:
            role = "manager" if machine in self.founders else "worker"
            await machine.within(machine.join(founder, role))
        for machine in self.machines:
            machine.node_id = machine.state.node_id
        control = (await self.until_led()).engine.control()
        for number in range(SECRETS):
            spec = SecretSpec(name=f"s{number}", data=f"the secret {number}".encode())
            self.secrets[spec.name] = await control.create_secret(spec)

    async def bury(self) -> None:
        """Whose power went at a disk operation is without it; it starts again after a while."""
        for machine in self.machines:
            if machine._task is not None and machine._task.done() and machine.disk.is_dead:
                machine._task.exception()  # the power's end, which ended the daemon
                self.tell(f"power-at-operation {machine.host}")
                machine.is_dark = True
                self.net.cut(machine.host)
                machine.runtime.reboot()
                machine.disk.crash(self.rng)
                machine.disk.is_dead = False
                machine._task = None

    async def readmit(self) -> None:
        """Whoever was removed leaves for good, and joins as a new node."""
        for machine in self.machines:
            while machine in self.removed:
                try:
                    async with asyncio.timeout(60.0):
                        await self._join_anew(machine)
                except BROKEN as problem:
                    self.tell(f"not-readmitted {machine.host} {type(problem).__name__}")
                    await self.bury()
                    await machine.boot()
                    await asyncio.sleep(1.0)

    async def _join_anew(self, machine: Machine) -> None:
        leader = await self.until_led()
        if machine.state.state != "inactive":
            await machine.within(machine.engine.leave_swarm(force=True))
        await machine.within(machine.join(leader))
        machine.node_id = machine.state.node_id
        self.removed.remove(machine)
        self.tell(f"readmitted {machine.host}")

    # What must come to hold -----------------------------------------------------------------------
    async def heal(self) -> None:
        """No fault is left."""
        self.is_calm = True
        self.net.frame_delay_s = lambda _one, _other: self.net.delay_s
        self.net.mend_all()
        for machine in self.machines:
            machine.go_on()
            machine.disk.capacity_b, machine.disk_s = ROOMY_B, 0.0
            machine.disk.fail_at(1 << 40)
            if machine.is_cut:
                machine.reconnect()
        await self.bury()
        for machine in self.machines:
            while not machine.is_running:
                await machine.boot()
        await self.readmit()

    async def settle(self, limit_s: float = SETTLES_WITHIN_S) -> None:
        """Until all is as it must come to be, and nothing more happens by itself."""
        began_s = self.now_s
        while found := await self._troubles():
            assert self.now_s - began_s < limit_s, f"does not settle: {found[:8]}"
            await asyncio.sleep(LOOK_S)
            self.truth.look()
        self.slowest_s = max(self.slowest_s, self.now_s - began_s)
        await self._rest(limit_s)

    async def _rest(self, limit_s: float) -> None:
        """Every loop rests: nothing is decided, and nothing is written."""
        until_s = self.now_s + limit_s
        seen, since_s = -1, self.now_s
        while self.now_s - since_s < RESTS_S:
            leader = await self.until_led()
            index = leader.member.store.view().index
            awake = [one.host for one in self.running() if not one.engine.is_at_rest()]
            if index != seen or awake:
                seen, since_s = index, self.now_s
            assert self.now_s < until_s, f"something never rests: {awake[:4]}, index {index}"
            await asyncio.sleep(LOOK_S)
            self.truth.look()

    async def _troubles(self) -> list[str]:
        leader = self.leader()
        if leader is None:
            return ["nobody leads"]
        view = leader.member.store.view()
        rows = {row.id: row for row in view.nodes.all()}
        found = []
        for machine in self.machines:
            row = rows.get(machine.node_id)
            if row is None:
                found.append(f"{machine.host} has no row")
            elif row.status.state != NodeState.READY:
                found.append(f"{machine.host} is {row.status.state} ({row.status.message})")
        managers = {row.id for row in rows.values() if row.spec.role == "manager"}
        voters = {one.node_id for one in leader.member.log.members() if one.is_voter}
        if managers != voters:
            found.append(f"voters are {sorted(voters)}, managers {sorted(managers)}")
        return found + self.truth.troubles(view)

    async def end(self) -> None:
        for machine in reversed(self.machines):
            if machine.is_running:
                await machine.stop()
