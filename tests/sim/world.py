"""One node's whole life in simulation: the product's own engine on virtual time.

A `World` is what outlives a daemon: the disk, the tasks that run, the clock. `live` is one life of
the daemon in it, up to the end of a script or to the power cut that the disk has in store. `Truth`
is what the world's users were told, and so what must still hold in the next life.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec

from swarmlet.api.engine import EngineFacts, InitRequest
from swarmlet.core.errors import DiskFullError, OutcomeUnknownError, StaleVersionError, SwarmError
from swarmlet.core.ids import TaskID
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.engine import DaemonEngine
from swarmlet.daemon.host import Host
from swarmlet.model.cluster import SwarmSpec
from swarmlet.model.config import ConfigSpec
from swarmlet.model.container import ContainerSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.secret import SecretSpec
from swarmlet.model.service import (
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmlet.model.task import TaskState
from swarmlet.model.update_status import is_updating
from swarmlet.model.view import spec_of
from swarmlet.raft.engine import RaftLimits
from swarmlet.runtime.base import (
    Condition,
    Exit,
    RuntimeDescription,
    RuntimeTask,
    Started,
    TaskFile,
    TemporaryProblemError,
)
from swarmlet.wire.messages import AssignedTask
from tests.agent.fake_runtime import FakeRuntime
from tests.daemon.no_network import NoNetwork
from tests.sim.disk import ROOMY_B, SimCrash, SimDisk
from tests.sim.loop import SimClock, run_sim, sim_env

DATA = "/data"
REST_LOOK_S = 0.5  # virtual
REST_LOOKS = 360  # longer than any restart delay and the wait for an old task
PLAINTEXT = b"nobody-may-read-this"

SMALL = RaftLimits(snapshot_entries=25)  # several snapshots and compactions a run
FULL_SPARE_B = 3000  # of room on a disk that is nearly full
BIG_B = 900_000
AWAY = "the engine does not answer"
AWAY_S = (3.0, 30.0, 90.0, 300.0)  # around what a node without its runtime is given
WALL_JUMP_MS = 400 * 24 * 3600 * 1000  # more than a certificate lives

Script = Callable[[DaemonEngine], Awaitable[None]]


class SimRuntime(FakeRuntime):
    """Says that it runs the host's files, so that the scheduler's runtime filter agrees."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__(clock)
        self.clock, self.back_at_s = clock, 0.0

    @property
    def name(self) -> str:
        return "process"

    def describe(self) -> RuntimeDescription:
        return msgspec.structs.replace(super().describe(), name="process")

    def next_life(self) -> None:
        """Those who waited in the last life are gone with its loop."""
        for fake in self.tasks.values():
            fake.changed = asyncio.Event()
        self.condition = Condition(self.condition.problem)

    # It may be away for a while, as an engine is that restarts; its tasks run on.

    def lose(self, for_s: float) -> None:
        self.back_at_s = self.clock.mono_s() + for_s
        self.condition.set(AWAY)

    def bring_back(self) -> None:
        """In the next life."""
        self.back_at_s = 0.0

    async def run(self) -> None:
        while True:
            if not self.condition.problem:
                await self.condition.changed("")
            elif (left_s := self.back_at_s - self.clock.mono_s()) > 0:
                await asyncio.sleep(left_s)
            else:
                self.condition.set("")

    async def prepare(self, task: AssignedTask) -> None:
        self._must_be_there()
        await super().prepare(task)

    async def start(self, task: AssignedTask, files: Sequence[TaskFile] = ()) -> Started:
        self._must_be_there()
        return await super().start(task, files)

    async def wait(self, task_id: TaskID) -> Exit:
        """Nobody knows how a task ended before the engine is back."""
        ended = await super().wait(task_id)
        while self.condition.problem:
            await self.condition.changed(self.condition.problem)
        return ended

    async def stop(self, task_id: TaskID, signal: str, grace_s: float) -> Exit:
        self._must_be_there()
        return await super().stop(task_id, signal, grace_s)

    async def remove(self, task_id: TaskID) -> None:
        self._must_be_there()
        await super().remove(task_id)

    async def list_tasks(self) -> list[RuntimeTask]:
        self._must_be_there()
        return await super().list_tasks()

    def _must_be_there(self) -> None:
        if self.condition.problem:
            raise TemporaryProblemError(self.condition.problem)


class SimAddresses:
    """A host with one address, on which nobody listens."""

    def own(self, towards=()) -> str:
        return "10.9.9.1"

    def resolve(self, host: str) -> str:
        """There are no interfaces."""
        return host

    def check_free(self, host: str, port: int) -> None:
        """Always free."""


@dataclass
class Truth:
    """What users were told. `present`: acknowledged, kind and name to what it must be; `open`:
    asked for, but the power went before the answer: either is right, and the next look settles it.
    """

    present: dict[tuple[str, str], int] = field(default_factory=dict)
    open: dict[tuple[str, str], int | None] = field(default_factory=dict)
    acknowledged: int = 0
    is_leaving: bool = False

    def asked(self, kind: str, name: str, value: int | None) -> None:
        self.open[(kind, name)] = value

    def told(self, kind: str, name: str) -> None:
        value = self.open.pop((kind, name))
        self.acknowledged += 1
        if value is None:
            self.present.pop((kind, name), None)
        else:
            self.present[(kind, name)] = value

    def refused(self, kind: str, name: str) -> None:
        del self.open[(kind, name)]


