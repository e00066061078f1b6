"""Slots: the numbered places of a replicated service, which of them count, and which go first.

Rules are SwarmKit's (manager/orchestrator/slot.go, task.go and replicated/services.go), with sorts
that are stable, and with tasks that are on their way out (desired REMOVE) counting nowhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from itertools import count
from typing import Final, NamedTuple

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.constraint import matches, parse
from swarmlet.model.defaults import with_defaults
from swarmlet.model.node import Node
from swarmlet.model.service import (
    EndpointSpec,
    Placement,
    Service,
    ServiceSpec,
    TaskSpec,
)
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of, task_spec_of
from swarmlet.reconcile.disconnect import is_told_otherwise
from swarmlet.reconcile.eviction import was_evicted
from swarmlet.reconcile.moving import is_moving
from swarmlet.reconcile.restart import has_stopped, may_restart, must_leave, policy_of

ENDED_BY_ITSELF: Final = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)

_NO_PORTS: Final = EndpointSpec(mode="vip")


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """A service's slots by number. `all`: every task that is not leaving.

    `live`: the tasks wanted to run, or the one finished task that the policy leaves as it is.
    `dead`: nothing wants to run there, though something should.
    """

    all: Mapping[int, Sequence[Task]]
    live: Mapping[int, Sequence[Task]]
    dead: Mapping[int, Sequence[Task]]


def replicas_of(spec: ServiceSpec) -> int | None:
    """How many slots a replicated service wants (1 where nothing is said); None for other modes."""
    mode = spec.mode
    if mode.global_ is not None or mode.replicated_job is not None or mode.global_job is not None:
        return None
    if mode.replicated is None or mode.replicated.replicas is None:
        return 1
    return mode.replicated.replicas


def slots_of(view: View, service: Service) -> Slots:
    """The service's slots as of the view; O(its tasks)."""
    by_slot: dict[int, list[Task]] = {}
    for task in view.tasks.scan("service", service.id):
        if task.desired < TaskState.REMOVE:
            by_slot.setdefault(task.slot, []).append(task)
    live: dict[int, Sequence[Task]] = {}
    dead: dict[int, Sequence[Task]] = {}
    for number in sorted(by_slot):
        counting = counting_tasks(view, by_slot[number])
        (live if counting else dead)[number] = counting or by_slot[number]
    return Slots(all=by_slot, live=live, dead=dead)


def counting_tasks(view: View, tasks: Sequence[Task]) -> Sequence[Task]:
    """What makes a slot count: its tasks wanted to run, else its newest if it gets no successor.

    Without a slot, on the node of a global service, one that was stopped because of its node does
    not count, whatever the policy: it has not ended by itself.
    """
    wanted = sorted((t for t in tasks if is_wanted(t)), key=lambda t: t.id)
    if wanted:
        return wanted
    last = newest(tasks)
    if not last.slot and not has_ended_by_itself(last):
        return ()
    policy = policy_of(task_spec_of(view, last).task_template)
    return () if may_restart(last, policy, tasks) else (last,)


def is_wanted(task: Task) -> bool:
    """Whether the task should run, now or once it is released."""
    return task.desired <= TaskState.RUNNING


def has_ended_by_itself(task: Task) -> bool:
    return task.status.state in ENDED_BY_ITSELF and not was_evicted(task)


def newest(tasks: Sequence[Task]) -> Task:
    """The last task of a slot: replaced by no other, then by time of creation, and of spec."""
    replaced = {task.replaces for task in tasks}
    return max(tasks, key=lambda t: (t.id not in replaced, t.created_ms, t.spec_version, t.id))


def free_slots(taken: Mapping[int, object]) -> Iterable[int]:
    """Numbers no live slot has, lowest first, without end."""
    return (number for number in count(1) if number not in taken)


def removal_order(live: Mapping[int, Sequence[Task]]) -> list[int]:
    """Slot numbers in the order in which they survive a scale-down: the last are removed first.

    Each slot gets its turn on its node, the running and the low-numbered first; first turns survive
    second turns. Slots without a node, or with several tasks, go before all others. So the most
    crowded nodes lose first, and removing some changes nothing about the order of the rest.
    """
    turns: dict[str, int] = {}
    ranked: list[tuple[bool, int, int]] = []  # (goes first, turn on its node, place in the walk)
    walk = sorted(live, key=lambda number: (not _is_running(live[number]), number))
    for place, number in enumerate(walk):
        node_id = live[number][0].node_id if len(live[number]) == 1 else ""
        turns[node_id] = turns.get(node_id, 0) + 1
        ranked.append((not node_id, turns[node_id], place))
    return [walk[place] for _, _, place in sorted(ranked)]


def _is_running(tasks: Sequence[Task]) -> bool:
    return any(task.status.state == TaskState.RUNNING for task in tasks)


class Difference(Enum):
    """What has to happen to a task for it to follow another spec than the one it was made from."""

    NONE = auto()
    PLACE = auto()  # to be replaced where its node does not satisfy the new constraints
    ALL = auto()  # to be replaced


