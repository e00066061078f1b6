"""Secrets and configs of containers: files on a tmpfs of the host, in a folder that root alone
enters, each bound read-only into its container.

The engine must be on this host, and not see another tree of files than this daemon. Empty files
take the places when a container is made, what they hold is written before it starts.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from swarmlet.core.paths import UNIX_PREFIX
from swarmlet.model.container import ContainerSpec, FileTarget
from swarmlet.runtime.base import RuntimeProblemError, TaskFile
from swarmlet.runtime.docker.host_config import Json
from swarmlet.runtime.payload_folder import PayloadFile, PayloadFolder, folders_for
from swarmlet.wire.messages import AssignedTask

SECRETS: Final = "/run/secrets"


class Deliveries:
    """All tasks' of one engine. `uid`: this daemon's; `folders`: where to look for a tmpfs."""

    def __init__(
        self, host: str, engine_id: str, *, uid: int, folders: Sequence[str] | None = None
    ) -> None:
        self._is_here, self._is_root = host.startswith((UNIX_PREFIX, "/")), uid == 0
        found = folders_for(uid, os.environ) if folders is None else folders
        self._folder = PayloadFolder(found, engine_id)

    def check(self, task: AssignedTask) -> None:
        """Raises RuntimeProblemError where nothing can be delivered, or not there."""
        targets = targets_of(task)
        if not targets:
            return
        if not self._is_here:
            raise RuntimeProblemError(
                "Secrets and configs are delivered through this host's memory, and the Docker "
                "Engine is elsewhere.",
                remedy="Run swarmlet on the engine's host, and speak to it by its socket.",
            )
        if not self._is_root:
            raise RuntimeProblemError(
                "Only a daemon that runs as root can deliver secrets and configs to containers.",
                remedy="Run the daemon as root on this node.",
            )
        for target in targets:
            if target in ("/", SECRETS):
                raise RuntimeProblemError(f"No secret or config can be at {target}.")
        if len(set(targets)) < len(targets):
            raise RuntimeProblemError(
                "Two secrets or configs of the task have the same target.",
                remedy="Give each a target of its own.",
            )

    def make_room(self, task: AssignedTask) -> list[Json]:
        """The mounts of the container, and what they need to be there. Raises
        RuntimeProblemError, OSError."""
        targets = targets_of(task)
        if not targets:
            return []
        place = self._folder.make_room(task.id, _names(targets))
        return [
            {"Type": "bind", "Source": f"{place}/{name}", "Target": target, "ReadOnly": True}
            for name, target in zip(_names(targets), targets, strict=True)
        ]

    def fill(self, task: AssignedTask, files: Sequence[TaskFile]) -> None:
        """Before the container starts. Raises RuntimeProblemError, OSError."""
        targets = targets_of(task)
        if len(files) != len(targets):
            raise RuntimeProblemError(f"Task {task.id} was not given its secrets and configs.")
        if targets:
            self._folder.make_room(task.id, _names(targets))
            self._folder.fill(
                task.id,
                [
                    PayloadFile(
                        path=name, data=file.data, mode=file.mode, uid=file.uid, gid=file.gid
                    )
                    for name, file in zip(_names(targets), files, strict=True)
                ],
            )

    def drop(self, task_id: str) -> None:
        """The container has ended."""
        self._folder.drop(task_id)

    def keep_only(self, task_ids: Collection[str]) -> None:
        """What a crash left of others goes."""
        self._folder.keep_only(task_ids)


def targets_of(task: AssignedTask) -> list[str]:
    """Where in the container, in the order in which the files are given."""
    container = task.spec.container_spec
    return [] if container is None else [*_targets(container)]


def _targets(container: ContainerSpec) -> Iterator[str]:
    for secret in container.secrets:
        yield _absolute(SECRETS, secret.file)
    for config in container.configs:
        if config.runtime is None:
            yield _absolute("/", config.file)


def _absolute(base: str, file: FileTarget | None) -> str:
    whole = os.path.normpath(os.path.join(base, file.name if file is not None else ""))
    return f"/{whole.lstrip('/')}"


def _names(targets: Iterable[str]) -> list[str]:
    """Of the files on the host: what they are called is nobody's to choose."""
    return [str(place) for place, _ in enumerate(targets)]
