"""Updates through the ends of their leaders: whole daemons, three managers and three workers, on
virtual time. A good one ends completed, one whose tasks die is rolled back, whoever leads."""

import asyncio
from random import Random

import pytest
from msgspec.structs import replace

from swarmlet.model.service import Placement, ServiceSpec, UpdateConfig
from swarmlet.model.task import Task, TaskState
from swarmlet.model.update_status import is_updating
from swarmlet.model.view import task_spec_of
from tests.agent.fake_runtime import Script
from tests.sim.fleet import Fleet
from tests.sim.group_loop import run_group_sim
from tests.sim.world import service_spec

REPLICAS = 6
PARALLELISM = 2
S = 1_000_000_000
SEED = "cron"  # one with right clocks
LIMIT_S = 600.0


def spec_of_web(env: str, order: str) -> ServiceSpec:
    spec = service_spec("web", REPLICAS)
    task = replace(
        spec.task_template,
        container_spec=replace(spec.task_template.container_spec, env=[env]),
        placement=Placement(constraints=["node.role==worker"]),
    )
    config = UpdateConfig(
        parallelism=PARALLELISM, monitor=8 * S, order=order, failure_action="rollback"
    )
    return replace(
        spec,
        task_template=task,
        update_config=config,
        rollback_config=replace(config, failure_action="pause"),
    )


def script(task) -> Script:
    """Tasks of the bad spec run for a while and die."""
    is_bad = task.spec.container_spec.env == ["BAD=1"]
    return Script(start_s=0.5, runs_s=3.0, exit_code=1) if is_bad else Script(start_s=0.5)


class Story:
    """One service, one update, and leaders that go every few seconds while it is under way."""

    def __init__(self, seed: int, order: str) -> None:
        self.fleet, self.chance, self.order = Fleet(SEED, 3, 3), Random(seed), order
        self.states: list[str] = []
        self.least_up = REPLICAS
        self.kills = 0
        self.is_watched = False

    async def tell(self, env: str) -> None:
        assert not self.fleet.has_wrong_clocks
        await self.fleet.form()
        for machine in self.fleet.machines:
            machine.runtime._scripts = script
        control = (await self.fleet.until_led()).engine.control()
        await control.create_service(spec_of_web("GOOD=1", self.order))
        await self.until(lambda: len(self.up()) == REPLICAS)
        row = control.find_service(await control.read(), "web")
        self.is_watched = True
        await control.update_service("web", row.version, spec_of_web(env, self.order))
        await self.until(lambda: is_updating(self.service))
        while is_updating(self.service):
            await self.end_the_leader()
            assert self.fleet.now_s < LIMIT_S, self.service.update_status
        await self.until(lambda: len(self.up()) == REPLICAS)
        self.envs = {env for row in self.up() for env in self.env_of(row)}
        await self.fleet.end()

    async def end_the_leader(self) -> None:
        leader = await self.fleet.until_led()
        await leader.end(self.chance.choice(["power", "kill", "stop"]))
        self.kills += 1
        await self.for_s(self.chance.uniform(1.0, 4.0))
        await leader.boot()
        await self.for_s(self.chance.uniform(3.0, 6.0))
        await self.until(lambda: True)

    async def until(self, condition) -> None:
        while self.fleet.leader() is None or not condition():
            assert self.fleet.now_s < LIMIT_S, "it never came to hold"
            await self.for_s(0.1)

    async def for_s(self, seconds: float) -> None:
        until_s = self.fleet.now_s + seconds
        while self.fleet.now_s < until_s:
            await asyncio.sleep(0.1)
            self.look()

    def look(self) -> None:
        if self.fleet.leader() is None or not self.is_watched:
            return
        status = self.service.update_status
        if status is not None and status.state not in self.states[-1:]:
            self.states.append(status.state)
        self.least_up = min(self.least_up, len({row.slot for row in self.up()}))

    @property
    def view(self):
        leader = self.fleet.leader()
        assert leader is not None
        return leader.member.store.view()

    @property
    def service(self):
        return next(iter(self.view.services.scan("name", "web")))

    def up(self) -> list[Task]:
        """What the swarm knows to run, wanted or not."""
        return [t for t in self.view.tasks.all() if t.status.state == TaskState.RUNNING]

    def env_of(self, row: Task) -> list[str]:
        return task_spec_of(self.view, row).task_template.container_spec.env


@pytest.mark.timeout(180)
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize(
    ("env", "states"),
    [
        ("GOOD=2", ["updating", "completed"]),
        ("BAD=1", ["updating", "rollback_started", "rollback_completed"]),
    ],
)
def test_update_ends_as_it_would_have_through_the_ends_of_its_leaders(env, states, order):
    story = Story(seed=3, order=order)
    run_group_sim(story.fleet.clock, story.tell(env))
    assert story.states == states
    assert story.envs == {env if states[-1] == "completed" else "GOOD=1"}
    assert story.kills >= 2
    if env != "BAD=1":
        spare = 0 if order == "start-first" else PARALLELISM
        assert story.least_up >= REPLICAS - spare
