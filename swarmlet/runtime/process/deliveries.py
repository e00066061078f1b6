"""From a task's secrets and configs to the files a process sees: where each is to be is pure, and
whether a target is there is looked up once.

Isolated tasks have them on a tmpfs of their own, made in their mount namespace (delivery.py), which
ends with them. Others have a private folder on a tmpfs of the host (payload_folder). The variables
SWARMLET_SECRETS and SWARMLET_CONFIGS name the folders in either case.
"""

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from swarmlet.model.container import ContainerSpec, FileTarget
from swarmlet.runtime.base import RuntimeProblemError, TaskFile
from swarmlet.runtime.payload_folder import PayloadFile
from swarmlet.runtime.process.accounts import Account
from swarmlet.runtime.process.host import Host
from swarmlet.runtime.process.mounts import is_within, refuse_target

FOLDERS: Final = {"secret": "/run/secrets", "config": "/run/configs"}  # of an isolated task
VARIABLES: Final = {"secret": "SWARMLET_SECRETS", "config": "SWARMLET_CONFIGS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """`folder` is that of secrets or of configs, `path` the place in it; `target`: where else a
    file of the node is covered by it, "" for nowhere. Where `is_optional` only if that is there."""

    kind: str
    name: str
    folder: str
    path: str
    target: str = ""
    is_optional: bool = False


def plan_files(
    container: ContainerSpec, host: Host, account: Account | None, hidden: Sequence[str]
) -> tuple[FilePlan, ...]:
    """In the order of the spec, secrets first. Raises RuntimeProblemError."""
    plans: list[FilePlan] = []
    for kind, name, file in _references(container):
        plan = _plan(kind, name, file.name)
        if not host.isolates:
            _refuse_target_without_mounts(plan)
            _refuse_owner(file, name, host, account)
        elif plan.target:
            refuse_target(plan.target, hidden)
        _refuse_twice(plan, plans)
        plans.append(plan)
    return tuple(plans)


def _references(container: ContainerSpec) -> Iterator[tuple[str, str, FileTarget]]:
    for secret in container.secrets:
        yield "secret", secret.secret_name, secret.file or FileTarget()
    for config in container.configs:
        if config.runtime is None:
            yield "config", config.config_name, config.file or FileTarget()


def _plan(kind: str, name: str, file_name: str) -> FilePlan:
    """A relative name lies in the folder of secrets, or for a config in /, as in Docker."""
    base = FOLDERS["secret"] if kind == "secret" else "/"
    whole = os.path.normpath(os.path.join(base, file_name))
    for folder, place in FOLDERS.items():
        if is_within(whole, (place,)) and whole != place:
            path = whole[len(place) + 1 :]
            return FilePlan(kind=kind, name=file_name, folder=folder, path=path)
    if whole in ("/", *FOLDERS.values()) or not whole.startswith("/"):
        raise RuntimeProblemError(
            f"The {kind} {name} cannot be at {file_name}: that is no file's name.",
            remedy="Give it a target, as target=/etc/app.conf.",
        )
    target = f"/{whole.lstrip('/')}"
    is_default = kind == "config" and target == f"/{name}"
    return FilePlan(
        kind=kind,
        name=file_name,
        folder=kind,
        path=target[1:],
        target=target,
        is_optional=is_default,
    )


def _refuse_target_without_mounts(plan: FilePlan) -> None:
    if plan.target and not plan.is_optional:
        raise RuntimeProblemError(
            f"The {plan.kind} cannot be put at {plan.target}: that needs a mount namespace for "
            "each task, which only a daemon gives that runs as root and may make namespaces.",
            remedy=f"Leave out its target, and look in ${VARIABLES[plan.kind]} for it.",
        )


def _refuse_owner(file: FileTarget, name: str, host: Host, account: Account | None) -> None:
    """An ordinary user can give a file to nobody; root's, the default, stands for the task's."""
    if host.is_root:
        return
    gid = account.gid if account is not None else host.uid
    if file.uid not in ("", "0", str(host.uid)) or file.gid not in ("", "0", str(gid)):
        raise RuntimeProblemError(
            f"{name} cannot belong to {file.uid}:{file.gid}: this node's daemon is no root, and "
            "all its tasks and their files belong to its own user.",
            remedy="Leave out uid and gid, or run the daemon as root.",
        )


def _refuse_twice(plan: FilePlan, others: Iterable[FilePlan]) -> None:
    here = PurePosixPath(plan.folder, plan.path)
    for other in others:
        there = PurePosixPath(other.folder, other.path)
        if here == there or here in there.parents or there in here.parents:
            raise RuntimeProblemError(
                f"The targets {other.name} and {plan.name} are in each other's way.",
                remedy="Give each secret and config a target of its own.",
            )


def place_files(plans: Iterable[FilePlan], hidden: Sequence[str]) -> tuple[str, ...]:
    """For each plan the file of this node that it covers now, without links; "" for none. Raises
    RuntimeProblemError where one is missing: as a process the task sees the node's own tree."""
    return tuple(_placed(plan, hidden) for plan in plans)


def _placed(plan: FilePlan, hidden: Sequence[str]) -> str:
    if not plan.target:
        return ""
    target = os.path.realpath(plan.target)
    if os.path.isfile(target):
        refuse_target(target, hidden)
        return target
    if plan.is_optional:
        return ""
    raise RuntimeProblemError(
        f"The target {plan.target} of a {plan.kind} does not exist on this node as a file.",
        remedy="Make an empty file of that name on the node, or leave out the target and look in "
        f"${VARIABLES[plan.kind]} for it.",
    )


def variables_of(plans: Iterable[FilePlan], root: str = "") -> dict[str, str]:
    """What tells the task where they are. `root`: its private folder, "" for an isolated task."""
    kinds = sorted({plan.folder for plan in plans})
    return {VARIABLES[kind]: f"{root}/{kind}s" if root else FOLDERS[kind] for kind in kinds}


def file_pairs(
    plans: Sequence[FilePlan], targets: Sequence[str], files: Sequence[TaskFile]
) -> list[tuple[str, str]]:
    """What delivery.deliver is told: four lists of the same length. It goes in memory alone."""
    pairs = []
    for plan, target, file in zip(plans, targets, files, strict=True):
        pairs += [
            ("file", f"{file.uid} {file.gid} {file.mode}"),
            ("file_path", f"{FOLDERS[plan.folder]}/{plan.path}"),
            ("file_data", base64.b64encode(file.data).decode()),
            ("file_target", target),
        ]
    return pairs


def private_files(
    plans: Sequence[FilePlan], files: Sequence[TaskFile], *, is_root: bool
) -> list[PayloadFile]:
    """The same in a private folder. An ordinary user's own is all that may look, whatever the mode
    says of others."""
    return [
        PayloadFile(
            path=f"{plan.folder}s/{plan.path}",
            data=file.data,
            mode=file.mode,
            uid=file.uid if is_root else -1,
            gid=file.gid if is_root else -1,
        )
        for plan, file in zip(plans, files, strict=True)
    ]
