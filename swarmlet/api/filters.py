"""The `filters` of listings: both encodings, the keys each listing knows, and what they select.

Values of one key are alternatives, keys are all asked for; a name or an id selects by its
beginning. Labels must all be there; a label without a value takes any.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from swarmlet.core.errors import InvalidArgumentError, UnknownValueError
from swarmlet.model.config import Config
from swarmlet.model.event_message import EventMessage
from swarmlet.model.network import Network
from swarmlet.model.node import Node
from swarmlet.model.secret import Secret
from swarmlet.model.service import Service, ServiceSpec, SpecVersion, spec_version_id
from swarmlet.model.task import STATE_NAMES, Task, task_name
from swarmlet.model.task_event import TASK
from swarmlet.model.view import View, task_spec_version_of

Filters: TypeAlias = Mapping[str, tuple[str, ...]]

FILTERS_SIZE_MAX_B: Final = 65_536
"""Half of a request's line: what is written as %XX there is shorter here."""

NODE_KEYS: Final = frozenset({"id", "label", "membership", "name", "node.label", "role"})
SERVICE_KEYS: Final = frozenset({"id", "label", "mode", "name", "runtime"})
TASK_KEYS: Final = frozenset(
    {"_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"}
)
SECRET_KEYS: Final = frozenset({"id", "label", "name", "names"})
CONFIG_KEYS: Final = frozenset({"id", "label", "name"})
EVENT_KINDS: Final = (
    *("builder", "config", "container", "daemon", "image", "network", "node", "plugin"),
    *("secret", "service", "volume"),
)
EVENT_KEYS: Final = frozenset({*EVENT_KINDS, "event", "label", "scope", "type"})
OWN_EVENT_KINDS: Final = (*EVENT_KINDS, TASK)
OWN_EVENT_KEYS: Final = EVENT_KEYS | {TASK}
NETWORK_KEYS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})

_ROLES: Final = ("worker", "manager")
_MEMBERSHIPS: Final = ("pending", "accepted")
_STATES: Final = {name: state for state, name in STATE_NAMES.items()}

_decode = msgspec.json.Decoder(dict[str, dict[str, bool] | list[str] | None]).decode


def parse_filters(text: str, keys: frozenset[str]) -> Filters:
    """`{"name":{"x":true}}` as the CLI sends it or `{"name":["x"]}` as the SDK for Python does.

    Raises InvalidArgumentError for what is no such object and for keys this listing has not.
    """
    if not text:
        return {}
    if len(text) > FILTERS_SIZE_MAX_B:
        raise InvalidArgumentError("invalid filter", remedy="Send fewer values.")
    try:
        found = _decode(text)
    except msgspec.MsgspecError:
        raise InvalidArgumentError(
            "invalid filter", remedy='Send JSON such as {"name":["web"]}.'
        ) from None
    for key in sorted(found):
        if key not in keys:
            raise InvalidArgumentError(
                f"invalid filter '{key}'", remedy=f"Filters here are {', '.join(sorted(keys))}."
            )
    return {key: tuple(values) for key, values in found.items() if values}


def _begins(values: tuple[str, ...], text: str) -> bool:
    return not values or text.startswith(values)


def _labels_match(wanted: Iterable[str], labels: Mapping[str, str]) -> bool:
    for item in wanted:
        key, _, value = item.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return True


def _known(filters: Filters, key: str, words: Iterable[str]) -> tuple[str, ...]:
    """The values of `key` in lower case, each one of `words`. Raises UnknownValueError."""
    allowed = tuple(words)
    given = tuple(value for value in filters.get(key, ()) if value)
    for value in given:
        if value.lower() not in allowed:
            raise UnknownValueError(
                f"Invalid {key} filter: '{value}'", remedy=f"Take one of {', '.join(allowed)}."
            )
    return tuple(value.lower() for value in given)


def select_nodes(nodes: Iterable[Node], filters: Filters) -> Iterator[Node | None]:
    """None for each that is left out, as in the two below: a list's other turns come in between.
    `name` is the host's name, `label` the engine's labels, `node.label` those of the spec."""
    roles = _known(filters, "role", _ROLES)
    memberships = _known(filters, "membership", _MEMBERSHIPS)
    if memberships and "accepted" not in memberships:
        return
    ids, names = filters.get("id", ()), filters.get("name", ())
    labels, node_labels = filters.get("label", ()), filters.get("node.label", ())
    for node in nodes:
        is_asked_for = (
            _begins(ids, node.id)
            and _begins(names, node.description.hostname)
            and (not roles or node.spec.role in roles)
            and _labels_match(labels, node.description.engine.labels)
            and _labels_match(node_labels, node.spec.labels)
        )
        yield node if is_asked_for else None


def mode_name(spec: ServiceSpec) -> str:
    """The API's word for a service's mode."""
    mode = spec.mode
    if mode.global_ is not None:
        return "global"
    if mode.replicated_job is not None:
        return "replicated-job"
    return "replicated" if mode.global_job is None else "global-job"


def select_services(
    services: Iterable[tuple[Service, SpecVersion]], filters: Filters
) -> Iterator[tuple[Service, SpecVersion] | None]:
    """Plugin services are shown only where `runtime` asks for them."""
    ids, names, labels = (filters.get(key, ()) for key in ("id", "name", "label"))
    modes, runtimes = filters.get("mode", ()), filters.get("runtime", ("container",))
    for service, row in services:
        spec = row.spec
        is_asked_for = (
            _begins(ids, service.id)
            and _begins(names, spec.name)
            and _labels_match(labels, spec.labels)
            and (not modes or mode_name(spec) in modes)
            and (spec.task_template.runtime or "container") in runtimes
        )
        yield (service, row) if is_asked_for else None


