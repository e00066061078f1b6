"""What nodes have left, counted from the rows as the scheduler counts, of those asked for alone."""

from collections.abc import Iterable
from typing import Final

from swarmlet.model.node import Node
from swarmlet.model.service import ServiceSpec
from swarmlet.model.task import Task
from swarmlet.model.view import View
from swarmlet.reconcile.allocator.needs import spec_version_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.scheduler.group import Group, GroupKey
from swarmlet.reconcile.scheduler.ledger import Ledger, claim_of_row
from swarmlet.reconcile.scheduler.nodeset import NodeState
from swarmlet.reconcile.scheduler.plugins import network_drivers
from swarmlet.reconcile.scheduler.waiting import group_key

SLICE_TASKS: Final = 1_000
"""Tasks counted before others have a turn: some 5 ms."""


class Room:
    """A ledger of the scheduler's that is filled as far as somebody asks."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.ledger = Ledger()
        self._groups: dict[GroupKey, Group] = {}
        self._counted: set[str] = set()  # nodes and services, never iterated
        self._work = 0  # tasks counted

    def group(self, task: Task) -> Group | None:
        """What tasks of its spec version need; None where the spec is gone with its service."""
        key = group_key(task)
        if key in self._groups:
            return self._groups[key]
        made_from = spec_version_of(self._view, task)
        return None if made_from is None else self.group_of(key, made_from.spec)

    def group_of(self, key: GroupKey, spec: ServiceSpec) -> Group:
        """What tasks of this spec version need."""
        if key not in self._groups:
            self._groups[key] = Group(key, spec, network_drivers(self._view, spec))
        return self._groups[key]

    def know(self, node: Node) -> NodeState:
        """The node as if nothing but what was counted already ran there."""
        state = self.ledger.nodes.get(node.id)
        if state is None:
            self.ledger.set_node(node.id, node)
            state = self.ledger.nodes[node.id]
        return state

    def count_node(self, node: Node) -> Steps[NodeState]:
        """The node with all its tasks counted."""
        state = self.know(node)
        if node.id not in self._counted:
            self._counted.add(node.id)
            yield from self._count(self._view.tasks.scan("node", node.id))
        return state

    def count_service(self, service_id: str) -> Steps[None]:
        """The tasks of a service, on the nodes that are known already: how many each hosts."""
        if service_id in self._counted:
            return
        self._counted.add(service_id)
        yield from self._count(self._view.tasks.scan("service", service_id))

    def count_all(self) -> Steps[None]:
        """All tasks, on the nodes that are known already."""
        yield from self._count(self._view.tasks.all())

    def _count(self, tasks: Iterable[Task]) -> Steps[None]:
        for task in tasks:
            group = self.group(task)
            if group is not None:
                self.ledger.count(task.id, claim_of_row(task, group))
            self._work += 1
            if self._work % SLICE_TASKS == 0:
                yield
