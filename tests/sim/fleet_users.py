"""Who uses a simulated swarm: people who deploy, and an operator who looks after its nodes."""

import asyncio
from random import Random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from swarmlet.core.errors import ConflictError, OutcomeUnknownError, SwarmError
from swarmlet.model.container import FileTarget, SecretReference
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import ServiceSpec, UpdateConfig
from swarmlet.model.view import spec_of
from tests.sim.fleet import BROKEN, Fleet
from tests.sim.world import service_spec

if TYPE_CHECKING:
    from tests.sim.fleet import Machine

CALL_S = 20.0
POWER_AT_ANSWER = 0.06  # of all that is acknowledged: its leader's power goes at that moment
WAYS = ("", "", "keep", "stop-after 5s", "stop-after 30s", "never-replace")
GRACE_NS = 2 * 10**9  # of what is to stop by itself: it is replaced the sooner
SERVICES_MAX = 8
MANAGERS_MIN, MANAGERS_MAX = 3, 7
DRAINED_MAX = 4
DEADLINES_S = (0, 0, 5, 30)
FOUNDERS_MIN = 3  # of those that every node knows


class Deployer:
    """Creates, scales, updates and removes services, and remembers what was acknowledged."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self._name = fleet, name
        self._rng = Random(f"{fleet.seed}/{name}")
        self._made = 0
        self._live: dict[str, ServiceSpec] = {}
        self.is_paused = False

    async def run(self, mean_s: float) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / mean_s))
            if not self.is_paused:
                await self.act()

    async def act(self) -> None:
        if len(self._live) < 2 or (len(self._live) < SERVICES_MAX and self._rng.random() < 0.25):
            await self._create()
        elif self._rng.random() < 0.1:
            await self._remove(self._rng.choice(sorted(self._live)))
        else:
            await self._update(self._rng.choice(sorted(self._live)))

    async def _create(self) -> None:
        self._made += 1
        name, way = f"{self._name}-{self._made}", self._rng.choice(WAYS)
        order = (
            "stop-first"
            if way.startswith("stop-after")
            else self._rng.choice(("stop-first", "start-first", ""))
        )
        spec = service_spec(name, self._rng.randint(1, 12))
        if way.startswith("stop-after"):
            container = replace(spec.task_template.container_spec, stop_grace_period=GRACE_NS)
            template = replace(spec.task_template, container_spec=container)
            spec = replace(spec, task_template=template)
        spec = replace(
            spec,
            labels={**({LABEL: way} if way else {}), "number": "1"},
            update_config=UpdateConfig(
                parallelism=self._rng.randint(1, 4),
                order=order,
                monitor=10**9,
                failure_action="continue",
            ),
        )
        spec = self._with_secrets(spec)
        self._fleet.truth.asked[name] = [1]
        outcome = await self._call(lambda control: control.create_service(spec))
        if outcome is not False:
            self._live[name] = spec
        if outcome:
            self._fleet.truth.acknowledged[name] = 1
            self._fleet.counts["acknowledged"] += 1

    async def _update(self, name: str) -> None:
        old, truth = self._live[name], self._fleet.truth
        number = truth.asked[name][-1] + 1
        truth.asked[name].append(number)
        spec = replace(old, labels={**old.labels, "number": str(number)})
        if self._rng.random() < 0.5:
            spec = replace(spec, mode=service_spec(name, self._rng.randint(0, 12)).mode)
        else:
            container = spec.task_template.container_spec
            container = replace(container, env=[f"N={number}"])
            template = replace(spec.task_template, container_spec=container)
            spec = self._with_secrets(replace(spec, task_template=template))

        async def verb(control) -> None:
            row = control.find_service(await control.read(), name)
            await control.update_service(name, row.version, spec)

        outcome = await self._call(verb)
        if outcome:
            self._live[name], truth.acknowledged[name] = spec, number
            self._fleet.counts["acknowledged"] += 1
        elif outcome is None:
            await self._learn(name)

    def _with_secrets(self, spec: ServiceSpec) -> ServiceSpec:
        """Any of those there are, or none."""
        chosen = sorted(one for one in self._fleet.secrets if self._rng.random() < 0.3)
        refs = [
            SecretReference(
                file=FileTarget(name=name, uid="0", gid="0", mode=0o400),
                secret_id=self._fleet.secrets[name],
                secret_name=name,
            )
            for name in chosen
        ]
        container = replace(spec.task_template.container_spec, secrets=refs)
        return replace(spec, task_template=replace(spec.task_template, container_spec=container))

    async def _learn(self, name: str) -> None:
        """After an unknown outcome, whatever is there now is what to go on from."""

        async def verb(control) -> None:
            view = await control.read()
            row = next(iter(view.services.scan("name", name)), None)
            if row is None:
                self._live.pop(name, None)
            else:
                self._live[name] = spec_of(view, row)

        await self._call(verb)

    async def _remove(self, name: str) -> None:
        self._fleet.truth.gone.add(name)
        await self._call(lambda control: control.remove_service(name))
        await self._learn(name)

    async def _call(self, verb) -> bool | None:
        """True: acknowledged; False: refused, nothing happened; None: nobody knows."""
        leader = self._fleet.leader()
        if leader is None:
            return False
        try:
            await leader.within(verb(leader.engine.control()), CALL_S)
        except OutcomeUnknownError:
            return None
        except SwarmError as refusal:
            is_ours = isinstance(refusal, ConflictError)
            return None if is_ours or leader.disk.is_dead or not leader.is_running else False
        except BROKEN:
            return None
        if not self._fleet.is_calm and self._rng.random() < POWER_AT_ANSWER:
            await self._cut_power(leader)
        return True

    async def _cut_power(self, leader: "Machine") -> None:
        """What was answered must have been elsewhere by then."""
        self._fleet.tell(f"power-at-answer {leader.host}")
        await leader.end("power")
        await asyncio.sleep(self._rng.uniform(0.5, 5.0))
        await leader.boot()


class Operator:
    """Drains and activates nodes, promotes and demotes, kills tasks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._rng = fleet, Random(f"{fleet.seed}/operator")
        self._drained: list[str] = []
        self.is_paused = False

    async def run(self, mean_s: float) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / mean_s))
            if self.is_paused:
                continue
            acts = (self._crash_task, self._drain, self._activate, self._promote, self._demote)
            more = (self._crash_task, self._remove, self._drain_gently)
            await self._rng.choice((*acts, *more))()

    async def undo(self) -> None:
        """Every node takes tasks again."""
        while self._drained:
            await self._activate()

    async def _crash_task(self) -> None:
        running = [(one, task) for one in self._fleet.running() for task in one.runtime.running()]
        if running:
            machine, task_id = self._rng.choice(running)
            self._fleet.tell(f"crash-task {task_id}")
            machine.runtime.kill(task_id, 1)

    async def _drain(self) -> None:
        if len(self._drained) < DRAINED_MAX:
            machine = self._rng.choice(self._fleet.machines)
            if await self._set(machine, "drain"):
                self._drained.append(machine.node_id)

    async def _drain_gently(self) -> None:
        """With a plan: what may run twice has its replacement first."""
        leader = self._fleet.leader()
        if leader is None or len(self._drained) >= DRAINED_MAX:
            return
        machine, after_s = self._rng.choice(self._fleet.machines), self._rng.choice(DEADLINES_S)
        control = leader.engine.control()
        try:
            await leader.within(
                control.drain_node(machine.node_id, deadline_ns=after_s * 10**9), CALL_S
            )
        except BROKEN:
            return
        self._fleet.tell(f"drain-gently {machine.host}")
        self._drained.append(machine.node_id)

    async def _activate(self) -> None:
        if self._drained:
            node_id = self._drained[0]
            machine = self._fleet.by_node().get(node_id)
            if machine is None or await self._set(machine, "active"):
                self._drained = [one for one in self._drained if one != node_id]
            else:
                await asyncio.sleep(0.5)

    async def _promote(self) -> None:
        if len(self._fleet.members()) < MANAGERS_MAX:
            workers = [one for one in self._fleet.running() if one.member is None]
            if workers:
                one = self._rng.choice(workers)
                one.clock.skew_ms = 0  # stop-after relies on managers' clocks
                await self._set(one, role="manager")

    async def _demote(self) -> None:
        """Never all that a node knows which was away: it could not find those that came since."""
        members, founders = self._fleet.members(), self._fleet.founders
        if len(members) > MANAGERS_MIN:
            one = self._rng.choice(members)
            if one not in founders or sum(each in members for each in founders) > FOUNDERS_MIN:
                await self._set(one, role="worker")

    async def _remove(self) -> None:
        """A worker whose host is gone, as far as anybody knows; it is back later."""
        gone = [
            one
            for one in self._fleet.machines
            if not one.is_running
            and one not in self._fleet.removed
            and one not in self._fleet.founders
        ]
        leader = self._fleet.leader()
        if not gone or leader is None:
            return
        machine = self._rng.choice(gone)
        try:
            removal = leader.engine.control().remove_node(machine.node_id, force=True)
            await leader.within(removal, CALL_S)
        except BROKEN as problem:
            if isinstance(problem, SwarmError) and not isinstance(problem, OutcomeUnknownError):
                return
        self._fleet.tell(f"remove {machine.host}")
        self._fleet.removed.append(machine)

    async def _set(self, machine: "Machine", availability: str = "", role: str = "") -> bool:
        leader = self._fleet.leader()
        if leader is None:
            return False
        control = leader.engine.control()

        async def verb() -> None:
            row = control.find_node(await control.read(), machine.node_id)
            spec = replace(
                row.spec,
                availability=availability or row.spec.availability,
                role=role or row.spec.role,
            )
            await control.update_node(machine.node_id, row.version, spec)

        try:
            await leader.within(verb(), CALL_S)
        except BROKEN:
            return False
        self._fleet.tell(f"{availability or 'become-' + role} {machine.host}")
        return True
