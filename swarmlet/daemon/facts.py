"""What this host is: facts that do not change while the daemon runs."""

import os
from typing import Final

from swarmlet.api.engine import EngineFacts
from swarmlet.daemon.data_dir import DataDir
from swarmlet.env.base import Env
from swarmlet.runtime.base import Runtime

_OS_RELEASE: Final = "/etc/os-release"


def gather_facts(env: Env, data: DataDir, runtime: Runtime, docker_host: str = "") -> EngineFacts:
    """Look once; the kernel's and the distribution's own words."""
    system, described = os.uname(), runtime.describe()
    return EngineFacts(
        engine_id=data.engine_id(env.entropy),
        hostname=system.nodename,
        data_dir=data.path,
        kernel_version=system.release,
        operating_system=_distribution(env),
        started_ms=env.clock.wall_ms(),
        runtime=described,
        runtimes=(described.name,),
        memory_b=described.resources.memory_bytes,
        cpus=len(os.sched_getaffinity(0)),
        docker_host=docker_host,
    )


def _distribution(env: Env) -> str:
    if not env.disk.exists(_OS_RELEASE):
        return "Linux"
    for line in env.disk.read(_OS_RELEASE).decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return "Linux"
