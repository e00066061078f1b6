"""Instances: the places a service keeps one task in, and what stands in each.

A replicated service has numbered slots, which the scheduler may put anywhere; a global one has one
place on each node, where its tasks are made for that node and carry no slot (SwarmKit's slotTuple).
Restarts, updates and history go by instance, whichever it is.

Replicated jobs number their slots from 0 and are none of this: `instance_of` cannot tell their
first slot from a place on a node.
"""

from collections.abc import Iterator
from typing import NamedTuple

from swarmlet.model.service import ServiceMode
from swarmlet.model.task import Task
from swarmlet.model.view import View
from swarmlet.reconcile.base import Key


class Instance(NamedTuple):
    """A slot (from 1), or the node of a task that has none. Sorts by either."""

    slot: int
    node_id: str = ""


def is_bound(mode: ServiceMode) -> bool:
    """Whether a task is made for its node, and a successor stays there."""
    return mode.global_ is not None or mode.global_job is not None


def instance_of(task: Task) -> Instance:
    return Instance(task.slot, "" if task.slot else task.node_id)


def rows_of(view: View, service_id: str, instance: Instance) -> Iterator[Task]:
    """All tasks of the instance, those on their way out too."""
    if instance.node_id:
        return view.tasks.scan("instance", (service_id, instance.node_id))
    return view.tasks.scan("slot", (service_id, instance.slot))


def siblings_of(view: View, task: Task) -> Iterator[Task]:
    """All tasks of the task's instance, itself among them."""
    return rows_of(view, task.service_id, instance_of(task))


def key_of(service_id: str, instance: Instance) -> Key:
    """("slot", service id, "3") or ("node", service id, node id)."""
    if instance.node_id:
        return ("node", service_id, instance.node_id)
    return ("slot", service_id, str(instance.slot))


def instance_in(key: Key) -> Instance:
    """What `key_of` put in the key."""
    return Instance(0, key[2]) if key[0] == "node" else Instance(int(key[2]))


def named(instance: Instance) -> str:
    """For reasons: "slot 3", "node n1"."""
    return f"node {instance.node_id}" if instance.node_id else f"slot {instance.slot}"
