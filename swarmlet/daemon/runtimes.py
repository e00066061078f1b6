"""Which runtime adapter runs this node's tasks: chosen as it enters a swarm, then kept.

Adapters are imported where they are made: what a node does not use costs it neither start nor
memory (the docker runtime and its client 1.5 MiB).
"""

import logging
import os

from swarmlet.core.errors import (
    InvalidArgumentError,
    SwarmStateError,
    UnavailableError,
    UnsupportedError,
)
from swarmlet.core.paths import DOCKER_HOST, UNIX_PREFIX
from swarmlet.daemon.data_dir import DataDir
from swarmlet.daemon.settings import Settings
from swarmlet.env.base import Env
from swarmlet.runtime.base import Runtime

log = logging.getLogger("swarmlet.daemon")


class Runtimes:
    """The adapters of this host. The kind is kept in the swarm's file; where the engine is may
    change from start to start."""

    def __init__(self, env: Env, data: DataDir, settings: Settings) -> None:
        """Raises InvalidArgumentError for a Docker Engine that is this very daemon."""
        self._env, self._data, self._settings = env, data, settings
        self.docker_host = docker_host(settings)

    async def at_start(self) -> Runtime:
        """What runs the tasks of the swarm this node is in; in none, what an init would choose now,
        or what still has tasks of the swarm it left.

        Raises SwarmStateError where the options ask for another than the kept one, DamagedError,
        UnsupportedError. An engine that is away stops nothing here: its runtime says so.
        """
        file, asked = self._data.swarm_file(), self._settings.runtime
        if file is None:
            left = self._data.leftover_runtime()
            return self._adapter(left if left and asked == "auto" else await self._choice())
        if asked not in ("auto", file.runtime):
            raise SwarmStateError(
                f"This node entered its swarm with the {file.runtime} runtime and keeps it; "
                f"it cannot go on with {asked}.",
                remedy="Start it without --runtime, or leave the swarm first.",
            )
        return self._adapter(file.runtime)

    async def at_init(self, present: Runtime) -> Runtime:
        """What runs the tasks of a swarm that is entered now: `present` where that is of the chosen
        kind. Raises UnavailableError where the Docker Engine that was asked for is not there."""
        if self._settings.runtime == "docker" and (problem := await self._probe()):
            raise UnavailableError(
                f"The docker runtime was asked for, and cannot be used: {problem}",
                remedy="Start the Docker Engine, name it with --docker-host, or start the daemon "
                "with --runtime auto.",
            )
        kind = await self._choice()
        return present if present.name == kind else self._adapter(kind)

    async def _choice(self) -> str:
        """docker if its socket answers, else process; what was asked for goes before."""
        if self._settings.runtime != "auto":
            return self._settings.runtime
        problem = await self._probe()
        kind = "process" if problem else "docker"
        log.info(
            "runtime.chosen",
            extra={"runtime": kind, "docker_host": self.docker_host, "cause": problem},
        )
        return kind

    async def _probe(self) -> str:
        """ "" where a Docker Engine answers, else why not."""
        from swarmlet.runtime.docker.client import probe

        return await probe(self.docker_host)

    def _adapter(self, kind: str) -> Runtime:
        if kind == "oci":
            raise UnsupportedError(
                "The oci runtime is not part of this release.",
                remedy="Start the daemon with --runtime docker, or process for the host's files.",
            )
        if kind == "docker":
            from swarmlet.runtime.docker.runtime import DockerRuntime

            engine_id = self._data.engine_id(self._env.entropy)
            return DockerRuntime(self._env, host=self.docker_host, engine_id=engine_id)
        from swarmlet.runtime.process.host import look_at_host
        from swarmlet.runtime.process.runtime import ProcessRuntime

        return ProcessRuntime(
            self._env,
            state_dir=self._data.tasks,
            data_dir=self._data.path,
            socket_path=self._settings.socket_path,
            allow_root_tasks=self._settings.allow_root_tasks,
            host=look_at_host(open_files=self._settings.open_files),
        )


def docker_host(settings: Settings) -> str:
    """The engine's address: --docker-host, else DOCKER_HOST, else Docker's own.

    DOCKER_HOST often names this daemon, for the docker CLI; then it says nothing of an engine.
    Raises InvalidArgumentError where --docker-host does.
    """
    if settings.docker_host:
        if _is_own(settings.docker_host, settings.socket_path):
            raise InvalidArgumentError(
                f"{settings.docker_host} is the socket of this swarmlet daemon, not of a Docker "
                "Engine.",
                remedy=f"Name the engine's, such as --docker-host {DOCKER_HOST}.",
            )
        return settings.docker_host
    named = settings.docker_host_variable
    if named and _is_own(named, settings.socket_path):
        log.warning("runtime.own_socket_skipped", extra={"docker_host": named})
        return DOCKER_HOST
    return named or DOCKER_HOST


def _is_own(host: str, socket_path: str) -> bool:
    path = host.removeprefix(UNIX_PREFIX)
    return path.startswith("/") and os.path.realpath(path) == os.path.realpath(socket_path)
