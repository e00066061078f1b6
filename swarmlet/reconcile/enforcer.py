"""The constraint enforcer: ends tasks whose node does not suit them any more, whatever their mode.

SwarmKit's (manager/orchestrator/constraintenforcer). A node that got other labels, another role or
less CPU, memory or generic resources is looked at, in O(tasks on it). What ends is REJECTED; the
orchestrator of its mode does the rest. Nodes that are paused, drained or down are left alone.

A task breaks its constraints where its node satisfies neither those it was made from nor the
present ones. Where it breaks only the present ones its service was changed, and it leaves at its
turn in the update (`updater`; on a node of a global service at once, `global_services`). Where it
breaks only the old ones it may stay.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from swarmlet.core.limits import ENTRY_CHANGES_MAX, MS_PER_S, PROPOSAL_TIMEOUT_S
from swarmlet.model.change import Event
from swarmlet.model.generic_resources import names_of
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import Resources, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.base import REST, Decision, Key, Moment
from swarmlet.reconcile.eligibility import constraints_of, standing_parts
from swarmlet.reconcile.eviction import evicted
from swarmlet.reconcile.scheduler.filters import counts_of
from swarmlet.reconcile.slots import satisfies

SETTLED_MS: Final = int(PROPOSAL_TIMEOUT_S * MS_PER_S) + MS_PER_S
"""A node is looked at again so long after its row changed: what was being placed there meanwhile
was decided upon by the row before, and has been applied or refused by then."""


class EnforcerDecider:
    """Writes the status of the tasks it ends, nothing else. Keeps no index. Keys: ("node", id)."""

    name: Final = "enforcer"
    tables: Final = frozenset({Node})

    def start(self, view: View) -> Iterable[Key]:
        return [("node", node_id) for node_id in sorted(node.id for node in view.nodes.all())]

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        old, new = event.old, event.new
        assert isinstance(old, Node | None)
        assert isinstance(new, Node | None)
        if new is None or _suiting_parts(old) == _suiting_parts(new):
            return ()
        return [("node", new.id)]

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        node = view.nodes.get(key[1])
        if node is None or not _is_in_charge(node):
            return REST
        changes = tuple(
            islice(
                (evicted(task, moment.now_ms) for task in _unsuited(view, node)), ENTRY_CHANGES_MAX
            )
        )
        settled_ms = node.updated_ms + SETTLED_MS
        return Decision(
            changes=changes,
            reasons=(f"{len(changes)} tasks do not suit their node any more",) if changes else (),
            wake_at_ms=settled_ms if moment.now_ms < settled_ms else None,
            has_more=len(changes) == ENTRY_CHANGES_MAX,
        )


def breaks_constraints(view: View, task: Task, node: Node) -> bool:
    """Whether the node satisfies neither the task's own constraints nor its service's present
    ones."""
    if satisfies(node, constraints_of(task_spec_of(view, task))):
        return False
    service = view.services.get(task.service_id)
    return service is None or not satisfies(node, constraints_of(spec_of(view, service)))


def is_to_be_ended(view: View, task: Task, node: Node) -> bool:
    """Whether its constraints are reason enough for the enforcer to end the task."""
    return _is_in_charge(node) and _is_there(task) and breaks_constraints(view, task, node)


def _is_in_charge(node: Node) -> bool:
    is_active = node.spec.availability in ("", "active")
    return is_active and node.status.state != NodeState.DOWN


def _is_there(task: Task) -> bool:
    is_wanted = task.desired <= TaskState.COMPLETE
    return is_wanted and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def _suiting_parts(node: Node | None) -> tuple[object, ...] | None:
    return None if node is None else (standing_parts(node), node.description.resources)


def _unsuited(view: View, node: Node) -> Iterator[Task]:
    """The tasks that do not suit the node: those whose pieces it has no more, and of those there is
    no room for the newest."""
    tasks = sorted(
        filter(_is_there, view.tasks.scan("node", node.id)), key=lambda t: (t.created_ms, t.id)
    )
    broken: dict[tuple[str, int], bool] = {}  # by spec version
    room = _Room(node.description.resources)
    for task in tasks:
        made_from = (task.service_id, task.spec_version)
        if made_from not in broken:
            broken[made_from] = breaks_constraints(view, task, node)
        if broken[made_from] or not room.takes(task, task_spec_of(view, task)):
            yield task


class _Room:
    """What a node has left; one that has not said what it has is not asked."""

    def __init__(self, resources: Resources) -> None:
        self._is_known = bool(resources.nano_cpus or resources.memory_bytes)
        self._left = _amounts(resources)
        self._names = names_of(resources.generic_resources)

    def takes(self, task: Task, spec: ServiceSpec) -> bool:
        """Whether the pieces are there that the task was given by name, and room for what a task of
        this spec reserves; if so it is taken."""
        given = spec.task_template.resources
        if not self._is_known or given is None or given.reservations is None:
            return True
        wanted = _amounts(given.reservations)
        if any(self._left.get(what, 0) < amount for what, amount in wanted.items()):
            return False
        for kind, names in names_of(task.generic_resources).items():
            if not set(names) <= set(self._names.get(kind, ())):
                return False
        for what, amount in wanted.items():
            self._left[what] -= amount
        return True


def _amounts(resources: Resources) -> dict[str, int]:
    amounts: Mapping[str, int] = {
        "cpu": resources.nano_cpus,
        "memory": resources.memory_bytes,
        **{f"generic {kind}": n for kind, n in counts_of(resources.generic_resources).items()},
    }
    return {what: amount for what, amount in amounts.items() if amount}
