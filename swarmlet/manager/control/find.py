"""From what a user calls an object to its row: full id, then name, then unique prefix of an id."""

import re
from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from swarmlet.core.errors import InvalidArgumentError, NotFoundError
from swarmlet.model.config import Config
from swarmlet.model.network import Network
from swarmlet.model.node import Node
from swarmlet.model.secret import Secret
from swarmlet.model.service import Service
from swarmlet.model.task import Task, task_name
from swarmlet.model.view import TableView, View

_ID_PREFIX: Final = re.compile(r"[0-9a-z]{1,24}")  # shorter than a whole id


class _Row(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Row)


class Finders:
    """What users name, in a view. Raises NotFoundError, or InvalidArgumentError "service foo is
    ambiguous (2 matches found)"."""

    def find_node(self, view: View, ref: str) -> Node:
        return find_row(view.nodes, "node", ref, index="hostname")

    def find_service(self, view: View, ref: str) -> Service:
        return find_row(view.services, "service", ref)

    def find_task(self, view: View, ref: str) -> Task:
        return find_task_row(view, ref)

    def find_secret(self, view: View, ref: str) -> Secret:
        return find_row(view.secrets, "secret", ref)

    def find_config(self, view: View, ref: str) -> Config:
        return find_row(view.configs, "config", ref)

    def find_network(self, view: View, ref: str) -> Network:
        return find_row(view.networks, "network", ref)


def find_row(table: TableView[R], kind: str, ref: str, index: str = "name") -> R:
    """The one row that `ref` means. Names are told apart whatever their case.

    Raises NotFoundError, or InvalidArgumentError where several rows fit or `ref` is empty.
    """
    row = table.get(ref)
    if row is not None:
        return row
    return _only(table.scan(index, ref.lower()), kind, ref) or _by_prefix(table, kind, ref)


def find_task_row(view: View, ref: str) -> Task:
    """A task; its name ends in its id."""
    row = view.tasks.get(ref) or view.tasks.get(ref.rpartition(".")[2])
    if row is None:
        return _by_prefix(view.tasks, "task", ref)
    service = view.services.get(row.service_id)
    if ref != row.id and (service is None or task_name(service.name, row) != ref):
        raise NotFoundError("task", ref)
    return row


def _by_prefix(table: TableView[R], kind: str, ref: str) -> R:
    """Linear in the table, and only for what could be the beginning of an id."""
    if not ref:
        raise InvalidArgumentError(f"{kind} ID or name must be given")
    rows: Iterable[R] = ()
    if _ID_PREFIX.fullmatch(ref):
        rows = (row for row in table.all() if row.id.startswith(ref))
    row = _only(rows, kind, ref)
    if row is None:
        raise NotFoundError(kind, ref)
    return row


def _only(rows: Iterable[R], kind: str, ref: str) -> R | None:
    found = list(rows)
    if len(found) > 1:
        raise InvalidArgumentError(
            f"{kind} {ref} is ambiguous ({len(found)} matches found)",
            remedy="Give more of the id.",
        )
    return found[0] if found else None