def difference(made_from: ServiceSpec, current: ServiceSpec) -> Difference:
    """Replicas, labels, update settings and defaults that are spelled out (clients read a spec with
    them and send it back) make none; a change of placement alone is one of place. Of labels one
    counts: when an agent stops a task for want of a manager, which it must be told."""
    if is_told_otherwise(made_from, current):
        return Difference.ALL
    if _task_parts(made_from) == _task_parts(current):
        return Difference.NONE
    old, new = with_defaults(made_from), with_defaults(current)
    if (old.endpoint_spec or _NO_PORTS) != (new.endpoint_spec or _NO_PORTS):
        return Difference.ALL
    if old.task_template == new.task_template:
        return Difference.NONE
    if _unplaced(old.task_template) != _unplaced(new.task_template):
        return Difference.ALL
    return Difference.PLACE


def host_of(view: View, task: Task) -> Node | None:
    """The node the task was placed on. One of a global service that waits for its node is on none:
    what it waits for was asked by the spec it was made from, and it goes on asking that."""
    is_placed = task.status.state >= TaskState.ASSIGNED
    return view.nodes.get(task.node_id) if is_placed else None


def is_dirty(made_from: ServiceSpec, current: ServiceSpec, node: Node | None) -> bool:
    """Whether a task on `node` (None: on none yet) must be replaced to follow the current spec."""
    found = difference(made_from, current)
    return found is Difference.ALL or (found is Difference.PLACE and not _may_stay(node, current))


def _may_stay(node: Node | None, current: ServiceSpec) -> bool:
    placement = current.task_template.placement or Placement()
    return node is not None and satisfies(node, placement.constraints)


class Dirt:
    """Which tasks of a service do not follow its current spec; every version is compared once."""

    def __init__(self, view: View, service: Service) -> None:
        self._current = spec_of(view, service)
        self._found: dict[int, Difference] = {service.spec_version: Difference.NONE}

    def is_on(self, view: View, task: Task) -> bool:
        found = self._found.get(task.spec_version)
        if found is None:
            found = difference(task_spec_of(view, task), self._current)
            self._found[task.spec_version] = found
        if found is not Difference.PLACE:
            return found is Difference.ALL
        return not _may_stay(host_of(view, task), self._current)


class Wanted(NamedTuple):
    """A slot's tasks that should run, the one that is furthest first: at rest one clean one.

    While a new task starts before the old one stops there is one of each: `dirty` is what follows
    an older spec, or runs on a node that is drained gently. `surplus` is to stop.
    """

    clean: Sequence[Task]
    dirty: Sequence[Task]
    surplus: Sequence[Task]


def wanted_of(view: View, dirt: Dirt, tasks: Iterable[Task]) -> Wanted:
    """Which of a slot's tasks should run, and which of them are too many.

    One clean and one dirty task may be there at a time; the dirty one only until the clean one runs
    on a node that is up (one that follows a failure has to prove itself first: `replicated`). Two
    of a kind there are where a creation of unknown outcome was repeated, or an update came while
    the one before was under way; and where a node is no longer drained. Of two the one stays that
    is furthest: one that has not ended before one that has, one that may stay on its node before
    one that must leave it, then by state, by age, by id.
    """
    order = sorted(filter(is_wanted, tasks), key=lambda task: _furthest(view, task))
    dirty = [task for task in order if dirt.is_on(view, task) or is_moving(view, task)]
    clean = [task for task in order if task not in dirty]
    surplus = [*clean[1:], *dirty[1:]]
    if dirty and any(_runs(view, task) for task in clean[:1]):
        surplus.append(dirty[0])
    return Wanted(clean, dirty, surplus)


def _furthest(view: View, task: Task) -> tuple[bool, bool, bool, bool, int, int, str]:
    """What a gentle drain lets run on goes behind nothing but what runs, too."""
    is_leaving, runs = must_leave(view, task), task.status.state == TaskState.RUNNING
    is_out = is_leaving and not is_moving(view, task)
    state = task.status.state
    return (has_stopped(task), is_out, not runs, is_leaving, -state, task.created_ms, task.id)


def _runs(view: View, task: Task) -> bool:
    is_running = task.status.state == TaskState.RUNNING and not task.attempt
    return is_running and not must_leave(view, task)


def replaces_tasks(
    old: ServiceSpec, new: ServiceSpec, hosts: Iterable[Node | None] = (None,)
) -> bool:
    """Whether updating `old` to `new` would replace tasks, of which `hosts` are the nodes.

    None stands for a task without a node; a service without tasks has nothing to replace. Where the
    nodes are not given, every change of placement counts as replacing.
    """
    return any(is_dirty(old, new, node) for node in hosts)


def satisfies(node: Node, constraints: Iterable[str]) -> bool:
    """Whether a node satisfies all constraints; a text that cannot be parsed satisfies nobody."""
    try:
        return all(matches(parse(text), node) for text in constraints)
    except InvalidArgumentError:
        return False


def _task_parts(spec: ServiceSpec) -> tuple[object, ...]:
    return spec.task_template, spec.endpoint_spec, spec.networks


def _unplaced(template: TaskSpec) -> TaskSpec:
    return msgspec.structs.replace(template, placement=None)
