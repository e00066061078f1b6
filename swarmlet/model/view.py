"""A consistent look at the store: what every decision and every answer reads from."""

from collections.abc import Iterator
from typing import Protocol, TypeAlias, TypeVar

from swarmlet.model.cluster import Cluster
from swarmlet.model.config import Config
from swarmlet.model.join_token import JoinToken
from swarmlet.model.network import Network
from swarmlet.model.node import Node
from swarmlet.model.secret import Secret
from swarmlet.model.service import Service, ServiceSpec, SpecVersion, spec_version_id
from swarmlet.model.task import Task
from swarmlet.model.volume import Volume

Row_co = TypeVar("Row_co", covariant=True)

IndexKey: TypeAlias = str | int | bool | bytes | tuple[str, int] | tuple[str, str]


class TableView(Protocol[Row_co]):
    """One table. Iteration is in a stable order that may differ between managers: sort what you
    decide on.

    Indexes: every table but tasks, specs, nodes and join tokens has `name` (lower-cased, unique).
    nodes: `hostname` (lower-cased), `role`, `csr` (of the certificate asked for last). join tokens:
    `secret` (its SHA-256). services: none more. specs: `service`, `secret`, `config`,
    `network` (ids it refers to). tasks: `service`, `node`, `slot` (service id, slot),
    `instance` (service id, node id; of tasks without a slot alone), `desired`, `state`,
    `spec` (spec version id), `unassigned` (True: observed below ASSIGNED and desired at most
    COMPLETE).
    """

    def get(self, row_id: str) -> Row_co | None: ...

    def scan(self, index: str, key: IndexKey) -> Iterator[Row_co]: ...

    def count(self, index: str, key: IndexKey) -> int: ...

    def all(self) -> Iterator[Row_co]: ...

    def __len__(self) -> int: ...


class View(Protocol):
    """All tables as of one log index."""

    @property
    def index(self) -> int: ...

    @property
    def clusters(self) -> TableView[Cluster]: ...

    @property
    def nodes(self) -> TableView[Node]: ...

    @property
    def services(self) -> TableView[Service]: ...

    @property
    def specs(self) -> TableView[SpecVersion]: ...

    @property
    def tasks(self) -> TableView[Task]: ...

    @property
    def networks(self) -> TableView[Network]: ...

    @property
    def secrets(self) -> TableView[Secret]: ...

    @property
    def configs(self) -> TableView[Config]: ...

    @property
    def volumes(self) -> TableView[Volume]: ...

    @property
    def join_tokens(self) -> TableView[JoinToken]: ...


def cluster_of(view: View) -> Cluster:
    """The one cluster row; the store of a swarm always has it."""
    for cluster in view.clusters.all():
        return cluster
    raise AssertionError("the store has no cluster object")


def spec_version(view: View, service_id: str, number: int) -> SpecVersion:
    """A spec version that a row names; the store keeps it for as long as one does."""
    row = view.specs.get(spec_version_id(service_id, number))
    assert row is not None, f"service {service_id} lost its spec version {number}"
    return row


def spec_of(view: View, service: Service) -> ServiceSpec:
    """A service's current spec."""
    return spec_version(view, service.id, service.spec_version).spec


def task_spec_version_of(view: View, task: Task) -> SpecVersion:
    """The row of the spec version a task was made from."""
    return spec_version(view, task.service_id, task.spec_version)


def task_spec_of(view: View, task: Task) -> ServiceSpec:
    """The spec version a task was made from."""
    return task_spec_version_of(view, task).spec
