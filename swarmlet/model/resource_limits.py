"""What a task is limited in: asked of nodes before it goes there, and of the runtime there."""

from typing import Final

from swarmlet.model.service import Limit, ResourceRequirements

UNLIMITED: Final = -1
DEFAULT_SWAPPINESS: Final = -1

CPU: Final = "cpu"
MEMORY: Final = "memory"
PIDS: Final = "pids"
SWAP: Final = "swap"


def limits_of(resources: ResourceRequirements | None) -> tuple[str, ...]:
    """Of CPU, MEMORY, PIDS and SWAP those that somebody set: zero, and what stands for no limit, is
    none."""
    if resources is None:
        return ()
    limits = resources.limits or Limit()
    asked = {
        CPU: limits.nano_cpus > 0,
        MEMORY: limits.memory_bytes > 0,
        PIDS: limits.pids > 0,
        SWAP: resources.swap_bytes not in (None, UNLIMITED)
        or resources.memory_swappiness not in (None, DEFAULT_SWAPPINESS),
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)
