"""Nodes as the scheduler counts them: what is free, what is held, how many tasks there are."""

from collections.abc import Sequence
from typing import Final

from swarmlet.model.generic_resources import claimed, names_of
from swarmlet.model.node import Node
from swarmlet.model.service import GenericResource
from swarmlet.reconcile.scheduler.filters import Filter, Needs, counts_of

_PARTS: Final = 1_000  # fullness is compared in thousandths
_TOTAL_BITS: Final = 32


class NodeState:
    """A node's free resources and its active tasks. Free amounts may fall below zero: a node can
    shrink, and tasks bound to it hold what they hold. `names`: of generic resources that have some;
    `held`: by how many tasks each name is, which is one but for what was recorded elsewhere."""

    __slots__ = ("cpu_nano", "generic", "held", "id", "memory_b", "names", "node", "ports", "total")

    def __init__(self, node: Node) -> None:
        self.id, self.node, self.total = node.id, node, 0
        resources = node.description.resources
        self.cpu_nano, self.memory_b = resources.nano_cpus, resources.memory_bytes
        self.generic = counts_of(resources.generic_resources)
        self.names = names_of(resources.generic_resources)
        self.held: dict[tuple[str, str], int] = {}  # (kind, name)
        self.ports: dict[tuple[str, int], int] = {}  # how many tasks hold each

    def change(self, node: Node) -> None:
        """Take over the node's new row; what tasks hold stays held."""
        old, new = self.node.description.resources, node.description.resources
        self.node = node
        self.names = names_of(new.generic_resources)
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

    def claim(self, needs: Needs) -> tuple[GenericResource, ...]:
        """What of its generic resources a task would get now; it fits."""
        if not needs.generic:
            return ()
        given: list[GenericResource] = []
        for kind, count in needs.generic:
            names = self.names.get(kind)
            free = names and [name for name in names if (kind, name) not in self.held]
            given += claimed(kind, count, free)
        return tuple(given)

    def hold_names(self, given: Sequence[GenericResource], sign: int = 1) -> None:
        """A task has these; with `sign` -1, no longer."""
        for kind, names in names_of(given).items():
            for name in names:
                self.held[kind, name] = self.held.get((kind, name), 0) + sign
                if not self.held[kind, name]:
                    del self.held[kind, name]

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
