"""What becomes of a service's tasks on a node that the swarm cannot reach: a label of the service,
so that every client and every compose file can say it."""

from typing import Final

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_S
from swarmlet.model.duration import parse_duration
from swarmlet.model.service import ServiceSpec

LABEL: Final = "swarmlet.on-disconnect"
STOP_AFTER_MIN_S: Final = 1.0


class OnDisconnect(msgspec.Struct, frozen=True, kw_only=True):
    """`keep`: they run on there, and elsewhere too once their node counts as down. `stop_after_s`:
    their agent stops them that long after it lost every manager, and they are replaced no earlier.
    `never_replace`: nobody takes their place until their node is back, drained or removed."""

    stop_after_s: float = 0.0
    never_replace: bool = False


KEEP: Final = OnDisconnect()


def on_disconnect_of(spec: ServiceSpec) -> OnDisconnect:
    """What the label says; without one, services with volumes of their node are never replaced.

    Raises InvalidArgumentError.
    """
    text = spec.labels.get(LABEL, "").strip()
    if not text:
        return OnDisconnect(never_replace=True) if _has_volume(spec) else KEEP
    if text == "keep":
        return KEEP
    if text == "never-replace":
        return OnDisconnect(never_replace=True)
    word, _, duration = text.partition(" ")
    if word == "stop-after" and duration:
        after_s = parse_duration(duration.strip()) / NS_PER_S
        if after_s >= STOP_AFTER_MIN_S:
            return OnDisconnect(stop_after_s=after_s)
    raise InvalidArgumentError(
        f"{LABEL} is {text!r}, which is no way to act on a disconnect.",
        remedy="Say keep, never-replace, or stop-after with a duration of at least a second, as in "
        f"`--label '{LABEL}=stop-after 30s'`.",
    )


def _has_volume(spec: ServiceSpec) -> bool:
    container = spec.task_template.container_spec
    mounts = () if container is None else container.mounts
    return any(mount.type == "volume" and mount.source for mount in mounts)
