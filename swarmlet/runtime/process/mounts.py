"""From a spec's mounts to what the shim mounts: what can be had is pure, where it lies is looked up
once, and the shim follows no link any more."""

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from swarmlet.model.container import BindOptions, Mount, TmpfsOptions, VolumeOptions
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.accounts import Account
from swarmlet.runtime.process.host import Host

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8  # MOUNT_ATTR_* of mount_setattr(2)
VOLUME_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")  # Docker's, in one file's name
_TMPFS_MODE: Final = 0o1777
_ELSEWHERE: Final = "Run the service where a container runtime is."


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPlan:
    """`source`: a path (bind), a volume's name, "" for one of the task's own (volume), or options
    (tmpfs). `target`: an absolute path."""

    kind: str
    source: str
    target: str
    attributes: int = NO_SUID | NO_DEVICES
    is_recursive: bool = False
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedMount:
    """As the shim is told: `source` of a volume is its folder; no path has a link in it."""

    plan: MountPlan
    source: str
    target: str


def plan_mounts(
    mounts: Sequence[Mount], host: Host, hidden: Sequence[str]
) -> tuple[MountPlan, ...]:
    """In the order in which they are made: what lies deeper comes later. Raises
    RuntimeProblemError."""
    if mounts and not host.isolates:
        raise RuntimeProblemError(
            "Mounts need a mount namespace for each task, which only a daemon gives that runs as "
            "root and may make namespaces.",
            remedy="Leave out --mount, or run the daemon as root.",
        )
    plans = [_plan(mount, hidden) for mount in mounts]
    return tuple(sorted(plans, key=lambda plan: len(PurePosixPath(plan.target).parts)))


def _plan(mount: Mount, hidden: Sequence[str]) -> MountPlan:
    kinds: dict[str, Callable[[Mount], MountPlan]] = {
        "bind": _bind,
        "volume": _volume,
        "tmpfs": _tmpfs,
    }
    kind = kinds.get(mount.type)
    if kind is None:
        raise _refusal(f'mounts of type "{mount.type}"', "Use bind, volume or tmpfs.")
    if "\0" in mount.source + mount.target:
        raise RuntimeProblemError(
            "A mount's path holds a NUL character: the kernel takes none.", remedy="Take it out."
        )
    target = os.path.normpath(mount.target)
    refuse_target(target, hidden)
    plan = kind(mount)
    attributes = plan.attributes | (READ_ONLY if mount.read_only else 0)
    return replace(plan, target=target, attributes=attributes)


def _bind(mount: Mount) -> MountPlan:
    options = mount.bind_options or BindOptions()
    if options.propagation not in ("", "private", "rprivate"):
        raise _refusal(
            f"the bind propagation {options.propagation}",
            "Leave it out: a task's mounts are its own (rprivate).",
        )
    if options.create_mountpoint:
        raise _refusal("binds that make their source", "Make the folder on the node first.")
    if options.read_only_non_recursive:
        raise _refusal("binds that are read-only at their top alone", "Leave the option out.")
    if not mount.source.startswith("/"):
        raise RuntimeProblemError(
            f"invalid mount config for type \"bind\": invalid mount path: '{mount.source}' "
            "mount path must be absolute"
        )
    return MountPlan(
        kind="bind", source=mount.source, target="", is_recursive=not options.non_recursive
    )


def _volume(mount: Mount) -> MountPlan:
    options = mount.volume_options or VolumeOptions()
    driver = options.driver_config
    if driver is not None and (driver.name not in ("", "local") or driver.options):
        raise _refusal(
            "volumes of another driver than local, or with options for it",
            "Leave out volume-driver and volume-opt.",
        )
    if options.subpath:
        raise _refusal("a folder within a volume", "Mount the whole volume.")
    if mount.source and not VOLUME_NAME.fullmatch(mount.source):
        raise RuntimeProblemError(
            f'"{mount.source}" is no name for a volume: 2 to 255 letters, digits, and _ . - after '
            "the first.",
            remedy="For a folder of the node use type=bind with an absolute path.",
        )
    labels = tuple(sorted(options.labels.items()))
    return MountPlan(kind="volume", source=mount.source, target="", labels=labels)


def _tmpfs(mount: Mount) -> MountPlan:
    options = mount.tmpfs_options or TmpfsOptions()
    if mount.source:
        raise RuntimeProblemError(
            'invalid mount config for type "tmpfs": field Source must not be specified'
        )
    attributes = NO_SUID | NO_DEVICES | NO_EXEC
    for option in options.options:
        if option not in (["exec"], ["noexec"]):
            raise _refusal(f"the tmpfs option {'='.join(option)}", "Use exec or noexec.")
        attributes = attributes & ~NO_EXEC if option == ["exec"] else attributes | NO_EXEC
    words = [f"mode={options.mode or _TMPFS_MODE:o}"]
    if options.size_bytes:
        words.append(f"size={options.size_bytes}")
    return MountPlan(kind="tmpfs", source=",".join(words), target="", attributes=attributes)


