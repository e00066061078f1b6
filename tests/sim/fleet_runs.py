"""What a run of a simulated swarm of managers and agents consists of: faults, quiet, checks."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.sim.fleet import LOOK_S, Fleet
from tests.sim.fleet_faults import Nemesis
from tests.sim.fleet_users import Deployer, Operator
from tests.sim.group_loop import run_group_sim

FAULTS_S = (20.0, 60.0)
ACT_S, DEPLOY_S, OPERATE_S = 1.5, 4.0, 4.0
LAST = 40  # lines of what happened that a failure tells


@dataclass(frozen=True)
class FleetReport:
    """What happened; `trace` is equal exactly for equal runs."""

    seed: int | str
    minutes: float
    counts: dict[str, int]
    slowest_s: float
    trace: str
    cpu_s: float

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return (
            f"seed {self.seed}: {self.minutes:g} min, settled within {self.slowest_s:.1f} s, "
            f"{self.cpu_s:.1f} CPU s, trace {self.trace}\n    {counts}"
        )


class FleetFailedError(AssertionError):
    """A seed that does not hold, how to see it again, and what happened last."""


class FleetRun:
    def __init__(
        self, seed: int | str, minutes: float, managers: int = 5, workers: int = 30
    ) -> None:
        self.fleet, self.minutes = Fleet(seed, managers, workers), minutes
        self._rng = Random(f"{seed}/run")
        self._deployers = [Deployer(self.fleet, name) for name in ("a", "b")]
        self._operator = Operator(self.fleet)

    async def main(self) -> None:
        await self.fleet.form()
        async with asyncio.TaskGroup() as group:
            nemesis = Nemesis(self.fleet, group)
            works = [one.run(DEPLOY_S) for one in self._deployers]
            works += [self._operator.run(OPERATE_S), nemesis.run(ACT_S), self._look()]
            begun = [group.create_task(work) for work in works]
            await self._phases(nemesis)
            for one in begun:
                one.cancel()
        await self.fleet.end()

    async def _look(self) -> None:
        while True:
            self.fleet.truth.look()
            await asyncio.sleep(LOOK_S)

    async def _phases(self, nemesis: Nemesis) -> None:
        until_s = self.fleet.now_s + self.minutes * 60
        while self.fleet.now_s < until_s:
            self.fleet.is_calm = False
            await asyncio.sleep(self._rng.uniform(*FAULTS_S))
            self.fleet.is_calm = True
            while nemesis.is_busy:  # noqa: ASYNC110 - a state is no event
                await asyncio.sleep(0.5)
            await self.fleet.heal()
            if self._rng.random() < 0.6:  # else what is drained is to be empty
                await self._operator.undo()
            for user in (*self._deployers, self._operator):
                user.is_paused = True
            await self.fleet.settle()
            for user in (*self._deployers, self._operator):
                user.is_paused = False


def run_fleet(
    seed: int | str, minutes: float = 1.0, managers: int = 5, workers: int = 30, on_run=None
) -> FleetReport:
    """One run. Raises FleetFailedError, which says how to see it again."""
    run = FleetRun(seed, minutes, managers, workers)
    if on_run is not None:
        on_run(run.fleet)
    began_s = time.process_time()
    try:
        run_group_sim(run.fleet.clock, run.main())
    except BaseException as error:
        raise FleetFailedError(_story(run, error)) from error
    truth = run.fleet.truth
    counts = {**run.fleet.counts, "entries": truth.entries}
    return FleetReport(
        seed=seed,
        minutes=minutes,
        counts=counts,
        slowest_s=run.fleet.slowest_s,
        trace=truth.digest.hexdigest()[:16],
        cpu_s=time.process_time() - began_s,
    )


def _story(run: FleetRun, error: BaseException) -> str:
    return "\n".join(
        (
            f"seed {run.fleet.seed} failed at {run.fleet.now_s:.3f} s: {error!r}",
            *run.fleet.told[-LAST:],
            f"    scripts/sim --swarm --seed {run.fleet.seed} --minutes {run.minutes:g} --log",
        )
    )


def fleet_summary(reports: Sequence[FleetReport]) -> str:
    counts: Counter[str] = Counter()
    for one in reports:
        counts.update(one.counts)
    cpu_s = sum(one.cpu_s for one in reports)
    return "\n".join(
        (
            *(f"{count:>9} {name}" for name, count in sorted(counts.items())),
            f"{len(reports)} runs of {reports[0].minutes:g} min held; "
            f"{cpu_s / len(reports):.2f} CPU s each; "
            f"settled within {max(one.slowest_s for one in reports):.1f} s",
        )
    )
