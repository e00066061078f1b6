"""Guards: what must hold beside the rows an entry changes. Looked at as things were before the
entry."""

from collections.abc import Iterable, Iterator
from typing import Final

from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError
from swarmlet.model.change import TABLE_NUMBERS
from swarmlet.model.network import Network
from swarmlet.model.service import PortConfig, Service, SpecVersion
from swarmlet.store.codec import ExistsRecord, GuardRecord, NotInUseRecord, PortFreeRecord
from swarmlet.store.memory import StoreView
from swarmlet.store.refusal import RefusedError, missing
from swarmlet.store.schema import WORDS, port_key

_NETWORK: Final = TABLE_NUMBERS[Network]
_NAMES_SHOWN_MAX: Final = 20  # services named in a refusal, which is remembered
_HOST: Final = "host"


def check_guard(view: StoreView, guard: GuardRecord) -> None:
    """Raises RefusedError where the guard does not hold."""
    match guard:
        case ExistsRecord():
            if view.tables[guard.table].get(guard.id) is None:
                raise missing(guard.table, guard.id)
        case NotInUseRecord():
            _check_not_in_use(view, guard)
        case PortFreeRecord():
            _check_port_free(view, guard)


def _service_of(view: StoreView, spec: SpecVersion) -> Service | None:
    """The service whose current spec this is; older versions, and those left behind, bind
    nobody."""
    service = view.services.get(spec.service_id)
    return service if service is not None and service.spec_version == spec.number else None


def _users(view: StoreView, index: str, keys: Iterable[str]) -> list[Service]:
    found = {}
    for key in keys:
        for spec in view.specs.scan(index, key):
            service = _service_of(view, spec)
            if service is not None:
                found[service.id] = service
    return sorted(found.values(), key=lambda service: (service.name, service.id))


def _check_not_in_use(view: StoreView, guard: NotInUseRecord) -> None:
    row = view.tables[guard.table].get(guard.id)
    if row is None:
        raise missing(guard.table, guard.id)
    kind = WORDS[guard.table]
    if guard.table == _NETWORK:
        users = _users(view, kind, (guard.id, row.spec.name))  # specs may name a network either way
        if users:
            text = f"network {guard.id} is in use by service {users[0].id}"
            raise RefusedError(
                FailedPreconditionError, text, "Remove or change that service first."
            )
        return
    users = _users(view, kind, (guard.id,))
    if users:
        names = [service.name for service in users[:_NAMES_SHOWN_MAX]]
        if len(users) > len(names):
            names.append(f"and {len(users) - len(names)} more")
        word = "service" if len(users) == 1 else "services"
        text = f"{kind} '{row.spec.name}' is in use by the following {word}: {', '.join(names)}"
        raise RefusedError(FailedPreconditionError, text, f"Remove or change the {word} first.")


def _publishers(view: StoreView, key: tuple[str, int]) -> Iterator[tuple[Service, PortConfig]]:
    """Who wants or was given this port, and how; some more than once."""
    for spec in view.specs.scan("port", key):
        service = _service_of(view, spec)
        if service is not None and spec.spec.endpoint_spec is not None:
            yield from ((service, port) for port in spec.spec.endpoint_spec.ports)
    for service in view.services.scan("port", key):
        if service.endpoint is not None:
            yield from ((service, port) for port in service.endpoint.ports)


def _check_port_free(view: StoreView, guard: PortFreeRecord) -> None:
    """Ingress collides with anything on the same protocol and port; two hosts' ports do not."""
    key = port_key(guard.protocol, guard.port)
    colliding = [
        (service.name, service.id, port.publish_mode == _HOST)
        for service, port in _publishers(view, key)
        if service.id != guard.service_id
        and port_key(port.protocol, port.published_port) == key
        and not (port.publish_mode == guard.mode == _HOST)
    ]
    if colliding:
        name, service_id, is_host = min(colliding)
        how = "a host-published port" if is_host else "an ingress port"
        raise RefusedError(
            InvalidArgumentError,
            f"port '{guard.port}' is already in use by service '{name}' ({service_id}) as {how}",
            "Publish another port, or remove that service first.",
        )
