"""Generic resources: what nodes have beside CPU and memory, counted (`ssd=3`) or by name
(`gpu=GPU-1`, `gpu=GPU-2`), and what tasks get of it.

Options and variables are Docker's and SwarmKit's (api/genericresource); a name given twice is
refused here, where SwarmKit would hand it out twice.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import UINT63_MAX
from swarmlet.model.service import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
)

VARIABLE_PREFIX: Final = "DOCKER_RESOURCE_"


def parse_resources(texts: Iterable[str]) -> list[GenericResource]:
    """What a node has, of `KIND=N` or several `KIND=NAME`; several in one text have commas between
    them. In order. Raises InvalidArgumentError."""
    values: dict[str, list[str]] = {}
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        kind, _, value = (part.strip() for part in text.partition("="))
        if not kind or not value:
            raise _invalid(text, "is not KIND=N or KIND=NAME")
        if value in values.setdefault(kind, []):
            raise _invalid(text, "is there twice")
        values[kind].append(value)
    return [resource for kind, names in values.items() for resource in _of_kind(kind, names)]


def _of_kind(kind: str, values: Sequence[str]) -> list[GenericResource]:
    if not any(map(_is_number, values)):
        return [_named(kind, value) for value in values]
    if len(values) > 1:
        raise _invalid(kind, "is counted once, or has a name each time")
    if not 0 < int(values[0]) <= UINT63_MAX:
        raise _invalid(f"{kind}={values[0]}", "is no number of pieces")
    return [_counted(kind, int(values[0]))]


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _invalid(text: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"generic resource {text!r} {problem}.",
        remedy="Write ssd=3 for a number of pieces, gpu=GPU-1 and gpu=GPU-2 for pieces by name.",
    )


def claimed(kind: str, count: int, free: Sequence[str] | None) -> list[GenericResource]:
    """What a task gets that reserves `count` of a kind: the first free names, or a number of pieces
    where they have none (None)."""
    if free is None:
        return [_counted(kind, count)]
    return [_named(kind, name) for name in free[:count]]


def _named(kind: str, name: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=name))


def _counted(kind: str, count: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=count))


def names_of(resources: Iterable[GenericResource]) -> dict[str, list[str]]:
    """The names of each kind that has some."""
    found: dict[str, list[str]] = {}
    for resource in resources:
        if (named := resource.named_resource_spec) is not None:
            found.setdefault(named.kind, []).append(named.value)
    return found


def variables(resources: Sequence[GenericResource]) -> list[str]:
    """How a task is told: DOCKER_RESOURCE_GPU=GPU-1,GPU-2, DOCKER_RESOURCE_SSD=1."""
    told = {kind: ",".join(names) for kind, names in names_of(resources).items()}
    for resource in resources:
        if (counted := resource.discrete_resource_spec) is not None:
            told.setdefault(counted.kind, str(counted.value))
    return [f"{VARIABLE_PREFIX}{kind.upper()}={value}" for kind, value in told.items()]
