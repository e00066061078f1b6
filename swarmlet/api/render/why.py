"""Why tasks, services and nodes are as they are: codes and fields for programs, sentences for
people. Times are absolute here; the sentences say how long ago."""

from typing import TYPE_CHECKING

from swarmlet.api.render.common import rfc3339
from swarmlet.model.base import ApiStruct, always

if TYPE_CHECKING:
    from swarmlet.reconcile.why.answers import (
        Group,
        NodeWhy,
        Placement,
        Reason,
        ServiceWhy,
        TaskRef,
        TaskWhy,
    )


class CountJson(ApiStruct, frozen=True, kw_only=True):
    filter: str = always("")
    what: str = always("")
    nodes: int = always(0)


class LackJson(ApiStruct, frozen=True, kw_only=True):
    """`missing` of `wanted`: nano CPUs, bytes or pieces; absent of what is no amount."""

    filter: str = always("")
    what: str = always("")
    missing: int = 0
    wanted: int = 0


class NearestJson(ApiStruct, frozen=True, kw_only=True):
    node_id: str = always("")
    hostname: str = always("")
    lacks: list[LackJson] = always([])


class PlacementJson(ApiStruct, frozen=True, kw_only=True):
    nodes: int = always(0)
    fitting: int = always(0)
    filters: list[CountJson] = always([])
    nearest: NearestJson | None = always(None)


class ReasonJson(ApiStruct, frozen=True, kw_only=True):
    """Fields that say nothing are left out."""

    code: str = always("")
    sentence: str = always("")
    remedy: str = ""
    verdict: str = always("well")
    since: str | None = None
    until: str | None = None
    node_id: str = ""
    task_id: str = ""
    attempt: int = 0
    error: str = ""
    placement: PlacementJson | None = None


class TaskRefJson(ApiStruct, frozen=True, kw_only=True):
    id: str = always("")
    name: str = always("")
    state: str = always("")
    desired_state: str = always("")
    node_id: str = ""
    hostname: str = ""


class GroupJson(ApiStruct, frozen=True, kw_only=True):
    count: int = always(0)
    tasks: list[TaskRefJson] = always([])
    reason: ReasonJson


class TaskWhyJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    name: str
    service_id: str
    service_name: str
    state: str
    desired_state: str
    node_id: str = always("")
    hostname: str = always("")
    verdict: str
    reason: ReasonJson


class ServiceWhyJson(ApiStruct, frozen=True, kw_only=True):
    """`waiting`: tasks that should run and do not; `lately`: those that failed within the last ten
    minutes. `unshown`: tasks whose reasons are too many to be shown."""

    id: str
    name: str
    verdict: str
    running: int = always(0)
    wanted: int = always(0)
    reasons: list[ReasonJson] = always([])
    waiting: list[GroupJson] = always([])
    lately: list[GroupJson] = always([])
    unshown: int = always(0)


class AmountJson(ApiStruct, frozen=True, kw_only=True):
    """cpu in nano CPUs, memory in bytes, other kinds in pieces."""

    what: str
    total: int = always(0)
    reserved: int = always(0)


class LoadJson(ApiStruct, frozen=True, kw_only=True):
    service_id: str
    service_name: str
    running: int = always(0)


class NodeWhyJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    hostname: str
    verdict: str
    running: int = always(0)
    wanted: int = always(0)
    reasons: list[ReasonJson] = always([])
    resources: list[AmountJson] = always([])
    services: list[LoadJson] = always([])
    more_services: int = always(0)
    waiting: list[GroupJson] = always([])
    lately: list[GroupJson] = always([])
    unshown: int = always(0)


def render_task_why(found: "TaskWhy") -> TaskWhyJson:
    task = found.task
    return TaskWhyJson(
        id=task.id,
        name=task.name,
        service_id=found.service_id,
        service_name=found.service_name,
        state=task.state,
        desired_state=task.desired,
        node_id=task.node_id,
        hostname=task.hostname,
        verdict=found.reason.verdict,
        reason=_reason(found.reason),
    )


def render_service_why(found: "ServiceWhy") -> ServiceWhyJson:
    return ServiceWhyJson(
        id=found.id,
        name=found.name,
        verdict=found.verdict,
        running=found.running,
        wanted=found.wanted,
        reasons=[_reason(reason) for reason in found.reasons],
        waiting=[_group(group) for group in found.waiting],
        lately=[_group(group) for group in found.lately],
        unshown=found.unshown,
    )


def render_node_why(found: "NodeWhy") -> NodeWhyJson:
    return NodeWhyJson(
        id=found.id,
        hostname=found.hostname,
        verdict=found.verdict,
        running=found.running,
        wanted=found.wanted,
        reasons=[_reason(reason) for reason in found.reasons],
        resources=[
            AmountJson(what=one.what, total=one.total, reserved=one.reserved)
            for one in found.amounts
        ],
        services=[
            LoadJson(service_id=one.service_id, service_name=one.service_name, running=one.running)
            for one in found.loads
        ],
        more_services=found.more_loads,
        waiting=[_group(group) for group in found.waiting],
        lately=[_group(group) for group in found.lately],
        unshown=found.unshown,
    )


def _group(group: "Group") -> GroupJson:
    return GroupJson(
        count=group.count,
        tasks=[_ref(task) for task in group.tasks],
        reason=_reason(group.reason),
    )


def _ref(task: "TaskRef") -> TaskRefJson:
    return TaskRefJson(
        id=task.id,
        name=task.name,
        state=task.state,
        desired_state=task.desired,
        node_id=task.node_id,
        hostname=task.hostname,
    )


def _reason(reason: "Reason") -> ReasonJson:
    return ReasonJson(
        code=reason.code,
        sentence=reason.sentence,
        remedy=reason.remedy,
        verdict=reason.verdict,
        since=rfc3339(reason.since_ms) if reason.since_ms else None,
        until=rfc3339(reason.until_ms) if reason.until_ms else None,
        node_id=reason.node_id,
        task_id=reason.task_id,
        attempt=reason.attempt,
        error=reason.error,
        placement=None if reason.placement is None else _placement(reason.placement),
    )


def _placement(found: "Placement") -> PlacementJson:
    nearest = found.nearest
    return PlacementJson(
        nodes=found.nodes,
        fitting=found.fitting,
        filters=[
            CountJson(filter=one.filter, what=one.what, nodes=one.nodes) for one in found.counts
        ],
        nearest=None
        if nearest is None
        else NearestJson(
            node_id=nearest.node_id,
            hostname=nearest.hostname,
            lacks=[
                LackJson(filter=one.filter, what=one.what, missing=one.missing, wanted=one.wanted)
                for one in nearest.lacks
            ],
        ),
    )
