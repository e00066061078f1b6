"""Probes of the kernel's limits: each a number, the least that will do, and how to raise it."""

import resource
from typing import Final

import msgspec

from swarmlet.doctor.finding import Judgement, Probe, ok, skipped, warn
from swarmlet.doctor.world import World, read_number

FILES_MIN: Final = 8_192  # a dozen descriptors a task (shim, logs, API streams), for 500 of them
PROCESSES_MIN: Final = 4_096  # four a task (two of them the shim's), for 1,000
PID_MIN: Final = 32_768  # the kernel's own default
INOTIFY_INSTANCES_MIN: Final = 128  # the kernel's own default; one a daemon, others are tasks'
INOTIFY_WATCHES_MIN: Final = 8_192
LISTEN_QUEUE_MIN: Final = 1_024
NEIGHBOURS_MIN: Final = 1_024  # about as many endpoints on one network
WEB_PORT: Final = 80
_UNLIMITED: Final = resource.RLIM_INFINITY


class Files(msgspec.Struct, frozen=True, kw_only=True):
    soft: int  # -1 for no limit
    hard: int


def look_at_files(_world: World) -> Files:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Files(soft=soft, hard=hard)


def judge_files(facts: Files) -> Judgement:
    found = f"{_count(facts.soft)} open files a process, at most {_count(facts.hard)}."
    if _is_below(facts.hard, FILES_MIN):
        return warn(found, f"LimitNOFILE={FILES_MIN} in the unit, or /etc/security/limits.conf")
    return ok(found)


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    of_user: int  # RLIMIT_NPROC; -1 for no limit
    pid_max: int | None
    threads_max: int | None


def look_at_processes(_world: World) -> Processes:
    return Processes(
        of_user=resource.getrlimit(resource.RLIMIT_NPROC)[0],
        pid_max=read_number("/proc/sys/kernel/pid_max"),
        threads_max=read_number("/proc/sys/kernel/threads-max"),
    )


def judge_processes(facts: Processes) -> Judgement:
    found = (
        f"{_count(facts.of_user)} processes a user, process ids up to {_count(facts.pid_max)},"
        f" {_count(facts.threads_max)} threads in all."
    )
    if _is_below(facts.of_user, PROCESSES_MIN):
        return warn(found, f"LimitNPROC={PROCESSES_MIN} in the unit, or `ulimit -u`")
    if facts.pid_max is not None and facts.pid_max < PID_MIN:
        return warn(found, f"sysctl -w kernel.pid_max={PID_MIN}")
    return ok(found)


class Inotify(msgspec.Struct, frozen=True, kw_only=True):
    instances: int | None
    watches: int | None


def look_at_inotify(_world: World) -> Inotify:
    return Inotify(
        instances=read_number("/proc/sys/fs/inotify/max_user_instances"),
        watches=read_number("/proc/sys/fs/inotify/max_user_watches"),
    )


def judge_inotify(facts: Inotify) -> Judgement:
    if facts.instances is None or facts.watches is None:
        return warn("This kernel has no inotify.", "a kernel with CONFIG_INOTIFY_USER")
    found = f"{facts.instances} instances and {facts.watches} watches a user."
    if facts.instances < INOTIFY_INSTANCES_MIN:
        return warn(found, f"sysctl -w fs.inotify.max_user_instances={INOTIFY_INSTANCES_MIN}")
    if facts.watches < INOTIFY_WATCHES_MIN:
        return warn(found, f"sysctl -w fs.inotify.max_user_watches={INOTIFY_WATCHES_MIN}")
    return ok(found)


def look_at_forwarding(_world: World) -> int | None:
    return read_number("/proc/sys/net/ipv4/ip_forward")


def judge_forwarding(forwards: int | None) -> Judgement:
    if forwards:
        return ok("IPv4 is forwarded between interfaces.")
    return warn("IPv4 is not forwarded between interfaces.", "sysctl -w net.ipv4.ip_forward=1")


