"""Probes of the host: Python, privileges, memory, load, names, addresses, security."""

import os
import sys
from ipaddress import IPv6Address
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, fail, ok, skipped, warn
from swarmlet.doctor.world import World, look_up, read
from swarmlet.network.interfaces import interfaces, ipv4_of, outgoing_address

PYTHON_MIN: Final = (3, 11)
MEMORY_FREE_MIN_B: Final = 256 * 1024 * 1024  # a daemon takes about 60 MiB, a task's shim 10 MiB
LOAD_PER_CPU_MAX: Final = 4.0
NEEDED: Final = {
    0: "CAP_CHOWN",
    1: "CAP_DAC_OVERRIDE",
    5: "CAP_KILL",
    6: "CAP_SETGID",
    7: "CAP_SETUID",
    12: "CAP_NET_ADMIN",
    21: "CAP_SYS_ADMIN",
}
"""Capabilities of root that isolation and networks need; numbers of capabilities(7)."""
_KIB: Final = 1024


class Python(msgspec.Struct, frozen=True, kw_only=True):
    version: tuple[int, int, int]
    is_optimised: bool


def look_at_python(_world: World) -> Python:
    return Python(version=sys.version_info[:3], is_optimised=not __debug__)


def judge_python(facts: Python) -> Judgement:
    words = ".".join(str(part) for part in facts.version)
    if facts.version[:2] < PYTHON_MIN:
        return fail(f"Python {words} is too old; 3.11 is needed.", "apt-get install python3.11")
    if facts.is_optimised:
        return fail(
            f"Python {words} runs without assertions (-O), so the daemon refuses to start.",
            "unset PYTHONOPTIMIZE",
        )
    return ok(f"Python {words}.")


class Privileges(msgspec.Struct, frozen=True, kw_only=True):
    uid: int
    effective: int  # a bit a capability
    seccomp: int  # 0 none, 2 a filter
    is_container: bool


def look_at_privileges(world: World) -> Privileges:
    status = dict(
        line.split(":", 1) for line in (read("/proc/self/status") or "").splitlines() if ":" in line
    )
    marks = ("/.dockerenv", "/run/.containerenv")
    return Privileges(
        uid=world.uid,
        effective=int(status.get("CapEff", "0"), 16),
        seccomp=int(status.get("Seccomp", "0")),
        is_container=any(os.path.exists(mark) for mark in marks),
    )


def judge_privileges(facts: Privileges) -> Judgement:
    where = ", inside a container" if facts.is_container else ""
    if facts.uid != 0:
        return ok(f"An ordinary user, uid {facts.uid}{where}: tasks run as this user.")
    missing = [name for bit, name in NEEDED.items() if not facts.effective >> bit & 1]
    filtered = ", under a seccomp filter" if facts.seccomp == 2 else ""
    if missing:
        return warn(
            f"Root without {', '.join(missing)}{where}{filtered}.",
            "docker run --privileged ..., or run swarmlet on the host itself",
        )
    return ok(f"Root with all the capabilities that are needed{where}{filtered}.")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    total_b: int
    available_b: int
    swap_total_b: int
    swap_free_b: int


