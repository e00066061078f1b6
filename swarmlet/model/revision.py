"""The versions of a service's spec: which there are, the next one, and the way back to one.

A rollback gets a number of its own, though its spec is an old one: what an update made, tried and
saw fail is told by the number, and must not be taken for the rollback's.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from swarmlet.core.limits import REVISIONS_KEPT
from swarmlet.model.change import Change, Create, Update
from swarmlet.model.service import Service, SpecVersion, UpdateStatus, spec_version_id
from swarmlet.model.view import View


def versions_of(view: View, service_id: str) -> list[SpecVersion]:
    """All that are there, oldest first: the last REVISIONS_KEPT and what is still in use."""
    return sorted(view.specs.scan("service", service_id), key=lambda row: row.number)


def kept_from(versions: Sequence[SpecVersion]) -> int:
    """The lowest number that is kept for its own sake; `versions` oldest first."""
    return versions[-REVISIONS_KEPT:][0].number


def next_number(view: View, service: Service) -> int:
    return 1 + max(row.number for row in view.specs.scan("service", service.id))


def back_to(
    view: View, service: Service, target: SpecVersion, *, status: UpdateStatus | None, cause: str
) -> list[Change]:
    """The changes that make `target`'s spec the current one again, under a new number. The caller
    says in `service` what the previous one is then; `cause` is kept with the version."""
    number = next_number(view, service)
    row = replace(service, spec_version=number, update_status=status)
    again = replace(
        target,
        id=spec_version_id(service.id, number),
        number=number,
        version=0,
        repeats=target.number,
        cause=cause,
    )
    return [  # the row first: of two updates at once, the later is told that it is stale
        Update(obj=row, seen=service.version),
        Create(obj=again),
    ]
