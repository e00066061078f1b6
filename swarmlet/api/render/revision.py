"""A service's specs in the course of time, how two of them differ, and what an update would do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.api.render.spec import ShownSpecs
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.difference import FieldChange, Json, changed_fields
from swarmlet.model.service import Service, SpecVersion

if TYPE_CHECKING:
    from swarmlet.reconcile.plan import Plan, Planned


class FieldChangeJson(ApiStruct, frozen=True, kw_only=True):
    path: str
    old: Json = always(None)
    new: Json = always(None)


class RevisionJson(ApiStruct, frozen=True, kw_only=True):
    """`changed`: the paths that differ from the version before it that is kept."""

    number: int
    created_at: str
    is_current: bool = always(False)
    is_previous: bool = always(False)
    repeats: int = 0
    cause: str = ""
    changed: list[str] | None = None
    spec: msgspec.Raw


class DifferenceJson(ApiStruct, frozen=True, kw_only=True):
    old: int = always(0)
    new: int = always(0)
    changes: list[FieldChangeJson] = always([])


class PlannedJson(ApiStruct, frozen=True, kw_only=True):
    """`task_id` and `from_node_id`: what is there now; `reason`: why the new one has no node."""

    slot: int = always(0)
    action: str
    task_id: str = ""
    from_node_id: str = ""
    node_id: str = ""
    reason: str = ""


class PlanJson(ApiStruct, frozen=True, kw_only=True):
    version: ObjectVersion
    revision: int
    changes: list[FieldChangeJson] = always([])
    is_job: bool = always(False)
    is_scheduled: bool = always(False)
    parallelism: int = always(0)
    order: str
    tasks: list[PlannedJson] = always([])


def render_changes(changes: Sequence[FieldChange]) -> list[FieldChangeJson]:
    return [FieldChangeJson(path=one.path, old=one.old, new=one.new) for one in changes]


def render_revisions(
    service: Service, versions: Sequence[SpecVersion], shown: ShownSpecs
) -> list[RevisionJson]:
    """Newest first; `versions` oldest first."""
    before: list[SpecVersion | None] = [None, *versions]
    found = [
        RevisionJson(
            number=row.number,
            created_at=rfc3339(row.created_ms),
            is_current=row.number == service.spec_version,
            is_previous=row.number == service.previous_spec_version,
            repeats=row.repeats,
            cause=row.cause,
            changed=None if last is None else _paths(last, row),
            spec=shown.of(row).service,
        )
        for last, row in zip(before, versions, strict=False)
    ]
    return found[::-1]


def _paths(old: SpecVersion, new: SpecVersion) -> list[str]:
    return [change.path for change in changed_fields(old.spec, new.spec)]


def render_difference(old: SpecVersion, new: SpecVersion) -> DifferenceJson:
    changes = changed_fields(old.spec, new.spec)
    return DifferenceJson(old=old.number, new=new.number, changes=render_changes(changes))


def render_plan(plan: "Plan") -> PlanJson:
    return PlanJson(
        version=ObjectVersion(index=plan.version),
        revision=plan.number,
        changes=render_changes(plan.changes),
        is_job=plan.is_job,
        is_scheduled=plan.is_scheduled,
        parallelism=plan.settings.parallelism,
        order="start-first" if plan.settings.is_start_first else "stop-first",
        tasks=[_planned(one) for one in plan.steps],
    )


def _planned(one: "Planned") -> PlannedJson:
    return PlannedJson(
        slot=one.slot,
        action=one.action,
        task_id="" if one.old is None else one.old.id,
        from_node_id="" if one.old is None else one.old.node_id,
        node_id=one.node_id,
        reason=one.reason,
    )
