"""What each table is called, how its rows are found and which names must be unique."""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Final

from swarmlet.model.change import TABLE_NUMBERS, TABLES
from swarmlet.model.cluster import Cluster
from swarmlet.model.config import Config
from swarmlet.model.join_token import JoinToken
from swarmlet.model.network import Network
from swarmlet.model.node import Node
from swarmlet.model.secret import Secret
from swarmlet.model.service import PortConfig, Service, ServiceSpec, SpecVersion, spec_version_id
from swarmlet.model.task import Task, TaskState
from swarmlet.model.volume import Volume
from swarmlet.store.tables import Index, Table

NODE: Final = TABLE_NUMBERS[Node]
SERVICE: Final = TABLE_NUMBERS[Service]
SPEC: Final = TABLE_NUMBERS[SpecVersion]
TASK: Final = TABLE_NUMBERS[Task]

WORDS: Final = (
    "cluster",
    "node",
    "service",
    "spec version",
    "task",
    "network",
    "secret",
    "config",
    "volume",
    "join token",
)
"""What people call a row of each table, in the order of TABLES."""
assert len(WORDS) == len(TABLES)


def port_key(protocol: str, port: int) -> tuple[str, int]:
    """The key a published port is found by; the protocol is TCP unless said."""
    return protocol or "tcp", port


def _spec_name(row: Cluster | Network | Secret | Config | Volume) -> str:
    return row.spec.name.lower()


def _service_name(row: Service) -> str:
    return row.name.lower()


def _hostname(row: Node) -> str:
    return row.description.hostname.lower()


def _csr(row: Node) -> bytes | None:
    return row.certificate.csr or None


def _unassigned(row: Task) -> bool | None:
    is_open = row.status.state < TaskState.ASSIGNED and row.desired <= TaskState.COMPLETE
    return True if is_open else None


def _instance(row: Task) -> tuple[str, str] | None:
    return None if row.slot or not row.node_id else (row.service_id, row.node_id)


def _task_spec(row: Task) -> str:
    return spec_version_id(row.service_id, row.spec_version)


def _distinct(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for one in ids if one))


def _secrets(row: SpecVersion) -> tuple[str, ...]:
    container = row.spec.task_template.container_spec
    return _distinct(ref.secret_id for ref in container.secrets) if container else ()


def _config_ids(spec: ServiceSpec) -> Iterator[str]:
    container = spec.task_template.container_spec
    if container is None:
        return
    for ref in container.configs:
        yield ref.config_id
    if container.privileges is not None and container.privileges.credential_spec is not None:
        yield container.privileges.credential_spec.config


def _configs(row: SpecVersion) -> tuple[str, ...]:
    return _distinct(_config_ids(row.spec))


def _networks(row: SpecVersion) -> tuple[str, ...]:
    attachments = (*row.spec.task_template.networks, *row.spec.networks)
    return _distinct(attachment.target for attachment in attachments)


def _port_keys(ports: Iterable[PortConfig]) -> tuple[tuple[str, int], ...]:
    keys = (port_key(port.protocol, port.published_port) for port in ports if port.published_port)
    return tuple(dict.fromkeys(keys))


def _ports_wanted(row: SpecVersion) -> tuple[tuple[str, int], ...]:
    endpoint = row.spec.endpoint_spec
    return _port_keys(endpoint.ports) if endpoint is not None else ()


def _ports_given(row: Service) -> tuple[tuple[str, int], ...]:
    return _port_keys(row.endpoint.ports) if row.endpoint is not None else ()


_BY_NAME: Final = {"name": Index(_spec_name)}

INDEXES: Final[dict[type, dict[str, Index]]] = {
    Cluster: _BY_NAME,
    Node: {
        "hostname": Index(_hostname),
        "role": Index(attrgetter("role")),
        "csr": Index(_csr),
    },
    Service: {"name": Index(_service_name), "port": Index(_ports_given, is_many=True)},
    SpecVersion: {
        "service": Index(attrgetter("service_id")),
        "secret": Index(_secrets, is_many=True),
        "config": Index(_configs, is_many=True),
        "network": Index(_networks, is_many=True),
        "port": Index(_ports_wanted, is_many=True),
    },
    Task: {
        "service": Index(attrgetter("service_id")),
        "node": Index(attrgetter("node_id")),
        "slot": Index(attrgetter("service_id", "slot")),
        "instance": Index(_instance),
        "desired": Index(attrgetter("desired")),
        "state": Index(attrgetter("status.state")),
        "spec": Index(_task_spec),
        "unassigned": Index(_unassigned),
    },
    Network: _BY_NAME,
    Secret: _BY_NAME,
    Config: _BY_NAME,
    Volume: _BY_NAME,
    JoinToken: {"secret": Index(attrgetter("secret_hash"))},
}
"""The indexes `model.view.TableView` promises, and `port`: (protocol, port) of published ports."""

NAME_OF: Final[tuple[Callable[[Any], str] | None, ...]] = tuple(
    INDEXES[row]["name"].key if "name" in INDEXES[row] else None for row in TABLES
)
"""The name as it is compared, by table number; None where names may repeat."""


def new_table(number: int, *, is_lazy: bool = False) -> Table[Any]:
    """An empty table of the given number."""
    return Table(INDEXES[TABLES[number]], is_lazy=is_lazy)