def look_at_memory(_world: World) -> Memory:
    sizes = parse_meminfo(read("/proc/meminfo") or "")
    return Memory(
        total_b=sizes.get("MemTotal", 0),
        available_b=sizes.get("MemAvailable", 0),
        swap_total_b=sizes.get("SwapTotal", 0),
        swap_free_b=sizes.get("SwapFree", 0),
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name, of proc(5)'s meminfo."""
    lines = (line.split() for line in text.splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * _KIB
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }


def judge_memory(facts: Memory) -> Judgement:
    swap = f"{size(facts.swap_total_b)} of swap" if facts.swap_total_b else "no swap"
    found = f"{size(facts.available_b)} of {size(facts.total_b)} are available, {swap}."
    if facts.available_b < MEMORY_FREE_MIN_B:
        return warn(found, "ps -eo pid,rss,comm --sort=-rss | head")
    if facts.swap_total_b and facts.swap_free_b < facts.swap_total_b // 4:
        used = size(facts.swap_total_b - facts.swap_free_b)
        return warn(
            f"{used} of swap are in use: a manager that is swapped out misses heartbeats.",
            "sysctl -w vm.swappiness=10",
        )
    return ok(found)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    cpus: int
    load: float  # of the last minute


def look_at_load(_world: World) -> Load:
    return Load(cpus=len(os.sched_getaffinity(0)), load=os.getloadavg()[0])


def judge_load(facts: Load) -> Judgement:
    found = f"{facts.cpus} CPUs, load {facts.load:.1f} in the last minute."
    if facts.load > facts.cpus * LOAD_PER_CPU_MAX:
        return warn(f"{found} That is much work for them.", "top")
    return ok(found)


class Hostname(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    addresses: tuple[str, ...]


def look_at_hostname(_world: World) -> Hostname:
    name = os.uname().nodename
    return Hostname(name=name, addresses=look_up(name) if name else ())


def judge_hostname(facts: Hostname) -> Judgement:
    if facts.name in ("", "(none)", "localhost", "localhost.localdomain"):
        return warn(
            f"The host is named {facts.name!r}; nodes are told apart by their names.",
            "hostnamectl set-hostname NAME",
        )
    if not facts.addresses:
        return warn(
            f"{facts.name!r} has no address: programs that look up their own host wait or fail.",
            f"echo '127.0.1.1 {facts.name}' >> /etc/hosts",
        )
    return ok(f"{facts.name!r} is {', '.join(facts.addresses)}.")


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    all: tuple[tuple[str, str], ...]  # (interface, address), without loopback and link-local
    advertised: str  # "" where there is no route


def look_at_addresses(_world: World) -> Addresses:
    found = [(name, address) for name in interfaces() if (address := ipv4_of(name))]
    found += parse_if_inet6(read("/proc/net/if_inet6") or "")
    own = tuple((name, address) for name, address in found if not address.startswith("127."))
    return Addresses(all=own, advertised=outgoing_address())


def parse_if_inet6(text: str) -> list[tuple[str, str]]:
    """(interface, address) of the global ones, of the kernel's if_inet6."""
    found = []
    for line in text.splitlines():
        raw, _, _, scope, _, name = line.split()
        if scope == "00":
            found.append((name, str(IPv6Address(bytes.fromhex(raw)))))
    return found


def judge_addresses(facts: Addresses) -> Judgement:
    listed = ", ".join(f"{address} ({name})" for name, address in facts.all)
    if not facts.all:
        return warn(
            "This host has no address besides 127.0.0.1: nothing else can join its swarm.",
            "ip address",
        )
    if not facts.advertised:
        return warn(
            f"There is no default route, so 127.0.0.1 would be advertised; it has {listed}.",
            f"swarmlet init --advertise-addr {facts.all[0][1]}",
        )
    if len(facts.all) == 1:
        return ok(f"{listed}.")
    return ok(f"{facts.advertised} would be advertised, of {listed}; --advertise-addr chooses.")


class Security(msgspec.Struct, frozen=True, kw_only=True):
    selinux: str | None  # "1" enforcing, "0" permissive
    apparmor: str | None  # "Y" or "N"


def look_at_security(_world: World) -> Security:
    return Security(
        selinux=read("/sys/fs/selinux/enforce"),
        apparmor=read("/sys/module/apparmor/parameters/enabled"),
    )


def judge_security(facts: Security) -> Judgement:
    if facts.selinux == "1":
        return warn(
            "SELinux enforces: containers may not read bind mounts without a label.",
            "chcon -Rt container_file_t DIR",
        )
    active = []
    if facts.selinux == "0":
        active.append("SELinux is permissive")
    if facts.apparmor == "Y":
        active.append("AppArmor is on")
    if not active:
        return skipped("Neither SELinux nor AppArmor is on.")
    return ok(f"{' and '.join(active)}.")


def size(size_b: float) -> str:
    """23.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size_b < 1024 or unit == "TiB":
            break
        size_b /= 1024
    return f"{size_b:.3g} {unit}" if size_b < 1000 else f"{size_b:.0f} {unit}"


PROBES: Final = (
    Probe(
        name="python",
        matters_for="swarmlet itself",
        look=look_at_python,
        judge=judge_python,
    ),
    Probe(
        name="privileges",
        matters_for="the isolation of tasks, networks",
        look=look_at_privileges,
        judge=judge_privileges,
    ),
    Probe(
        name="memory",
        matters_for="the daemon and all tasks",
        look=look_at_memory,
        judge=judge_memory,
    ),
    Probe(
        name="load",
        matters_for="heartbeats in time",
        look=look_at_load,
        judge=judge_load,
    ),
    Probe(
        name="hostname",
        matters_for="node names",
        look=look_at_hostname,
        judge=judge_hostname,
        deadline_s=2.0,  # that of a resolver is ten and more
    ),
    Probe(
        name="addresses",
        matters_for="a swarm of several hosts",
        look=look_at_addresses,
        judge=judge_addresses,
    ),
    Probe(
        name="security",
        matters_for="bind mounts",
        look=look_at_security,
        judge=judge_security,
    ),
)
