"""What happens in a simulated swarm, as it happens: the daemons' log lines by virtual time."""

import logging
import sys

from tests.sim.cluster import SimCluster

_PLAIN = {*logging.makeLogRecord({}).__dict__, "message"}


class _Formatter(logging.Formatter):
    def __init__(self, world: SimCluster) -> None:
        super().__init__()
        self._world = world

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{_time(self._world)} {record.getMessage()} {said}"


def tell_all(world: SimCluster) -> None:
    """Write on standard output what is done and what is logged."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter(world))
    logger = logging.getLogger("swarmlet")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    world.on_tell = lambda what: sys.stdout.write(f"{_time(world)} == {what}\n")


def _time(world: SimCluster) -> str:
    return f"day {world.day:8.3f} {world.clock.now_s:10.2f} s"
