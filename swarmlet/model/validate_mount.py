"""What may be asked of a mount: the Docker Engine's rules and words, for what needs no look at a
node.

`check_mounts` is asked twice: of a spec, where a template may stand for any text, and on the node
once the templates are expanded.
"""

from collections.abc import Sequence
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.container import Mount

MOUNT_TYPES: Final = ("bind", "volume", "tmpfs", "npipe", "cluster", "image")
PROPAGATIONS: Final = ("", "private", "rprivate", "shared", "rshared", "slave", "rslave")

_TEMPLATE: Final = "{{"
_OPTIONS: Final = {
    "bind": "BindOptions",
    "volume": "VolumeOptions",
    "tmpfs": "TmpfsOptions",
    "image": "ImageOptions",
    "cluster": "ClusterOptions",
}


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Raises InvalidArgumentError with the first rule that is broken."""
    targets: set[str] = set()
    for mount in mounts:
        _check_mount(mount)
        if mount.target in targets:
            raise InvalidArgumentError(
                f"ContainerSpec: duplicate mount point: {mount.target}",
                remedy="Give every mount a target of its own.",
            )
        targets.add(mount.target)


def _check_mount(mount: Mount) -> None:
    if mount.type not in MOUNT_TYPES:
        raise InvalidArgumentError(
            f'invalid MountType: "{mount.type}"', f"It must be one of {', '.join(MOUNT_TYPES)}."
        )
    propagation = mount.bind_options.propagation if mount.bind_options is not None else ""
    if propagation not in PROPAGATIONS:
        raise InvalidArgumentError(
            f'invalid MountBindPropagation: "{propagation}"',
            f"It must be one of {', '.join(PROPAGATIONS[1:])}.",
        )
    _check_target(mount)
    _check_options(mount)
    _check_source(mount)
    if mount.type == "tmpfs":
        _check_tmpfs(mount)


def _check_target(mount: Mount) -> None:
    if not mount.target:
        raise _wrong(mount, "field Target must not be empty")
    if "\0" in mount.target or "\0" in mount.source:
        raise _wrong(mount, "a path must not contain a NUL character")
    _check_absolute(mount, mount.target)
    if not mount.target.strip("/"):
        raise _wrong(mount, "invalid specification: destination can't be '/'")


def _check_options(mount: Mount) -> None:
    """Options of another type say that two things were meant."""
    given = {
        "BindOptions": mount.bind_options,
        "VolumeOptions": mount.volume_options,
        "TmpfsOptions": mount.tmpfs_options,
        "ImageOptions": mount.image_options,
        "ClusterOptions": mount.cluster_options,
    }
    for name, options in given.items():
        if options is not None and name != _OPTIONS.get(mount.type):
            raise _wrong(mount, f"field {name} must not be specified")


def _check_source(mount: Mount) -> None:
    if mount.type == "bind":
        if not mount.source:
            raise _wrong(mount, "field Source must not be empty")
        _check_absolute(mount, mount.source)
    elif mount.type == "volume":
        _check_volume(mount)
    elif mount.type == "tmpfs" and mount.source:
        raise _wrong(mount, "field Source must not be specified")


def _check_volume(mount: Mount) -> None:
    """A path would be taken for a bind mount by older engines."""
    if mount.source.startswith("/"):
        raise InvalidArgumentError(
            f"invalid volume mount source, must not be an absolute path: {mount.source}",
            remedy="Name a volume, or use a mount of type bind.",
        )
    if not mount.source and mount.read_only:
        raise _wrong(mount, "must not set ReadOnly mode when using anonymous volumes")
    subpath = mount.volume_options.subpath if mount.volume_options is not None else ""
    if subpath and not mount.source:
        raise _wrong(mount, "must not set Subpath when using anonymous volumes")
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise _wrong(mount, "subpath must be a relative path within the volume")


def _check_tmpfs(mount: Mount) -> None:
    options = mount.tmpfs_options
    if options is not None and options.size_bytes < 0:
        raise InvalidArgumentError("ContainerSpec: a tmpfs cannot have a negative size")
    if options is not None and not 0 <= options.mode <= 0o7777:
        raise InvalidArgumentError(
            f"ContainerSpec: a tmpfs cannot have the mode {options.mode:o}",
            remedy="Write it in octal, such as 1770.",
        )


def _check_absolute(mount: Mount, path: str) -> None:
    """A template may become an absolute path; the node looks again."""
    if not path.startswith("/") and _TEMPLATE not in path:
        raise _wrong(mount, f"invalid mount path: '{path}' mount path must be absolute")


def _wrong(mount: Mount, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f'invalid mount config for type "{mount.type}": {why}')
