"""All that a node lacks for a task, filter by filter: for people, beside what the filters decide.

Nothing here decides. `shortages` asks the filters in their order, so the first it finds is the one
that `pipeline.fits` names; it only does not stop there, and says what is short and by how much.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from swarmlet.model.node import NODE_STATE_NAMES, Node, NodeState
from swarmlet.reconcile.scheduler.filters import (
    Filter,
    Fixed,
    Needs,
    has_runtime,
    is_active,
    missing_limits,
    runs_on,
)
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.ledger import Ledger
from swarmlet.reconcile.scheduler.nodeset import NodeState as Counted
from swarmlet.reconcile.scheduler.pipeline import unmet
from swarmlet.reconcile.scheduler.plugins import missing_plugins
from swarmlet.reconcile.slots import satisfies

CPU: Final = "cpu"
MEMORY: Final = "memory"


class Shortage(NamedTuple):
    """One thing a node lacks. `what`: its state or availability, runtimes, limits (cpu and pids), a
    plugin, a constraint, platforms, cpu, memory, a generic resource's kind, a port as 80/tcp, a
    service as service==web, or the number of replicas it allows.

    `missing` in the unit of what is short (nano CPUs, bytes, pieces), of `wanted`; 0 of what is no
    amount.
    """

    filter: Filter
    what: str
    missing: int = 0
    wanted: int = 0


def shortages(ledger: Ledger, group: Group, state: Counted) -> list[Shortage]:
    """What keeps a task of this group off the node, in the order of the filters; empty: it fits.
    The node's tasks must be counted in the ledger."""
    found = [*fixed_shortages(state.node, group.needs.fixed), *_lack_of_room(state, group.needs)]
    found += [
        Shortage(Filter.AFFINITY, f"service{'==' if term.is_near else '!='}{term.service}")
        for term in unmet(ledger, group.affinity.must, state.id)
    ]
    most = group.max_replicas
    if most and ledger.hosts_of(group.service_id).get(state.id, 0) >= most:
        found.append(Shortage(Filter.MAX_REPLICAS, str(most)))
    return found


def fixed_shortages(node: Node, fixed: Fixed) -> Iterator[Shortage]:
    """Those that the node's own row answers, whatever runs there."""
    if node.status.state != NodeState.READY:
        yield Shortage(Filter.READY, NODE_STATE_NAMES[node.status.state])
    if not is_active(node):
        yield Shortage(Filter.READY, node.spec.availability)
    if not has_runtime(node, fixed):
        yield Shortage(Filter.RUNTIME, " or ".join(fixed.runtimes))
    elif limits := missing_limits(node, fixed):
        yield Shortage(Filter.LIMIT, " and ".join(limits))
    for kind, name in missing_plugins(node, fixed.plugins):
        yield Shortage(Filter.PLUGIN, f"{kind.lower()} plugin {name}")
    for text in fixed.constraints:
        if not satisfies(node, (text,)):
            yield Shortage(Filter.CONSTRAINT, text)
    if not runs_on(node, fixed):
        names = [f"{os or 'any'}/{architecture or 'any'}" for os, architecture in fixed.platforms]
        yield Shortage(Filter.PLATFORM, " or ".join(names))


def _lack_of_room(state: Counted, needs: Needs) -> Iterator[Shortage]:
    amounts = [(kind, count, state.generic.get(kind, 0)) for kind, count in needs.generic]
    if needs.memory_b:  # what is not reserved is not asked for
        amounts.insert(0, (MEMORY, needs.memory_b, state.memory_b))
    if needs.cpu_nano:
        amounts.insert(0, (CPU, needs.cpu_nano, state.cpu_nano))
    for what, wanted, free in amounts:
        if free < wanted:
            yield Shortage(Filter.RESOURCE, what, missing=wanted - free, wanted=wanted)
    for protocol, port in needs.ports:
        if (protocol, port) in state.ports:
            yield Shortage(Filter.HOST_PORT, f"{port}/{protocol}")
