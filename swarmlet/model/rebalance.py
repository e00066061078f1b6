"""Whether a service's tasks are moved for balance while they run well: a label of the service, and
of the swarm for the services that have none, so that every client and every compose file can say
it."""

from collections.abc import Mapping
from typing import Final

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.cluster import Cluster
from swarmlet.model.service import ServiceSpec

LABEL: Final = "swarmlet.rebalance"
OFF: Final = "off"
ON_JOIN: Final = "on-join"
CONTINUOUS: Final = "continuous"
EVEN_SINGLE: Final = "even-single"


class Rebalance(msgspec.Struct, frozen=True, kw_only=True):
    """`mode`: off, on-join (when nodes join or come back), continuous, or "" where nothing is said,
    which is off but for a user who asks for moves. `even_single`: a service's only task may be
    stopped before another runs."""

    mode: str = ""
    even_single: bool = False

    @property
    def is_on(self) -> bool:
        return self.mode in (ON_JOIN, CONTINUOUS)


def rebalance_said_by(labels: Mapping[str, str]) -> Rebalance:
    """What the labels of a service or a swarm say. Raises InvalidArgumentError."""
    text = labels.get(LABEL, "").strip()
    mode, _, more = text.partition(" ")
    is_known = mode in ("", OFF, ON_JOIN, CONTINUOUS) and more.strip() in ("", EVEN_SINGLE)
    if not is_known or (mode == OFF and more):
        raise InvalidArgumentError(
            f"{LABEL} is {text!r}, which is no way to rebalance.",
            remedy=f"Say {ON_JOIN}, {CONTINUOUS} or {OFF}; '{ON_JOIN} {EVEN_SINGLE}' and "
            f"'{CONTINUOUS} {EVEN_SINGLE}' also stop a service's only task to move it.",
        )
    return Rebalance(mode=mode, even_single=bool(more))


def rebalance_of(spec: ServiceSpec, cluster: Cluster) -> Rebalance:
    """What holds for a service: its own word, else the swarm's."""
    own = _said(spec.labels)
    return own if own.mode else _said(cluster.spec.labels)


def _said(labels: Mapping[str, str]) -> Rebalance:
    """Nothing, where it was stored before the label meant anything."""
    try:
        return rebalance_said_by(labels)
    except InvalidArgumentError:
        return Rebalance(mode=OFF)
