"""Nodes as the scheduler counts them: what is free, what is held, how many tasks there are."""

from typing import Final

from swarmlet.model.node import Node
from swarmlet.reconcile.scheduler.filters import Filter, Needs, counts_of

_PARTS: Final = 1_000  # fullness is compared in thousandths
_TOTAL_BITS: Final = 32


class NodeState:
    """A node's free resources and its active tasks. Free amounts may fall below zero: a node can
    shrink, and tasks bound to it hold what they hold."""

    __slots__ = ("cpu_nano", "generic", "id", "memory_b", "node", "ports", "total")

    def __init__(self, node: Node) -> None:
        self.id, self.node, self.total = node.id, node, 0
        resources = node.description.resources
        self.cpu_nano, self.memory_b = resources.nano_cpus, resources.memory_bytes
        self.generic = counts_of(resources.generic_resources)
        self.ports: dict[tuple[str, int], int] = {}  # how many tasks hold each

    def change(self, node: Node) -> None:
        """Take over the node's new row; what tasks hold stays held."""
        old, new = self.node.description.resources, node.description.resources
        self.node = node
        self.cpu_nano += new.nano_cpus - old.nano_cpus
        self.memory_b += new.memory_bytes - old.memory_bytes
        for kind, count in counts_of(old.generic_resources).items():
            self.generic[kind] = self.generic.get(kind, 0) - count
        for kind, count in counts_of(new.generic_resources).items():
            self.generic[kind] = self.generic.get(kind, 0) + count

    def hold(self, needs: Needs, sign: int = 1) -> None:
        """Take what a task needs; with `sign` -1, give it back."""
        self.cpu_nano -= sign * needs.cpu_nano
        self.memory_b -= sign * needs.memory_b
        for kind, count in needs.generic:
            self.generic[kind] = self.generic.get(kind, 0) - sign * count
        for port in needs.ports:
            self.ports[port] = self.ports.get(port, 0) + sign
            if not self.ports[port]:
                del self.ports[port]

    def lacks(self, needs: Needs) -> Filter | None:
        """The first filter the node fails for want of room; None: the task fits."""
        # What is not reserved is not asked for: 0 fits also where too much is reserved already.
        if needs.cpu_nano and self.cpu_nano < needs.cpu_nano:
            return Filter.RESOURCE
        if needs.memory_b and self.memory_b < needs.memory_b:
            return Filter.RESOURCE
        for kind, count in needs.generic:
            if self.generic.get(kind, 0) < count:
                return Filter.RESOURCE
        for port in needs.ports:
            if port in self.ports:
                return Filter.HOST_PORT
        return None

    def rank_packed(self) -> int:
        """The fullest first: by the shares of CPU and memory that are reserved, then by tasks."""
        resources = self.node.description.resources
        full = 0
        if resources.nano_cpus:
            full += _PARTS * (resources.nano_cpus - self.cpu_nano) // resources.nano_cpus
        if resources.memory_bytes:
            full += _PARTS * (resources.memory_bytes - self.memory_b) // resources.memory_bytes
        return -((full << _TOTAL_BITS) + self.total)
