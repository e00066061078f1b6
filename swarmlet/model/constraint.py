"""Placement constraints: `key == value` or `key != value`, compared without regard to case.

Grammar and keys are SwarmKit's (manager/constraint/constraint.go) with three differences: a key
that no node can ever have is refused instead of never matching, so is a `node.ip` that is no
address, and the operator is the one that comes first, so that a value after `!=` may contain `==`.
And there is one key more: `service`, for tasks of which service run on the node.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.node import Node

_OPERATOR: Final = re.compile(r"==|!=")
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9\-_.]+")
_VALUE: Final = re.compile(r"(?!=)[A-Za-z0-9:\-_\s.*()?+\[\]\\^$|/=]+")
_NODE_LABELS: Final = "node.labels."
_ENGINE_LABELS: Final = "engine.labels."
SERVICE_KEY: Final = "service"
"""Asks what runs on the node: a matter of its tasks, which a node's row does not answer."""

_SIMILAR: Final = 0.8  # share of characters in common from which a key is taken for a slip
_CACHE_MAX: Final = 4096  # parsed texts kept; a busy cluster has a few hundred
_MAPPED_BITS: Final = 96  # ::ffff:0:0/96 holds the IPv4 addresses (RFC 4291 §2.5.5.2)

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_PLAIN_KEYS: Final[Mapping[str, Callable[[Node], str]]] = {
    "node.id": lambda node: node.id,
    "node.hostname": lambda node: node.description.hostname,
    "node.ip": lambda node: node.status.addr,
    "node.role": lambda node: node.role,
    "node.platform.os": lambda node: node.description.platform.os,
    "node.platform.arch": lambda node: node.description.platform.architecture,
}


class Constraint(NamedTuple):
    """One parsed constraint: `key` as written, `is_equal` whether it asks for `==`."""

    key: str
    is_equal: bool
    value: str


@lru_cache(_CACHE_MAX)
def parse(text: str) -> Constraint:
    """The constraint that `text` states. Raises InvalidArgumentError with what to write instead."""
    operator = _OPERATOR.search(text)
    if operator is None:
        raise InvalidArgumentError(
            f"constraint '{text}' expected one operator from ==, !=",
            remedy="Write it as KEY==VALUE or KEY!=VALUE, such as node.labels.zone==eu.",
        )
    key, value = text[: operator.start()].strip(), text[operator.end() :].strip()
    if not _KEY.fullmatch(key):
        raise InvalidArgumentError(f"constraint '{text}': key '{key}' is invalid", _known_keys())
    if not _VALUE.fullmatch(value):
        raise InvalidArgumentError(
            f"constraint '{text}': value '{value}' is invalid",
            remedy="Give a value of letters, digits and punctuation after the operator.",
        )
    _check_key(text, key)
    if key.lower() == "node.ip":
        _check_address(text, value)
    return Constraint(key, operator.group() == "==", value)


def matches(constraint: Constraint, node: Node) -> bool:
    """Whether `node`'s row satisfies the constraint. A key that does not exist is never satisfied;
    what it asks of services, the row does not stand in the way of."""
    if constraint.key.lower() == SERVICE_KEY:
        return True
    if constraint.key.lower() == "node.ip":
        return _is_within(node.status.addr, constraint.value) == constraint.is_equal
    have = value_of(constraint.key, node)
    return have is not None and (have.lower() == constraint.value.lower()) == constraint.is_equal


def value_of(key: str, node: Node) -> str | None:
    """What `node` has under a constraint's key: "" for a label it lacks, None for no such key."""
    lower = key.lower()
    if lower.startswith(_NODE_LABELS):
        return node.spec.labels.get(key[len(_NODE_LABELS) :], "")
    if lower.startswith(_ENGINE_LABELS):
        return node.description.engine.labels.get(key[len(_ENGINE_LABELS) :], "")
    read = _PLAIN_KEYS.get(lower)
    return None if read is None else read(node)


def _check_key(text: str, key: str) -> None:
    lower = key.lower()
    if lower in _PLAIN_KEYS or lower == SERVICE_KEY or _label_of(lower):
        return
    raise InvalidArgumentError(
        f"constraint '{text}': unknown key '{key}'{_did_you_mean(key)}", _known_keys()
    )


def check_spread(text: str) -> None:
    """Raise InvalidArgumentError where `text`, a preference, is neither a label to spread over nor
    a service to be near or far from."""
    key = text.strip()
    if "=" in key and key.lower().startswith(SERVICE_KEY):
        parse(key)
    elif "=" in key or not _label_of(key.lower()):
        raise InvalidArgumentError(
            f"placement preference 'spread={text}': '{key}' is no label{_meant_label(key)}",
            remedy="Spread over node.labels.NAME or engine.labels.NAME, or write service==NAME.",
        )


def _label_of(lower_key: str) -> str:
    for prefix in (_NODE_LABELS, _ENGINE_LABELS):
        if lower_key.startswith(prefix):
            return lower_key[len(prefix) :]
    return ""


def _did_you_mean(key: str) -> str:
    """The known key nearest to `key`, for the end of a sentence; the label of a misspelt prefix is
    kept as written."""
    near = get_close_matches(key.lower(), (*_PLAIN_KEYS, SERVICE_KEY), n=1, cutoff=_SIMILAR)
    if f"node.{key.lower()}" in _PLAIN_KEYS:
        near = [f"node.{key.lower()}"]
    if near:
        return f"; did you mean {near[0]}?"
    return _meant_label(key)


def _meant_label(key: str) -> str:
    head, label = ".".join(key.split(".")[:2]), ".".join(key.split(".")[2:])
    prefixes = [_NODE_LABELS.rstrip("."), _ENGINE_LABELS.rstrip(".")]
    near = get_close_matches(head.lower(), prefixes, n=1, cutoff=_SIMILAR)
    is_meant = near and f"{near[0]}." not in key.lower()
    return f"; did you mean {near[0]}.{label or 'NAME'}?" if is_meant else ""


def _known_keys() -> str:
    return (
        f"Use one of {', '.join(_PLAIN_KEYS)}, {SERVICE_KEY}, node.labels.NAME, engine.labels.NAME."
    )


def _check_address(text: str, value: str) -> None:
    if _network(value) is None:
        raise InvalidArgumentError(
            f"constraint '{text}': '{value}' is neither an IP address nor a subnet",
            remedy="Write an address such as 10.0.0.7 or a subnet such as 10.0.0.0/24.",
        )


@lru_cache(_CACHE_MAX)
def _network(text: str) -> _Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS), strict=False)
    return network


def _is_within(address: str, value: str) -> bool | None:
    """Whether an address lies in a subnet (or is that address); None where `value` is neither."""
    network, host = _network(value), _network(address)
    if network is None:
        return None
    return host is not None and host.version == network.version and host.subnet_of(network)  # type: ignore[arg-type]
