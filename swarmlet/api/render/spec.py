"""Service specs as JSON. They are stored in the form that Docker shows, and never change: the JSON
of a spec version is made once (`ShownSpecs`)."""

from typing import Final

import msgspec

from swarmlet.model.service import ServiceSpec, SpecVersion, TaskSpec

SHOWN_SPECS_MAX: Final = 4096
"""Spec versions whose JSON is kept: some MiB at most, and more than one listing needs."""

CONTAINER_RUNTIME: Final = "container"

_encode = msgspec.json.Encoder(order="deterministic").encode


def _task_template(template: TaskSpec) -> TaskSpec:
    """A task's spec leaves out the runtime that every task has."""
    if template.runtime != CONTAINER_RUNTIME:
        return template
    return msgspec.structs.replace(template, runtime="")


class ShownSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One spec version's JSON, for its service and for its tasks; `of` is the row it shows."""

    of: SpecVersion
    service: msgspec.Raw
    task: msgspec.Raw


def spec_json(spec: ServiceSpec) -> msgspec.Raw:
    return msgspec.Raw(_encode(spec))


def render_spec(row: SpecVersion) -> ShownSpec:
    task = msgspec.Raw(_encode(_task_template(row.spec.task_template)))
    return ShownSpec(of=row, service=spec_json(row.spec), task=task)


class ShownSpecs:
    """Rendered spec versions, the oldest dropped first. A row is known again by its identity:
    rows are never changed in place, so what is kept here is never stale."""

    def __init__(self) -> None:
        self._kept: dict[str, ShownSpec] = {}

    def of(self, row: SpecVersion) -> ShownSpec:
        shown = self._kept.get(row.id)
        if shown is not None and shown.of is row:
            return shown
        if len(self._kept) >= SHOWN_SPECS_MAX:
            del self._kept[next(iter(self._kept))]
        shown = self._kept[row.id] = render_spec(row)
        return shown
