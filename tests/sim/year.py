"""A year of twenty nodes: renewals, root rotations, nodes off for months. Nobody is locked out that
was not removed."""

import hashlib
from dataclasses import dataclass

from tests.sim.cluster import DAY_S, NEVER, SKEW_MAX_S, SimCluster
from tests.sim.host import Host
from tests.sim.loop import run_sim

NODES = 20
SPARES = 2  # hosts that join late, and try tokens of old
YEAR_DAYS = 365
ROTATIONS = 3
AWAY_MAX = 0.3  # of the nodes at once, so that services have a place
OFF_DAYS = ((1, 10), (30, 100), (100, 240))
LIFETIMES_DAYS = (10, 30, 90, 90, 180)


@dataclass(frozen=True)
class YearReport:
    """What happened; `trace` is equal exactly for equal runs."""

    seed: int | str
    days: int
    certificates: int
    rotations: int
    lives: int
    power_cuts: int
    removed: int
    slowest_s: float
    trace: str


class Year:
    def __init__(self, seed: int | str, nodes: int = NODES, days: int = YEAR_DAYS) -> None:
        self.world = SimCluster(seed, nodes + SPARES)
        self.rng, self.nodes, self.days = self.world.rng, nodes, days
        self.back_on: dict[str, float] = {}  # by host: the day
        thirds = [days * (0.08 + 0.3 * number) for number in range(ROTATIONS)]
        self.rotate_on = [day + self.rng.uniform(0, 0.06 * days) for day in thirds]
        self.patience_on = 0.0  # the day on which the operator removes who holds a rotation up

    async def run(self) -> YearReport:
        world = self.world
        await self.begin()
        while world.day < self.days:
            for _ in range(self.rng.randint(1, 3)):
                await self.rng.choice(self.acts())()
            await self.tend_rotation()
            self.arm()
            await world.settle()
            await world.skip(self.rng.choice((0.2, 1, 3, 6)) * self.rng.uniform(0.5, 1) * DAY_S)
            await self.bring_back()
            await world.settle()
            world.manager.disk.fail_at(NEVER)
            await world.check_refusals()
        await self.finish()
        return self.report()

    async def begin(self) -> None:
        world = self.world
        await world.found()
        for host in world.hosts[1 : self.nodes]:
            self.shift_clock(host)
            await world.join(host)
        await world.scale("web", self.nodes)
        await world.scale("db", 2)
        await world.settle()

    async def finish(self) -> None:
        """Everybody comes back; the last rotation needs nobody's help then."""
        world = self.world
        await self.bring_back(everybody=True)
        await world.settle()
        while self.rotate_on:
            await self.begin_rotation()
            await world.settle()
        await world.check_refusals(self.spare())
        await world.skip(DAY_S)
        await world.settle()
        assert len(world.roots) == 1 + ROTATIONS
        await world.end()

    def report(self) -> YearReport:
        world = self.world
        return YearReport(
            seed=world.seed,
            days=self.days,
            certificates=len(world.chains),
            rotations=len(world.roots) - 1,
            lives=sum(host.lives for host in world.hosts),
            power_cuts=world.power_cuts,
            removed=len(world.removed),
            slowest_s=round(world.slowest_s, 1),
            trace=hashlib.sha256("\n".join(world.told).encode()).hexdigest()[:16],
        )

    # What may happen ------------------------------------------------------------------------------
    def acts(self):
        acts = [self.scale, self.world.create_config, self.restart_manager, self.crash]
        acts += [self.rotate_tokens, self.set_lifetime]
        if sum(not host.is_there for host in self.world.members()) < AWAY_MAX * self.nodes:
            acts += [self.off, self.off, self.off, self.cut]
        if len(self.world.members()) > self.nodes - 2:
            acts.append(self.remove)
        if self.spare() is not None:
            acts += [self.join, self.join_asleep, self.try_old_token]
        if any(host.standing == "removed" for host in self.world.hosts):
            acts.append(self.forget)
        if self.rng.random() < 0.02:
            acts = [self.sleep]
        return acts

    def others(self) -> list[Host]:
        """Members that are there, but for the manager that leads."""
        return [host for host in self.world.members()[1:] if host.is_there]

    def spare(self) -> Host | None:
        spares = [host for host in self.world.hosts if host.standing == "out"]
        return spares[0] if spares else None

    def shift_clock(self, host: Host) -> None:
        host.clock.skew_ms = self.rng.randint(-SKEW_MAX_S, SKEW_MAX_S) * 1000

    async def off(self) -> None:
        host = self.rng.choice(self.others())
        await self.world.switch_off(host)
        self.shift_clock(host)
        self.away(host)

    async def cut(self) -> None:
        host = self.rng.choice(self.others())
        self.world.cut(host)
        self.away(host)

    def away(self, host: Host) -> None:
        self.back_on[host.host] = self.world.day + self.rng.uniform(*self.rng.choice(OFF_DAYS))

    async def bring_back(self, *, everybody: bool = False) -> None:
        for host in self.world.hosts:
            if host.host in self.back_on and (
                everybody or self.back_on[host.host] <= self.world.day
            ):
                del self.back_on[host.host]
                if host.is_cut:
                    self.world.mend(host)
                if not host.is_on:
                    await self.world.switch_on(host)

    async def crash(self) -> None:
        """A host that is up again at once."""
        host = self.rng.choice(self.others())
        await self.world.switch_off(host)
        await self.world.switch_on(host)

    async def restart_manager(self) -> None:
        manager = self.world.manager
        await self.world.switch_off(manager)
        await self.world.skip(self.rng.choice((0, 0, 600, DAY_S)))
        await self.world.switch_on(manager)

    async def sleep(self) -> None:
        """The manager is off for longer than certificates live; in half of the cases all are."""
        world, days = self.world, self.rng.uniform(20, 100)
        asleep = [world.manager, *(self.others() if self.rng.random() < 0.5 else [])]
        for host in reversed(asleep):
            await world.switch_off(host)
        world.tell(f"{len(asleep)} sleep")
        await world.doze(days * DAY_S)
        for host in asleep:
            await world.switch_on(host)
        await world.settle()

    async def remove(self) -> None:
        await self.world.remove(self.rng.choice(self.world.members()[1:]))

    async def forget(self) -> None:
        """A removed host leaves what does not know it any more, and is free to join again."""
        host = next(host for host in self.world.hosts if host.standing == "removed")
        if host.is_cut:
            self.world.mend(host)
        self.back_on.pop(host.host, None)
        await self.world.leave(host)

    async def join(self) -> None:
        host = self.spare()
        assert host is not None
        await self.world.join(host, cut_at=self.rng.choice((None, self.rng.randrange(40))))

    async def join_asleep(self) -> None:
        """Half of a join, then weeks or months without power, then the rest of it."""
        host = self.spare()
        assert host is not None
        asleep_s = self.rng.choice((3, 3, 10, 120)) * DAY_S
        await self.world.join(host, cut_at=self.rng.randrange(40), asleep_s=asleep_s)

    async def try_old_token(self) -> None:
        await self.world.check_refusals(self.spare())

    async def rotate_tokens(self) -> None:
        await self.world.keep_old_tokens()
        await self.world.rotate_tokens()

    async def set_lifetime(self) -> None:
        await self.world.set_lifetime(self.rng.choice(LIFETIMES_DAYS))

    async def scale(self) -> None:
        await self.world.scale(self.rng.choice(("web", "db")), self.rng.randint(0, 2 * self.nodes))

    def arm(self) -> None:
        """The power goes at one of the next operations of some disks: in renewals, mostly."""
        some = self.rng.sample(self.others(), min(len(self.others()), self.rng.randint(0, 3)))
        for host in [*some, *([self.world.manager] if self.rng.random() < 0.3 else [])]:
            where = self.rng.choice(("before", "half", "after"))
            host.disk.fail_at(self.rng.randrange(12), where)

    # Rotations ------------------------------------------------------------------------------------
    async def tend_rotation(self) -> None:
        """Begin what is due; where one waits for nodes that are away, wait too, then remove
        them."""
        root_ca = await self.world.root_ca()
        if root_ca.rotation is None:
            if self.rotate_on and self.rotate_on[0] <= self.world.day:
                await self.begin_rotation()
        elif self.world.day >= self.patience_on:
            for host in await self.world.holding_up():
                if host is not self.world.manager and not host.is_there:
                    await self.world.remove(host)
                else:
                    self.back_on[host.host] = min(self.back_on.get(host.host, 0.0), self.world.day)

    async def begin_rotation(self) -> None:
        self.rotate_on.pop(0)
        await self.world.keep_old_tokens()
        await self.world.rotate_root()
        self.patience_on = self.world.day + self.rng.uniform(0.01, 0.18) * self.days


def run_year(seed: int | str, nodes: int = NODES, days: int = YEAR_DAYS) -> YearReport:
    year = Year(seed, nodes, days)
    return run_sim(year.world.clock, year.run())
