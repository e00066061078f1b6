"""Jobs on the real store, run by the real loop, with answers that get lost on the way."""

import asyncio
from collections import Counter

import pytest

from swarmlet.core.errors import StaleVersionError
from swarmlet.model.change import Create, SetStatus, Update
from swarmlet.model.job import first_iteration, next_iteration
from swarmlet.model.service import RestartPolicy, Service, SpecVersion
from swarmlet.model.task import TaskState, TaskStatus
from tests.agent.virtual_time import run_virtual
from tests.reconcile.job_scene import GLOBAL, job_mode
from tests.reconcile.test_on_store import FAULTS, Ground
from tests.reconcile.world import replace, service_spec

RUNNING, COMPLETE, FAILED = TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED
SECOND_NS = 1_000_000_000


class Jobs(Ground):
    """Agents whose tasks end, well or not, as chance has it."""

    async def create_job(self, mode) -> None:
        policy = RestartPolicy(delay=SECOND_NS)
        spec = replace(service_spec("job", restart_policy=policy), mode=mode)
        version = SpecVersion(id="job@1", service_id="job", number=1, spec=spec)
        row = Service(id="job", name="job", job_status=first_iteration(1))
        await self.commit(Create(obj=row), Create(obj=version))

    async def fire(self) -> None:
        """The row is written by others too: who comes late looks again."""
        is_beside = self.rng.random() < 0.5
        while True:
            row = self.store.view().services.get("job")
            after = next_iteration(row, 1, is_beside=is_beside)
            try:
                await self.commit(Update(obj=after, seen=row.version))
            except StaleVersionError:
                await asyncio.sleep(0.1)
            else:
                return

    async def end_some(self) -> None:
        rows = [
            t
            for t in self.store.view().tasks.all()
            if TaskState.ASSIGNED <= t.status.state <= RUNNING
        ]
        self.log._faults.clear()
        await self.store.batch(
            [
                SetStatus(id=t.id, status=TaskStatus(state=self.next(t), applied_at_ms=1))
                for t in sorted(rows, key=lambda t: t.id)
                if t.desired != TaskState.READY
            ]
        )

    def next(self, task) -> TaskState:
        if task.desired > COMPLETE:
            return TaskState.SHUTDOWN
        if task.status.state < RUNNING:
            return RUNNING
        return self.rng.choice([RUNNING, COMPLETE, COMPLETE, FAILED])

    def tasks(self):
        return list(self.store.view().tasks.scan("service", "job"))

    async def finish(self) -> None:
        """Until every task has ended and the loops rest."""
        for _ in range(1_000):
            await asyncio.sleep(1)
            await self.end_some()
            is_over = all(t.status.state >= COMPLETE for t in self.tasks())
            if is_over and self.tasks() and all(loop.is_at_rest() for loop in self.loops):
                return
        raise AssertionError("never rests")


@pytest.mark.parametrize("mode", ["replicated", "global"])
@pytest.mark.parametrize("seed", range(8))
def test_a_job_is_done_once_when_answers_are_lost(seed, mode):
    async def work(jobs: Jobs) -> None:
        await jobs.create_job(job_mode(2, 4) if mode == "replicated" else GLOBAL)
        for _ in range(6):
            if jobs.rng.random() < 0.5:
                await jobs.fire()
            jobs.log.fail_next(*jobs.rng.choices(["", *FAULTS], k=4))
            await asyncio.sleep(jobs.rng.choice([0.0, 1.0, 30.0]))
            await jobs.end_some()
        await jobs.finish()
        last = jobs.store.view().services.get("job").job_status
        assert last.earlier == ()
        own = [t for t in jobs.tasks() if t.job_iteration == last.iteration]
        done = Counter((t.slot, t.node_id) for t in own if t.status.state == COMPLETE)
        places = Counter(t.slot if mode == "replicated" else t.node_id for t in own)
        assert len(places) == len(done) == 4
        assert set(done.values()) == {1}

    ground = Jobs(seed)
    run_virtual(ground.run(work))
