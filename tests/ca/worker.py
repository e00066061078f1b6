"""A worker with a certificate, its renewer, and a swarm that it asks: on virtual time."""

import asyncio
from random import Random

from swarmlet.ca.key_file import new_node_keys
from swarmlet.ca.keys import key_from_pem
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.renewer import Renewer
from swarmlet.env.base import Env
from swarmlet.model.node import IssuanceState
from swarmlet.wire.messages import SwarmInfo
from tests.agent.virtual_time import START_MS, run_virtual
from tests.ca.swarm import Swarm
from tests.sim.disk import SimDisk
from tests.sim.loop import inline

HOUR_S, DAY_S = 3_600, 86_400
DAY_MS = DAY_S * 1000
YEAR_S = 365 * DAY_S


class Clock:
    """The loop's time; `skew_ms` is what the wall clock is wrong by."""

    skew_ms = 0

    def mono_s(self):
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return 0.0

    def wall_ms(self):
        return START_MS + self.skew_ms + round(self.mono_s() * 1000)


class World:
    """A worker with a fresh certificate in a swarm."""

    def __init__(self, seed=1, **fields):
        self.clock, self.true, self.disk = Clock(), Clock(), SimDisk()
        self.swarm = Swarm(self.true.wall_ms, seed=seed, **fields)
        credentials = self.swarm.credentials("worker", "node1")
        self.files = NodeFiles(self.disk, "/data/certificates")
        key = key_from_pem(credentials.key_pem)
        self.files.write(
            credentials.root_pem,
            credentials.chain_pem,
            new_node_keys(key, bytes(32), bytes(32)),
        )
        self.start(seed)

    def start(self, seed=1):
        """A daemon's start, with what is on disk."""
        rng = Random(seed)
        env = Env(clock=self.clock, rng=rng, entropy=rng.randbytes, disk=self.disk, blocking=inline)
        self.own = self.files.own_identity()
        self.renewer = Renewer(env, self.files, self.own, self.swarm.source(self.own))

    def run(self, story, limit_s=40 * YEAR_S):
        """Play `story` while the renewer runs."""

        async def main():
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self.renewer.run())
                await story()
                running.cancel()

        run_virtual(main(), limit_s=limit_s)

    def on_disk(self):
        return self.files.identity()

    def info(self, **fields):
        return SwarmInfo(
            **{
                "managers": (),
                "root_pem": self.swarm.root.cert_pem,
                "certificate_state": int(IssuanceState.ISSUED),
                "role": "worker",
                **fields,
            }
        )
