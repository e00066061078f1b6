"""Probes of what the kernel lets this user do: namespaces, overlayfs."""

import os
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, ok, skipped, warn
from swarmlet.doctor.scratch import attempt, enter, mount, unshare
from swarmlet.doctor.world import World, read, read_number

KINDS: Final = ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user")


class Namespaces(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    problems: dict[str, str]  # by kind; "" where one can be made
    users_max: int | None  # of /proc/sys/user; None where the kernel has none
    restriction: str  # a distribution's own switch that is on, as sysctl names it, or ""


def look_at_namespaces(world: World) -> Namespaces:
    problems = {kind: attempt(lambda kind=kind: _try(kind)) for kind in KINDS}  # type: ignore[misc]
    return Namespaces(
        is_root=world.is_root,
        problems=problems,
        users_max=read_number("/proc/sys/user/max_user_namespaces"),
        restriction=_restriction(),
    )


def _restriction() -> str:
    for name, value in (
        ("kernel.unprivileged_userns_clone", 0),
        ("kernel.apparmor_restrict_unprivileged_userns", 1),
    ):
        if read_number(f"/proc/sys/{name.replace('.', '/')}") == value:
            return f"{name}={1 - value}"
    return ""


def _try(kind: str) -> None:
    if kind == "user":
        unshare("user")
        return
    enter(kind)
    if kind == "pid" and (problem := attempt(_be_first)):
        raise OSError(0, problem)


def _be_first() -> None:
    if os.getpid() != 1:
        raise OSError(0, "the first process in it is not number 1")


def judge_namespaces(facts: Namespaces) -> Judgement:
    missing = [kind for kind in KINDS if facts.problems.get(kind)]
    by = "" if facts.is_root else " inside a user namespace"
    if not missing:
        return ok(f"All kinds can be made{by}: {', '.join(KINDS)}.")
    why = facts.problems[missing[0]]
    if "user" not in missing:
        return warn(f"These cannot be made{by}: {', '.join(missing)} ({why}).", _PRIVILEGED)
    found = f"User namespaces cannot be made ({why})"
    if facts.users_max == 0:
        return warn(f"{found}.", "sysctl -w user.max_user_namespaces=15000")
    if facts.restriction:
        return warn(f"{found}.", f"sysctl -w {facts.restriction}")
    if len(missing) > 1 and facts.is_root:
        return warn(f"{found}, nor {', '.join(k for k in missing if k != 'user')}.", _PRIVILEGED)
    return warn(f"{found}.", _PRIVILEGED)


_PRIVILEGED: Final = "run it on the host itself; in a container, docker run --privileged ..."


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    path: str
    problem: str  # with its layers beside the data
    memory_problem: str  # with its layers in memory: the kernel itself cannot; "" too if not tried


def look_at_overlay(world: World) -> Overlay:
    scratch = world.scratch()
    problem = attempt(lambda: _overlay_at(f"{scratch}/overlay", is_root=world.is_root))
    in_memory = attempt(lambda: _overlay_in_memory(is_root=world.is_root)) if problem else ""
    path = os.path.dirname(scratch)
    return Overlay(is_root=world.is_root, path=path, problem=problem, memory_problem=in_memory)


def _overlay_at(folder: str, *, is_root: bool) -> None:
    os.makedirs(folder, 0o700)
    enter("mnt")
    _overlay_in(folder, is_root=is_root)


def _overlay_in_memory(*, is_root: bool) -> None:
    enter("mnt")
    mount("tmpfs", "/tmp", "tmpfs", options="size=1m")  # noqa: S108 - seen by this process alone
    _overlay_in("/tmp", is_root=is_root)  # noqa: S108 - the same


def _overlay_in(folder: str, *, is_root: bool) -> None:
    """Two layers over each other: one file seen through, one covered by a whiteout."""
    os.chdir(folder)
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(name)
    for name in ("seen", "gone"):
        with open(f"lower/{name}", "wb") as file:
            file.write(name.encode())
    own = "" if is_root else ",userxattr"
    options = f"lowerdir=lower,upperdir=upper,workdir=work{own}"
    mount("overlay", "merged", "overlay", options=options)
    os.unlink("merged/gone")
    with open("merged/seen", "ab") as file:
        file.write(b"!")
    if read("merged/seen") != "seen!" or os.path.exists("merged/gone"):
        raise OSError(0, "it was mounted, but shows other files than it should")


def judge_overlay(facts: Overlay) -> Judgement:
    by = "" if facts.is_root else ", in a user namespace"
    if not facts.problem:
        return ok(f"overlayfs works, with its layers in {facts.path}{by}.")
    if not facts.memory_problem:
        return warn(
            f"overlayfs works, but not with its layers in {facts.path} ({facts.problem}).",
            "another --data-dir, on ext4 or xfs",
        )
    if not facts.is_root:
        return skipped(f"An ordinary user may not mount overlayfs here ({facts.memory_problem}).")
    remedy = _PRIVILEGED if facts.memory_problem.startswith("unshare") else "modprobe overlay"
    return warn(f"overlayfs cannot be mounted ({facts.memory_problem}).", remedy)


PROBES: Final = (
    Probe(
        name="namespaces",
        matters_for="the isolation of tasks, networks",
        look=look_at_namespaces,
        judge=judge_namespaces,
    ),
    Probe(
        name="overlayfs",
        matters_for="images in the oci runtime",
        look=look_at_overlay,
        judge=judge_overlay,
    ),
)
