"""Which manager to ask: a weighted choice among those a node knows. Pure; time plays no part."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from random import Random
from typing import Final

import msgspec

from swarmlet.core.errors import UnavailableError
from swarmlet.wire.messages import ManagerAddr

OBSERVED: Final = 10  # added by a success, taken away by a failure; SwarmKit remotes/remotes.go
SMOOTHING: Final = 0.5  # share of the newest observation; SwarmKit remotes/remotes.go
WEIGHT_MAX: Final = 256  # either way; SwarmKit remotes/remotes.go
BIAS: Final = 0.001  # so that nobody is never asked again; SwarmKit remotes/remotes.go


class Remotes:
    """One per node. `managers` are what it knew when it last ran, or where it joined."""

    def __init__(self, rng: Random, managers: Iterable[ManagerAddr] = ()) -> None:
        self._rng = rng
        self._known: dict[str, ManagerAddr] = {}
        self.replace(managers)

    def replace(self, managers: Iterable[ManagerAddr]) -> None:
        """The managers there are now: others are forgotten, those known keep their weight, new ones
        begin with the weight they come with. An address named twice counts once, the first time.

        No managers at all is no news: who forgets the last one never comes back.
        """
        named: dict[str, ManagerAddr] = {}
        for manager in managers:
            known = self._known.get(manager.addr, manager)
            weight = _clipped(known.weight)
            named.setdefault(manager.addr, msgspec.structs.replace(manager, weight=weight))
        if named:
            self._known = dict(sorted(named.items()))

    def choose(self, avoid: str = "") -> ManagerAddr:
        """A manager by weight; the one at `avoid` only where there is no other.

        Raises UnavailableError where none is known.
        """
        others = [manager for addr, manager in self._known.items() if addr != avoid]
        candidates = others or list(self._known.values())
        if not candidates:
            raise UnavailableError(
                "This node knows no manager of its swarm",
                remedy="Join it anew with the address of a manager: `swarmlet join`.",
            )
        sums = list(accumulate(max(manager.weight, 0) + BIAS for manager in candidates))
        at = bisect_right(sums, self._rng.random() * sums[-1])
        return candidates[min(at, len(candidates) - 1)]

    def observe(self, addr: str, ok: bool) -> None:
        """How a call to `addr` went. Whoever is not known any more stays unknown."""
        known = self._known.get(addr)
        if known is None:
            return
        newest = OBSERVED if ok else -OBSERVED
        weight = math.ceil(SMOOTHING * newest + (1 - SMOOTHING) * known.weight)
        self._known[addr] = msgspec.structs.replace(known, weight=_clipped(weight))

    def all(self) -> tuple[ManagerAddr, ...]:
        """By address, with their present weights."""
        return tuple(self._known.values())


def _clipped(weight: int) -> int:
    return max(-WEIGHT_MAX, min(WEIGHT_MAX, weight))
