"""A job that is due every minute, while its leaders go one after another: whole daemons, three
managers and two workers, a quarter of an hour of virtual time."""

import asyncio
from random import Random

import pytest
from msgspec.structs import replace

from swarmlet.model.job_history import history_of
from swarmlet.model.service import Placement, ReplicatedJobMode, RestartPolicy, ServiceMode
from tests.agent.fake_runtime import Script
from tests.sim.fleet import Fleet
from tests.sim.group_loop import run_group_sim
from tests.sim.world import service_spec

MINUTE_MS = 60_000
MINUTES = 10
RUNS_S = 7.0
SEED = "cron"


class Story:
    """What every leader's store said of the job's runs, whoever led."""

    def __init__(self, seed: int) -> None:
        self.fleet, self.chance = Fleet(SEED, 3, 2), Random(seed)
        self.fired: dict[int, int] = {}  # iteration -> the time it was due
        self.outcomes: dict[int, str] = {}
        self.not_run = 0
        self.kills = 0

    async def tell(self, **said: str) -> None:
        assert not self.fleet.has_wrong_clocks, "the seed is one with right clocks"
        await self.fleet.form()
        for machine in self.fleet.machines:
            machine.runtime._scripts = lambda _: Script(runs_s=RUNS_S)
        control = (await self.fleet.until_led()).engine.control()
        await control.create_service(job_spec(**said))
        for _ in range(MINUTES):
            await self._to_the_next_minute()
            await self._end_the_leader()
        await self._for(90.0)
        await self.fleet.end()

    async def _to_the_next_minute(self) -> None:
        """And a little less, or more."""
        left_s = 60.0 - self.fleet.clock.wall_ms() % MINUTE_MS / 1000
        await self._for(max(0.0, left_s + self.chance.uniform(-1.5, 0.5)))

    async def _end_the_leader(self) -> None:
        leader = await self.fleet.until_led()
        await leader.end(self.chance.choice(["power", "kill", "stop"]))
        self.kills += 1
        await self._for(self.chance.uniform(8.0, 15.0))
        await leader.boot()
        await self._for(5.0)

    async def _for(self, seconds: float) -> None:
        until_s = self.fleet.now_s + seconds
        while self.fleet.now_s < until_s:
            await asyncio.sleep(0.1)
            self._look()

    def _look(self) -> None:
        leader = self.fleet.leader()
        if leader is None:
            return
        for row in leader.member.store.view().services.all():
            for run in history_of(row).runs:
                if run.iteration < 0:
                    self.not_run += run.count
                    continue
                known = self.fired.setdefault(run.iteration, run.scheduled_ms)
                assert known == run.scheduled_ms, "a run was begun twice"
                self.outcomes[run.iteration] = run.outcome


def job_spec(**said):
    spec = service_spec("tick", 1)
    task = replace(
        spec.task_template,
        restart_policy=RestartPolicy(condition="on-failure"),
        placement=Placement(constraints=["node.role==worker"]),
    )
    mode = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=1, total_completions=1))
    labels = {"swarmlet.schedule": "* * * * *"}
    labels |= {f"swarmlet.schedule.{key}": value for key, value in said.items()}
    return replace(spec, mode=mode, task_template=task, update_config=None, labels=labels)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("concurrency", ["allow", "forbid"])
def test_a_job_runs_once_a_minute_through_the_ends_of_its_leaders(concurrency):
    story = Story(seed=1)
    run_group_sim(story.fleet.clock, story.tell(concurrency=concurrency))
    due = [story.fired[iteration] for iteration in sorted(story.fired)]
    assert sorted(story.fired) == list(range(1, len(due) + 1))
    assert len(due) >= MINUTES
    assert due == list(range(due[0], due[0] + len(due) * MINUTE_MS, MINUTE_MS))
    assert story.not_run == 0
    assert set(story.outcomes.values()) == {"complete"}
    assert story.kills == MINUTES
