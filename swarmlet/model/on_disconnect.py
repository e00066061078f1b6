"""What becomes of a service's tasks on a node that the swarm cannot reach: a label of the service,
so that every client and every compose file can say it."""

from collections.abc import Mapping
from typing import Final

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import NS_PER_S
from swarmlet.model.container import Mount, VolumeOptions
from swarmlet.model.duration import parse_duration
from swarmlet.model.service import ServiceSpec

LABEL: Final = "swarmlet.on-disconnect"
STOP_AFTER_MIN_S: Final = 1.0
LOCAL_DRIVERS: Final = ("", "local")
SHARED_TYPES: Final = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "tmpfs")
"""File systems that the driver `local` mounts and that hold nothing of the node's own."""


class OnDisconnect(msgspec.Struct, frozen=True, kw_only=True):
    """`keep`: they run on there, and elsewhere too once their node counts as down. `stop_after_s`:
    their agent stops them that long after it lost every manager, and they are replaced no earlier.
    `never_replace`: nobody takes their place until their node is back, drained or removed."""

    stop_after_s: float = 0.0
    never_replace: bool = False


KEEP: Final = OnDisconnect()
NEVER_REPLACE: Final = OnDisconnect(never_replace=True)


def on_disconnect_of(spec: ServiceSpec) -> OnDisconnect:
    """What the label says; without one, services with volumes of their node are never replaced.

    Raises InvalidArgumentError.
    """
    if spec.labels.get(LABEL, "").strip():
        return said_by(spec.labels)
    container = spec.task_template.container_spec
    mounts = () if container is None else container.mounts
    return NEVER_REPLACE if any(map(is_of_one_node, mounts)) else KEEP


def said_by(labels: Mapping[str, str]) -> OnDisconnect:
    """What a service's labels say, KEEP where nothing. Raises InvalidArgumentError."""
    text = labels.get(LABEL, "").strip()
    if text in ("", "keep"):
        return KEEP
    if text == "never-replace":
        return NEVER_REPLACE
    word, _, duration = text.partition(" ")
    after_s = _duration_s(duration.strip()) if word == "stop-after" else 0.0
    if after_s < STOP_AFTER_MIN_S:
        raise InvalidArgumentError(
            f"{LABEL} is {text!r}, which is no way to act on a disconnect.",
            remedy="Say keep, never-replace, or stop-after with a duration of at least a second, "
            f"as in `--label '{LABEL}=stop-after 30s'`.",
        )
    return OnDisconnect(stop_after_s=after_s)


def _duration_s(text: str) -> float:
    """0 where it is none."""
    try:
        return parse_duration(text) / NS_PER_S
    except InvalidArgumentError:
        return 0.0


def is_of_one_node(mount: Mount) -> bool:
    """Whether what the tasks keep there stays behind when they move: a named volume that the
    node's own disk holds. Other drivers' volumes, and what `local` mounts over the network, are
    elsewhere too; a bind mount is the user's to know about."""
    if mount.type != "volume" or not mount.source:
        return False
    driver = (mount.volume_options or VolumeOptions()).driver_config
    if driver is None:
        return True
    kind = driver.options.get("type", "").strip().lower()
    return driver.name in LOCAL_DRIVERS and kind not in SHARED_TYPES
