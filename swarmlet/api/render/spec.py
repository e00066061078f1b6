"""Service specs as JSON. They are stored in the form that Docker shows, and never change: the JSON
of a spec version is made once (`ShownSpecs`)."""

from typing import Final

import msgspec

from swarmlet.model.service import ServiceSpec, SpecVersion, TaskSpec

SHOWN_SPECS_MAX: Final = 32_768
"""Spec versions whose JSON is kept, a KB each: a list of more services prints all anew."""

CONTAINER_RUNTIME: Final = "container"

_encode = msgspec.json.Encoder(order="deterministic").encode


def _task_template(template: TaskSpec) -> TaskSpec:
    """A task's spec leaves out the runtime that every task has."""
    if template.runtime != CONTAINER_RUNTIME:
        return template
    return msgspec.structs.replace(template, runtime="")


class ShownSpec:
    """One spec version's JSON, for its service and for its tasks; `of` is the row it shows."""

    __slots__ = ("_service", "_task", "of")

    def __init__(self, of: SpecVersion) -> None:
        self.of = of
        self._service: msgspec.Raw | None = None
        self._task: msgspec.Raw | None = None

    @property
    def service(self) -> msgspec.Raw:
        if self._service is None:
            self._service = spec_json(self.of.spec)
        return self._service

    @property
    def task(self) -> msgspec.Raw:
        if self._task is None:
            self._task = msgspec.Raw(_encode(_task_template(self.of.spec.task_template)))
        return self._task


def spec_json(spec: ServiceSpec) -> msgspec.Raw:
    return msgspec.Raw(_encode(spec))


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
        shown = self._kept[row.id] = ShownSpec(row)
        return shown
