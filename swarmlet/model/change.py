"""What a decision returns and a transaction collects: changes, guards, events.

A change that replaces or removes a row carries the version it saw: `apply` refuses the whole entry
where a row has moved on. The small verbs (assign, status, desired) are for the many: they say what
they mean in a few bytes and keep the order of states by themselves (neither observed nor desired
state ever falls), so they need no version; `seen` may still be given where the decision hangs on
the rest of the row.
"""

from typing import Final, TypeAlias

import msgspec

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.model.cluster import Cluster
from swarmlet.model.config import Config
from swarmlet.model.join_token import JoinToken
from swarmlet.model.network import Network
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.secret import Secret
from swarmlet.model.service import GenericResource, Service, SpecVersion
from swarmlet.model.task import Task, TaskStatus
from swarmlet.model.volume import Volume

Object: TypeAlias = (
    Cluster | Node | Service | SpecVersion | Task | Network | Secret | Config | Volume | JoinToken
)

TABLES: Final = (
    Cluster,
    Node,
    Service,
    SpecVersion,
    Task,
    Network,
    Secret,
    Config,
    Volume,
    JoinToken,
)
"""Row types in the order of their numbers in the log: append only."""

TABLE_NUMBERS: Final[dict[type, int]] = {row: number for number, row in enumerate(TABLES)}

ANY_VERSION: Final = -1
"""`seen` of a change that does not depend on the version of its row."""


class _Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    pass


class Create(_Change, frozen=True, kw_only=True):
    """A new row; refused where its id, or the name where names are unique, is taken."""

    obj: Object


class Update(_Change, frozen=True, kw_only=True):
    """Replace a row whose version is still `seen`."""

    obj: Object
    seen: int


class Remove(_Change, frozen=True, kw_only=True):
    """Remove a row whose version is still `seen`."""

    table: type
    id: str
    seen: int = ANY_VERSION


class Assign(_Change, frozen=True, kw_only=True):
    """The scheduler's choice: refused unless the task is PENDING without a node, or preset to this
    one. `generic_resources`: what the task gets of them there."""

    id: TaskID
    node_id: NodeID
    message: str = "scheduler assigned task to node"
    generic_resources: tuple[GenericResource, ...] = ()


class SetStatus(_Change, frozen=True, kw_only=True):
    """What was observed; skipped where the task is gone or already further."""

    id: TaskID
    status: TaskStatus


class SetDesired(_Change, frozen=True, kw_only=True):
    """What is wanted; skipped where the task is gone or more is wanted already."""

    id: TaskID
    desired: int
    seen: int = ANY_VERSION


class SetNodeStatus(_Change, frozen=True, kw_only=True):
    """The dispatcher's view of a node; skipped where the node is gone."""

    id: NodeID
    status: NodeStatus


class Note(_Change, frozen=True, kw_only=True):
    """Something that happened and changes no row: it is told and kept like any event of the swarm.
    `attributes` in order of their keys."""

    kind: str
    action: str
    id: str
    attributes: tuple[tuple[str, str], ...] = ()


Change: TypeAlias = (
    Create | Update | Remove | Assign | SetStatus | SetDesired | SetNodeStatus | Note
)


class Exists(_Change, frozen=True, kw_only=True):
    """Guard: an object referred to is still there."""

    table: type
    id: str


class NotInUse(_Change, frozen=True, kw_only=True):
    """Guard: no service's current spec refers to this secret, config or network."""

    table: type
    id: str


class PortFree(_Change, frozen=True, kw_only=True):
    """Guard: no other service publishes this port: ingress collides with all, host with ingress."""

    service_id: str
    protocol: str
    port: int
    mode: str


Guard: TypeAlias = Exists | NotInUse | PortFree


class Event(msgspec.Struct, frozen=True, gc=False):
    """One row's change as applied: `old` is None for a new row, `new` for a removed one."""

    table: type
    old: Object | None
    new: Object | None

    @property
    def id(self) -> str:
        row = self.new if self.new is not None else self.old
        assert row is not None
        return row.id
