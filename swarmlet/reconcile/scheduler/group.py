"""Groups: all tasks of one spec version are equal, so they are placed together."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from swarmlet.core.ids import ServiceID
from swarmlet.core.limits import FAULTY_NODE_FAILURES, FAULTY_NODE_WINDOW_MS
from swarmlet.model.service import Placement, ServiceSpec
from swarmlet.model.strategy import BINPACK, LABEL
from swarmlet.reconcile.scheduler.affinity import affinity_of
from swarmlet.reconcile.scheduler.filters import needs_of
from swarmlet.reconcile.scheduler.pool import PoolKey
from swarmlet.reconcile.scheduler.spread import spread_of

GroupKey: TypeAlias = tuple[ServiceID, int]
"""(service id, spec version)."""

FAILURES_KEPT_MAX: Final = 64  # a node and group; beyond, how many more does not matter
assert FAILURES_KEPT_MAX >= FAULTY_NODE_FAILURES

_NO_PLACEMENT: Final = Placement()

SortKey: TypeAlias = tuple[int, int, PoolKey, GroupKey]


class Group:
    """One (service, spec version): what its tasks need, and where they failed lately.

    `service_name` is in lower case. Failures are times (wall ms) by node. Only the last five
    minutes count, and only from five on.
    """

    __slots__ = (
        "affinity",
        "failures",
        "key",
        "max_replicas",
        "needs",
        "pool_key",
        "service_id",
        "service_name",
        "spread",
    )

    def __init__(self, key: GroupKey, spec: ServiceSpec, networks: Sequence[str] = ()) -> None:
        """`networks`: the drivers of the networks its tasks join."""
        placement = spec.task_template.placement or _NO_PLACEMENT
        self.key, self.service_id = key, key[0]
        self.service_name = spec.name.lower()
        self.needs = needs_of(spec, networks)
        self.spread = spread_of(placement.preferences)
        self.affinity = affinity_of(placement)
        is_packed = spec.labels.get(LABEL, "").strip() == BINPACK
        self.pool_key = PoolKey(self.needs, self.spread, is_packed)
        self.max_replicas = placement.max_replicas
        self.failures: dict[str, deque[int]] = {}

    @property
    def is_packed(self) -> bool:
        """Whether its tasks go to the fullest node with room."""
        return self.pool_key.is_packed

    @property
    def sort_key(self) -> SortKey:
        """Most needed first, which packs better; groups of one class are neighbours, so that their
        pool is built once a pass."""
        return (-self.needs.cpu_nano, -self.needs.memory_b, self.pool_key, self.key)

    def failed(self, node_id: str, at_ms: int) -> None:
        """A task of this group failed there."""
        times = self.failures.setdefault(node_id, deque(maxlen=FAILURES_KEPT_MAX))
        times.append(at_ms)

    def faulty_nodes(self, now_ms: int) -> Iterator[tuple[str, int]]:
        """(node id, failures) where there were enough lately; forgets what is too old."""
        for node_id in list(self.failures):
            times = self.failures[node_id]
            recent = sum(at_ms > now_ms - FAULTY_NODE_WINDOW_MS for at_ms in times)
            if not recent:
                del self.failures[node_id]
            elif recent >= FAULTY_NODE_FAILURES:
                yield node_id, recent
