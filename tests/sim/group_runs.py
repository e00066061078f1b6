"""What a run of a simulated group of managers consists of: faults, quiet, checks; and again."""

import asyncio
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from random import Random

from tests.sim.group import Group
from tests.sim.group_faults import Nemesis
from tests.sim.group_loop import run_group_sim
from tests.sim.group_users import Client, Operator
from tests.sim.group_watchers import Watcher
from tests.sim.mutations import MUTATIONS, without
from tests.sim.told import tell_managers

CLIENTS = 3
SPARES = 2  # hosts that are no members at first
FAULTS_S = (12.0, 25.0)  # without a pause
CHANGES_WITHIN_S = 90.0  # of the group, once all is well
LAST = 40  # lines of what happened that a failure tells
THINK_S, ACT_S, CHURN_S, WATCH_S = 0.4, 1.2, 6.0, 0.05


@dataclass(frozen=True)
class GroupReport:
    """What happened; `trace` is equal exactly for equal runs."""

    seed: int | str
    minutes: float
    counts: dict[str, int]
    longest_s: float  # from the end of faults to a group that is well
    trace: str
    cpu_s: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return (
            f"seed {self.seed}: {self.minutes:g} min, well within {self.longest_s:.2f} s, "
            f"{self.cpu_s:.2f} CPU s, trace {self.trace}\n    {counts}"
        )


class GroupFailedError(AssertionError):
    """A seed that does not hold, how to see it again, and what happened last."""


class GroupRun:
    def __init__(self, seed: int | str, minutes: float, size: int = 0) -> None:
        self.rng, self.minutes = Random(f"{seed}/run"), minutes
        self.size = size or self.rng.choice((3, 3, 3, 5))
        self.group = Group(seed, self.size + SPARES)
        self.clients = [Client(self.group, f"c{number}") for number in range(CLIENTS)]
        names = ("operator", "another")[: self.rng.choice((1, 1, 2))]
        self.operators = [Operator(self.group, self.size, name) for name in names]
        self.nemesis = Nemesis(self.group)
        self.forces_at = self.rng.uniform(0.3, 0.8) if self.rng.random() < 0.15 else 2.0
        self.clones_at = self.rng.uniform(0.2, 0.9) if self.rng.random() < 0.3 else 2.0

    async def main(self) -> None:
        group = self.group
        group.begin()
        group.found()
        works = [client.run(THINK_S) for client in self.clients]
        works += [operator.run(CHURN_S) for operator in self.operators]
        works.append(self.nemesis.run(ACT_S))
        works.append(Watcher(group, "w").run(WATCH_S))
        async with asyncio.TaskGroup() as tasks:
            begun = [tasks.create_task(work) for work in works]
            await self._phases()
            for one in begun:
                one.cancel()
        for member in group.members:
            if member.task is not None:
                await member.kill(is_power=False)
        group.truth.check_history()
        group._step({})

    async def _phases(self) -> None:
        group, until_s = self.group, self.minutes * 60
        await self._all_well()
        while group.clock.now_s < until_s:
            group.is_calm = False
            left_s = until_s - group.clock.now_s
            await asyncio.sleep(min(left_s, self.rng.uniform(*FAULTS_S)))
            await self._all_well()
            await self._seldom(group.clock.now_s / until_s)

    async def _seldom(self, part: float) -> None:
        if part > self.clones_at:
            self.clones_at = 2.0
            await self.nemesis.clone()
            await self._all_well()
        voters = [one for one in self.group.all_in() if self.group.votes(one)]
        if part > self.forces_at and voters:
            self.forces_at = 2.0
            await self.group.force_new(self.rng.choice(voters))
            await self._all_well()

    async def _all_well(self) -> None:
        """Without faults: soon all is well, and whoever lost a place gets another."""
        group = self.group
        group.is_calm = True
        while self.nemesis.is_busy:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
        group.heal()
        await group.settle(self.clients[0].write)
        began_s = group.clock.now_s
        while not all(operator.is_done() for operator in self.operators):
            if group.clock.now_s - began_s > CHANGES_WITHIN_S:
                group.truth.wrong("no progress", f"the operator waits since {began_s:.1f}")
                group._step({})
            await asyncio.sleep(0.1)
        await group.settle(self.clients[0].write)


def run_group(
    seed: int | str, minutes: float = 1.0, size: int = 0, *, is_told: bool = False
) -> GroupReport:
    """One run. Raises GroupFailedError, which says how to see it again."""
    run = GroupRun(seed, minutes, size)
    if is_told:
        tell_managers(run.group)
    began_s = time.process_time()
    try:
        run_group_sim(run.group.clock, run.main())
    except BaseException as error:
        raise GroupFailedError(_story(run, error)) from error
    return report(run, time.process_time() - began_s)


def report(run: GroupRun, cpu_s: float) -> GroupReport:
    truth = run.group.truth
    return GroupReport(
        seed=run.group.seed,
        minutes=run.minutes,
        counts=dict(truth.counts),
        longest_s=run.group.longest_s,
        trace=truth.digest.hexdigest()[:16],
        cpu_s=cpu_s,
    )


def _story(run: GroupRun, error: BaseException) -> str:
    truth = run.group.truth
    return "\n".join(
        (
            f"seed {run.group.seed} failed at {run.group.clock.now_s:.3f} s: {error!r}",
            *list(truth.told)[-LAST:],
            f"    scripts/sim --managers --seed {run.group.seed} --minutes {run.minutes:g} --log",
        )
    )


def run_groups(
    seeds: Sequence[int], minutes: float, jobs: int = 1, missing: str = ""
) -> Iterator[GroupReport | str]:
    """Their reports in order, or the stories of those that failed. `missing`: a piece of hardening
    to leave out."""
    if jobs == 1:
        yield from (_told(seed, minutes, missing) for seed in seeds)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_keep_quiet) as pool:
        yield from pool.map(_told, seeds, repeat(minutes), repeat(missing))


def _keep_quiet() -> None:
    logging.getLogger("swarmlet").addHandler(logging.NullHandler())


def _told(seed: int, minutes: float, missing: str) -> GroupReport | str:
    try:
        with without(MUTATIONS[missing] if missing else ()):
            return run_group(seed, minutes)
    except GroupFailedError as failure:
        return str(failure)


def summary(reports: Sequence[GroupReport]) -> str:
    """Of runs that held: what really happened in them, and what they cost."""
    counts: Counter[str] = Counter()
    for one in reports:
        counts.update(one.counts)
    cpu_s = sum(one.cpu_s for one in reports)
    longest_s = max(one.longest_s for one in reports)
    return "\n".join(
        (
            *(f"{count:>9} {name}" for name, count in sorted(counts.items())),
            f"{len(reports)} runs of {reports[0].minutes:g} min held; "
            f"{cpu_s / len(reports):.2f} CPU s each; well within {longest_s:.2f} s after faults",
        )
    )
