"""What is said: reasons, equal ones in groups, and the answers about tasks, services and nodes."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from swarmlet.model.service import Service
from swarmlet.model.task import STATE_NAMES, Task

GROUPS_MAX: Final = 20  # reasons in an answer; what is beyond is counted
NAMED_MAX: Final = 10  # tasks named in a group


class Verdict(StrEnum):
    """All is as wanted; it is on its way, or in trouble; or something has no place to run."""

    WELL = "well"
    UNSETTLED = "unsettled"
    UNPLACED = "unplaced"


class FilterCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many nodes a filter keeps out first. `filter`: ready, runtime, plugin, constraint,
    platform, resource, host-port, affinity or max-replicas; `what` as `Shortage.what`."""

    filter: str
    what: str
    nodes: int


class Lack(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a node lacks; `missing` of `wanted`, 0 of what is no amount."""

    filter: str
    what: str
    missing: int = 0
    wanted: int = 0


class Nearest(msgspec.Struct, frozen=True, kw_only=True):
    """The node that lacks least."""

    node_id: str
    hostname: str
    lacks: tuple[Lack, ...]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task could go: `nodes` were asked, `fitting` of them would take it, and the filters
    keep out the others, the one that keeps out most first. `scheduler`: its own words for that."""

    nodes: int
    fitting: int
    counts: tuple[FilterCount, ...]
    nearest: Nearest | None
    scheduler: str


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why something is as it is: `code` and fields for programs, `sentence` for people, `remedy`
    what could be done, where there is something.

    `since_ms`, `until_ms` (wall, 0: none): when it began and when it changes by itself; `node_id`,
    `task_id`: what it hangs on, such as a predecessor; `attempt`: failed runs in a row before;
    `error`: what was reported.
    """

    code: str
    sentence: str
    remedy: str = ""
    since_ms: int = 0
    until_ms: int = 0
    node_id: str = ""
    task_id: str = ""
    attempt: int = 0
    error: str = ""
    verdict: Verdict = Verdict.UNSETTLED
    placement: Placement | None = None

    @property
    def kind(self) -> tuple[str, ...]:
        """Equal where two tasks wait for the same: times, attempts and predecessors may differ."""
        scheduler = "" if self.placement is None else self.placement.scheduler
        nearest = None if self.placement is None else self.placement.nearest
        return (
            self.code,
            self.node_id,
            self.error,
            scheduler,
            "" if nearest is None else nearest.node_id,
        )


class TaskRef(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is named: `name` is web.3, or web.NODE where it has no slot."""

    id: str
    name: str
    state: str
    desired: str
    node_id: str = ""
    hostname: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks with one reason: how many, the first of them, and the reason of the one that waits
    longest."""

    reason: Reason
    count: int
    tasks: tuple[TaskRef, ...]


class TaskWhy(msgspec.Struct, frozen=True, kw_only=True):
    task: TaskRef
    service_id: str
    service_name: str
    reason: Reason


class ServiceWhy(msgspec.Struct, frozen=True, kw_only=True):
    """`reasons` are the service's own; `waiting` its tasks that do not run; `lately` those that
    failed in the last ten minutes. `unshown`: tasks whose reasons are beyond GROUPS_MAX."""

    id: str
    name: str
    verdict: Verdict
    running: int
    wanted: int
    reasons: tuple[Reason, ...]
    waiting: tuple[Group, ...]
    lately: tuple[Group, ...]
    unshown: int = 0


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of a node: cpu in nano CPUs, memory in bytes, generic kinds in pieces."""

    what: str
    total: int
    reserved: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of a service that run on a node."""

    service_id: str
    service_name: str
    running: int


class NodeWhy(msgspec.Struct, frozen=True, kw_only=True):
    """`running` tasks on the node of `wanted` that should; `loads`: the services that run most
    there, `more_loads` beyond them."""

    id: str
    hostname: str
    verdict: Verdict
    running: int
    wanted: int
    reasons: tuple[Reason, ...]
    amounts: tuple[Amounts, ...]
    loads: tuple[Load, ...]
    more_loads: int
    waiting: tuple[Group, ...]
    lately: tuple[Group, ...]
    unshown: int = 0


class Groups:
    """Collects tasks by reason, in the order in which they are added. One speaks for its group: the
    one that has waited longest, or where they tell of what is over the latest."""

    def __init__(self, *, is_over: bool = False) -> None:
        self._is_over = is_over
        self._found: dict[tuple[str, ...], tuple[list[Reason], list[TaskRef], int]] = {}

    def add(self, ref: TaskRef, reason: Reason) -> None:
        reasons, refs, count = self._found.get(reason.kind, ([reason], [], 0))
        if len(refs) < NAMED_MAX:
            refs.append(ref)
        first_ms, since_ms = reasons[0].since_ms, reason.since_ms
        if since_ms > first_ms if self._is_over else 0 < since_ms < first_ms:
            reasons[0] = reason
        self._found[reason.kind] = reasons, refs, count + 1

    def most_first(self) -> tuple[tuple[Group, ...], int]:
        """The groups, what has no place first, then by size; and how many tasks are beyond."""
        groups = [
            Group(reason=reasons[0], count=count, tasks=tuple(refs))
            for reasons, refs, count in self._found.values()
        ]
        groups.sort(key=_rank)
        return tuple(groups[:GROUPS_MAX]), sum(group.count for group in groups[GROUPS_MAX:])

    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(reasons[0].verdict for reasons, _, _ in self._found.values())


def _rank(group: Group) -> tuple[bool, int, tuple[str, ...]]:
    is_placed = group.reason.verdict is not Verdict.UNPLACED
    return is_placed, -group.count, group.reason.kind


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    order = list(Verdict)
    return max(verdicts, key=order.index, default=Verdict.WELL)


def ref_of(task: Task, service_name: str, hostname: str, *, is_numbered: bool = False) -> TaskRef:
    """`is_numbered`: slot 0 is a slot, as the first of a replicated job."""
    place = task.slot if task.slot or is_numbered else hostname or task.node_id
    return TaskRef(
        id=task.id,
        name=f"{service_name}.{place}",
        state=STATE_NAMES[task.status.state],
        desired=STATE_NAMES[task.desired],
        node_id=task.node_id,
        hostname=hostname,
    )


def service_answer(
    service: Service,
    found: tuple[int, int],
    reasons: Sequence[Reason],
    groups: tuple[Groups, Groups],
) -> ServiceWhy:
    """`found`: how many run, how many should; `groups`: of tasks that wait, that failed lately."""
    (running, wanted), (waiting, lately) = found, groups
    shown, beyond = waiting.most_first()
    failed, _ = lately.most_first()
    return ServiceWhy(
        id=service.id,
        name=service.name,
        verdict=worst([waiting.verdict(), *(reason.verdict for reason in reasons)]),
        running=running,
        wanted=wanted,
        reasons=tuple(reasons),
        waiting=shown,
        lately=failed,
        unshown=beyond,
    )
