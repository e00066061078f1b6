"""What this host is and allows: its boot, its size, and whether tasks can be isolated."""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmlet.core.limits import NS_PER_S
from swarmlet.core.version import VERSION
from swarmlet.model.resource_limits import MEMORY, PIDS
from swarmlet.model.service import Resources
from swarmlet.runtime.base import RuntimeDescription
from swarmlet.runtime.process.spawn import ask_shim, encode_config

LOG_DRIVERS: Final = ("", "json-file", "local", "none")
"""Accepted names; all but none are the runtime's own rotated files."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_UNPRIVILEGED_PORT: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Facts that hold while the daemon runs. `isolation_problem` says, as root, why tasks cannot
    get namespaces of their own; empty where they can, or where there is no root to give them.
    `open_files`: soft and hard limit a task begins with; None for the daemon's own."""

    boot_id: str
    uid: int
    hostname: str
    unprivileged_port_min: int
    isolation_problem: str
    open_files: tuple[int, int] | None = None

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def isolates(self) -> bool:
        return self.is_root and not self.isolation_problem


def look_at_host(*, open_files: int = 0) -> Host:
    """Look once; as root this tries the namespaces in a process of its own (15 ms). `open_files`:
    the soft limit a task begins with, 0 for the daemon's own."""
    uid = os.geteuid()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Host(
        boot_id=_BOOT_ID.read_text().strip(),
        uid=uid,
        hostname=os.uname().nodename,
        unprivileged_port_min=int(_UNPRIVILEGED_PORT.read_text()),
        isolation_problem=_try_isolation() if uid == 0 else "",
        open_files=(open_files, hard) if open_files else None,
    )


def _try_isolation() -> str:
    answer = ask_shim(encode_config([("probe", "1"), ("hostname", "probe")]))
    if answer.startswith(b"started"):
        return ""
    words = answer.split()
    if words[:1] == [b"failed"] and len(words) == 3:
        return f"{words[1].decode()}: {os.strerror(int(words[2]))}"
    return answer.decode(errors="replace").strip().rpartition("\n")[2] or "the shim does not start"


def describe_host(name: str) -> RuntimeDescription:
    """CPUs as the scheduler gives them to this process; memory as the kernel has it."""
    system = os.uname()
    return RuntimeDescription(
        name=name,
        engine_version=VERSION,
        resources=Resources(
            nano_cpus=len(os.sched_getaffinity(0)) * NS_PER_S, memory_bytes=_memory_b()
        ),
        architecture=system.machine,
        os=sys.platform,
        limits=(MEMORY, PIDS) if os.geteuid() == 0 else (MEMORY,),
        plugins=(*(("Log", driver) for driver in LOG_DRIVERS if driver), ("Network", "host")),
    )


def _memory_b() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
