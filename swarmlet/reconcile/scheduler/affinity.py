"""Affinity: where tasks run with regard to the tasks of other services, or of their own.

`service==web` asks for a node that runs a task of web, `service!=web` for one that runs none. As a
constraint it keeps tasks off nodes; as a placement preference it puts the nodes it does not hold
for behind all others. What counts are tasks that are wanted, on whatever state their way there is;
once a task has its node, what moves beside it moves it no more.
"""

from collections.abc import Iterable
from typing import NamedTuple

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.constraint import SERVICE_KEY, parse
from swarmlet.model.service import Placement, PlacementPreference


class Term(NamedTuple):
    """One wish: near a service (`is_near`), or away from it. `service` is a name in lower case."""

    service: str
    is_near: bool


class Affinity(NamedTuple):
    """What a task must have beside it, and what it would rather have. Compares by value."""

    must: tuple[Term, ...] = ()
    rather: tuple[Term, ...] = ()


def affinity_of(placement: Placement) -> Affinity:
    """What a spec's placement says of other services."""
    return Affinity(
        must=_terms(placement.constraints), rather=_terms(_descriptors(placement.preferences))
    )


def _descriptors(preferences: Iterable[PlacementPreference]) -> list[str]:
    return [p.spread.spread_descriptor for p in preferences if p.spread is not None]


def _terms(texts: Iterable[str]) -> tuple[Term, ...]:
    """Those of the texts that speak of a service; others are somebody else's."""
    found: dict[Term, None] = {}
    for text in texts:
        if text.lstrip()[: len(SERVICE_KEY)].lower() != SERVICE_KEY:
            continue
        try:
            constraint = parse(text)
        except InvalidArgumentError:
            continue  # a label to spread over, or from before keys were checked
        if constraint.key.lower() == SERVICE_KEY:
            found[Term(constraint.value.lower(), constraint.is_equal)] = None
    return tuple(sorted(found))
