"""Probe of control groups: which version, and in which of them a child can be made."""

import os
from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, ok, skipped, warn
from swarmlet.doctor.world import World, read

NEEDED: Final = ("cpu", "memory", "pids")
"""Controllers for the limits a service can have."""


class Mounts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the hierarchies are, and this process's own group in each."""

    unified: str  # "" where there is none
    unified_own: str
    controllers: dict[str, str]  # of v1: by name, the mount
    controllers_own: dict[str, str]

    @property
    def version(self) -> str:
        if not self.unified:
            return "v1" if self.controllers else ""
        return "hybrid" if self.controllers else "v2"


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    version: str  # v1, v2, hybrid, or "" for none
    writable: tuple[str, ...]  # controllers in which a child was made
    problem: str  # why there was none, of the first that failed


def parse_mounts(mountinfo: str, own: str) -> Mounts:
    """Of /proc/self/mountinfo and /proc/self/cgroup."""
    unified = ""
    controllers: dict[str, str] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()[:3]
        point = left.split()[4]
        if kind == "cgroup2":
            unified = unified or point
        elif kind == "cgroup":
            for name in options.split(","):
                if name not in ("rw", "ro") and "=" not in name:
                    controllers.setdefault(name, point)
    groups: dict[str, str] = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        groups.update(dict.fromkeys(names.split(","), path))
    return Mounts(
        unified=unified,
        unified_own=groups.get("", "/"),
        controllers=controllers,
        controllers_own={name: groups.get(name, "/") for name in controllers},
    )


def look_at_groups(world: World) -> Groups:
    mounts = parse_mounts(read("/proc/self/mountinfo") or "", read("/proc/self/cgroup") or "")
    name = f"swarmlet-doctor-{os.getpid()}"
    writable: list[str] = []
    problems: list[str] = []
    if mounts.controllers:
        for controller, point in sorted(mounts.controllers.items()):
            own = "/" if world.is_root else mounts.controllers_own[controller]
            made, problem = _make(point + own, name)
            if made is not None:
                writable.append(controller)
            problems.append(problem)
    elif mounts.unified:
        top = mounts.unified if world.is_root else _top_writable(mounts)
        made, problem = _make(top, name)
        writable += made or ()
        problems.append(problem)
    return Groups(
        is_root=world.is_root,
        version=mounts.version,
        writable=tuple(writable),
        problem=next((problem for problem in problems if problem), ""),
    )


def _top_writable(mounts: Mounts) -> str:
    """The highest group above this process that its user owns: what systemd delegates."""
    path = top = os.path.normpath(mounts.unified + mounts.unified_own)
    while os.access(path, os.W_OK) and path.startswith(mounts.unified):
        top, path = path, os.path.dirname(path)
    return top


def _make(parent: str, name: str) -> tuple[Sequence[str] | None, str]:
    """Make a child and remove it: (the controllers it has, "") or (None, why not)."""
    path = os.path.join(parent, name)
    try:
        os.mkdir(path)
        try:
            return (read(f"{path}/cgroup.controllers") or "").split(), ""
        finally:
            os.rmdir(path)
    except OSError as error:
        return None, f"{os.path.normpath(parent)}: {error.strerror}"


def judge_groups(facts: Groups) -> Judgement:
    if not facts.version:
        return warn(
            "No control groups are mounted, so nothing limits what tasks take.",
            "mount -t cgroup2 none /sys/fs/cgroup",
        )
    what = f"cgroup {facts.version}"
    missing = [name for name in NEEDED if name not in facts.writable]
    if not missing:
        note = " crun refuses this mixture, runc does not." if facts.version == "hybrid" else ""
        return ok(f"{what}; groups can be made with {', '.join(facts.writable)}.{note}")
    if facts.is_root:
        why = f" ({facts.problem})" if facts.problem else ""
        return warn(
            f"{what}; no group can be made with {', '.join(missing)}{why}.",
            "mount -o remount,rw /sys/fs/cgroup"
            if facts.problem
            else f"echo '+{' +'.join(missing)}' > /sys/fs/cgroup/cgroup.subtree_control",
        )
    if facts.version != "v2":
        return skipped(f"{what}; only root can make groups of it ({facts.problem}).")
    return warn(
        f"{what}; {', '.join(missing)} are not delegated to this user.",
        "systemctl set-property user@$(id -u).service Delegate=yes",
    )


PROBES: Final = (
    Probe(
        name="cgroups",
        matters_for="limits of memory, CPU and processes",
        look=look_at_groups,
        judge=judge_groups,
    ),
)
