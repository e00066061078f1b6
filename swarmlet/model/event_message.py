"""What happened in the swarm in the Docker Engine's words: pure, an entry's events as messages.

Attributes are moby's (daemon/events.go): every message has the object's name; an update of a
service also image, replicas and updatestate, one of a node availability, role and state, each as
`.old` and `.new` where it changed. What lists hide is not told either. Of a node there is also
`message`, what is said of its state where that is new; of a job what became of its runs. Tasks are
in `task_event`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from swarmlet.model.change import Event, Note
from swarmlet.model.config import Config
from swarmlet.model.job_history import told_changes
from swarmlet.model.network import Network
from swarmlet.model.node import NODE_STATE_NAMES, Node
from swarmlet.model.secret import Secret
from swarmlet.model.service import Service, ServiceSpec, spec_version_id
from swarmlet.model.view import View

ATTRIBUTE_LENGTH_MAX: Final = 1_024  # of a note, which is kept for days


class EventMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `kind`: service, node, secret, config, network or task; `action`: create, update
    or remove, or the word of a note; `attributes` has `name` unless it is a note; `at_ms` is the
    entry's stamp, so every manager tells the same."""

    kind: str
    action: str
    id: str
    attributes: dict[str, str]
    at_ms: int


def messages_of(view: View, events: Sequence[Event], at_ms: int) -> Iterator[EventMessage]:
    """What to tell of an entry stamped `at_ms`, in the order it changed things. `view` as the entry
    left it."""
    for event in events:
        describe = _DESCRIBED.get(event.table)
        if describe is None or _is_quiet(event):
            continue
        kind, name_of, changed = describe
        row = event.old if event.new is None else event.new
        name = name_of(row)
        if name is None:
            continue
        attributes = {"name": name}
        if event.old is not None and event.new is not None:
            attributes.update(changed(view, event.old, event.new))
        yield EventMessage(
            kind=kind,
            action=_action(event),
            id=event.id,
            attributes=attributes,
            at_ms=at_ms,
        )


def _is_quiet(event: Event) -> bool:
    """The rebalancer's note to itself in a node's row is nothing that happened to the node."""
    old, new = event.old, event.new
    if not isinstance(old, Node) or not isinstance(new, Node):
        return False
    return old.settled_ms != new.settled_ms


def message_of_note(note: Note, at_ms: int) -> EventMessage:
    """A note as it is told: no attribute of it is longer than a line."""
    return EventMessage(
        kind=note.kind,
        action=note.action,
        id=note.id,
        attributes={key: value[:ATTRIBUTE_LENGTH_MAX] for key, value in note.attributes},
        at_ms=at_ms,
    )


def _action(event: Event) -> str:
    if event.old is None:
        return "create"
    return "remove" if event.new is None else "update"


def _pair(key: str, old: str, new: str) -> Iterator[tuple[str, str]]:
    if old != new:
        yield f"{key}.old", old
        yield f"{key}.new", new


def _no_changes(_view: View, _old: Any, _new: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    return iter(())


def _node_changes(_view: View, old: Node, new: Node) -> Iterator[tuple[str, str]]:
    yield from _pair("availability", old.spec.availability, new.spec.availability)
    yield from _pair("role", old.role, new.role)
    before, now = NODE_STATE_NAMES[old.status.state], NODE_STATE_NAMES[new.status.state]
    yield from _pair("state", before, now)
    if new.status.message and new.status.message != old.status.message:
        yield "message", new.status.message


def _service_changes(view: View, old: Service, new: Service) -> Iterator[tuple[str, str]]:
    before, now = _spec(view, old), _spec(view, new)
    if before is not None and now is not None and before is not now:
        yield from _pair("image", _image(before), _image(now))
        yield from _pair("replicas", _replicas(before), _replicas(now))
    if new.job_history is not old.job_history:
        for word, runs in told_changes(old, new).items():
            yield f"run.{word}", runs
    if new.update_status is None:
        return
    state = new.update_status.state
    if old.update_status is None:
        yield "updatestate.new", state
    else:
        yield from _pair("updatestate", old.update_status.state, state)


def _spec(view: View, service: Service) -> ServiceSpec | None:
    """The spec the row names; None where it has been cleared away since."""
    row = view.specs.get(spec_version_id(service.id, service.spec_version))
    return None if row is None else row.spec


def _image(spec: ServiceSpec) -> str:
    container = spec.task_template.container_spec
    return "" if container is None else container.image


def _replicas(spec: ServiceSpec) -> str:
    mode = spec.mode.replicated
    return "" if mode is None else str(mode.replicas or 0)


def node_name(node: Node) -> str:
    """What people call it: the name it was given, else its host's."""
    return node.spec.name or node.description.hostname


def _network_name(network: Network) -> str | None:
    return None if network.predefined else network.spec.name


def _secret_name(secret: Secret) -> str | None:
    return None if secret.internal else secret.spec.name


def _config_name(config: Config) -> str:
    return config.spec.name


def _service_name(service: Service) -> str:
    return service.name


_Described = tuple[str, Callable[[Any], str | None], Callable[[View, Any, Any], Any]]

_DESCRIBED: Final[dict[type, _Described]] = {
    Service: ("service", _service_name, _service_changes),
    Node: ("node", node_name, _node_changes),
    Secret: ("secret", _secret_name, _no_changes),
    Config: ("config", _config_name, _no_changes),
    Network: ("network", _network_name, _no_changes),
}
"""By table: the API's word, the name (None: lists hide the object), and what an update tells."""
