"""Tasks of a swarm this node left, where the runtime is away."""

import os

from swarmlet.core.errors import SwarmStateError
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.leftovers import Leftovers
from swarmlet.env.real import real_env
from swarmlet.runtime.base import TemporaryProblemError


class AwayRuntime:
    name = "process"

    async def list_tasks(self):
        raise TemporaryProblemError("the engine does not answer")


async def test_sweep_that_comes_while_the_daemon_stops_is_left_to_its_next_life(tmp_path):
    data = DataDir(real_env().disk, os.fspath(tmp_path / "data"))
    data.open()

    def refuse(work, name):
        work.close()
        raise SwarmStateError("The daemon is stopping.")

    await Leftovers(data, refuse).sweep(AwayRuntime())
    assert data.leftover_runtime() == "process"
