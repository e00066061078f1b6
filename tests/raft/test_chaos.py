"""A group under kills, power cuts, cut wires and churn keeps what was acknowledged, in order."""

import asyncio
from random import Random

import pytest

from swarmlet.core.errors import SwarmError
from tests.raft.group import OFTEN, World
from tests.raft.member import outcome

CLIENTS, FAULTS_S, SETTLE_S = 3, 15.0, 20.0


class Workload:
    """Clients that write and read at any member. `acked` holds what was acknowledged, and where."""

    def __init__(self, world):
        self.world, self.acked, self.reads, self.is_over = world, {}, 0, False

    async def client(self, name):
        rng, number = Random(f"{self.world.seed}/{name}"), 0
        while not self.is_over:
            await asyncio.sleep(rng.uniform(0.001, 0.05))
            up = self.world.up()
            if not up:
                continue
            host = up[rng.randrange(len(up))]
            if rng.random() < 0.3:
                await self.read(host)
                continue
            number += 1
            entry = b"%s/%d" % (name, number) + bytes(rng.randrange(2_000))
            index = await outcome(host.engine.propose(entry, number))
            if isinstance(index, int):
                self.acked[index] = entry
            else:
                assert isinstance(index, SwarmError), index

    async def read(self, host):
        newest, memory = max(self.acked, default=0), host.memory
        index = await outcome(host.engine.read_barrier())
        if isinstance(index, int):
            self.reads += 1
            assert index >= newest, f"{host.name} read {index} after {newest} was acknowledged"
            assert memory is not host.memory or not newest or memory.seen[-1][0] >= newest


async def nemesis(world, rng):
    hosts = list(world.wire.hosts.values())
    until_s = world.now_s + FAULTS_S
    while world.now_s < until_s:
        await asyncio.sleep(rng.uniform(0.1, 1.2))
        host = hosts[rng.randrange(len(hosts))]
        kind = rng.randrange(5)
        if kind == 0 and host.is_up:
            await host.kill(power=rng.random() < 0.5)
        elif kind == 1 and not host.is_up:
            host.disk.reopen()
            await host.boot()
        elif kind == 2:
            world.wire.apart.add(host.name)
        elif kind == 3:
            world.wire.mend()
        elif host.is_up:
            await outcome(host.engine.transfer())
    world.wire.mend()
    for host in hosts:
        if not host.is_up:
            await host.boot()


def check(world, work):
    """Every copy is the same, and holds all that was acknowledged, in its place."""
    copies = [dict(host.memory.seen) for host in world.up()]
    assert len(copies) == len(world.wire.hosts)
    assert all(copy == copies[0] for copy in copies)
    missing = {i: e for i, e in work.acked.items() if copies[0].get(i) != e}
    assert missing == {}
    entries = [entry for entry in copies[0].values() if entry]
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("seed", range(12))
def test_group_keeps_what_it_acknowledged_whatever_happens_to_its_members(seed):
    async def story(world):
        await world.found("a", "b", "c")
        work = Workload(world)
        clients = [world.begin(work.client(b"%d" % name)) for name in range(CLIENTS)]
        await nemesis(world, Random(f"{seed}/nemesis"))
        await world.leader(SETTLE_S)
        count = len(work.acked)
        await asyncio.sleep(5)
        assert len(work.acked) > count
        work.is_over = True
        await asyncio.wait(clients)
        for client in clients:
            client.result()
        await world.agree(SETTLE_S)
        check(world, work)
        assert work.reads > 10

    World(seed, limits=OFTEN).run(story)


def test_same_seed_replays_the_same_run():
    def trace(seed):
        async def story(world):
            hosts = await world.found("a", "b", "c")
            await world.write(*(b"%d" % n for n in range(20)))
            await hosts[0].kill(power=True)
            await world.write(b"after")
            await hosts[0].boot()
            await world.agree()
            files = [{path: i.seen for path, i in h.disk._names.items()} for h in hosts]
            return world.now_s, files, [(h.disk.log, h.memory.seen) for h in hosts]

        return World(seed, limits=OFTEN).run(story)

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