def select_secrets(secrets: Iterable[Secret], filters: Filters) -> Iterator[Secret]:
    exact = filters.get("names", ())
    for secret in secrets:
        if secret.internal or (exact and secret.spec.name not in exact):
            continue
        if _payload_matches(secret, filters):
            yield secret


def select_configs(configs: Iterable[Config], filters: Filters) -> Iterator[Config]:
    return (config for config in configs if _payload_matches(config, filters))


def _payload_matches(row: Secret | Config, filters: Filters) -> bool:
    return (
        _begins(filters.get("id", ()), row.id)
        and _begins(filters.get("name", ()), row.spec.name)
        and _labels_match(filters.get("label", ()), row.spec.labels)
    )


def _contains(patterns: tuple[str, ...], text: str) -> bool:
    """Docker's Match for networks, of which only `^` and `$` are understood: a regular expression
    from outside could hold up the whole daemon."""
    return not patterns or any(_contains_one(pattern, text) for pattern in patterns)


def _contains_one(pattern: str, text: str) -> bool:
    word = pattern.removeprefix("^").removesuffix("$")
    match pattern.startswith("^"), pattern.endswith("$"):
        case True, True:
            return text == word
        case True, False:
            return text.startswith(word)
        case False, True:
            return text.endswith(word)
        case _:
            return word in text


def select_networks(view: View, filters: Filters) -> Iterator[Network]:
    """The swarm's networks; its copies of node-local ones stay hidden, as in Docker's lists."""
    _known(filters, "type", ("builtin", "custom"))
    scopes, drivers = filters.get("scope", ()), filters.get("driver", ())
    dangling = _known(filters, "dangling", ("true", "1", "false", "0"))
    for network in view.networks.all():
        spec = network.spec
        if (
            not network.predefined
            and "builtin" not in filters.get("type", ())
            and (not scopes or "swarm" in scopes)
            and (not drivers or (spec.driver or "overlay") in drivers)
            and _contains(filters.get("id", ()), network.id)
            and _contains(filters.get("name", ()), spec.name)
            and _labels_match(filters.get("label", ()), spec.labels)
            and (not dangling or _is_dangling(view, network) == (dangling[0] in ("true", "1")))
        ):
            yield network


def _is_dangling(view: View, network: Network) -> bool:
    return not network.spec.ingress and not view.specs.count("network", network.id)


def _is_up_to_date(view: View, task: Task, row: SpecVersion) -> bool:
    """Whether the task need not be replaced to follow its service's current spec."""
    service = view.services.get(task.service_id)
    if service is None:
        return False
    current = view.specs.get(spec_version_id(service.id, service.spec_version))
    if current is None or current is row:
        return current is row
    from swarmlet.reconcile.slots import host_of, replaces_tasks  # workers do without

    return not replaces_tasks(row.spec, current.spec, [host_of(view, task)])


def _candidates(view: View, filters: Filters) -> Iterator[Task]:
    """Tasks by the narrowest index there is: never all of them where a key names an owner."""
    if "service" in filters:
        for service_id in sorted(set(filters["service"])):
            yield from view.tasks.scan("service", service_id)
    elif "node" in filters:
        for node_id in sorted(set(filters["node"])):
            yield from view.tasks.scan("node", node_id)
    elif "label" in filters:
        for row in view.specs.all():
            if _labels_match(filters["label"], row.spec.labels):
                yield from view.tasks.scan("spec", row.id)
    else:
        yield from view.tasks.all()


def select_tasks(view: View, filters: Filters) -> Iterator[tuple[Task, SpecVersion] | None]:
    """Tasks with the spec version they were made from. Names in `service` and `node` must have
    been replaced by ids; `label` is the service's labels when the task was made."""
    states = {_STATES[word] for word in _known(filters, "desired-state", _STATES)}
    ids, names, labels = (filters.get(key, ()) for key in ("id", "name", "label"))
    runtimes = filters.get("runtime", ("container",))
    for task in _candidates(view, filters):
        row = task_spec_version_of(view, task)
        is_asked_for = (
            _begins(ids, task.id)
            and ("node" not in filters or task.node_id in filters["node"])
            and (not states or task.desired in states)
            and (not names or task_name(row.spec.name, task).startswith(names))
            and _labels_match(labels, row.spec.labels)
            and (row.spec.task_template.runtime or "container") in runtimes
            and ("_up-to-date" not in filters or _is_up_to_date(view, task, row))
        )
        yield (task, row) if is_asked_for else None


def event_matches(filters: Filters, message: EventMessage) -> bool:
    """Whether an event is asked for. A kind's own key takes ids and names by their beginning and
    leaves out the other kinds, but that a service's and a node's take the events of its tasks as
    well, where those are told; `label` looks at the event's attributes, as Docker's does."""
    return (
        all(_is_about(message, key, filters[key]) for key in OWN_EVENT_KINDS if key in filters)
        and message.action in filters.get("event", (message.action,))
        and message.kind in filters.get("type", (message.kind,))
        and "swarm" in filters.get("scope", ("swarm",))
        and _labels_match(filters.get("label", ()), message.attributes)
    )


def _is_about(message: EventMessage, kind: str, values: tuple[str, ...]) -> bool:
    attributes = message.attributes
    if message.kind == kind:
        return _begins(values, message.id) or _begins(values, attributes.get("name", ""))
    found = (attributes.get(f"{kind}.id", ""), attributes.get(f"{kind}.name", ""))
    return message.kind == TASK and any(text and _begins(values, text) for text in found)