@dataclass
class World:
    seed: int | str
    disk: SimDisk = field(default_factory=SimDisk)
    clock: SimClock = field(default_factory=SimClock)
    truth: Truth = field(default_factory=Truth)
    lives: int = 0
    refusals: int = 0  # for want of room
    node_id: str = ""

    def __post_init__(self) -> None:
        self.rng = Random(f"{self.seed}/world")
        self.runtime = SimRuntime(self.clock)

    def live(self, script: Script) -> bool:
        """One life of the daemon; whether it came to the script's end."""
        self.lives += 1
        self.runtime.next_life()
        try:
            run_sim(self.clock, self._life(script))
        except BaseException as end:
            if not self.disk.is_dead or not _is_crash(end):
                raise
        if not self.disk.is_dead:
            return True
        self.disk.crash(self.rng)
        return False

    async def _life(self, script: Script) -> None:
        env = sim_env(f"{self.seed}/{self.lives}", self.disk, self.clock)
        data = DataDir(env.disk, DATA)
        data.open()
        host = Host(
            env=env,
            data=data,
            runtime=self.runtime,
            facts=facts(self.runtime),
            addresses=SimAddresses(),
            network=NoNetwork(),
            settle=lambda: None,
            raft_limits=SMALL,
        )
        async with asyncio.TaskGroup() as group:
            engine = DaemonEngine(host, group)
            await engine.open()
            await script(engine)
            await engine.close()


def _is_crash(end: BaseException) -> bool:
    if isinstance(end, BaseExceptionGroup):
        return any(_is_crash(one) for one in end.exceptions)
    return isinstance(end, SimCrash | asyncio.CancelledError | SwarmError)


def facts(runtime: FakeRuntime) -> EngineFacts:
    return EngineFacts(
        engine_id="sim",
        hostname="sim-1",
        data_dir=DATA,
        kernel_version="0",
        operating_system="simulation",
        started_ms=0,
        runtime=runtime.describe(),
        runtimes=("process",),
        memory_b=8 << 30,
        cpus=4,
    )


# What users do -----------------------------------------------------------------------------------


async def init(engine: DaemonEngine) -> None:
    spec = complete_swarm(SwarmSpec())
    await engine.init_swarm(InitRequest(spec=spec, advertise_addr="10.9.9.1"))


def service_spec(name: str, replicas: int) -> ServiceSpec:
    container = ContainerSpec(image="host", command=["/bin/true"], env=[f"A={PLAINTEXT.decode()}"])
    template = TaskSpec(
        container_spec=container,
        restart_policy=RestartPolicy(condition="any", delay=2_000_000_000),
    )
    return ServiceSpec(
        name=name,
        task_template=template,
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
    )


