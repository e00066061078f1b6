"""Random histories of a small swarm: nodes join, leave, are killed, cut off and removed, roots and
tokens rotate, in any order and before the last thing is over."""

import asyncio
import hashlib
from dataclasses import dataclass

from tests.sim.cluster import DAY_S, NEVER, SKEW_MAX_S, SimCluster
from tests.sim.host import Host
from tests.sim.loop import run_sim

HOSTS = 7
STEPS = 40
PAUSES_S = (0, 0, 0.1, 0.5, 2, 5, 30)


@dataclass(frozen=True)
class HistoryReport:
    """What happened; `trace` is equal exactly for equal runs."""

    seed: int | str
    steps: int
    nodes: int
    rotations: int
    lives: int
    power_cuts: int
    removed: int
    orphans: int
    slowest_s: float
    trace: str


class History:
    def __init__(self, seed: int | str) -> None:
        self.world = SimCluster(f"history-{seed}", HOSTS)
        self.seed, self.rng = seed, self.world.rng

    async def run(self, steps: int = STEPS) -> HistoryReport:
        world = self.world
        await world.found()
        for host in world.hosts[1:4]:
            host.clock.skew_ms = self.rng.randint(-SKEW_MAX_S, SKEW_MAX_S) * 1000
            await world.join(host)
        await world.scale("web", 5)
        for step in range(steps):
            await self.rng.choice(self.acts())()
            self.arm()
            await asyncio.sleep(self.rng.choice(PAUSES_S))
            await self.calm()
            if step % 10 == 9:
                await self.mend_all()
        await self.mend_all()
        await world.check_refusals(self.one("out"))
        await world.end()
        return self.report(steps)

    async def calm(self) -> None:
        """No power cut is under way, and what must hold at any moment holds."""
        await self.world.revive()
        for host in self.world.hosts:
            host.disk.fail_at(NEVER)
        self.world.check(await self.world.read())

    async def mend_all(self) -> None:
        for host in self.world.hosts:
            if host.is_cut:
                self.world.mend(host)
            if not host.is_on:
                await self.world.switch_on(host)
        await self.world.settle()
        await self.world.check_refusals()

    def report(self, steps: int) -> HistoryReport:
        world = self.world
        return HistoryReport(
            seed=self.seed,
            steps=steps,
            nodes=len(world.rows),
            rotations=len(world.roots) - 1,
            lives=sum(host.lives for host in world.hosts),
            power_cuts=world.power_cuts,
            removed=len(world.removed),
            orphans=world.orphans,
            slowest_s=round(world.slowest_s, 1),
            trace=hashlib.sha256("\n".join(world.told).encode()).hexdigest()[:16],
        )

    # What may happen ------------------------------------------------------------------------------
    def acts(self):
        world = self.world
        acts = [world.rotate_root, self.rotate_tokens, self.restart_manager, self.scale]
        acts += [world.create_config, self.pass_time]
        if self.others():
            acts += [self.off, self.off, self.cut, self.renew]
        if any(not host.is_there for host in world.hosts):
            acts += [self.back, self.back]
        if self.one("out") is not None:
            acts += [self.join, self.join, self.join_over_bad_net, self.try_old_token]
        if len(world.members()) > 3:
            acts += [self.remove, self.leave]
        if self.one("removed") is not None:
            acts.append(self.forget)
        return acts

    def others(self) -> list[Host]:
        return [host for host in self.world.members()[1:] if host.is_there]

    def one(self, member: str) -> Host | None:
        found = [host for host in self.world.hosts if host.standing == member and not host.is_cut]
        return self.rng.choice(found) if found else None

    def arm(self) -> None:
        for host in self.world.hosts:
            if host.is_on and self.rng.random() < 0.2:
                where = self.rng.choice(("before", "half", "after"))
                host.disk.fail_at(self.rng.randrange(15), where)

    async def off(self) -> None:
        await self.world.switch_off(self.rng.choice(self.others()))

    async def cut(self) -> None:
        self.world.cut(self.rng.choice(self.others()))

    async def renew(self) -> None:
        """As a session's order to renew does."""
        host = self.rng.choice(self.others())
        host.engine._stay.life.renewer.force("a wish")

    async def back(self) -> None:
        host = self.rng.choice([host for host in self.world.hosts if not host.is_there])
        if host.is_cut:
            self.world.mend(host)
        if not host.is_on:
            await self.world.switch_on(host)

    async def restart_manager(self) -> None:
        manager = self.world.manager
        await self.world.switch_off(manager)
        await asyncio.sleep(self.rng.choice(PAUSES_S))
        await self.world.switch_on(manager)

    async def pass_time(self) -> None:
        """Days in which only those who are there renew; now and then more than a life of theirs."""
        await self.mend_all()
        for host in self.rng.sample(self.others(), min(2, len(self.others()))):
            await self.world.switch_off(host)
        await self.world.skip(self.rng.choice((1, 20, 100)) * DAY_S)

    async def rotate_tokens(self) -> None:
        await self.world.keep_old_tokens()
        await self.world.rotate_tokens()

    async def scale(self) -> None:
        await self.world.scale(self.rng.choice(("web", "db")), self.rng.randint(0, 9))

    async def join(self) -> None:
        cut_at = self.rng.choice((None, self.rng.randrange(40)))
        await self.world.join(self.one("out"), cut_at)

    async def join_over_bad_net(self) -> None:
        await self.world.join_over_bad_net(self.one("out"))

    async def try_old_token(self) -> None:
        await self.world.check_refusals(self.one("out"))

    async def remove(self) -> None:
        await self.world.remove(self.rng.choice(self.world.members()[1:]))

    async def leave(self) -> None:
        there = self.others()
        if there:
            await self.world.leave(self.rng.choice(there))

    async def forget(self) -> None:
        host = self.one("removed")
        assert host is not None
        await self.world.leave(host)


def run_history(seed: int | str, steps: int = STEPS) -> HistoryReport:
    history = History(seed)
    return run_sim(history.world.clock, history.run(steps))
