"""What differs between two specs of a service, field by field, in the API's own words."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from swarmlet.model.service import ServiceSpec

Json: TypeAlias = Any  # None, bool, int, float, str, list or dict, as in JSON


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is dotted: TaskTemplate.ContainerSpec.Image; a map's key that has a dot itself, such
    as a label's, stands in brackets: Labels[com.example.team]. None: not there."""

    path: str
    old: Json = None
    new: Json = None


def changed_fields(old: ServiceSpec, new: ServiceSpec) -> tuple[FieldChange, ...]:
    """Every field that differs, by path. A list is one field, whatever differs in it."""
    return tuple(_changes("", msgspec.to_builtins(old), msgspec.to_builtins(new)))


def _changes(path: str, old: Json, new: Json) -> Iterator[FieldChange]:
    if old == new:
        return
    are_maps = all(one is None or isinstance(one, dict) for one in (old, new))
    if not are_maps or not (old or new):
        yield FieldChange(path=path, old=old, new=new)
        return
    before, after = old or {}, new or {}
    for key in sorted({*before, *after}):
        yield from _changes(_under(path, key), before.get(key), after.get(key))


def _under(path: str, key: str) -> str:
    if not path:
        return key
    return f"{path}[{key}]" if "." in key else f"{path}.{key}"