class User:
    """Asks for random things and remembers what was asked and what was told."""

    def __init__(self, world: World, engine: DaemonEngine, rng: Random) -> None:
        self.world, self.engine, self.rng, self.truth = world, engine, rng, world.truth

    async def act(self) -> None:
        acts = [self.create_config, self.create_secret, self.create_service]
        acts += [self.create_config, self.create_service, self.turn_clock]
        if self.rng.random() < 0.04:
            acts = [self.leave_and_init]
        elif self.rng.random() < 0.05:
            acts = [self.fill_disk]
        elif self.rng.random() < 0.05:
            acts = [self.lose_runtime]
        elif self.rng.random() < 0.3:
            await self.free_disk()
        if self._names("config"):
            acts.append(self.remove_config)
        if self._names("service"):
            acts += [self.scale, self.scale, self.update, self.kill_task, self.remove_service]
        await self.rng.choice(acts)()
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.choice([0.01, 0.3, 3.0, 20.0]))

    def _names(self, kind: str) -> list[str]:
        return sorted(name for found, name in self.truth.present if found == kind)

    async def _do(self, kind: str, name: str, value: int | None, verb: Awaitable[object]) -> None:
        self.truth.asked(kind, name, value)
        try:
            await verb
        except OutcomeUnknownError:
            raise  # either is right
        except StaleVersionError:
            self.truth.refused(kind, name)  # an update's status was written in between
        except DiskFullError:
            self.truth.refused(kind, name)
            self.world.refusals += 1
        except SwarmError:
            self.truth.refused(kind, name)
            raise
        else:
            self.truth.told(kind, name)

    async def create_config(self, size_b: int = 0) -> None:
        name = f"c{self.rng.randrange(10**9)}"
        verb = self.engine.control().create_config(
            ConfigSpec(name=name, data=PLAINTEXT.ljust(size_b))
        )
        await self._do("config", name, 1, verb)

    async def create_secret(self) -> None:
        name = f"s{self.rng.randrange(10**9)}"
        verb = self.engine.control().create_secret(SecretSpec(name=name, data=PLAINTEXT))
        await self._do("secret", name, 1, verb)

    async def remove_config(self) -> None:
        name = self.rng.choice(self._names("config"))
        await self._do("config", name, None, self.engine.control().remove_config(name))

    async def create_service(self) -> None:
        name, replicas = f"web{self.rng.randrange(10**9)}", self.rng.randint(0, 4)
        verb = self.engine.control().create_service(service_spec(name, replicas))
        await self._do("service", name, replicas, verb)

    async def remove_service(self) -> None:
        name = self.rng.choice(self._names("service"))
        await self._do("service", name, None, self.engine.control().remove_service(name))

    async def scale(self) -> None:
        name, replicas = self.rng.choice(self._names("service")), self.rng.randint(0, 5)
        control = self.engine.control()
        version = control.find_service(await control.read(), name).version
        verb = control.update_service(name, version, service_spec(name, replicas))
        await self._do("service", name, replicas, verb)

    async def update(self) -> None:
        """Another spec, so that tasks are replaced, in either order and with any settings."""
        name = self.rng.choice(self._names("service"))
        replicas = self.truth.present["service", name]
        control = self.engine.control()
        version = control.find_service(await control.read(), name).version
        spec = service_spec(name, replicas)
        template = msgspec.structs.replace(spec.task_template, force_update=self.rng.randint(1, 3))
        config = UpdateConfig(
            parallelism=self.rng.randint(0, 2),
            delay=self.rng.choice([0, 2_000_000_000]),
            order=self.rng.choice(["stop-first", "start-first"]),
            failure_action=self.rng.choice(["pause", "continue"]),
        )
        spec = msgspec.structs.replace(spec, task_template=template, update_config=config)
        await self._do("service", name, replicas, control.update_service(name, version, spec))

    async def leave_and_init(self) -> None:
        """All that was there is open until the leave is acknowledged, and then gone."""
        keys = list(self.truth.present)
        for kind, name in keys:
            self.truth.asked(kind, name, None)
        self.truth.is_leaving = True
        await self.engine.leave_swarm(force=True)
        for kind, name in keys:
            self.truth.told(kind, name)
        assert self.world.runtime.condition.problem or not self.world.runtime.running()
        await init(self.engine)
        self.truth.is_leaving = False

    async def lose_runtime(self) -> None:
        self.world.runtime.lose(self.rng.choice(AWAY_S))

    async def turn_clock(self) -> None:
        self.world.clock.skew_ms = self.rng.randint(-WALL_JUMP_MS, WALL_JUMP_MS)

    async def fill_disk(self) -> None:
        disk = self.world.disk
        disk.capacity_b = disk.used_b + self.rng.randrange(FULL_SPARE_B)
        for _ in range(self.rng.randrange(14)):  # more than what the log has reserved
            await self.create_config(BIG_B)

    async def free_disk(self) -> None:
        self.world.disk.capacity_b = ROOMY_B

    async def kill_task(self) -> None:
        running = self.world.runtime.running()
        if running:
            self.world.runtime.kill(self.rng.choice(running))


# What must hold ----------------------------------------------------------------------------------


async def check_truth(world: World, engine: DaemonEngine) -> None:
    """Nothing acknowledged is lost; what was open is settled by what is there."""
    control, truth = engine.control(), world.truth
    view = await control.read()
    found: dict[tuple[str, str], int] = {}
    for kind, table in (("config", view.configs), ("secret", view.secrets)):
        found.update({(kind, row.spec.name): 1 for row in table.all()})
    for service in view.services.all():
        replicated = spec_of(view, service).mode.replicated
        assert replicated is not None
        found[("service", service.name)] = replicated.replicas or 0
    settle(truth, found)
    assert found == truth.present


def settle(truth: Truth, found: dict[tuple[str, str], int]) -> None:
    for key in list(truth.open):
        if found.get(key) == truth.open[key]:
            truth.told(*key)
        else:
            truth.refused(*key)


async def check_rest(world: World, engine: DaemonEngine) -> None:
    """Every loop rests, and the host runs exactly what is wanted."""
    control = engine.control()
    for _ in range(REST_LOOKS):
        if engine.is_at_rest() and is_converged(world, await control.read()):
            return
        await asyncio.sleep(REST_LOOK_S)
    raise AssertionError(f"no rest after {REST_LOOKS * REST_LOOK_S:g} s: {engine.gauges()}")


def is_converged(world: World, view) -> bool:
    wanted = sum(value for (kind, _), value in world.truth.present.items() if kind == "service")
    live = [task for task in view.tasks.all() if task.desired == TaskState.RUNNING]
    running = [task for task in live if task.status.state == TaskState.RUNNING]
    slots = {(task.service_id, task.slot, task.spec_version) for task in live}
    assert len(slots) == len(live), "two tasks of one slot and version are wanted at once"
    return (
        not any(map(is_updating, view.services.all()))
        and len(running) == len(live) == wanted
        and sorted(task.id for task in running) == world.runtime.running()
    )


def check_sealed(world: World) -> None:
    """No file of the disk shows what users stored."""
    assert world.disk.plaintext_contains(PLAINTEXT) == []
