"""What may be stored of secrets, configs, networks, nodes and the swarm itself (SwarmKit's rules).

Every `check_*` returns nothing or raises InvalidArgumentError with Docker's words where Docker has
some. Services have their own module (`validate_service`), addresses too (`address`).
"""

import re
from collections.abc import Mapping
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import (
    CERT_EXPIRY_MIN_NS,
    CONFIG_DATA_SIZE_MAX_B,
    SECRET_DATA_SIZE_MAX_B,
    SECRET_NAME_LENGTH_MAX,
    SERVICE_NAME_LENGTH_MAX,
)
from swarmlet.model.base import Driver
from swarmlet.model.cluster import CLUSTER_NAME, SwarmSpec
from swarmlet.model.config import ConfigSpec
from swarmlet.model.duration import format_duration
from swarmlet.model.network import NetworkSpec
from swarmlet.model.node import NodeSpec
from swarmlet.model.rebalance import rebalance_said_by
from swarmlet.model.secret import SecretSpec

ROLES: Final = ("worker", "manager")
AVAILABILITIES: Final = ("active", "pause", "drain")
TEMPLATING_GOLANG: Final = "golang"

_DNS_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
_SECRET_NAME: Final = re.compile(r"[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?")


def check_dns_name(name: str) -> None:
    """The name of a service or a network."""
    _check_given(name)
    if len(name) > SERVICE_NAME_LENGTH_MAX:
        raise InvalidArgumentError(
            f"name must be {SERVICE_NAME_LENGTH_MAX} characters or fewer",
            remedy=f"Shorten it: it has {len(name)} characters.",
        )
    if not _DNS_NAME.fullmatch(name):
        raise InvalidArgumentError(
            "name must be valid as a DNS name component",
            remedy="Use letters, digits, '-' and '_', with a letter or digit at both ends.",
        )


def check_secret_name(name: str) -> None:
    """The name of a secret or a config."""
    _check_given(name)
    if len(name) > SECRET_NAME_LENGTH_MAX or not _SECRET_NAME.fullmatch(name):
        raise InvalidArgumentError(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, "
            "and the start and end character must be [a-zA-Z0-9]",
            remedy="Choose a name such as db-password.",
        )


def _check_given(name: str) -> None:
    if not name:
        raise InvalidArgumentError("name must be provided", remedy="Give it a name.")


def check_labels(labels: Mapping[str, str], where: str = "Labels") -> None:
    """A label has a name; its value may be anything."""
    if "" in labels:
        raise InvalidArgumentError(f"{where}: a label needs a name before its value")


def check_driver(driver: Driver | None, where: str) -> None:
    """A plugin is named where one is asked for."""
    if driver is not None and not driver.name:
        raise InvalidArgumentError(
            f"{where}: driver must have a name", remedy="Name the driver its options are for."
        )


def _check_templating(templating: Driver | None) -> None:
    if templating is not None and templating.name not in ("", TEMPLATING_GOLANG):
        raise InvalidArgumentError(
            f"unrecognized template type: {templating.name}",
            remedy="The one template driver is `golang`; without one the data is left as it is.",
        )


def check_secret(spec: SecretSpec) -> None:
    """Data is required unless a driver is to deliver it."""
    check_secret_name(spec.name)
    check_labels(spec.labels)
    _check_templating(spec.templating)
    if spec.driver is not None:
        check_driver(spec.driver, "Driver")
    elif not 0 < len(spec.data) < SECRET_DATA_SIZE_MAX_B:
        raise _wrong_size("secret", SECRET_DATA_SIZE_MAX_B)


def check_config(spec: ConfigSpec) -> None:
    """Data is required."""
    check_secret_name(spec.name)
    check_labels(spec.labels)
    _check_templating(spec.templating)
    if not 0 < len(spec.data) < CONFIG_DATA_SIZE_MAX_B:
        raise _wrong_size("config", CONFIG_DATA_SIZE_MAX_B)


def _wrong_size(kind: str, size_max_b: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{kind} data must be larger than 0 and less than {size_max_b} bytes"
    )


def check_network(spec: NetworkSpec) -> None:
    """Names and the parts that contradict each other. Docker lets a network's name hold spaces."""
    _check_given(spec.name.strip())
    check_labels(spec.labels)
    if spec.ingress and spec.attachable:
        raise InvalidArgumentError("the ingress network cannot be attachable")
    if spec.ingress and spec.driver not in ("", "overlay"):
        raise InvalidArgumentError("the ingress network needs the overlay driver")


def check_node(spec: NodeSpec) -> None:
    """What a user may want of a node."""
    check_labels(spec.labels)
    if spec.role not in ROLES:
        raise InvalidArgumentError(f'invalid Role: "{spec.role}"', _one_of(ROLES))
    check_availability(spec.availability)


def check_availability(word: str) -> None:
    """Whether a node takes new tasks, keeps its own, or is emptied."""
    if word not in AVAILABILITIES:
        raise InvalidArgumentError(f'invalid Availability: "{word}"', _one_of(AVAILABILITIES))


def _one_of(words: tuple[str, ...]) -> str:
    return f"It must be {', '.join(words[:-1])} or {words[-1]}."


def check_swarm(spec: SwarmSpec) -> None:
    """A whole swarm spec, zero values already replaced by defaults."""
    if spec.name not in ("", CLUSTER_NAME):
        raise InvalidArgumentError(f'swarm spec must be named "{CLUSTER_NAME}"')
    check_labels(spec.labels)
    rebalance_said_by(spec.labels)
    _check_raft(spec)
    if spec.dispatcher.heartbeat_period < 0:
        raise InvalidArgumentError("heartbeat time period cannot be a negative duration")
    if spec.ca_config.node_cert_expiry < CERT_EXPIRY_MIN_NS:
        raise InvalidArgumentError(
            f"minimum certificate expiry time is: {format_duration(CERT_EXPIRY_MIN_NS)}",
            remedy="Write a longer time, such as 2160h.",
        )
    check_driver(spec.task_defaults.log_driver, "TaskDefaults.LogDriver")


def _check_raft(spec: SwarmSpec) -> None:
    raft = spec.raft
    counts = {
        "SnapshotInterval": raft.snapshot_interval,
        "KeepOldSnapshots": raft.keep_old_snapshots or 0,
        "LogEntriesForSlowFollowers": raft.log_entries_for_slow_followers,
        "ElectionTick": raft.election_tick,
        "HeartbeatTick": raft.heartbeat_tick,
        "CAConfig.ForceRotate": spec.ca_config.force_rotate,
    }
    for name, count in counts.items():
        if count < 0:
            raise InvalidArgumentError(f"{name} must not be negative, but is {count}")
    if raft.election_tick <= raft.heartbeat_tick:
        raise InvalidArgumentError(
            f"ElectionTick ({raft.election_tick}) must be greater than "
            f"HeartbeatTick ({raft.heartbeat_tick})",
            remedy="Docker's defaults are 10 and 1.",
        )