def refuse_target(target: str, hidden: Sequence[str]) -> None:
    """Raises RuntimeProblemError for a place that no task may have covered."""
    if not target.startswith("/") or target in ("/", "//"):
        raise RuntimeProblemError(
            f"A mount's target must be an absolute path other than /, not {target}.",
            remedy="Name a folder of the node's that the task shall see otherwise.",
        )
    if is_within(target, ("/proc",)):
        raise RuntimeProblemError(
            f"Nothing can be mounted over {target}: a task's /proc shows its own processes.",
            remedy="Choose another target.",
        )
    _refuse_hidden(target, hidden)


def _refuse_hidden(path: str, hidden: Sequence[str]) -> None:
    if is_within(path, hidden):
        raise RuntimeProblemError(
            f"{path} belongs to the daemon: no task may mount it, or over it.",
            remedy="Choose a folder outside the daemon's data directory.",
        )


def _refusal(what: str, remedy: str) -> RuntimeProblemError:
    return RuntimeProblemError(
        f"The process runtime cannot give a task {what}.", remedy=f"{remedy} {_ELSEWHERE}"
    )


def is_within(path: str, folders: Sequence[str]) -> bool:
    """Whether a path is one of these folders or lies below one, by its words alone."""
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders)


def place_mounts(
    plans: Sequence[MountPlan], hidden: Sequence[str], volume_folder: Callable[[int, str], str]
) -> tuple[PlacedMount, ...]:
    """Where they lie on this host now. `volume_folder` tells the folder of a volume by its place
    in the list and its name. Raises RuntimeProblemError."""
    placed: list[PlacedMount] = []
    for index, plan in enumerate(plans):
        target = os.path.realpath(plan.target)
        refuse_target(target, hidden)
        source = plan.source
        if plan.kind == "bind":
            source = _bind_source(plan, hidden)
        elif plan.kind == "volume":
            source = volume_folder(index, plan.source)
        if not is_within(target, [earlier.target for earlier in placed]):
            _check_target(plan, source, target)
        placed.append(PlacedMount(plan=plan, source=source, target=target))
    return tuple(placed)


def _bind_source(plan: MountPlan, hidden: Sequence[str]) -> str:
    source = os.path.realpath(plan.source)
    _refuse_hidden(source, hidden)
    if is_within(source, ("/proc",)):
        raise RuntimeProblemError(
            f"{source} is a view of the daemon's, not the task's.", remedy="Bind another folder."
        )
    if not os.path.exists(source):
        raise RuntimeProblemError(
            f'invalid mount config for type "bind": bind source path does not exist: {plan.source}',
            remedy="Make it on the node first.",
        )
    if not plan.is_recursive and any(is_within(path, (source,)) for path in hidden):
        raise RuntimeProblemError(
            f"{source} holds the daemon's data directory: only a recursive bind keeps it hidden.",
            remedy="Leave out bind-nonrecursive, or bind a folder further down.",
        )
    return source


def _check_target(plan: MountPlan, source: str, target: str) -> None:
    """A folder for a folder, a file for a file: as a process the task sees the host's tree, in
    which nobody makes what is missing."""
    wants_file = plan.kind == "bind" and not os.path.isdir(source)
    try:
        is_folder = stat.S_ISDIR(os.stat(target).st_mode)
    except FileNotFoundError:
        raise RuntimeProblemError(
            f"The mount's target {plan.target} does not exist on this node.",
            remedy=f"Make an empty {'file' if wants_file else 'folder'} of that name on the node: "
            "a process sees the node's own files.",
        ) from None
    if is_folder == wants_file:
        raise RuntimeProblemError(
            f"The mount's target {plan.target} is {'a' if is_folder else 'no'} folder, its source "
            f"is {'no' if wants_file else 'a'} folder.",
            remedy="Mount a folder on a folder, or a file on a file.",
        )


def mount_pairs(placed: Sequence[PlacedMount], account: Account) -> list[tuple[str, str]]:
    """What mounting.Mounts is told: three lists of the same length."""
    pairs = []
    for one in placed:
        plan, source = one.plan, one.source
        if plan.kind == "tmpfs":
            source += f",uid={account.uid},gid={account.gid}"
        pairs += [
            ("mount", f"{plan.kind} {plan.attributes} {int(plan.is_recursive)}"),
            ("mount_source", source),
            ("mount_target", one.target),
        ]
    return pairs
