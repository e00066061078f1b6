"""What a Docker container cannot give a task, or an old engine does not know: refused in words.

An engine ignores fields it does not know; the task would run without what its user asked for.
"""

from collections.abc import Callable, Sequence
from typing import Final

from swarmlet.model.container import (
    BindOptions,
    ContainerSpec,
    HealthConfig,
    Mount,
    TmpfsOptions,
    VolumeOptions,
)
from swarmlet.model.reference import HOST_IMAGES
from swarmlet.model.service import TaskSpec
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.wire.messages import AssignedTask

MOUNT_TYPES: Final = ("bind", "volume", "tmpfs")

_LEAVE_OUT: Final = "Leave the option out."

_CONTAINER: Final[tuple[tuple[str, Callable[[ContainerSpec], object]], ...]] = (
    ("a credential spec, which is for Windows", lambda c: c.privileges and _credential(c)),
    ("another isolation than the default", lambda c: c.isolation not in ("", "default")),
)
_TASK: Final[tuple[tuple[str, Callable[[TaskSpec], object]], ...]] = (
    ("a plugin", lambda t: t.plugin_spec),
    ("an attachment to a network", lambda t: t.network_attachment_spec),
    ("a limit of its swap without a limit of its memory", lambda t: _swaps_without_limit(t)),
)


def refuse_options(task: AssignedTask) -> None:
    """Raises RuntimeProblemError with the first thing no container can give this task."""
    for what, asks in _TASK:
        if asks(task.spec):
            raise _refusal(what)
    container = task.spec.container_spec
    if container is None or task.spec.runtime not in ("", "container"):
        raise RuntimeProblemError(
            "The task has no ContainerSpec, and a Docker Engine runs nothing else.",
            remedy="Give a ContainerSpec with an image.",
        )
    if container.image in HOST_IMAGES:
        raise RuntimeProblemError(
            'The image "host" stands for a node\'s own files, and this node runs containers.',
            remedy="Name an image, or run the service where the process runtime is.",
        )
    for wanted, wants in _CONTAINER:
        if wants(container):
            raise _refusal(wanted)
    for mount in container.mounts:
        _refuse_mount(mount)
    _refuse_hosts(container.hosts)
    _refuse_empty_profile(container)


def _refusal(what: str) -> RuntimeProblemError:
    return RuntimeProblemError(f"A container cannot be given {what}.", remedy=_LEAVE_OUT)


def _credential(container: ContainerSpec) -> bool:
    return container.privileges is not None and container.privileges.credential_spec is not None


def _swaps_without_limit(spec: TaskSpec) -> bool:
    """-1, without an end, is what a container without a limit of its memory has anyway."""
    resources = spec.resources
    if resources is None or resources.swap_bytes in (None, -1):
        return False
    return resources.limits is None or not resources.limits.memory_bytes


def _refuse_mount(mount: Mount) -> None:
    if mount.type not in MOUNT_TYPES or mount.cluster_options is not None:
        raise _refusal(f"a mount of type {mount.type}")
    if mount.image_options is not None:
        raise _refusal(f"the options of an image on a mount of type {mount.type}")


def _refuse_hosts(entries: Sequence[str]) -> None:
    for entry in entries:
        if len(entry.split()) < 2:
            raise RuntimeProblemError(
                f'The hosts entry "{entry}" has no name beside its address.',
                remedy='Write entries as "ADDRESS NAME [ALIAS...]".',
            )


def _refuse_empty_profile(container: ContainerSpec) -> None:
    seccomp = container.privileges.seccomp if container.privileges is not None else None
    if seccomp is None or seccomp.mode != "custom":
        return
    try:
        profile = seccomp.profile.decode()
    except UnicodeDecodeError:
        profile = ""
    if not profile:
        raise RuntimeProblemError(
            "The task asks for a seccomp profile of its own and gives none that is text.",
            remedy="Give Privileges.Seccomp.Profile a profile as JSON.",
        )


# Fields that came with a version of the engine's API ---------------------------------------------
_BIND: Final[tuple[tuple[str, str, Callable[[BindOptions], object]], ...]] = (
    ("1.40", "BindOptions.NonRecursive", lambda o: o.non_recursive),
    ("1.42", "BindOptions.CreateMountpoint", lambda o: o.create_mountpoint),
    ("1.44", "BindOptions.ReadOnlyNonRecursive", lambda o: o.read_only_non_recursive),
    ("1.44", "BindOptions.ReadOnlyForceRecursive", lambda o: o.read_only_force_recursive),
)
_VOLUME: Final[tuple[tuple[str, str, Callable[[VolumeOptions], object]], ...]] = (
    ("1.45", "VolumeOptions.Subpath", lambda o: o.subpath),
)
_TMPFS: Final[tuple[tuple[str, str, Callable[[TmpfsOptions], object]], ...]] = (
    ("1.46", "TmpfsOptions.Options", lambda o: o.options),
)
_HEALTH: Final[tuple[tuple[str, str, Callable[[HealthConfig], object]], ...]] = (
    ("1.44", "Healthcheck.StartInterval", lambda o: o.start_interval),
)


def refuse_newer(container: ContainerSpec, api_version: str) -> None:
    """Raises RuntimeProblemError for the first field that came after `api_version`."""
    have = parse_version(api_version)
    for since, field in _fields(container):
        if parse_version(since) > have:
            raise RuntimeProblemError(
                f"{field} needs a Docker Engine of API {since}; this node's has {api_version}.",
                remedy="Leave it out, or update the Docker Engine.",
            )


def parse_version(text: str) -> tuple[int, ...]:
    """`1.41` as numbers that can be compared. Raises RuntimeProblemError where it is none."""
    parts = text.split(".")
    if not all(part.isdecimal() for part in parts):
        raise RuntimeProblemError(f'The Docker Engine has the API version "{text}".')
    return tuple(int(part) for part in parts)


def _fields(container: ContainerSpec) -> list[tuple[str, str]]:
    """The fields in use that have an age, each with the version that brought it."""
    found: list[tuple[str, str]] = []
    for mount in container.mounts:
        bind, volume, tmpfs = mount.bind_options, mount.volume_options, mount.tmpfs_options
        if bind is not None:
            found += [(since, name) for since, name, asks in _BIND if asks(bind)]
        if volume is not None:
            found += [(since, name) for since, name, asks in _VOLUME if asks(volume)]
        if tmpfs is not None:
            found += [(since, name) for since, name, asks in _TMPFS if asks(tmpfs)]
    health = container.healthcheck
    if health is not None:
        found += [(since, name) for since, name, asks in _HEALTH if asks(health)]
    return found