class LowPorts(msgspec.Struct, frozen=True, kw_only=True):
    is_root: bool
    first: int | None  # the lowest an ordinary user may listen on


def look_at_low_ports(world: World) -> LowPorts:
    first = read_number("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return LowPorts(is_root=world.is_root, first=first)


def judge_low_ports(facts: LowPorts) -> Judgement:
    first = 1024 if facts.first is None else facts.first  # kernels before 4.11
    who = "everybody" if first <= 1 else "root alone"
    if facts.is_root or first <= WEB_PORT:
        below = (
            f"Ports below {first} are for {who}." if first > 1 else "All ports are for everybody."
        )
        return ok(below)
    return warn(
        f"Ports below {first} are for root alone: tasks of this user cannot publish them.",
        f"sysctl -w net.ipv4.ip_unprivileged_port_start={WEB_PORT}",
    )


def look_at_listen_queue(_world: World) -> int | None:
    return read_number("/proc/sys/net/core/somaxconn")


def judge_listen_queue(length: int | None) -> Judgement:
    if length is None:
        return skipped("This kernel does not tell net.core.somaxconn.")
    found = f"{length} connections may wait to be accepted."
    if length < LISTEN_QUEUE_MIN:
        return warn(found, f"sysctl -w net.core.somaxconn={LISTEN_QUEUE_MIN}")
    return ok(found)


def look_at_neighbours(_world: World) -> int | None:
    return read_number("/proc/sys/net/ipv4/neigh/default/gc_thresh3")


def judge_neighbours(most: int | None) -> Judgement:
    if most is None:
        return skipped("This kernel does not tell net.ipv4.neigh.default.gc_thresh3.")
    found = f"{most} neighbours (ARP entries) at most."
    if most < NEIGHBOURS_MIN:
        return warn(found, f"sysctl -w net.ipv4.neigh.default.gc_thresh3={NEIGHBOURS_MIN}")
    return ok(found)


def look_at_bridge_filter(_world: World) -> int | None:
    return read_number("/proc/sys/net/bridge/bridge-nf-call-iptables")


def judge_bridge_filter(calls: int | None) -> Judgement:
    if calls is None:
        return ok("Bridged packets pass no iptables: br_netfilter is not loaded.")
    if calls:
        return ok("Bridged packets pass iptables too: a FORWARD policy of DROP holds for them.")
    return ok("Bridged packets pass no iptables.")


def _is_below(limit: int, least: int) -> bool:
    return limit != _UNLIMITED and limit < least


def _count(limit: int | None) -> str:
    if limit is None:
        return "unknown"
    return "unlimited" if limit == _UNLIMITED else str(limit)


KERNEL_PROBES: Final = (
    Probe(
        name="open-files",
        matters_for="many tasks and connections",
        look=look_at_files,
        judge=judge_files,
    ),
    Probe(
        name="processes",
        matters_for="many tasks",
        look=look_at_processes,
        judge=judge_processes,
    ),
    Probe(
        name="inotify",
        matters_for="tasks that watch files",
        look=look_at_inotify,
        judge=judge_inotify,
    ),
)
NETWORK_PROBES: Final = (
    Probe(
        name="forwarding",
        matters_for="overlay networks, the routing mesh",
        look=look_at_forwarding,
        judge=judge_forwarding,
    ),
    Probe(
        name="low-ports",
        matters_for="published ports below 1024",
        look=look_at_low_ports,
        judge=judge_low_ports,
    ),
    Probe(
        name="listen-queue",
        matters_for="bursts of connections",
        look=look_at_listen_queue,
        judge=judge_listen_queue,
    ),
    Probe(
        name="neighbours",
        matters_for="large overlay networks",
        look=look_at_neighbours,
        judge=judge_neighbours,
    ),
    Probe(
        name="bridge-filter",
        matters_for="overlay networks",
        look=look_at_bridge_filter,
        judge=judge_bridge_filter,
    ),
)
