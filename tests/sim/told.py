"""What happens in a simulated swarm, as it happens: the daemons' log lines by virtual time."""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.group_loop import WHOSE

if TYPE_CHECKING:
    from tests.sim.cluster import SimCluster
    from tests.sim.fleet import Fleet
    from tests.sim.group import Group

_PLAIN = {*logging.makeLogRecord({}).__dict__, "message"}


class _Formatter(logging.Formatter):
    def __init__(self, now: Callable[[], str]) -> None:
        super().__init__()
        self._now = now

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{self._now()} {record.getMessage()} {said}"


def tell_all(world: "SimCluster") -> None:
    """Write on standard output what is done and what is logged."""
    _log(lambda: _time(world))
    world.on_tell = lambda what: sys.stdout.write(f"{_time(world)} == {what}\n")


def tell_managers(group: "Group") -> None:
    """The same of a group of managers; each line says whose it is."""
    _log(lambda: f"{group.clock.now_s:9.4f} {WHOSE.get():<4}")
    group.truth.on_tell = lambda line: sys.stdout.write(f"{line}\n")


def tell_fleet(fleet: "Fleet") -> None:
    """The same of a swarm of managers and agents."""
    _log(lambda: f"{fleet.now_s:9.3f}")
    fleet.on_tell = lambda what: sys.stdout.write(f"{fleet.now_s:9.3f} == {what}\n")


def _log(now: Callable[[], str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter(now))
    logger = logging.getLogger("swarmlet")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _time(world: "SimCluster") -> str:
    return f"day {world.day:8.3f} {world.clock.now_s:10.2f} s"
